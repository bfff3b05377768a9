"""What venues that must be asked are said to bring, against real swaps and redemptions of the genuine contracts."""

import random
from collections.abc import AsyncIterator

import pytest

from keeper.devnet.artifacts import aave_artifact
from keeper.devnet.chain import ADMIN, MAX_UINT, DevChain, Reverted
from keeper.devnet.market import APPROVE, MINT
from keeper.devnet.multicall import deploy_multicall3
from keeper.devnet.node import Anvil
from keeper.devnet.packages import default_cache_dir, ensure_packages, find_anvil
from keeper.domain.exchange import Pool, Want
from keeper.domain.units import TokenAmount
from keeper.venues.balancer import BalancerQuoter
from keeper.venues.loans import BalancerLenders
from keeper.venues.samples import ladder
from keeper.venues.wrappers import Erc4626Quoter
from tests.parity.balancer_desk import FLASH_FEE_WAD, BalancerDesk, balancer_desk
from tests.parity.desk import DevReads, address, raw, read_head
from tests.parity.lending_desk import action, fee_of, offered
from tests.parity.standards import standards

BALANCE_OF = "balanceOf(address)(uint256)"


@pytest.fixture
async def desk() -> AsyncIterator[BalancerDesk]:
    async with balancer_desk() as found:
        yield found


async def reads_at(chain: DevChain) -> DevReads:
    return DevReads(chain, await read_head(chain))


def want(give: str, take: str, most: int) -> Want:
    return Want(address(give), address(take), TokenAmount(most))


def quote(pool: Pool, give: str, take: str, amount: int) -> int:
    swapped = pool.swap(address(give), address(take), TokenAmount(amount))
    assert swapped is not None
    return swapped.amount


