"""The executor as it stands: what it is, what it allows, what rests in it, and what its own events tell of its past."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, TypeVar

from keeper.chain.backfill import scan_range
from keeper.chain.inventory import BalanceReads
from keeper.chain.rpc import Rpc
from keeper.domain.abi import ALLOWANCE, BALANCE_OF, WORD, address_word, named, number, split, topic, view
from keeper.domain.chain import Log, LogFilter, ViewResult
from keeper.domain.units import NATIVE, Address, TokenAmount
from keeper.executor import calls

AUTHORIZED: Final = topic("Authorized(address,uint256,bytes32)")
SELECTORS_SET: Final = topic("SelectorsSet(address,bytes4[],bool)")
CALLER_SET: Final = topic("CallerSet(address,bool)")

Function = tuple[Address, bytes]
"""A router and one of its functions."""
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Past:
    """Whom and what the executor can be asked about; from its own events, all that it was ever allowed."""

    targets: frozenset[Address] = frozenset()
    functions: frozenset[Function] = frozenset()
    callers: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class Estate:
    """The executor as it stands at one head, as far as was asked."""

    address: Address
    code_hash: bytes
    owner: Address
    pending_owner: Address
    is_paused: bool
    callers: Mapping[Address, bool]
    permits: Mapping[Address, tuple[int, bytes]]
    functions: Mapping[Function, bool]
    balances: Mapping[Address, TokenAmount]
    """What rests in it, `NATIVE` among them; nothing should."""
    allowances: Mapping[tuple[Address, Address], TokenAmount]
    """By token and spender; none should be there."""


async def read_past(rpc: Rpc, executor: Address, from_block: int, to_block: int) -> Past:
    """Return what the executor was ever allowed in some blocks.

    Raises: Transient; Invalid.
    """
    targets, functions, callers = set[Address](), set[Function](), set[Address]()
    wanted = LogFilter(frozenset({executor}), frozenset({AUTHORIZED, SELECTORS_SET, CALLER_SET}))
    async with aclosing(scan_range(rpc, wanted, from_block, to_block)) as pieces:
        async for _, logs in pieces:
            for log in logs:
                (about,) = named(log, [1])
                if log.topics[0] == AUTHORIZED:
                    targets.add(about)
                elif log.topics[0] == CALLER_SET:
                    callers.add(about)
                else:
                    functions |= {(about, each) for each in _selectors(log)}
    return Past(frozenset(targets), frozenset(functions), frozenset(callers))


def _selectors(log: Log) -> Iterator[bytes]:
    """Yield the selectors of a `SelectorsSet`."""
    start, count = split(log.data)[0] + WORD, split(log.data)[split(log.data)[0] // WORD]
    for at in range(start, start + count * WORD, WORD):
        yield log.data[at : at + 4]


async def read_estate(
    reads: BalanceReads, address: Address, code_hash: bytes, about: Past, tokens: Iterable[Address]
) -> Estate:
    """Read the executor at the reads' head: what it is, what it says about some, what it holds of some tokens.

    Raises: Unreadable where there is no executor; Transient; Stale.
    """
    targets, functions, callers = sorted(about.targets), sorted(about.functions), sorted(about.callers)
    held = sorted(set(tokens) - {NATIVE})
    pairs = [(token, target) for token in held for target in targets]
    groups = (
        [view(address, each) for each in (calls.OWNER, calls.PENDING_OWNER, calls.IS_PAUSED)],
        [view(address, calls.IS_CALLER, address_word(each)) for each in callers],
        [view(address, calls.PERMITS, address_word(each)) for each in targets],
        [view(address, calls.INIT_CODE_HASHES, address_word(each)) for each in targets],
        [view(address, calls.IS_SELECTOR_ALLOWED, address_word(to), name.ljust(WORD, b"\0")) for to, name in functions],
        [view(each, BALANCE_OF, address_word(address)) for each in held],
        [view(token, ALLOWANCE, address_word(address), address_word(spender)) for token, spender in pairs],
    )
    native, answers = await asyncio.gather(
        reads.native_balance(address), reads.many([each for group in groups for each in group])
    )
    left = iter(answers)
    found = [[next(left) for _ in group] for group in groups]
    itself, is_caller, masks, hashes, is_allowed, balances, allowances = found
    owner, pending, paused = (number(each, "the executor") for each in itself)
    return Estate(
        address=address,
        code_hash=code_hash,
        owner=Address(owner.to_bytes(20)),
        pending_owner=Address(pending.to_bytes(20)),
        is_paused=bool(paused),
        callers={each: bool(number(said, "the executor")) for each, said in zip(callers, is_caller, strict=True)},
        permits={
            each: (number(mask, "the executor"), number(init, "the executor").to_bytes(WORD))
            for each, mask, init in zip(targets, masks, hashes, strict=True)
        },
        functions={each: bool(number(said, "the executor")) for each, said in zip(functions, is_allowed, strict=True)},
        balances={NATIVE: TokenAmount(native)} | _amounts(held, balances),
        allowances=_amounts(pairs, allowances),
    )


def _amounts(keys: Sequence[Key], answers: Sequence[ViewResult]) -> dict[Key, TokenAmount]:
    """Return the amounts that are not nothing; a contract that answers with anything but a word holds nothing."""
    found = {}
    for key, answer in zip(keys, answers, strict=True):
        amount = int.from_bytes(answer.data) if answer.ok and len(answer.data) == WORD else 0
        if amount:
            found[key] = TokenAmount(amount)
    return found
