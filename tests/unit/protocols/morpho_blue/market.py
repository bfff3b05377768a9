"""Factories: pairs, a snapshot, positions and pre-liquidation contracts, plain where a test does not say otherwise."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from keeper.domain.chain import BlockHead, Moment
from keeper.domain.position import Token
from keeper.domain.units import NATIVE, WAD, ZERO_ADDRESS, Address, Base, BlockHash, Wei
from keeper.protocols.morpho_blue.contracts import (
    MorphoPosition,
    MorphoSnapshot,
    Pair,
    PairParams,
    PreLiquidation,
    PreTerms,
    Totals,
    position_id,
)

NOW_S = 1_700_000_000
NOW = Moment(100, NOW_S)
ROOT = Address(b"\x50" * 20)
IRM = Address(b"\x51" * 20)
ORACLE = Address(b"\x52" * 20)
FACTORY = Address(b"\x53" * 20)
BORROWER = Address(b"\xb0" * 20)
LOAN = Token(Address(b"\x01" * 20), "USDC", 6)
COLLATERAL = Token(Address(b"\x02" * 20), "WETH", 18)
PRICE = 2_000 * 10**24  # 2,000 USDC for 1 WETH


def head(timestamp_s: int = NOW_S, number: int = 100) -> BlockHead:
    return BlockHead(
        number=number,
        hash=BlockHash(number.to_bytes(32, "big")),
        parent_hash=BlockHash((number - 1).to_bytes(32, "big")),
        timestamp_s=timestamp_s,
        base_fee_wei=Wei(10),
        gas_limit=30_000_000,
        logs_bloom=bytes(256),
    )


def totals(borrowed: int = 9 * 10**11, shares: int | None = None, **changes: Any) -> Totals:
    plain = Totals(
        supply_assets=borrowed + 10**11,
        supply_shares=(borrowed + 10**11) * 10**6,
        borrow_assets=borrowed,
        borrow_shares=borrowed * 10**6 if shares is None else shares,
        updated_s=NOW_S,
        fee_wad=0,
    )
    return replace(plain, **changes)


def pair(lltv_wad: int = 86 * WAD // 100, *, price: int | None = PRICE, irm: Address = IRM, **changes: Any) -> Pair:
    params = PairParams(LOAN.address, COLLATERAL.address, ORACLE, irm, lltv_wad)
    plain = Pair(params, LOAN, COLLATERAL, totals(), price, rate_at_target=1_268_391_679, rate=None)
    return replace(plain, **changes)


def contract(of: Pair, number: int = 0, *, price: int | None = PRICE, **changes: Any) -> PreLiquidation:
    plain = PreTerms(
        pair=of.params.id,
        pre_lltv_wad=80 * WAD // 100,
        close_factors_wad=(WAD // 10, WAD // 2),
        incentives_wad=(102 * WAD // 100, 103 * WAD // 100),
        oracle=ORACLE,
    )
    return PreLiquidation(Address((0x900 + number).to_bytes(20, "big")), replace(plain, **changes), price)


def snapshot(
    pairs: Iterable[Pair],
    contracts: Iterable[PreLiquidation] = (),
    prices: dict[Address, int] | None = None,
    **changes: Any,
) -> MorphoSnapshot:
    usd = {LOAN.address: 10**8, NATIVE: 2_000 * 10**8} if prices is None else prices
    pairs = list(pairs)
    plain = MorphoSnapshot(
        market="morpho",
        head=head(),
        root=ROOT,
        pairs={each.params.id: each for each in pairs},
        pre_liquidations={each.address: each for each in contracts},
        prices={token: Base(price) for token, price in usd.items()},
        tokens={LOAN.address: LOAN, COLLATERAL.address: COLLATERAL},
        vouched=frozenset(each.params.id for each in pairs),
    )
    return replace(plain, **changes)


def position(of: Pair, shares: int, collateral: int = 10**18, *contracts: PreLiquidation) -> MorphoPosition:
    key = position_id(BORROWER, of.params.id)
    return MorphoPosition(key, shares, collateral, tuple(each.address for each in contracts))


def later(seconds: int) -> Moment:
    return Moment(NOW.block, NOW_S + seconds)


def without_interest(of: Pair) -> Pair:
    return replace(of, params=replace(of.params, irm=ZERO_ADDRESS), rate_at_target=None)
