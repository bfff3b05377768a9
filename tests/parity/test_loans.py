"""What lenders are said to take and to have, against real loans of the genuine contracts, to the unit."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import cast

import pytest

from keeper.devnet.chain import MAX_UINT, DevChain
from keeper.devnet.devnet import DevnetSpec, cached_devnet
from keeper.devnet.market import APPROVE, MINT, Generation
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.position import Opportunity
from keeper.domain.units import TokenAmount
from keeper.protocols.aave_v3 import calls as aave_calls
from keeper.protocols.aave_v3 import rules as aave_rules
from keeper.protocols.aave_v3.reader import AaveReader
from keeper.protocols.morpho_blue import rules as morpho_rules
from keeper.protocols.morpho_blue.contracts import MorphoSnapshot
from keeper.venues.loans import AaveLenders, Erc3156Lenders, MorphoLenders
from tests.parity.aave_desk import AaveDesk
from tests.parity.desk import address
from tests.parity.lending_desk import NO_DATA, Action, Borrower, action, fee_of, offered
from tests.parity.morpho_desk import MorphoDesk, morpho_desk
from tests.parity.standards import deploy_vyper, standards

SPEC = DevnetSpec(n_positions=60, seed=23, hf_range=(1.005, 1.2))
LANDING_S = 12
RICH = 10**30
CRASH = {"WETH": 2_000, "WBTC": 60_000, "LINK": 11}
FALL = {"WETH": 0.9, "WBTC": 0.84, "LINK": 0.7, "PEPE": 0.6, "GOLD": 0.6, "CRV": 0.6}
LIQUIDATE = "liquidate((address,address,address,address,uint256),address,uint256,uint256,bytes)"
BALANCE_OF = "balanceOf(address)(uint256)"


@pytest.fixture(params=["3.0", "3.6"])
async def desk(request: pytest.FixtureRequest) -> AsyncIterator[AaveDesk]:
    generation = cast("Generation", request.param)
    async with cached_devnet(default_cache_dir(), replace(SPEC, generations=(generation,))) as devnet:
        yield AaveDesk(devnet.markets[generation])


@pytest.fixture
async def morpho() -> AsyncIterator[MorphoDesk]:
    async with morpho_desk(positions=60) as found:
        yield found


async def borrower_on(chain: DevChain) -> Borrower:
    return Borrower(chain, await deploy_vyper(chain, "Borrower"))


async def test_a_loan_of_aave_costs_what_is_said_and_goes_no_further(desk: AaveDesk):
    source, borrower, chain = random.Random(1), await borrower_on(desk.chain), desk.chain
    pool = desk.market.pool
    tokens = [each.token for each in desk.market.reserves.values()]
    lenders = AaveLenders("aave", address(pool))
    loans = await offered(chain, lenders, tokens)
    assert set(loans) == set(tokens)
    for token, loan in loans.items():
        await chain.send(token, MINT, borrower.address, RICH)
        await borrower.is_refused(pool, borrower.aave(token, loan.available + 1), token)
        assert loan.fee(loan.token, TokenAmount(loan.available + 1)) is None
        for amount in (1, 999, 1_000, 1_001, source.randrange(1, loan.available), loan.available):
            await borrower.borrow(pool, borrower.aave(token, amount), token)
            assert (await borrower.amount(), await borrower.fee()) == (amount, fee_of(loan, token, amount))
        assert loan.gas // 2 <= await borrower.gas(pool, borrower.aave(token, 10**6), token) <= loan.gas


async def test_what_aave_lends_is_read_in_one_batch_once_its_reserves_are_known(desk: AaveDesk):
    tokens = [address(each.token) for each in desk.market.reserves.values()]
    lenders = AaveLenders("aave", address(desk.market.pool))
    first, second = await desk.reads(), await desk.reads()
    assert await lenders.lenders(first, tokens) == await lenders.lenders(second, tokens)
    assert (first.rounds, second.rounds) == (2, 1)


async def test_a_reserve_that_is_paused_or_not_for_loans_is_left_out(desk: AaveDesk):
    chain, pool, reserves = desk.chain, desk.market.pool, desk.market.reserves
    tokens = [each.token for each in reserves.values()]
    lenders, borrower = AaveLenders("aave", address(pool)), await borrower_on(chain)
    dai, link = reserves["DAI"].token, reserves["LINK"].token
    stranger = "0x" + "77" * 20
    await desk.configure("setReserveFlashLoaning(address,bool)", dai, False)
    await desk.configure("setReservePause(address,bool)", link, True)
    assert set(await offered(chain, lenders, [*tokens, stranger])) == {*tokens} - {dai, link}
    for token in (dai, link, stranger):
        await borrower.is_refused(pool, borrower.aave(token, 1), token)


async def test_money_beside_a_reserves_books_is_lent_only_by_the_generation_without_books(desk: AaveDesk):
    chain, pool, reserve = desk.chain, desk.market.pool, desk.market.reserves["USDC"]
    lenders, borrower = AaveLenders("aave", address(pool)), await borrower_on(chain)
    before = (await offered(chain, lenders, [reserve.token]))[reserve.token].available
    gift = 10**9
    await chain.send(reserve.token, MINT, reserve.a_token, gift)
    await chain.send(reserve.token, MINT, borrower.address, RICH)
    after = (await offered(chain, lenders, [reserve.token]))[reserve.token].available
    assert after - before == (gift if desk.market.generation == "3.0" else 0)
    await borrower.is_refused(pool, borrower.aave(reserve.token, after + 1), reserve.token)
    await borrower.borrow(pool, borrower.aave(reserve.token, after), reserve.token)


async def unhealthy(desk: AaveDesk) -> Opportunity:
    """Return a liquidation that Aave would carry out now."""
    await desk.market.set_prices({name: price * 10**8 for name, price in CRASH.items()})
    reader = AaveReader("aave", address(desk.market.provider), address(desk.market.reserves["WETH"].token))
    await reader.discover(await desk.reads())
    ids = sorted(reader.named(await desk.logs(reader.discovery_filter, desk.market.from_block)))
    reads = await desk.reads()
    snapshot = await reader.snapshot(reads)
    at = snapshot.head.landing(LANDING_S)
    found = [
        each
        for position in await reader.positions(reads, ids)
        for each in aave_rules.assess(position, snapshot, at, None).opportunities
        if each.repay != each.seize
    ]
    return found[0]


async def test_aave_liquidates_inside_its_own_loan(desk: AaveDesk):
    chain, pool, borrower = desk.chain, desk.market.pool, await borrower_on(desk.chain)
    opportunity = await unhealthy(desk)
    token, seized = ("0x" + each.address.hex() for each in (opportunity.repay, opportunity.seize))
    await chain.send(token, MINT, borrower.address, 2 * opportunity.repay_amount)
    first: list[Action] = [
        action(token, APPROVE, pool, MAX_UINT),
        (pool, aave_calls.liquidation(opportunity).data),
    ]
    await chain.set_next_timestamp(opportunity.at.time_s)
    await borrower.borrow(pool, borrower.aave(token, opportunity.repay_amount), token, first)
    assert await chain.call(seized, BALANCE_OF, borrower.address) == opportunity.seized_amount


async def test_a_loan_of_morpho_is_free_and_goes_as_far_as_what_it_holds(morpho: MorphoDesk):
    chain, root, borrower = morpho.chain, morpho.market.morpho, await borrower_on(morpho.chain)
    tokens = [each.token for each in morpho.market.assets.values()]
    loans = await offered(chain, MorphoLenders("morpho", address(root)), tokens)
    held = {token: await chain.call(token, BALANCE_OF, root) for token in tokens}
    assert {token: loan.available for token, loan in loans.items()} == {k: v for k, v in held.items() if v}
    assert len(loans) >= 5
    for token, loan in loans.items():
        assert fee_of(loan, token, loan.available) == 0
        await borrower.borrow(root, borrower.morpho(token, loan.available), token)
        assert await borrower.amount() == loan.available
        assert loan.gas // 2 <= await borrower.gas(root, borrower.morpho(token, 10), token) <= loan.gas
        await borrower.is_refused(root, borrower.morpho(token, loan.available + 1), token)


def liquidation(snapshot: MorphoSnapshot, root: str, opportunity: Opportunity, data: bytes) -> Action:
    """Return the seizure of an opportunity's whole collateral's worth, with a callback where there is data."""
    params = snapshot.pairs[opportunity.key.part].params
    words = [params.encoded[at : at + 32] for at in range(0, 160, 32)]
    terms = (*("0x" + each[12:].hex() for each in words[:4]), int.from_bytes(words[4]))
    account = "0x" + opportunity.key.id[:20].hex()
    return action(root, LIQUIDATE, terms, account, opportunity.seized_amount // 2, 0, data)


async def two_unhealthy(morpho: MorphoDesk) -> tuple[MorphoSnapshot, Sequence[Opportunity]]:
    """Return two liquidations of Morpho's that are paid in the same token."""
    await morpho.crash(FALL)
    reader, ids = await morpho.discovered()
    snapshot, positions = await morpho.book(reader, ids)
    at = snapshot.head.landing(LANDING_S)
    found: dict[bytes, list[Opportunity]] = {}
    for position in positions:
        for each in morpho_rules.assess(position, snapshot, at, None).opportunities:
            found.setdefault(each.repay.address, []).append(each)
    return snapshot, next(each[:2] for each in found.values() if len(each) > 1)


