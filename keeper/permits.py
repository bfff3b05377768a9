"""What the executor is and may do, as the chain says, beside what the chain file and its markets need of it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eth_utils.crypto import keccak

from keeper.chain.inventory import BalanceReads
from keeper.chain.rpc import Rpc
from keeper.chainfile import ChainFile, ExecutorConfig
from keeper.checks import Check, Status
from keeper.domain.abi import WORD
from keeper.domain.chain import Call
from keeper.domain.ports import Market, Snapshot
from keeper.domain.program import StepKind
from keeper.domain.units import NATIVE, ZERO_ADDRESS, Address
from keeper.errors import Invalid, Unsafe
from keeper.executor import artifact, calls
from keeper.executor.calls import Permit
from keeper.executor.estate import Estate, Function, Key, Past, read_estate, read_past
from keeper.text import address_text, amount_text
from keeper.trading import permits_of, selectors_of

DEPLOY: Final = "keeper executor deploy --owner 0x…"
AUTHORIZE: Final = "keeper executor authorize"
_NO_HASH: Final = bytes(WORD)
_MOST_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class Needs:
    """What the executor has to allow, and the account that is to call it, where there is one."""

    permits: Mapping[Address, Permit]
    functions: frozenset[Function]
    account: Address | None


@dataclass(frozen=True, slots=True)
class Order:
    """A call to the executor, and what it does, for people. Only the owner may give it unless `is_hot`."""

    call: Call
    meaning: str
    is_hot: bool = False


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to change before the executor allows what is needed, and no more."""

    permits: tuple[Permit, ...] = ()
    """Of targets that are needed, as they should be."""
    functions: frozenset[Function] = frozenset()
    callers: frozenset[Address] = frozenset()
    strange_targets: frozenset[Address] = frozenset()
    """What nothing needs any more."""
    strange_functions: frozenset[Function] = frozenset()
    strange_callers: frozenset[Address] = frozenset()
    notes: tuple[str, ...] = ()
    """The missing permits, a line each."""


def needs_of(
    chain: ChainFile, markets: Iterable[Market], snapshots: Mapping[str, Snapshot], account: Address | None
) -> Needs:
    """Return what the chain file's venues and lenders need, and its markets, as far as they were read.

    Raises: ConfigurationError with every problem of the venues and lenders.
    """
    wanted = [
        each
        for market in markets
        if market.programs is not None and market.name in snapshots
        for each in market.programs.permits(snapshots[market.name])
    ]
    functions = frozenset((router, each) for router, found in selectors_of(chain).items() for each in found)
    return Needs({each.target: each for each in permits_of(chain, wanted)}, functions, account)


def difference(estate: Estate, needs: Needs) -> Difference:
    """Compare what the executor allows with what is needed."""
    permits, notes = [], []
    for target, wanted in needs.permits.items():
        mask, init_code_hash = estate.permits.get(target, (0, _NO_HASH))
        if (mask, init_code_hash) == (wanted.mask, wanted.init_code_hash):
            continue
        permits.append(wanted)
        missing = [each for each in sorted(wanted.kinds) if not mask >> each & 1]
        is_other = init_code_hash != wanted.init_code_hash and mask != 0
        notes += [f"{each.name} of {address_text(target)}" for each in missing]
        notes += [f"another init code hash of {address_text(target)}"] if is_other else []
    functions = frozenset(each for each in needs.functions if not estate.functions.get(each, False))
    notes += [f"function 0x{name.hex()} of {address_text(router)}" for router, name in sorted(functions)]
    is_called = needs.account in {None, estate.owner} or estate.callers.get(needs.account or ZERO_ADDRESS, False)
    return Difference(
        permits=tuple(permits),
        functions=functions,
        callers=frozenset() if is_called or needs.account is None else frozenset({needs.account}),
        strange_targets=frozenset(
            each for each, (mask, _) in estate.permits.items() if mask and each not in needs.permits
        ),
        strange_functions=frozenset(
            each for each, is_on in estate.functions.items() if is_on and each not in needs.functions
        ),
        strange_callers=frozenset(each for each, is_on in estate.callers.items() if is_on and each != needs.account),
        notes=tuple(notes),
    )