async def test_a_pool_of_balancers_brings_what_was_asked_and_hardly_more_in_between(desk: BalancerDesk):
    source, (first, second, third) = random.Random(3), desk.tokens
    quoter = BalancerQuoter("balancer", address(desk.vault), list(desk.pools.values()))
    wanted = [want(first, second, 10**23), want(second, first, 10**11), want(third, first, 10**23)]
    found = {pool.id: pool for pool in await quoter.quotes(await reads_at(desk.chain), wanted)}
    assert set(found) == set(desk.pools.values())
    weighted, stable = found[desk.pools["weighted"]], found[desk.pools["stable"]]
    assert len(weighted.pairs) == 3
    assert len(stable.pairs) == 2
    cases = [(weighted, each) for each in wanted] + [(stable, each) for each in wanted[:2]]
    for pool, (give, take, most) in [(p, ("0x" + w.give.hex(), "0x" + w.take.hex(), w.most)) for p, w in cases]:
        for amount in ladder(most):
            assert quote(pool, give, take, amount) == await desk.out(pool.id, give, take, amount)
        for amount in (source.randrange(most // 3_000, most) for _ in range(25)):
            told, real = quote(pool, give, take, amount), await desk.out(pool.id, give, take, amount)
            assert told <= real <= told + told // 500
        assert pool.swap(address(give), address(take), TokenAmount(most + 1)) is None


async def test_a_pool_refuses_what_the_vault_refuses_and_offers_nothing_once_used(desk: BalancerDesk):
    first, second, _ = desk.tokens
    quoter = BalancerQuoter("balancer", address(desk.vault), [desk.pools["weighted"], bytes(32)])
    most = 4 * 10**24  # a weighted pool takes three tenths of what it has
    (pool,) = await quoter.quotes(await reads_at(desk.chain), [want(first, second, most)])
    with pytest.raises(Reverted, match="BAL#304"):
        await desk.out(pool.id, first, second, most)
    assert pool.swap(address(first), address(second), TokenAmount(most)) is None
    swapped = pool.swap(address(first), address(second), TokenAmount(most // 4))
    assert swapped is not None
    assert swapped.pool.pairs == ()


async def test_a_paused_vault_offers_neither_swaps_nor_loans(desk: BalancerDesk):
    first, second, _ = desk.tokens
    quoter = BalancerQuoter("balancer", address(desk.vault), list(desk.pools.values()))
    lenders = BalancerLenders("balancer", address(desk.vault))
    wanted = [want(first, second, 10**23)]
    assert await quoter.quotes(await reads_at(desk.chain), wanted)
    assert await offered(desk.chain, lenders, desk.tokens)
    await desk.pause()
    assert not await quoter.quotes(await reads_at(desk.chain), wanted)
    assert not await offered(desk.chain, lenders, desk.tokens)
    with pytest.raises(Reverted, match="BAL#402"):
        await desk.out(desk.pools["weighted"], first, second, 10**20)


@pytest.mark.parametrize("fee_wad", [0, FLASH_FEE_WAD])
async def test_a_loan_of_balancers_costs_what_is_said_and_goes_no_further(desk: BalancerDesk, fee_wad: int):
    source, borrower = random.Random(4), desk.borrower
    if fee_wad:
        await desk.set_flash_fee(fee_wad)
    loans = await offered(desk.chain, BalancerLenders("balancer", address(desk.vault)), desk.tokens)
    assert set(loans) == set(desk.tokens)
    for token, loan in loans.items():
        assert loan.available == await desk.chain.call(token, BALANCE_OF, desk.vault)
        await desk.chain.send(token, MINT, borrower.address, 10**27)
        for amount in (1, 1_111, 1_112, source.randrange(1, loan.available), loan.available):
            await borrower.borrow(desk.vault, borrower.balancer(token, amount), token)
            assert (await borrower.amount(), await borrower.fee()) == (amount, fee_of(loan, token, amount))
        gas = await borrower.gas(desk.vault, borrower.balancer(token, 10**6), token)
        assert loan.gas // 2 <= gas <= loan.gas
        refused = await borrower.is_refused(desk.vault, borrower.balancer(token, loan.available + 1), token)
        assert "BAL#528" in refused


async def test_the_vault_neither_swaps_nor_lends_inside_its_own_loan(desk: BalancerDesk):
    borrower, (token, other, _) = desk.borrower, desk.tokens
    await desk.chain.send(token, MINT, borrower.address, 10**24)
    signature, *args = desk.swap(desk.pools["weighted"], token, other, 10**18, borrower.address)
    swap = action(desk.vault, str(signature).removesuffix("(uint256)"), *args)
    again = (desk.vault, raw(borrower.balancer(other, 1)))
    for inside in (swap, again):
        refused = await borrower.is_refused(desk.vault, borrower.balancer(token, 10**18), token, [inside])
        assert "BAL#400" in refused
    await borrower.borrow(desk.vault, borrower.balancer(token, 10**18), token)


async def test_a_vaults_shares_bring_no_less_than_is_said_and_the_rate_holds():
    source = random.Random(5)
    packages = ensure_packages(default_cache_dir(), sets=("core", "origin"))
    async with Anvil(find_anvil(packages)) as node, DevChain(node.http_url) as chain:
        await deploy_multicall3(chain, packages)
        asset = await chain.deploy(aave_artifact(packages.core, "MintableERC20"), "asset", "A", 6)
        vault = await chain.deploy(standards(packages)["PlainVault"], asset)
        await chain.send(asset, MINT, ADMIN, 10**15)
        await chain.send(asset, APPROVE, vault, MAX_UINT)
        await chain.send(vault, "deposit(uint256,address)", 10**13, ADMIN)
        await chain.send(asset, MINT, vault, 123_456_789_012)  # what the vault has earned
        quoter = Erc4626Quoter("vault", address(vault), [address(ADMIN)])
        reads = await reads_at(chain)
        (pool,) = await quoter.quotes(reads, [want(vault, asset, 10**14), want(asset, vault, 1)])
        assert pool.swap(address(vault), address(asset), TokenAmount(10**13 + 1)) is None  # more than the holder has
        assert not await quoter.quotes(reads, [want(asset, vault, 10**14)])
        for _ in range(40):
            amount = source.randrange(1, 2 * 10**11)
            swapped = pool.swap(address(vault), address(asset), TokenAmount(amount))
            assert swapped is not None
            before = await chain.call(asset, BALANCE_OF, ADMIN)
            await chain.send(vault, "redeem(uint256,address,address)", amount, ADMIN, ADMIN)
            real = await chain.call(asset, BALANCE_OF, ADMIN) - before
            assert swapped.amount <= real <= swapped.amount + 1
            pool = swapped.pool
