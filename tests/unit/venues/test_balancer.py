"""How Balancer's vault is asked and what of its answers is believed; its real arithmetic is in the parity tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from eth_abi.abi import decode, encode

from keeper.domain.abi import Unreadable, selector
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.exchange import Want
from keeper.domain.program import StepKind
from keeper.domain.units import Address, TokenAmount
from keeper.venues.balancer import BalancerQuoter
from keeper.venues.samples import ladder
from tests.toy import head
from tests.unit.venues.memory import quote

VAULT = Address(b"\x0b" * 20)
GOLD, CASH, OTHER = (Address(bytes([number]) * 20) for number in (1, 2, 3))
FIRST, SECOND = b"\x01" * 32, b"\x02" * 32
QUERY = "queryBatchSwap(uint8,(bytes32,uint256,uint256,uint256,bytes)[],address[],(address,bool,address,bool))"
QUERY_TYPES = ["uint8", "(bytes32,uint256,uint256,uint256,bytes)[]", "address[]", "(address,bool,address,bool)"]
REFUSED = ViewResult(ok=False, data=b"\x08\xc3\x79\xa0")


@dataclass
class Vault:
    """Answers as the vault does, from pools of constant products; it can be paused, and can answer anything at all."""

    pools: dict[bytes, dict[Address, int]]
    is_paused: bool = False
    answers: dict[bytes, bytes] = field(default_factory=dict)
    rounds: int = 0

    @property
    def head(self) -> BlockHead:
        return head()

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
        assert {call.to for call in calls} == {VAULT}
        return [self._answer(call.data[:4], call.data[4:]) for call in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def _answer(self, function: bytes, data: bytes) -> ViewResult:
        if function in self.answers:
            return ViewResult(ok=True, data=self.answers[function])
        if function == selector("getPausedState()"):
            return ViewResult(ok=True, data=encode(["bool", "uint256", "uint256"], [self.is_paused, 1, 2]))
        if function == selector("getPoolTokens(bytes32)"):
            held = self.pools.get(data)
            if held is None:
                return REFUSED
            tokens = ["0x" + token.hex() for token in held]
            return ViewResult(
                ok=True, data=encode(["address[]", "uint256[]", "uint256"], [tokens, [*held.values()], 7])
            )
        assert function == selector(QUERY)
        return self._query(data)

    def _query(self, data: bytes) -> ViewResult:
        kind, ((pool, give, take, amount, extra),), assets, funds = decode(QUERY_TYPES, data, strict=True)
        nobody = "0x" + "00" * 20
        assert (kind, extra, funds) == (0, b"", (nobody, False, nobody, False))
        tokens = [Address(bytes.fromhex(each[2:])) for each in assets]
        held = self.pools[pool]
        if amount > held[tokens[give]] * 3 // 10:
            return REFUSED
        out = held[tokens[take]] * amount // (held[tokens[give]] + amount)
        deltas = {give: amount, take: -out}
        return ViewResult(ok=True, data=encode(["int256[]"], [[deltas[0], deltas[1]]]))


def vault() -> Vault:
    return Vault({FIRST: {GOLD: 10**24, CASH: 10**13}, SECOND: {CASH: 10**12, OTHER: 10**20}})


def quoter(*pools: bytes) -> BalancerQuoter:
    return BalancerQuoter("balancer", VAULT, pools or (FIRST, SECOND))


SALE = Want(GOLD, CASH, TokenAmount(10**23))


async def test_every_pool_with_both_tokens_is_asked_in_one_batch_once_the_tokens_are_known():
    node, asked = vault(), quoter()
    wanted = [SALE, Want(CASH, OTHER, TokenAmount(10**11)), Want(GOLD, OTHER, TokenAmount(5))]
    first, second = await asked.quotes(node, wanted)
    assert node.rounds == 2
    assert await asked.quotes(node, wanted) == [first, second]
    assert node.rounds == 3
    assert (first.id, second.id) == (FIRST, SECOND)
    assert first.lock == second.lock == VAULT
    assert (first.pairs, second.pairs) == (((GOLD, CASH),), ((CASH, OTHER),))


async def test_an_answer_is_what_the_vault_says_is_paid_for_exactly_the_amount():
    (pool,) = await quoter().quotes(vault(), [SALE])
    for amount in ladder(SALE.most):
        assert quote(pool, SALE, amount) == 10**13 * amount // (10**24 + amount)
    between = quote(pool, SALE, SALE.most * 3 // 4)
    real = 10**13 * (SALE.most * 3 // 4) // (10**24 + SALE.most * 3 // 4)
    assert real * 9_999 // 10_000 <= between <= real


async def test_beyond_what_the_vault_takes_nothing_is_promised():
    most = TokenAmount(10**24)
    (pool,) = await quoter().quotes(vault(), [Want(GOLD, CASH, most)])
    assert pool.swap(GOLD, CASH, most) is None
    assert pool.swap(GOLD, CASH, TokenAmount(2 * 10**23)) is not None
    assert pool.swap(GOLD, CASH, TokenAmount(3 * 10**23 + 1)) is None


async def test_the_step_is_a_swap_of_the_vaults_with_the_pools_id():
    (pool,) = await quoter().quotes(vault(), [SALE])
    step = pool.step(GOLD, CASH, 9, 8)
    assert (step.kind, step.target, step.data) == (StepKind.SWAP_BALANCER, VAULT, FIRST)
    assert (step.give, step.take, step.amount, step.limit) == (GOLD, CASH, 9, 8)


async def test_a_paused_vault_offers_nothing_and_one_that_does_not_say_is_told():
    node, asked = vault(), quoter()
    assert await asked.quotes(node, [SALE])
    node.is_paused = True
    assert await asked.quotes(node, [SALE]) == []
    node.answers[selector("getPausedState()")] = b""
    with pytest.raises(Unreadable):
        await asked.quotes(node, [SALE])


async def test_a_pool_that_the_vault_does_not_know_stops_no_other():
    asked = quoter(bytes(32), FIRST)
    (pool,) = await asked.quotes(vault(), [SALE])
    assert pool.id == FIRST


TOKENS = ["0x" + token.hex() for token in (GOLD, CASH)]
LONG = encode(["address[]", "uint256[]", "uint256"], [TOKENS, [1, 2], 7])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        LONG[:-64],
        (2**200).to_bytes(32) + LONG[32:],
        LONG[:96] + (2**60).to_bytes(32) + LONG[128:],
        encode(["address[]", "uint256[]", "uint256"], [TOKENS, [1], 7]),
        encode(["address[]", "uint256[]", "uint256"], [TOKENS[:1], [1], 7]),
        encode(["uint256[]", "uint256[]", "uint256"], [[2**161, 1], [1, 2], 7]),
    ],
)
async def test_tokens_that_no_pool_could_have_leave_it_out(answer: bytes):
    node = vault()
    node.answers[selector("getPoolTokens(bytes32)")] = answer
    assert await quoter().quotes(node, [SALE]) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        encode(["int256[]"], [[5, -4]]),  # of another amount than was asked about
        encode(["int256[]"], [[10**23, 4]]),  # takes on both sides
        encode(["int256[]"], [[10**23, -(2**130)]]),
        encode(["int256[]"], [[10**23]]),
    ],
)
async def test_amounts_that_no_swap_could_move_are_not_believed(answer: bytes):
    node = vault()
    node.answers[selector(QUERY)] = answer
    assert await quoter().quotes(node, [SALE]) == []