def orders(executor: Address, change: Difference, *, is_revoking: bool = False) -> tuple[Order, ...]:
    """Return the owner's orders that make the executor allow what is needed, and with `is_revoking` no more."""
    permits = list(change.permits)
    on, off = _by_router(change.functions), _by_router(change.strange_functions if is_revoking else ())
    permits += [Permit(each, frozenset()) for each in sorted(change.strange_targets)] if is_revoking else []
    found = [
        Order(calls.authorize(executor, part), "; ".join(map(_permit_text, part)))
        for part in _parts(permits, calls.MAX_PERMITS)
    ]
    for routers, allowed in ((on, True), (off, False)):
        for router, names in routers.items():
            for part in _parts(names, calls.MAX_SELECTORS):
                what = f"{'allow' if allowed else 'forbid'} {', '.join(f'0x{each.hex()}' for each in part)}"
                call = calls.authorize_selectors(executor, router, part, allowed=allowed)
                found.append(Order(call, f"{what} of {address_text(router)}"))
    removed = sorted(change.strange_callers) if is_revoking else []
    for account, allowed in (*((each, True) for each in sorted(change.callers)), *((each, False) for each in removed)):
        found.append(caller_order(executor, account, allowed=allowed))
    return tuple(found)


def caller_order(executor: Address, account: Address, *, allowed: bool) -> Order:
    """Return the owner's order that lets an account call the executor, or no longer."""
    call = calls.set_caller(executor, account, allowed=allowed)
    return Order(call, f"let {address_text(account)} {'run programs' if allowed else 'run no programs any more'}")


def kinds_text(mask: int) -> str:
    """Name the kinds of steps of a permit."""
    return ", ".join(each.name for each in StepKind if mask >> each & 1) or "nothing"


@dataclass(frozen=True, slots=True)
class Inspection:
    """The chain file's executor as it stands, what would mend it, and what there is to say about it."""

    estate: Estate
    change: Difference
    checks: tuple[Check, ...]


async def require(config: ExecutorConfig, rpc: Rpc, reads: BalanceReads, account: Address | None) -> None:
    """Let pass an executor that is the one of the chain file and of this version, and that the account may call.

    Raises: Unsafe, with all that is wrong; Transient; Stale.
    """
    code = await code_at(rpc, config.address)
    problems = [] if code else [f"{address_text(config.address)} has no code"]
    if code:
        checks = [*_code(config, keccak(code))]
        try:
            about = Past(callers=frozenset({account} if account else ()))
            estate = await read_estate(reads, config.address, keccak(code), about, ())
            needs = Needs({}, frozenset(), account)
            checks += [*_owner(config, estate, account), *_callers(estate, needs, difference(estate, needs))]
        except Invalid as error:
            problems.append(str(error))
        problems += [each.finding for each in checks if each.status is Status.FAIL and each.name != "executor pause"]
    if problems:
        raise Unsafe("\n".join(f"the executor: {each}" for each in problems))


async def code_at(rpc: Rpc, address: Address) -> bytes:
    """Return the code at an address, nothing where there is none.

    Raises: Transient.
    """
    from keeper.chain.web3_door import read_code  # noqa: PLC0415 - web3 takes a second to import

    return (await read_code(rpc, [address]))[0]


async def inspect(
    chain: ChainFile, config: ExecutorConfig, rpc: Rpc, reads: BalanceReads, *, needs: Needs, tokens: Iterable[Address]
) -> Inspection | Check:
    """Look at the executor at the reads' head; a check alone says that it is not there.

    Raises: Transient, Stale; Invalid for a contract that is no executor.
    """
    code = await code_at(rpc, config.address)
    if not code:
        finding = f"{address_text(config.address)} has no code"
        return Check("executor code", Status.FAIL, finding, f"{DEPLOY}, or correct [executor]")
    past = Past()
    if config.from_block is not None:
        past = await read_past(rpc, config.address, config.from_block, reads.head.number)
    about = Past(
        past.targets | needs.permits.keys(),
        past.functions | needs.functions,
        past.callers | ({needs.account} if needs.account else set()),
    )
    known = {chain.wrapped_native, *chain.exchange.bases, *config.hold, *tokens}
    estate = await read_estate(reads, config.address, keccak(code), about, known)
    return Inspection(estate, difference(estate, needs), tuple(judged(chain, config, estate, needs)))


def judged(chain: ChainFile, config: ExecutorConfig, estate: Estate, needs: Needs) -> Iterator[Check]:
    """Judge the executor: its code, owner, callers, permits, and what rests in it."""
    change = difference(estate, needs)
    yield from _code(config, estate.code_hash)
    yield from _owner(config, estate, needs.account)
    yield from _callers(estate, needs, change)
    yield from _permits(change, len(needs.permits))
    yield from _rest(chain, estate)


