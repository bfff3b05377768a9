"""Factories: a head, reserves, a snapshot and positions, plain where a test does not say otherwise."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from keeper.domain.chain import BlockHead, Moment
from keeper.domain.plan import Payment
from keeper.domain.position import Assessment, Opportunity, Token
from keeper.domain.units import RAY, Address, Base, BlockHash, PositionId, Wei
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category, Reserve

NOW_S = 1_700_000_000
NOW = Moment(100, NOW_S)
POOL = Address(b"\x50" * 20)
BORROWER = Address(b"\xb0" * 20)
HELD = PositionId(BORROWER)
REVISIONS = {"3.0.2": 1, "3.1": 4, "3.2": 6, "3.3": 7, "3.4": 8, "3.5": 9, "3.6": 10, "3.7": 11}
HALF_UP, DIRECTED = (1, 4, 6, 7, 8), (9, 10, 11)


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


def later(seconds: int) -> Moment:
    return Moment(NOW.block, NOW_S + seconds)


def asset(reserve_id: int) -> Address:
    return Address((0xA000 + reserve_id).to_bytes(20, "big"))


def reserve(reserve_id: int, *, decimals: int = 18, price: int | None = 10**8, **changes: Any) -> Reserve:
    plain = Reserve(
        id=reserve_id,
        token=Token(asset(reserve_id), f"T{reserve_id}", decimals),
        unit=10**decimals,
        price_base=None if price is None else Base(price),
        threshold_bps=8_000,
        bonus_bps=10_500,
        fee_bps=1_000,
        is_active=True,
        is_paused=False,
        grace_until_s=0,
        liquidity_index_ray=RAY,
        liquidity_rate_ray=0,
        borrow_index_ray=RAY,
        borrow_rate_ray=0,
        updated_s=NOW_S,
    )
    return replace(plain, **changes)


def snapshot(
    revision: int, reserves: Iterable[Reserve], categories: Mapping[int, Category] | None = None, **changes: Any
) -> AaveSnapshot:
    by_id = {each.id: each for each in reserves}
    plain = AaveSnapshot(
        market="aave",
        head=head(),
        revision=revision,
        pool=POOL,
        reserves=by_id,
        categories=categories or {},
        is_liquidation_allowed=True,
        native_price_base=None,
        payments=tuple(Payment(each.token, POOL) for each in by_id.values()),
    )
    return replace(plain, **changes)


def position(collateral: Mapping[int, int], debt: Mapping[int, int], *, category: int = 0) -> AavePosition:
    return AavePosition(HELD, category, tuple(collateral.items()), tuple(debt.items()))


def pair(assessment: Assessment, debt_id: int, collateral_id: int) -> Opportunity | None:
    for each in assessment.opportunities:
        if (each.repay.address, each.seize.address) == (asset(debt_id), asset(collateral_id)):
            return each
    return None
