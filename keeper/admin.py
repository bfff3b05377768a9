"""The bodies of `keeper executor …`: what each command reads, gives as an order, sends, or prints to be signed elsewhere."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from eth_utils.crypto import keccak

from keeper.chainfile import ChainFile, ExecutorConfig
from keeper.checks import Check, Status, exit_code
from keeper.domain.chain import Call, Receipt
from keeper.domain.ports import Market, Snapshot
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address, TokenAmount
from keeper.errors import ConfigurationError, ExitCode, KeeperError, Unsafe
from keeper.execution.envelope import NOBODY, created_address
from keeper.execution.signer import Signatory
from keeper.executor import artifact, calls
from keeper.executor.estate import Estate, Past, read_estate
from keeper.orders import Desk, Hands, Told, alone, given, open_desk, prepared, printed, sent
from keeper.parts import open_to_read
from keeper.permits import (
    AUTHORIZE,
    DEPLOY,
    Inspection,
    Order,
    caller_order,
    code_at,
    inspect,
    kinds_text,
    needs_of,
    orders,
)
from keeper.registry import markets_of
from keeper.settings import Settings
from keeper.store.faults import StoreFailed
from keeper.store.findings import Findings
from keeper.text import address_text, amount_text

_LOOKS: Final = 20


@dataclass(frozen=True, slots=True)
class Survey:
    """The markets at one head, as far as they could be read, and the tokens that they know."""

    markets: tuple[Market, ...]
    snapshots: Mapping[str, Snapshot]
    tokens: Mapping[Address, Token]
    problems: tuple[str, ...]
    is_informed: bool
    """Whether a keeper has already looked for what only logs name."""


async def deploy(
    settings: Settings, chain: ChainFile, hands: Hands, owner: Address, *, is_owner_hot: bool, is_another: bool
) -> Told:
    """Create the executor for an owner, with the configured key as its caller, and check what lies on chain.

    Raises: ConfigurationError; Unsafe; AlreadyRunning; Transient.
    """
    async with open_desk(settings, chain, hands) as desk:
        account = desk.account if hands.is_printing else _required(desk).address
        if account is None:
            raise ConfigurationError("set KEEPER_ADDRESS, or a key: the executor needs to know who will call it")
        if owner == account and not is_owner_hot:
            raise Unsafe(
                "the owner is the account that liquidates: who takes its key takes everything; "
                "name a cold address, or say --owner-is-hot if that is meant"
            )
        if chain.executor is not None and not is_another and await code_at(desk.rpc, chain.executor.address):
            there = address_text(chain.executor.address)
            raise Unsafe(f"the chain file's executor {there} exists already; say --another to create one more")
        call = Call(NOBODY, artifact.load().creation_data(owner, [account]))
        if hands.is_printing:
            return printed(desk, account, [Order(call, f"create the executor of {address_text(owner)}")])
        signer = _required(desk)
        async with alone(desk, account):
            order = await prepared(desk, signer, call)
            where = created_address(account, order.transaction.nonce)
            hands.say(f"creating {address_text(where)}, for at most {amount_text(order.most_wei, 18)}")
            receipt = await sent(desk, signer, order)
        await _verified(desk, where)
        return _deployed(desk, where, owner, account, receipt)


async def _verified(desk: Desk, where: Address) -> None:
    """Compare what lies on chain with what was sent; a node that is behind is given time.

    Raises: Unsafe.
    """
    for _ in range(_LOOKS):
        code = await code_at(desk.rpc, where)
        if code:
            break
        await asyncio.sleep(desk.patience.look_s)
    if keccak(code) != artifact.load().code_hash:
        raise Unsafe(f"what lies at {address_text(where)} is not what was sent: do not use it")


async def status(settings: Settings, chain: ChainFile) -> Told:
    """Return all that can be said of the chain file's executor. It works beside a running daemon.

    Raises: ConfigurationError; Unsafe; Transient.
    """
    async with open_desk(settings, chain, Hands()) as desk:
        config = _configured(chain)
        survey = await _survey(desk)
        found = await _inspected(desk, config, survey)
        checks = (*(Check("market", Status.FAIL, each) for each in survey.problems), *_checks(found))
        facts: dict[str, Any] = {"ok": exit_code(checks) == ExitCode.DONE, "address": address_text(config.address)}
        if isinstance(found, Inspection):
            facts |= _facts(config, found.estate)
        facts["checks"] = [
            {"name": each.name, "status": each.status.value, "finding": each.finding, "fix": each.fix}
            for each in checks
        ]
        lines = [] if isinstance(found, Check) else _estate_lines(chain, survey.tokens, found.estate)
        return Told(exit_code(checks), facts, (*lines, *_check_lines(checks)))


async def authorize(
    settings: Settings,
    chain: ChainFile,
    hands: Hands,
    *,
    is_revoking: bool = False,
    more_callers: Sequence[Address] = (),
    fewer_callers: Sequence[Address] = (),
) -> Told:
    """Have the owner allow what the chain file and its markets need: only the difference is sent or printed.

    Raises: ConfigurationError; Unsafe where a market cannot be read; AlreadyRunning; Transient.
    """
    async with open_desk(settings, chain, hands) as desk:
        config, survey = _configured(chain), await _survey(desk)
        if survey.problems:
            raise Unsafe("\n".join(("not every market can be read, so nothing is sent:", *survey.problems)))
        if is_revoking and not survey.is_informed:
            raise Unsafe("no keeper has looked for the markets' parts yet: run it once before anything is revoked")
        found = await _inspected(desk, config, survey)
        if isinstance(found, Check):
            raise Unsafe(f"{found.finding}: {found.fix}")
        if found.estate.code_hash != config.code_hash:
            raise Unsafe("its code is not the chain file's: nothing is authorised before that is understood")
        strangers = found.change.strange_callers - set(more_callers)
        change = replace(
            found.change, strange_callers=strangers, callers=found.change.callers - {*more_callers, *fewer_callers}
        )
        wanted = [*orders(config.address, change, is_revoking=is_revoking)]
        wanted += [caller_order(config.address, each, allowed=True) for each in more_callers]
        wanted += [caller_order(config.address, each, allowed=False) for each in fewer_callers]
        told = await given(desk, found.estate, wanted)
        if survey.is_informed:
            return told
        note = f"no keeper has looked for the markets' parts yet: `{AUTHORIZE}` again after it has run"
        return Told(told.code, {**told.facts, "notes": [note]}, (*told.lines, note))


async def sweep(settings: Settings, chain: ChainFile, hands: Hands, tokens: Sequence[Address] = ()) -> Told:
    """Have the owner take what rests in the executor.

    Raises: ConfigurationError; Unsafe; AlreadyRunning; Transient.
    """
    async with open_desk(settings, chain, hands) as desk:
        config, survey = _configured(chain), await _survey(desk)
        await _exists(desk, config)
        known = {chain.wrapped_native, *chain.exchange.bases, *config.hold, *survey.tokens, *tokens}
        estate = await read_estate(desk.reads, config.address, b"", Past(), known)
        held = sorted(token for token, amount in estate.balances.items() if amount)
        wanted = []
        for start in range(0, len(held), calls.MAX_SWEPT):
            part = held[start : start + calls.MAX_SWEPT]
            texts = ", ".join(_amount_text(chain, survey.tokens, each, estate.balances[each]) for each in part)
            wanted.append(Order(calls.sweep(config.address, part), f"send {texts} to {address_text(estate.owner)}"))
        return await given(desk, estate, wanted)


async def set_paused(settings: Settings, chain: ChainFile, hands: Hands, *, paused: bool) -> Told:
    """Stop the executor from running programs, which a caller may do, or let it go on, which only the owner may.

    Raises: ConfigurationError; Unsafe; AlreadyRunning; Transient.
    """
    async with open_desk(settings, chain, hands) as desk:
        config = _configured(chain)
        await _exists(desk, config)
        about = Past(callers=frozenset({desk.account}) if desk.account else frozenset())
        estate = await read_estate(desk.reads, config.address, b"", about, ())
        if estate.is_paused == paused:
            return await given(desk, estate, [])
        order = (
            Order(calls.pause(config.address), "run no programs", is_hot=True)
            if paused
            else Order(calls.unpause(config.address), "run programs again")
        )
        return await given(desk, estate, [order])


async def _survey(desk: Desk) -> Survey:
    """Read every market at the head."""
    known = None
    markets = markets_of(desk.chain)
    try:
        database = await open_to_read(desk.settings, desk.chain)
    except StoreFailed:
        database = None
    if database is not None:
        try:
            findings = Findings(database)
            known = {each.place: await findings.load(each.place) for each in markets}
        finally:
            await database.close()
    snapshots, tokens, problems = dict[str, Snapshot](), dict[Address, Token](), list[str]()
    for market in markets:
        try:
            market.reader.recall((known or {}).get(market.place, ()))
            await market.reader.discover(desk.reads)
            snapshots[market.name] = snapshot = await market.reader.snapshot(desk.reads)
            ages = await market.reader.price_ages(desk.reads)
        except KeeperError as error:
            problems.append(f"{market.name}: {error}")
            continue
        found = (*(each.token for each in (*ages, *snapshot.payments)), *snapshot.proceeds)
        tokens |= {each.address: each for each in found}
    return Survey(markets, snapshots, tokens, tuple(problems), known is not None)


async def _inspected(desk: Desk, config: ExecutorConfig, survey: Survey) -> Inspection | Check:
    needs = needs_of(desk.chain, survey.markets, survey.snapshots, desk.account)
    return await inspect(desk.chain, config, desk.rpc, desk.reads, needs=needs, tokens=survey.tokens)


def _required(desk: Desk) -> Signatory:
    if desk.signer is None:
        raise ConfigurationError(
            "no key is configured; set KEEPER_KEYSTORE_FILE, KEEPER_REMOTE_SIGNER_URL or KEEPER_PRIVATE_KEY_FILE"
        )
    return desk.signer


def _configured(chain: ChainFile) -> ExecutorConfig:
    if chain.executor is None:
        raise ConfigurationError(f"{chain.name}: the chain file has no [executor]; `{DEPLOY}` prints one")
    return chain.executor


async def _exists(desk: Desk, config: ExecutorConfig) -> None:
    if not await code_at(desk.rpc, config.address):
        raise Unsafe(f"{address_text(config.address)} has no code: {DEPLOY}, or correct [executor]")


def _deployed(desk: Desk, where: Address, owner: Address, caller: Address, receipt: Receipt) -> Told:
    code_hash = f"0x{artifact.load().code_hash.hex()}"
    facts = {
        "address": address_text(where),
        "code_hash": code_hash,
        "from_block": receipt.block_number,
        "owner": address_text(owner),
        "caller": address_text(caller),
        "hash": f"0x{receipt.tx_hash.hex()}",
        "gas_used": receipt.gas_used,
        "cost_wei": str(receipt.cost_wei),
    }
    cost = f"{receipt.gas_used:,} gas, {amount_text(receipt.cost_wei, 18)} {desk.chain.native_symbol}"
    lines = (
        f"created in block {receipt.block_number} for {cost}; put this into the chain file:",
        "",
        "[executor]",
        f'address = "{address_text(where)}"',
        f'code_hash = "{code_hash}"',
        f'owner = "{address_text(owner)}"',
        f"from_block = {receipt.block_number}",
        "",
        f"then: {AUTHORIZE}, by its owner {address_text(owner)}",
    )
    return Told(ExitCode.DONE, facts, lines)


def _checks(found: Inspection | Check) -> tuple[Check, ...]:
    return (found,) if isinstance(found, Check) else found.checks


def _check_lines(checks: Sequence[Check]) -> Iterator[str]:
    for each in checks:
        yield f"{each.status.value:4}  {each.name}: {each.finding}"
        if each.fix:
            yield f"      → {each.fix}"


def _facts(config: ExecutorConfig, estate: Estate) -> dict[str, Any]:
    """Return what is known of the executor, as JSON has it."""
    return {
        "code_hash": f"0x{estate.code_hash.hex()}",
        "code_hash_in_chain_file": f"0x{config.code_hash.hex()}",
        "code_hash_of_this_version": f"0x{artifact.load().code_hash.hex()}",
        "owner": address_text(estate.owner),
        "pending_owner": None if estate.pending_owner == ZERO_ADDRESS else address_text(estate.pending_owner),
        "paused": estate.is_paused,
        "callers": {address_text(each): is_on for each, is_on in estate.callers.items()},
        "permits": [
            {
                "target": address_text(target),
                "kinds": kinds_text(mask).split(", ") if mask else [],
                "init_code_hash": f"0x{init_code_hash.hex()}" if any(init_code_hash) else None,
            }
            for target, (mask, init_code_hash) in estate.permits.items()
        ],
        "selectors": [
            {"router": address_text(router), "selector": f"0x{name.hex()}", "allowed": is_on}
            for (router, name), is_on in estate.functions.items()
        ],
        "balances": {address_text(token): str(amount) for token, amount in estate.balances.items() if amount},
        "allowances": [
            {"token": address_text(token), "spender": address_text(spender), "amount": str(amount)}
            for (token, spender), amount in estate.allowances.items()
        ],
    }


def _estate_lines(chain: ChainFile, tokens: Mapping[Address, Token], estate: Estate) -> Iterator[str]:
    callers = [address_text(each) for each, is_on in estate.callers.items() if is_on]
    held = [_amount_text(chain, tokens, token, amount) for token, amount in estate.balances.items() if amount]
    yield f"executor  {address_text(estate.address)}"
    yield f"owner     {address_text(estate.owner)}"
    yield f"callers   {', '.join(callers) or 'none that is known'}"
    yield f"paused    {'yes' if estate.is_paused else 'no'}"
    yield f"holds     {', '.join(held) or 'nothing'}"
    for target, (mask, _) in estate.permits.items():
        yield f"may       {kinds_text(mask)} of {address_text(target)}"
    yield ""


def _amount_text(chain: ChainFile, tokens: Mapping[Address, Token], token: Address, amount: TokenAmount) -> str:
    if token == NATIVE:
        return f"{amount_text(amount, 18)} {chain.native_symbol}"
    known = tokens.get(token)
    return f"{amount_text(amount, known.decimals)} {known.symbol}" if known else f"{amount} of {address_text(token)}"
