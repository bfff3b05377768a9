"""Redeeming and unwrapping, against contracts of our own that do it for real."""

import random

import pytest

from keeper.domain.abi import Unreadable
from keeper.domain.exchange import Pool, Want
from keeper.domain.program import StepKind
from keeper.domain.units import Address, TokenAmount
from keeper.errors import Invalid
from keeper.venues.wrappers import Erc4626Quoter, WstethQuoter
from tests.unit.venues.memory import Memory, MemoryReads, hexed, quote

ASSET = Address(b"\xaa" * 20)
HOLDER, SMALL_HOLDER = Address(b"\x01" * 20), Address(b"\x02" * 20)
VAULT_TYPES = ("address", "uint256", "uint256", "uint256", "uint256")


def vault(memory: Memory, *, flat: int = 0, bps: int = 0, cash: int = 10**30) -> Address:
    return memory.deploy("FeeVault", VAULT_TYPES, hexed(ASSET), 1_234_567 * 10**12, flat, bps, cash)


async def redemption(memory: Memory, root: Address, most: int, *holders: Address) -> Pool:
    wanted = [Want(root, ASSET, TokenAmount(most))]
    (pool,) = await Erc4626Quoter("vault", root, holders).quotes(MemoryReads(memory), wanted)
    return pool


@pytest.mark.parametrize(("flat", "bps"), [(0, 0), (0, 37), (10**15, 0), (10**15, 37)])
async def test_no_redemption_is_said_to_bring_more_than_the_vault_would_pay(flat: int, bps: int):
    source, memory = random.Random(1), Memory()
    root = vault(memory, flat=flat, bps=bps)
    most = 10**21
    pool, want = await redemption(memory, root, most), Want(root, ASSET, TokenAmount(most))
    for amount in (most, *(source.randrange(most // 256, most) for _ in range(30))):
        told, real = quote(pool, want, amount), memory.ask(root, "previewRedeem(uint256)(uint256)", amount)
        assert told <= real
        assert real - told <= 2 or flat


async def test_what_a_vault_can_pay_now_bounds_what_is_redeemed_from_it():
    memory = Memory()
    root = vault(memory, cash=10**20)
    memory.send(root, "give(address,uint256)", hexed(HOLDER), 10**24)
    memory.send(root, "give(address,uint256)", hexed(SMALL_HOLDER), 5)
    can = memory.ask(root, "maxRedeem(address)(uint256)", hexed(HOLDER))
    assert 5 < can < 10**21
    pool = await redemption(memory, root, 10**21, SMALL_HOLDER, HOLDER)
    assert pool.swap(root, ASSET, TokenAmount(can + 1)) is None
    first = pool.swap(root, ASSET, TokenAmount(can - 3))
    assert first is not None
    assert first.pool.swap(root, ASSET, TokenAmount(4)) is None
    assert first.pool.swap(root, ASSET, TokenAmount(3)) is not None
    assert first.pool.id == pool.id


async def test_a_vault_is_redeemed_whatever_its_asset_is_then_swapped_for():
    memory = Memory()
    root = vault(memory)
    quoter, reads = Erc4626Quoter("vault", root), MemoryReads(memory)
    assert await quoter.quotes(reads, [Want(ASSET, root, TokenAmount(1)), Want(root, ASSET, TokenAmount(0))]) == []
    assert reads.rounds == 0
    (pool,) = await quoter.quotes(reads, [Want(root, HOLDER, TokenAmount(7)), Want(root, ASSET, TokenAmount(10**6))])
    assert pool.pairs == ((root, ASSET),)
    assert pool.swap(root, ASSET, TokenAmount(10**6)) is not None


async def test_a_vault_that_lies_and_what_is_no_vault_are_told():
    memory = Memory()
    root, coin = vault(memory), memory.coin(18)
    memory.send(root, "lie()")
    for each in (root, coin):
        with pytest.raises(Invalid):
            await Erc4626Quoter("vault", each).quotes(MemoryReads(memory), [Want(each, ASSET, TokenAmount(10**18))])


async def test_a_redemption_is_asked_for_in_one_batch_and_its_step_names_the_vault():
    memory = Memory()
    root, reads = vault(memory), MemoryReads(memory)
    quoter, wanted = Erc4626Quoter("vault", root, [HOLDER]), [Want(root, ASSET, TokenAmount(10**18))]
    memory.send(root, "give(address,uint256)", hexed(HOLDER), 10**24)
    first = await quoter.quotes(reads, wanted)
    assert await quoter.quotes(reads, wanted) == first
    assert reads.rounds == 3  # the asset once
    (pool,) = first
    step = pool.step(root, ASSET, 7, 5)
    assert (step.kind, step.target, step.give, step.take) == (StepKind.REDEEM_ERC4626, root, root, ASSET)
    assert (step.amount, step.limit, step.data) == (7, 5, b"")


@pytest.mark.parametrize("is_precise", [True, False])
async def test_unwrapping_brings_what_is_said_or_two_units_more(is_precise: bool):
    source, memory = random.Random(2), Memory()
    shares, staked = 9_511_234_567_890_123_456_789_012, 11_687_654_321_098_765_432_109_876
    root = memory.deploy("Stake", ("uint256", "uint256", "bool"), shares, staked, is_precise)
    memory.send(root, "give(address,uint256)", hexed(memory.user), 10**24)
    want = Want(root, root, TokenAmount(10**24))
    quoter = WstethQuoter("wsteth", root)
    (pool,) = await quoter.quotes(MemoryReads(memory), [Want(root, ASSET, TokenAmount(10**24))])
    assert pool.pairs == ((root, root),)  # the stake is its own wrapper here
    for _ in range(20):
        amount = source.randrange(1, 10**22)
        told = quote(pool, want, amount)
        before = memory.ask(root, "staked(address)(uint256)", hexed(memory.user))
        memory.send(root, "unwrap(uint256)", amount)
        real = memory.ask(root, "staked(address)(uint256)", hexed(memory.user)) - before
        assert told <= real
        assert real - told <= 4 + (0 if is_precise else amount // 10**18)
    assert pool.step(root, root, 1, 1).kind is StepKind.UNWRAP_WSTETH


async def test_unwrapping_is_offered_only_where_it_is_wanted_and_can_be_read():
    memory = Memory()
    root = memory.deploy("Stake", ("uint256", "uint256", "bool"), 10**24, 10**24, True)
    quoter = WstethQuoter("wsteth", root)
    assert await quoter.quotes(MemoryReads(memory), [Want(ASSET, root, TokenAmount(1))]) == []
    for total, staked in ((1, 10**30), (10**30, 0)):
        absurd = memory.deploy("Stake", ("uint256", "uint256", "bool"), total, staked, True)
        wanted = [Want(absurd, absurd, TokenAmount(1))]
        with pytest.raises(Invalid):
            await WstethQuoter("absurd", absurd).quotes(MemoryReads(memory), wanted)
    no_stake = memory.coin(18)
    wanted = [Want(no_stake, ASSET, TokenAmount(1))]
    with pytest.raises(Unreadable):
        await WstethQuoter("none", no_stake).quotes(MemoryReads(memory), wanted)
