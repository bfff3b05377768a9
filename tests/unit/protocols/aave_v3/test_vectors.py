"""Values that the genuine contracts computed in an EVM, or that transcriptions matching them did."""

import json
from pathlib import Path
from typing import Any

import pytest

from keeper.domain.chain import Moment
from keeper.domain.units import RAY, TokenAmount
from keeper.protocols.aave_v3 import rules
from keeper.protocols.aave_v3.contracts import AavePosition, AaveSnapshot, Category
from tests.unit.protocols.aave_v3.market import REVISIONS, asset, pair, position, reserve, snapshot

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
ACCOUNTS = [each for each in VECTORS if each["function"] == "aave_user/aave_liquidate"]
INTEREST = [each for each in VECTORS if each["function"] == "interest"]


def state(inputs: dict[str, Any]) -> tuple[AavePosition, AaveSnapshot]:
    reserves = [
        reserve(
            int(each["id"]),
            decimals=int(each["decimals"]),
            price=int(each["price"]),
            threshold_bps=int(each["lt"]),
            bonus_bps=int(each["lb"]),
            fee_bps=int(each["fee"]),
            is_active=each["active"],
            is_paused=each["paused"],
            grace_until_s=int(each["grace"]),
            liquidity_index_ray=int(each["liq_index"]),
            liquidity_rate_ray=int(each["liq_rate"]),
            borrow_index_ray=int(each["bor_index"]),
            borrow_rate_ray=int(each["bor_rate"]),
            updated_s=int(each["last"]),
        )
        for each in inputs["reserves"]
    ]
    mode = inputs["emode"]
    categories = {int(mode["id"]): Category(int(mode["lt"]), int(mode["lb"]), int(mode["bitmap"]))} if mode else {}
    held = position(
        {int(key): int(each["a"]) for key, each in inputs["pos"].items() if each["coll"]},
        {int(key): int(each["d"]) for key, each in inputs["pos"].items() if each["bor"]},
        category=int(mode["id"]) if mode else 0,
    )
    return held, snapshot(REVISIONS[inputs["v"]], reserves, categories)


@pytest.mark.parametrize("vector", ACCOUNTS, ids=lambda each: each["id"])
def test_health_is_the_contracts(vector: dict[str, Any]):
    expected = {key: int(value) for key, value in vector["expected"]["user"].items()}
    health = rules.health(*state(vector["inputs"]), Moment(100, int(vector["inputs"]["now"])))
    assert health.collateral_base == expected["total_collateral"]
    assert health.debt_base == expected["total_debt"]
    assert health.health_factor_wad == expected["hf"]
    assert health.is_liquidatable is (expected["hf"] < 10**18)


@pytest.mark.parametrize("vector", ACCOUNTS, ids=lambda each: each["id"])
def test_a_liquidation_moves_what_the_contract_moves_or_is_not_offered(vector: dict[str, Any]):
    inputs, expected = vector["inputs"], vector["expected"]["liquidation"]
    held, market = state(inputs)
    debt_id, collateral_id, cover = int(inputs["did"]), int(inputs["cid"]), int(inputs["dtc"])
    assessment = rules.assess(held, market, Moment(100, int(inputs["now"])), {asset(debt_id): TokenAmount(cover)})
    found = pair(assessment, debt_id, collateral_id)
    if "revert" not in expected:
        assert found is not None
        assert found.repay_amount == int(expected["debt"])
        assert found.seized_amount == int(expected["coll_to_liquidator"])
        assert found.protocol_fee_amount == int(expected["fee"])
        assert found.repay_amount <= found.repay_limit <= cover
    elif expected["revert"] == "MUST_NOT_LEAVE_DUST":
        assert found is None or found.repay_amount < cover
    else:
        assert found is None


@pytest.mark.parametrize("vector", INTEREST, ids=lambda each: each["id"])
def test_interest_is_the_contracts(vector: dict[str, Any]):
    rate, elapsed = int(vector["inputs"]["rate_ray"]), int(vector["inputs"]["dt"])
    expected = {key: int(value) for key, value in vector["expected"].items()}
    listed = reserve(0, liquidity_rate_ray=rate, borrow_rate_ray=rate, liquidity_index_ray=RAY)
    at_s = listed.updated_s + elapsed
    assert rules.supply_index(listed, at_s) == expected["linear"]
    for revision, profile in rules.PROFILES.items():
        factor = expected["compounded_v30_to_v33" if revision < 8 else "compounded_v34_plus"]
        assert rules.debt_index(listed, profile, at_s) == factor


def test_every_vector_is_used():
    assert len(VECTORS) == 87
    assert len(ACCOUNTS) + len(INTEREST) == 86  # the other one is a flash loan's premium, which nobody here pays
