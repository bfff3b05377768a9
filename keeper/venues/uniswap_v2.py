"""Uniswap v2 and its forks: pairs whose product of reserves never falls, in memory, read again when they say Sync."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.domain.abi import (
    WORD,
    address,
    address_word,
    log_words,
    named,
    number_word,
    selector,
    topic,
    view,
    within,
    words,
)
from keeper.domain.chain import Log, LogFilter, ViewResult
from keeper.domain.exchange import Swapped
from keeper.domain.ports import Reads
from keeper.domain.program import Step, StepKind
from keeper.domain.units import BPS, Address, TokenAmount
from keeper.errors import Invalid, Transient, Unsafe
from keeper.venues.factories import created, swappable
from keeper.venues.noted import Note, Noted

INIT_CODE_HASH: Final = bytes.fromhex("96e8ac4277198ff8b6f785478aa9a39f403cb768dd02cbee326c3e7da348845f")
"""The hash of v2-core 1.0.1's pair creation code, from which the executor computes a pair's address."""
FEE_BPS: Final = 30
SWAP_GAS: Final = 80_000
"""The pair and both transfers take 58,000 to 68,000 (measured, tokens of OpenZeppelin's); the rest is the executor's."""

GET_PAIR: Final = selector("getPair(address,address)")
GET_RESERVES: Final = selector("getReserves()")
PAIR_CREATED: Final = topic("PairCreated(address,address,address,uint256)")
SYNC: Final = topic("Sync(uint112,uint112)")

_RESERVE: Final = 1 << 112


@dataclass(frozen=True, slots=True)
class Listing:
    """What a pair is, for ever. `token0` sorts before `token1`."""

    venue: str
    factory: Address
    address: Address
    token0: Address
    token1: Address
    fee_bps: int


class UniswapV2Pool:
    """One pair at one head."""

    takes_exactly = False

    __slots__ = ("listing", "reserve0", "reserve1")

    def __init__(self, listing: Listing, reserve0: int, reserve1: int) -> None:
        """Keep the pair with its reserves."""
        self.listing, self.reserve0, self.reserve1 = listing, reserve0, reserve1

    @property
    def id(self) -> bytes:
        """Return its address."""
        return self.listing.address

    @property
    def lock(self) -> bytes:
        """Return its address: it can be entered once at a time."""
        return self.listing.address

    @property
    def venue(self) -> str:
        """Return the name of its venue, for people."""
        return self.listing.venue

    @property
    def pairs(self) -> Sequence[tuple[Address, Address]]:
        """Return both directions."""
        one, other = self.listing.token0, self.listing.token1
        return (one, other), (other, one)

    def swap(self, give: Address, take: Address, amount: TokenAmount) -> Swapped | None:
        """Quote an exact amount given; None where it is more than a reserve can hold.

        Rounding: down.
        Source: UniswapV2Library.getAmountOut; UniswapV2Pair._update
        """
        listing = self.listing
        if give == listing.token0 and take == listing.token1:
            has, gives = self.reserve0, self.reserve1
        elif give == listing.token1 and take == listing.token0:
            has, gives = self.reserve1, self.reserve0
        else:
            return None
        if has + amount >= _RESERVE:
            return None
        charged = amount * (BPS - listing.fee_bps)
        out = charged * gives // (has * BPS + charged)
        rest = (has + amount, gives - out) if give == listing.token0 else (gives - out, has + amount)
        return Swapped(TokenAmount(out), SWAP_GAS, UniswapV2Pool(listing, *rest))

    def step(self, give: Address, take: Address, amount: int, least: int) -> Step:
        """Return the executor's step that gives an exact amount."""
        data = number_word(self.listing.fee_bps)
        return Step(StepKind.SWAP_UNISWAP_V2, self.listing.factory, give, take, amount, least, data)


class UniswapV2:
    """The pairs of one factory between any two of the tokens that it was told of. `fee_bps` is the fork's own."""

    def __init__(
        self, name: str, factory: Address, *, init_code_hash: bytes = INIT_CODE_HASH, fee_bps: int = FEE_BPS
    ) -> None:
        """Keep where to begin; the chain is asked by `discover`."""
        self._name, self._root = name, factory
        self._init_code_hash, self._fee_bps = init_code_hash, fee_bps
        self._pairs: frozenset[tuple[Address, Address]] = frozenset()
        self._listings: dict[Address, Listing] = {}
        self._pools: dict[Address, UniswapV2Pool] = {}
        self._noted = Noted()

    @property
    def name(self) -> str:
        """Return its name in the chain file."""
        return self._name

    @property
    def head_filter(self) -> LogFilter:
        """Return the logs that change its known pairs, and those of new ones."""
        return LogFilter(frozenset({self._root, *self._listings}), frozenset({SYNC, PAIR_CREATED}))

    async def discover(self, reads: Reads, pairs: Collection[tuple[Address, Address]]) -> None:
        """Find the pools of some pairs of tokens, each pair sorted; those that it knows are not looked for again.

        Raises: Transient, Stale; Unsafe when the root is not what the chain file says it is.
        """
        new = sorted(swappable(pairs) - self._pairs)
        answers = await reads.many([view(self._root, GET_PAIR, *map(address_word, pair)) for pair in new])
        for pair, answer in zip(new, answers, strict=True):
            if (found := self._word(answer)) == 0:
                continue
            listing = self._listing(*pair)
            if found != int.from_bytes(listing.address, "big"):
                raise Unsafe(
                    f"venue {self._name}: the pairs of {to_checksum_address(self._root)} are not where init_code_hash "
                    "puts them; correct it in the chain file"
                )
            self._add(listing, reads.head.number)
        self._pairs |= frozenset(new)

    def _listing(self, one: Address, other: Address) -> Listing:
        place = created(self._root, keccak(one + other), self._init_code_hash)
        return Listing(self._name, self._root, place, one, other, self._fee_bps)

    def _add(self, listing: Listing, block: int) -> None:
        if listing.address not in self._listings:
            self._listings[listing.address] = listing
            self._noted.add(listing.address, Note(block))

    def follow(self, logs: Iterable[Log]) -> None:
        """Note which pairs the logs of new blocks changed, and which are new."""
        for log in logs:
            event = log.topics[0] if log.topics else b""
            if log.address in self._listings and event == SYNC:
                self._noted.add(log.address, Note(log.block_number))
            elif log.address == self._root and event == PAIR_CREATED:
                one, other = named(log, (1, 2))
                listing = self._listing(one, other)
                if (one, other) in self._pairs and address(log_words(log, 1)[0]) == listing.address:
                    self._add(listing, log.block_number)

    def distrust(self) -> None:
        """Note that every pair has to be read again: blocks were orphaned, or logs are missing."""
        self._noted.distrust(self._listings)

    async def pools(self, reads: Reads) -> Sequence[UniswapV2Pool]:
        """Return every known pair at the reads' head that has anything to give, reading only those that have changed.

        One that answers nonsense is left out, and tried again at the next head.
        Raises: Transient, Stale; what was noted is then noted still.
        """
        noted = self._noted.waiting
        answers = await reads.many([view(pair, GET_RESERVES) for pair in noted])
        for (pair, note), answer in zip(noted.items(), answers, strict=True):
            self._pools.pop(pair, None)
            with suppress(Invalid):
                reserves = (within(each, 0, _RESERVE, "a reserve") for each in words(answer, 2, "a pair"))
                self._pools[pair] = UniswapV2Pool(self._listings[pair], *reserves)
                self._noted.settle(pair, note, reads.head.number)
        found = (self._pools[each] for each in sorted(self._pools))
        return [each for each in found if each.reserve0 and each.reserve1]

    def _word(self, answer: ViewResult) -> int:
        if not answer.ok or len(answer.data) != WORD:
            if self._pairs:
                raise Transient(f"venue {self._name}: its factory answers no longer")
            raise Unsafe(
                f"venue {self._name}: {to_checksum_address(self._root)} is no factory of Uniswap v2; "
                "correct its root in the chain file"
            )
        return int.from_bytes(answer.data, "big")
