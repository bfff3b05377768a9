"""A Morpho, its models, oracles and contracts as a table of answers, behind `ports.Reads`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from keeper.domain import abi
from keeper.domain.abi import address_word, number_word, view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.position import Token
from keeper.domain.units import MAX_UINT256, Address, BlockHash, TxHash
from keeper.oracles.prices import GET_PRICE
from keeper.protocols.morpho_blue import contracts as morpho
from keeper.protocols.morpho_blue.contracts import Pair, PreLiquidation
from tests.unit.protocols.morpho_blue.market import COLLATERAL, FACTORY, IRM, LOAN, ROOT, head

USD = Address(b"\x77" * 20)
WRAPPED = Address(b"\x78" * 20)
REVERTED = ViewResult(ok=False, data=b"")
PANIC = bytes.fromhex("4e487b71") + number_word(0x11)
TOO_MUCH = number_word(0) + number_word(MAX_UINT256)


def words(*values: int | bytes) -> bytes:
    return b"".join(each.rjust(32, b"\0") if isinstance(each, bytes) else number_word(each) for each in values)


@dataclass
class FakeMorpho:
    """Change `answers` to change the chain; whatever is not in it reverts, with what `reverts` says."""

    head: BlockHead = field(default_factory=head)
    answers: dict[ViewCall, bytes] = field(default_factory=dict)
    reverts: dict[ViewCall, bytes] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.say(view(ROOT, morpho.IS_IRM_ENABLED, address_word(IRM)), 1)
        for each in (IRM, FACTORY):
            self.say(view(each, morpho.OF_MORPHO), ROOT)
        for token in (LOAN, COLLATERAL):
            self.token(token)
        self.say(view(USD, GET_PRICE, address_word(LOAN.address)), 10**8)
        for priced in (COLLATERAL.address, WRAPPED):
            self.say(view(USD, GET_PRICE, address_word(priced)), 2_000 * 10**8)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds.append(len(calls))
        return [
            ViewResult(ok=True, data=self.answers[each])
            if each in self.answers
            else ViewResult(ok=False, data=self.reverts.get(each, b""))
            for each in calls
        ]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def say(self, call: ViewCall, *values: int | bytes) -> None:
        self.answers[call] = words(*values)

    def token(self, token: Token) -> None:
        self.say(view(token.address, abi.DECIMALS), token.decimals)
        self.say(view(token.address, abi.SYMBOL), token.symbol.encode().ljust(32, b"\0"))

    def list_pair(self, pair: Pair) -> None:
        params, now = pair.params, pair.totals
        self.answers[view(ROOT, morpho.MARKET_PARAMS, params.id)] = params.encoded
        self.answers[view(ROOT, morpho.MARKET, params.id)] = now.encoded
        self.answers[view(ROOT, morpho.ACCRUE_INTEREST, params.encoded)] = b""
        self.say(view(params.oracle, morpho.PRICE), pair.price or 0)
        self.say(view(params.irm, morpho.RATE_AT_TARGET, params.id), pair.rate_at_target or 0)

    def list_contract(self, contract: PreLiquidation, root: Address = ROOT) -> None:
        terms = contract.terms
        self.say(view(contract.address, morpho.PRE_TERMS[0]), terms.pair)
        self.say(view(contract.address, morpho.OF_MORPHO), root)
        factors = (*terms.close_factors_wad, *terms.incentives_wad)
        self.say(view(contract.address, morpho.PRE_TERMS[2]), terms.pre_lltv_wad, *factors, terms.oracle)

    def hold(self, account: Address, pair: Pair, shares: int, collateral: int, *, is_healthy: bool = True) -> None:
        self.say(view(ROOT, morpho.POSITION, pair.params.id, address_word(account)), 0, shares, collateral)
        end = number_word(9 * 32) + number_word(0)
        liquidate = view(ROOT, morpho.LIQUIDATE, pair.params.encoded, address_word(account), TOO_MUCH, end)
        self.reverts[liquidate] = morpho.IS_HEALTHY if is_healthy else PANIC

    def authorise(self, account: Address, contract: Address, *, allowed: bool = True, verdict: bytes = PANIC) -> None:
        self.say(view(ROOT, morpho.IS_AUTHORIZED, address_word(account), address_word(contract)), int(allowed))
        end = number_word(4 * 32) + number_word(0)
        self.reverts[view(contract, morpho.PRE_LIQUIDATE, address_word(account), TOO_MUCH, end)] = verdict


def log(contract: Address, *topics: bytes, data: bytes = b"") -> Log:
    return Log(
        address=contract,
        topics=tuple(each.rjust(32, b"\0") for each in topics),
        data=data,
        block_number=100,
        block_hash=BlockHash(bytes(32)),
        index=0,
        tx_hash=TxHash(bytes(32)),
    )
