"""Factories: a ClearingHouse at a block and accounts in it, plain where a test does not say otherwise."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from keeper.domain import abi
from keeper.domain.chain import BlockHead
from keeper.domain.position import Opportunity, Token
from keeper.domain.units import Address, Base, BlockHash, PositionId, Wei
from keeper.protocols.perp_curie.contracts import Collateral, Perpetual, PerpPosition, PerpSnapshot, Stake

HOUSE, VAULT, USDC, WETH = (Address(bytes([each]) * 20) for each in (0xC1, 0xC2, 0xC3, 0xC4))
TRADER, LIQUIDATOR = Address(b"\xb0" * 20), Address(b"\x11" * 20)
WAD, MILLION, Q96, DAY_S = 10**18, 10**6, 2**96, 86_400


def base_token(number: int) -> Address:
    return Address((0xB000 + number).to_bytes(20, "big"))


def head() -> BlockHead:
    return BlockHead(
        number=100,
        hash=BlockHash(b"\x64" * 32),
        parent_hash=BlockHash(b"\x63" * 32),
        timestamp_s=1_700_000_000,
        base_fee_wei=Wei(10),
        gas_limit=30_000_000,
        logs_bloom=bytes(256),
    )


def perpetual(number: int, price: int | None = 100 * WAD, **changes: Any) -> Perpetual:
    plain = Perpetual(number, Token(base_token(number), f"v{number}", 18), is_open=True, price=price, growth_x96=0)
    return replace(plain, **changes)


def collateral(number: int, price: int | None = 2_000 * WAD, **changes: Any) -> Collateral:
    return replace(Collateral(number, Token(WETH, "WETH", 18), price, WAD, 700_000), **changes)


def snapshot(*perpetuals: Perpetual, decimals: int = 6, **changes: Any) -> PerpSnapshot:
    plain = PerpSnapshot(
        market="perp",
        head=head(),
        clearing_house=HOUSE,
        settlement=Token(USDC, "USDC", decimals),
        margin=Token(VAULT, "USDC margin", decimals),
        scale=10 ** (18 - decimals),
        is_paused=False,
        mm_ratio=62_500,
        im_ratio=100_000,
        penalty_ratio=25_000,
        insurance=10**12,
        perpetuals={each.token.address: each for each in perpetuals},
        collaterals={WETH: collateral(99)},
        valuations={},
        prices={USDC: Base(10**8), WETH: Base(2_000 * 10**8)},
        native_price_base=Base(2_000 * 10**8),
    )
    return replace(plain, **changes)


def position(balance: int, stakes: Mapping[int, tuple[int, int]], **changes: Any) -> PerpPosition:
    """Return an account; `stakes` are sizes and open notionals by the markets' numbers."""
    held = tuple(Stake(base_token(number), size, quote, 0) for number, (size, quote) in stakes.items())
    plain = PerpPosition(PositionId(TRADER), balance, owed=0, collaterals=(), stakes=held)
    return replace(plain, **changes)


def base_of(plan: Opportunity) -> Address:
    """Return the market of the position that a plan takes over."""
    return abi.address(abi.split(plan.terms)[0])


def size_of(plan: Opportunity) -> int:
    """Return how much of it a plan takes over, without its sign."""
    return abs(abi.signed(abi.split(plan.terms)[1]))
