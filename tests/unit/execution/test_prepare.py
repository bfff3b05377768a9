"""Pricing a batch: what a rollup takes for data counts, in native currency or in gas, for plans and for allowances."""

from dataclasses import replace

from keeper.domain.outcome import Reason
from keeper.domain.plan import Realised
from keeper.domain.units import TokenAmount, Wei
from keeper.execution.fees import FeeMarket, FeePolicy
from keeper.execution.prepare import Extra, Extras, Preparation, price
from keeper.execution.simulate import Grant, Pending, Simulator, Trial, Tried, approve_call
from tests.toy import CASH, POOL
from tests.unit.execution.desk import ALICE, BOB, Recorder, signer
from tests.unit.execution.fake_chain import GAS, GWEI, FakeChain, Wire, approval, batch_of, markets, plan_of

POLICY = FeePolicy(max_fee_wei=Wei(500 * GWEI))
MARKET = FeeMarket(Wei(10 * GWEI), (Wei(GWEI),))
CHAIN = FakeChain(signer().address)
RICH, POOR = plan_of(CHAIN, ALICE, profit_usd=100), plan_of(CHAIN, BOB, profit_usd=5)
DONE = Realised(TokenAmount(1_000), TokenAmount(11))
ALLOWANCE = (CASH.address, POOL)
GRANT = Grant(ALLOWANCE, approve_call(approval(), TokenAmount(10**6)), 50_000)


def tried(*plans: Tried) -> Trial:
    return Trial(tried=plans)


def test_gas_for_data_is_in_the_limit_with_room_and_in_the_profit_without():
    trial = tried(Tried(RICH, GAS, DONE))
    (plain,), _ = price(trial, MARKET, POLICY)
    (laden,), _ = price(trial, MARKET, POLICY, Extras({RICH.id: Extra(gas=100_000)}))
    assert plain.gas_limit == GAS * 3 // 2
    assert laden.gas_limit == plain.gas_limit + 150_000
    assert laden.fee_limit_wei == plain.fee_limit_wei // 2  # the same profit over twice the gas
    assert laden.data_fee_wei == 0


def test_chn_11_data_gas_that_grows_tenfold_makes_a_plan_unprofitable():
    trial = tried(Tried(RICH, GAS, DONE), Tried(POOR, GAS, DONE))
    costs = Extras({RICH.id: Extra(gas=10_000), POOR.id: Extra(gas=10_000)})
    bids, skipped = price(trial, MARKET, POLICY, costs)
    assert ([bid.plan for bid in bids], skipped) == ([RICH, POOR], [])
    dear = Extras({RICH.id: Extra(gas=100_000), POOR.id: Extra(gas=100_000)})
    bids, (dropped,) = price(trial, MARKET, POLICY, dear)
    assert [bid.plan for bid in bids] == [RICH]
    assert (dropped.plan_id, dropped.reason) == (POOR.id, Reason.UNPROFITABLE)


def test_the_first_plan_pays_for_the_data_of_its_allowance_and_the_allowance_may_use_it():
    other = plan_of(CHAIN, BOB, profit_usd=100)
    trial = Trial(grants=(GRANT,), tried=(Tried(RICH, GAS, DONE), Tried(other, GAS, DONE)))
    costs = Extras(grants={ALLOWANCE: Extra(Wei(10**15), 50_000)})
    (grant, first, second), _ = price(trial, MARKET, POLICY, costs)
    (bare,), _ = price(tried(Tried(RICH, GAS, DONE)), MARKET, POLICY)
    assert grant.plan is None
    assert grant.gas_limit == 75_000 + 75_000
    assert grant.data_fee_wei == 10**15
    assert first.fee_limit_wei == (bare.fee_limit_wei * GAS - 10**15) // (GAS + 100_000)
    assert second.fee_limit_wei == bare.fee_limit_wei


def test_a_plan_that_needs_more_gas_than_may_be_signed_for_is_skipped():
    small = replace(POLICY, max_gas_limit=GAS)
    bids, (dropped,) = price(tried(Tried(RICH, GAS, DONE)), MARKET, small)
    assert bids == []
    assert dropped.reason is Reason.FEE_CAP
    assert "150000" in dropped.detail


async def test_everything_that_is_sent_is_asked_about_and_a_transfer_too():
    chain = FakeChain(signer().address, data_gas_each=4_000)
    chain.state.liquidatable.add(ALICE)
    chain.state.allowance = 0
    told = Recorder()
    wire = Wire(chain)
    preparation = Preparation(
        network=wire,
        simulator=Simulator(wire, markets(), signer().address),
        sender=signer().address,
        fees=POLICY,
        observer=told,
    )
    batch = batch_of(chain, plan_of(chain, ALICE), approvals=[approval()])
    prepared = await preparation.run(batch, batch.plans, Pending())
    assert [bid.gas_limit for bid in prepared.bids] == [GAS * 3 // 2 + 6_000] * 2
    assert (await preparation.market(chain.head)).transfer_gas == 27_000


async def test_chn_07_a_spike_is_told_once_until_it_is_over():
    chain = FakeChain(signer().address)
    told, wire = Recorder(), Wire(chain)
    preparation = Preparation(
        network=wire,
        simulator=Simulator(wire, markets(), signer().address),
        sender=signer().address,
        fees=POLICY,
        observer=told,
    )
    for base_fee in (10, 15, 21, 40, 80, *[80] * 12, 170):
        chain.base_fee = base_fee * GWEI
        chain.mine(is_empty=True)
        await preparation.market(chain.head)
    spikes = [fields["base_fee_wei"] for name, fields in told.events if name == "chain.fee_spike"]
    assert spikes == [21 * GWEI, 170 * GWEI]
