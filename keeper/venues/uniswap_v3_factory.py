"""Uniswap v3 on chain: names of functions and events, and the pools that a factory has for some tokens."""

from collections.abc import Mapping, Sequence, Set
from typing import Final

from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.domain.abi import WORD, address, address_word, log_words, named, number_word, selector, topic, view
from keeper.domain.chain import Log, ViewResult
from keeper.domain.ports import Reads
from keeper.domain.units import Address
from keeper.errors import Transient, Unsafe
from keeper.venues.factories import created
from keeper.venues.ticks import FEE_UNIT
from keeper.venues.uniswap_v3_pool import Listing

INIT_CODE_HASH: Final = bytes.fromhex("e34f199b19b2b4f47f68442619d555527d244f78a3297ea89325f843f87b8b54")
"""The hash of v3-core 1.0.1's creation code, from which the executor computes a pool's address."""
FEES: Final = (100, 500, 2_500, 3_000, 10_000)
"""The tiers that a factory is asked about: Uniswap's, and PancakeSwap's 2500 instead of 3000."""

FEE_SPACING: Final = selector("feeAmountTickSpacing(uint24)")
GET_POOL: Final = selector("getPool(address,address,uint24)")
SLOT0: Final = selector("slot0()")
LIQUIDITY: Final = selector("liquidity()")
TICK_BITMAP: Final = selector("tickBitmap(int16)")
TICKS: Final = selector("ticks(int24)")

POOL_CREATED: Final = topic("PoolCreated(address,address,uint24,int24,address)")
INITIALIZE: Final = topic("Initialize(uint160,int24)")
SWAP: Final = topic("Swap(address,address,int256,int256,uint160,uint128,int24)")
SWAP_PANCAKE: Final = topic("Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)")
MINT: Final = topic("Mint(address,address,int24,int24,uint128,uint256,uint256)")
BURN: Final = topic("Burn(address,int24,int24,uint128,uint256,uint256)")

_MAX_SPACING: Final = 1 << 14


class UniswapV3Factory:
    """One factory at `root`. Without `fees`, the usual tiers that it has enabled count.

    `deployer` is who makes its pools, where it is not the factory itself.
    """

    def __init__(
        self, name: str, root: Address, init_code_hash: bytes, fees: Sequence[int], deployer: Address | None = None
    ) -> None:
        """Keep where to begin."""
        self.name, self.root, self._deployer = name, root, deployer or root
        self._init_code_hash, self._fees = init_code_hash, tuple(fees)
        self._spacings: Mapping[int, int] = {}

    async def find(self, reads: Reads, pairs: Sequence[tuple[Address, Address]]) -> Sequence[Listing]:
        """Return the pools of some pairs, each sorted.

        Raises: Transient, Stale; Unsafe when the root is no such factory, or its pools are made of other code.
        """
        if not self._spacings:
            self._spacings = await self._enabled(reads)
        wanted = [(*pair, fee) for pair in pairs for fee in self._spacings]
        answers = await reads.many([view(self.root, GET_POOL, _salt(*each)) for each in wanted])
        found = []
        for (one, other, fee), answer in zip(wanted, answers, strict=True):
            if (pool := self._word(answer)) == 0:
                continue
            listing = self._listing(one, other, fee)
            if pool != int.from_bytes(listing.address, "big"):
                raise Unsafe(
                    f"venue {self.name}: the pools of {to_checksum_address(self.root)} are not where init_code_hash "
                    "and deployer put them; correct these in the chain file"
                )
            found.append(listing)
        return found

    def created(self, log: Log, pairs: Set[tuple[Address, Address]]) -> Listing | None:
        """Return the pool that a log tells of, if it is of one of some pairs, for one of the fees."""
        if log.address != self.root or log.topics[:1] != (POOL_CREATED,):
            return None
        one, other = named(log, (1, 2))
        fee = int.from_bytes(log.topics[3], "big") if len(log.topics) > 3 else 0
        if (one, other) not in pairs or fee not in self._spacings:
            return None
        listing = self._listing(one, other, fee)
        return listing if address(log_words(log, 2)[1]) == listing.address else None

    def _listing(self, one: Address, other: Address, fee: int) -> Listing:
        place = created(self._deployer, keccak(_salt(one, other, fee)), self._init_code_hash)
        return Listing(self.name, self._deployer, place, one, other, fee, self._spacings[fee])

    async def _enabled(self, reads: Reads) -> Mapping[int, int]:
        """Return the tick spacing of every fee that is enabled."""
        fees = self._fees or FEES
        answers = await reads.many([view(self.root, FEE_SPACING, number_word(fee)) for fee in fees])
        spacings = {fee: self._word(answer) for fee, answer in zip(fees, answers, strict=True)}
        found = {fee: each for fee, each in spacings.items() if 0 < each < _MAX_SPACING and fee < FEE_UNIT}
        if not found or (self._fees and len(found) < len(fees)):
            raise Unsafe(
                f"venue {self.name}: {to_checksum_address(self.root)} has not enabled "
                f"{'these fees' if self._fees else 'any of the usual fees'}; correct the chain file"
            )
        return found

    def _word(self, answer: ViewResult) -> int:
        if not answer.ok or len(answer.data) != WORD:
            if self._spacings:
                raise Transient(f"venue {self.name}: its factory answers no longer")
            raise Unsafe(
                f"venue {self.name}: {to_checksum_address(self.root)} is no factory of Uniswap v3; "
                "correct its root in the chain file"
            )
        return int.from_bytes(answer.data, "big")


def _salt(one: Address, other: Address, fee: int) -> bytes:
    return address_word(one) + address_word(other) + number_word(fee)