def _code(config: ExecutorConfig, code_hash: bytes) -> Iterator[Check]:
    where, shipped = address_text(config.address), artifact.load().code_hash
    if code_hash != config.code_hash:
        finding = f"{where} has the code 0x{code_hash.hex()}, the chain file says 0x{config.code_hash.hex()}"
        yield Check("executor code", Status.FAIL, finding, "find out who changed what; correct [executor] only then")
    elif code_hash != shipped:
        finding = f"{where} is of another version than this keeper, whose executor is 0x{shipped.hex()}"
        yield Check("executor code", Status.FAIL, finding, DEPLOY)
    else:
        yield Check("executor code", Status.OK, f"{where} is the one that this keeper ships")


def _owner(config: ExecutorConfig, estate: Estate, account: Address | None) -> Iterator[Check]:
    owner = f"{address_text(estate.owner)} gets the profit"
    if config.owner not in {None, estate.owner}:
        yield Check("executor owner", Status.FAIL, f"{owner}, and is not the chain file's", "find out whose it is")
    elif estate.owner == account:
        fix = "let a cold address own it: transfer_ownership, then accept_ownership"
        yield Check("executor owner", Status.WARN, f"{owner}, and is the account that liquidates", fix)
    elif config.owner is None:
        fix = f'put owner = "{address_text(estate.owner)}" into [executor], if it is yours'
        yield Check("executor owner", Status.WARN, f"{owner}; the chain file does not say who should", fix)
    else:
        yield Check("executor owner", Status.OK, owner)
    if estate.pending_owner != ZERO_ADDRESS:
        finding = f"{address_text(estate.pending_owner)} may take it over at any time"
        yield Check("executor owner", Status.WARN, finding, "withdraw the offer unless it is yours")


def _callers(estate: Estate, needs: Needs, change: Difference) -> Iterator[Check]:
    if change.callers:
        finding = f"{', '.join(map(address_text, sorted(change.callers)))} may not call it"
        yield Check("executor caller", Status.FAIL, finding, AUTHORIZE)
    elif needs.account is not None:
        yield Check("executor caller", Status.OK, f"{address_text(needs.account)} may call it")
    if change.strange_callers:
        finding = f"{', '.join(map(address_text, sorted(change.strange_callers)))} may call it too"
        yield Check("executor callers", Status.WARN, finding, f"{AUTHORIZE} --revoke, unless they are yours")
    if estate.is_paused:
        yield Check("executor pause", Status.FAIL, "it is paused: nothing goes through it", "keeper executor unpause")


def _permits(change: Difference, count: int) -> Iterator[Check]:
    if change.notes:
        yield Check("executor permits", Status.FAIL, f"missing: {_listed(change.notes)}", AUTHORIZE)
    elif change.permits:
        finding = f"more than is needed of {_listed([address_text(each.target) for each in change.permits])}"
        yield Check("executor permits", Status.WARN, finding, AUTHORIZE)
    else:
        yield Check("executor permits", Status.OK, f"{count} targets, as the chain file and its markets need them")
    strange = [
        *map(address_text, sorted(change.strange_targets)),
        *(f"0x{name.hex()} of {address_text(router)}" for router, name in sorted(change.strange_functions)),
    ]
    if strange:
        finding = f"nothing needs any more: {_listed(strange)}"
        yield Check("executor permits", Status.WARN, finding, f"{AUTHORIZE} --revoke")


def _rest(chain: ChainFile, estate: Estate) -> Iterator[Check]:
    held = [
        f"{amount_text(amount, 18)} {chain.native_symbol}" if token == NATIVE else f"{amount} of {address_text(token)}"
        for token, amount in estate.balances.items()
        if amount
    ]
    if held:
        yield Check("executor balances", Status.WARN, f"holds {_listed(held)}", "keeper executor sweep")
    if estate.allowances:
        given = [f"{address_text(token)} to {address_text(spender)}" for token, spender in estate.allowances]
        yield Check("executor allowances", Status.FAIL, f"given: {_listed(given)}", "it is a defect: report it")


def _permit_text(permit: Permit) -> str:
    if not permit.kinds:
        return f"allow nothing of {address_text(permit.target)} any more"
    made = f" (pools made of 0x{permit.init_code_hash.hex()})" if permit.init_code_hash != _NO_HASH else ""
    return f"allow {kinds_text(permit.mask)} of {address_text(permit.target)}{made}"


def _by_router(functions: Iterable[Function]) -> Mapping[Address, list[bytes]]:
    found: dict[Address, list[bytes]] = {}
    for router, name in sorted(functions):
        found.setdefault(router, []).append(name)
    return found


def _parts(items: Sequence[Key], size: int) -> Iterator[Sequence[Key]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _MOST_NAMED
    return ", ".join(items[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