async def test_morpho_liquidates_inside_its_own_loan_and_inside_its_own_liquidation(morpho: MorphoDesk):
    chain, root, borrower = morpho.chain, morpho.market.morpho, await borrower_on(morpho.chain)
    snapshot, (outer, inner) = await two_unhealthy(morpho)
    token = "0x" + outer.repay.address.hex()
    await chain.send(token, MINT, borrower.address, 2 * (outer.repay_limit + inner.repay_limit))
    first = [liquidation(snapshot, root, outer, NO_DATA)]
    second = [action(token, APPROVE, root, MAX_UINT), liquidation(snapshot, root, inner, b"")]
    await borrower.borrow(root, borrower.morpho(token, 1_000), token, first, second)
    for each in {outer.seize.address, inner.seize.address}:
        assert await chain.call("0x" + each.hex(), BALANCE_OF, borrower.address) > 0


async def test_a_loan_by_the_standard_never_costs_more_than_is_said():
    source = random.Random(2)
    packages = ensure_packages(default_cache_dir(), sets=("core", "origin"))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        token, borrower = await chain.deploy(standards(packages)["FlashMint"]), await borrower_on(chain)
        other = await chain.deploy(standards(packages)["FlashMint"])
        await chain.send(token, "transfer(address,uint256)", borrower.address, 10**23)
        lenders = Erc3156Lenders("mint", address(token))
        largest = 10**24
        for flat, bps, cap, loose in (
            (0, 0, 0, 0),
            (0, 9, 10**30, 1),
            (77, 0, 77, 0),
            (77, 13, 10**30, 1),
            (0, 9, 10**15, None),
        ):
            await chain.send(token, "setFee(uint256,uint256,uint256)", flat, bps, cap)
            loans = await offered(chain, lenders, [token, other])
            assert set(loans) == {token}
            for amount in (1, 4, 10**6, *(source.randrange(1, largest) for _ in range(20)), largest):
                await borrower.borrow(token, borrower.erc3156(token, amount), token)
                told, taken = fee_of(loans[token], token, amount), await borrower.fee()
                assert taken <= told, (flat, bps, cap, amount)
                assert loose is None or told <= taken + loose
