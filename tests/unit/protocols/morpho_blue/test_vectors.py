"""Values that the genuine contracts computed, or that transcriptions matching them did."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keeper.domain.chain import Moment
from keeper.domain.outcome import Reason
from keeper.domain.position import Opportunity
from keeper.domain.units import WAD
from keeper.protocols.morpho_blue import rules
from keeper.protocols.morpho_blue.contracts import MorphoPosition, Pair, PreLiquidation, Totals
from tests.unit.protocols.morpho_blue.market import contract, pair, position, snapshot, without_interest

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors.json").read_text(encoding="utf-8"))
DERIVED = "morpho_oracle"  # what an oracle computes; the keeper only reads its price


def of(function: str) -> list[dict[str, Any]]:
    return [each for each in VECTORS if each["function"] == function]


LIQUIDATIONS, WORKED, PRE = of("morpho_accrue+morpho_liquidate"), of("morpho_liquidate"), of("morpho_pre_liq")
RECORDED, ACCRUALS, INCENTIVES = of("pre_liquidate"), of("morpho_accrue"), of("morpho_lif")


def name(vector: dict[str, Any]) -> str:
    return str(vector["id"])


def totals_of(state: dict[str, str]) -> Totals:
    return Totals(*(int(state[each]) for each in ("tsa", "tss", "tba", "tbs", "last", "fee")))


def state_of(inputs: dict[str, Any]) -> tuple[Pair, MorphoPosition]:
    state = inputs["state"]
    rate = None if state.get("rate") is None else int(state["rate"])
    at_target = None if state["rat"] is None else int(state["rat"])
    found = pair(
        int(inputs["lltv"]), price=int(inputs["price"]), totals=totals_of(state), rate_at_target=at_target, rate=rate
    )
    if not state.get("irm", True):
        found = without_interest(found)
    return found, position(found, int(state["bs"]), int(state["coll"]))


def sizer(found: Pair, held: MorphoPosition, at: Moment) -> rules._Sizer:
    market = snapshot([found])
    return rules._Sizer(market, held, found, rules._value(held, market, at), at, None)


@pytest.mark.parametrize("vector", INCENTIVES, ids=name)
def test_the_incentive_is_the_contracts(vector: dict[str, Any]):
    assert rules.incentive(int(vector["inputs"]["lltv"])) == int(vector["expected"])


@pytest.mark.parametrize("vector", ACCRUALS, ids=name)
def test_interest_is_the_contracts(vector: dict[str, Any]):
    inputs = vector["inputs"]
    found = pair(totals=totals_of(inputs), rate_at_target=int(inputs["rateAtTarget"]))
    assert rules.accrued(found, int(inputs["now"])) == totals_of(vector["expected"]["market"])


@pytest.mark.parametrize("vector", LIQUIDATIONS, ids=name)
def test_a_liquidation_is_the_contracts(vector: dict[str, Any]):
    inputs, expected = vector["inputs"], vector["expected"]
    found, held = state_of(inputs)
    at = Moment(100, int(inputs["now"]))
    assessment = rules.assess(held, snapshot([found]), at, None)
    if expected.get("revert") == "position is healthy":
        assert assessment.blocked is Reason.NOT_LIQUIDATABLE
        return
    (planned,) = assessment.opportunities
    asked_seized, asked_shares = int(inputs["seizedAssets"]), int(inputs["repaidShares"])
    if "revert" in expected:  # more was asked for than there is: that is not what is planned
        assert expected["revert"] == "Panic(17)"
        assert planned.repay_amount < rules.accrued(found, at.time_s).assets_up(asked_shares)
        return
    size, factor = sizer(found, held, at), rules.incentive(found.params.lltv_wad)
    told = map(int, expected["event_repaidAssets_repaidShares_seized_badDebtAssets_badDebtShares"])
    repaid, shares, seized, bad_assets, bad_shares = told
    if asked_seized:
        assert size._shares_for(asked_seized, found.price or 0, factor) == shares
    else:
        assert size._seized(asked_shares, found.price or 0, factor) == seized
    assert size._repaid(shares) == repaid
    if shares + bad_shares == held.borrow_shares:  # all that is legal was asked for
        assert (planned.repay_amount, planned.seized_amount) == (repaid, seized)
    now, after = rules.accrued(found, at.time_s), totals_of(expected["after"])
    assert after.supply_assets + bad_assets == now.supply_assets
    assert after.supply_shares == now.supply_shares
    assert after.borrow_assets == max(0, now.borrow_assets - repaid) - bad_assets


@pytest.mark.parametrize("vector", WORKED, ids=name)
def test_a_worked_example_is_planned_as_the_contract_allows(vector: dict[str, Any]):
    inputs, expected = vector["inputs"], vector["expected"]
    found = without_interest(pair(int(inputs["lltv"]), price=int(inputs["price"]), totals=totals_of(inputs["market"])))
    held = position(found, int(inputs["borrow_shares"]), int(inputs["collateral"]))
    (planned,) = rules.assess(held, snapshot([found]), Moment(100, found.totals.updated_s), None).opportunities
    if "revert" in expected:
        assert planned.seized_amount < int(inputs["seized"])
    else:
        assert planned.seized_amount == int(expected["seized"])
        assert planned.repay_amount == int(expected["repaid_assets"])


def pre_liquidation_of(inputs: dict[str, Any], found: Pair) -> PreLiquidation:
    terms = {key: int(value) for key, value in inputs["params"].items()}
    return contract(
        found,
        price=found.price,
        pre_lltv_wad=terms["pre_lltv"],
        close_factors_wad=(terms["lcf1"], terms["lcf2"]),
        incentives_wad=(terms["lif1"], terms["lif2"]),
    )


@pytest.mark.parametrize("vector", [*PRE, *RECORDED], ids=name)
def test_a_pre_liquidation_is_the_contracts(vector: dict[str, Any]):
    inputs, expected = vector["inputs"], vector["expected"]
    found, held = state_of(inputs)
    by = pre_liquidation_of(inputs, found)
    at, market = Moment(100, int(inputs["now"])), snapshot([found], [by])
    held = replace(held, authorised=(by.address,))
    case = rules._value(held, market, at)
    if "revert" in expected:
        assert case.armed == ()
        assert case.is_unhealthy is (expected["revert"] == "LiquidatablePosition")
        return
    assert case.armed == (by,)
    size, shares = rules._Sizer(market, held, found, case, at, None), int(inputs["repaidShares"])
    way = size._steps(by, found.price or 0)
    assert size._seized(shares, found.price or 0, rules._line(by.terms.incentives_wad, way)) == int(expected["seized"])
    assert shares <= held.borrow_shares * rules._line(by.terms.close_factors_wad, way) // WAD
    planned = size.pre_liquidation(by)
    assert isinstance(planned, Opportunity)
    if "repaid" in expected:
        assert (planned.repay_amount, planned.seized_amount) == (int(expected["repaid"]), int(expected["seized"]))


def test_every_vector_is_used():
    used = [*LIQUIDATIONS, *WORKED, *PRE, *RECORDED, *ACCRUALS, *INCENTIVES, *of(DERIVED)]
    assert sorted(map(name, used)) == sorted(map(name, VECTORS))
    assert len(VECTORS) == 29 + 58
    assert len(of(DERIVED)) == 1
