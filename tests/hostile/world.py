"""The shipped executor among contracts that can be honest or not: one loan, one liquidation, one sale, in many forms."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final

from eth_utils.crypto import keccak

from keeper.domain.abi import selector
from keeper.domain.program import ALL, Output, Step, StepKind
from keeper.domain.units import ZERO_ADDRESS, Address, TokenAmount
from keeper.executor.artifact import load
from tests.hostile.contracts import (
    GAS,
    Done,
    LenderMood,
    PairMood,
    PoolMood,
    TokenMood,
    TraderMood,
    account,
    at,
    code_of,
    deploy,
    env,
    raw,
    set_block,
    transact,
)
from tests.hostile.words import AUTHORIZE, EVER, call, execution, reason_of, words

UNIT: Final = 10**18
LOAN: Final = 1_000 * UNIT
BONUS_BPS: Final = 11_000
"""What a liquidation pays for 10,000 of debt."""
SALE_BPS: Final = 9_800
"""What a sale of it pays for 10,000."""
FEE_BPS: Final = 5
FEE: Final = LOAN * FEE_BPS // 10_000
V3_FEE: Final = 3_000
V3_PRICE_BPS: Final = 9_970
V2_FEE_BPS: Final = 30
SEIZED: Final = LOAN * BONUS_BPS // 10_000
PROFIT: Final = SEIZED * SALE_BPS // 10_000 - LOAN - FEE
"""What the plain program brings."""
SWAP: Final = selector("swap(address,address,uint256,uint256,address)")


@dataclass(repr=False)
class World:
    """The contracts by their parts. `owner` is the cold account, `hot` the only caller."""

    owner: Any
    hot: Any
    stranger: Any
    executor: Any
    cash: Any
    gold: Any
    junk: Any
    wrapped: Any
    aave: Any
    balancer: Any
    erc3156: Any
    morpho: Any
    market: Any
    second: Any
    router: Any
    exchange: Any
    factory: Any
    pool: Any
    factory_v2: Any
    pair: Any
    accomplice: Any

    # what is asked of it

    @property
    def tokens(self) -> tuple[Any, ...]:
        """Return every token."""
        return self.cash, self.gold, self.junk, self.wrapped

    @property
    def spenders(self) -> tuple[Any, ...]:
        """Return everybody who could ever be allowed anything."""
        lenders = self.aave, self.balancer, self.erc3156, self.morpho
        traders = self.market, self.second, self.router, self.exchange, self.pool, self.pair
        return *lenders, *traders, self.accomplice, self.hot, self.owner, self.stranger, self.factory, self.factory_v2

    def held(self, token: Any, who: Any | None = None) -> int:
        """Return an account's true balance, whatever the token tells; the executor's unless said otherwise."""
        whose = self.executor if who is None else who
        return int(token.books([whose])[0])

    def allowances(self) -> list[tuple[str, str, int]]:
        """Return every allowance of the executor that stands, read from the tokens' own books."""
        spenders = [str(getattr(each, "address", each)) for each in self.spenders]
        told = {token.address: token.standing(self.executor, spenders) for token in self.tokens}
        return [(e, to, int(n)) for e, all_of in told.items() for to, n in zip(spenders, all_of, strict=True) if n]

    def books(self) -> dict[tuple[str, str], int]:
        """Return what the executor and its owner have of every token, and of native currency."""
        whose = [str(self.executor), str(self.owner)]
        told = {(who, "native"): int(env.get_balance(who)) for who in whose}
        for token in self.tokens:
            told |= {(who, str(token.address)): n for who, n in zip(whose, token.books(whose), strict=True)}
        return told

    def assert_failed(self, done: Done, *reasons: str, before: dict[tuple[str, str], int]) -> None:
        """Assert that a transaction reverted for one of some reasons, and that nothing is otherwise than before."""
        assert not done.ok
        assert not reasons or reason_of(done) in {*reasons, *(f"executor: {each}" for each in reasons)}
        assert self.allowances() == []
        assert self.books() == before

    def assert_paid(self, done: Done, *, before: dict[tuple[str, str], int], least: int = 1) -> int:
        """Assert that a program went through: the owner got the least at least, nothing rests, nothing is allowed.

        Return what the owner got in cash.
        """
        assert done.ok, reason_of(done)
        assert self.allowances() == []
        assert (self.held(self.cash), self.held(self.gold)) == (0, 0)
        after = self.books()
        owner = [key for key in after if key[0] == self.owner]
        assert all(after[key] >= before[key] for key in owner)
        place = str(self.owner), str(self.cash.address)
        gained = after[place] - before[place]
        assert gained >= least + before[str(self.executor), str(self.cash.address)]
        return gained

    # what is done to it

    def run(
        self,
        steps: Sequence[Step],
        outputs: Sequence[Output] | None = None,
        *,
        sender: Any | None = None,
        payloads: Sequence[bytes] = (),
        last_block: int = EVER,
        deadline_s: int = EVER,
        gas: int = GAS,
    ) -> Done:
        """Send a program, from the hot account unless said otherwise, for all cash and gold unless said otherwise."""
        wanted = self.outputs() if outputs is None else outputs
        data = execution(steps, wanted, payloads=payloads, last_block=last_block, deadline_s=deadline_s)
        return self.send(data, sender=sender, gas=gas)

    def send(self, data: bytes, *, sender: Any | None = None, value: int = 0, gas: int = GAS) -> Done:
        """Send the executor anything, from the hot account unless said otherwise."""
        return transact(self.executor, data, sender=sender or self.hot, value=value, gas=gas)

    def command(self, signature: str, *values: Any, sender: Any | None = None) -> Done:
        """Call one of the executor's functions, as the owner unless said otherwise."""
        return self.send(call(signature, *values), sender=sender or self.owner)

    # the parts of a program

    def outputs(self, least: int = 1) -> list[Output]:
        """Ask for a profit in cash, and for whatever gold is left."""
        return [Output(raw(self.cash), TokenAmount(least)), Output(raw(self.gold), TokenAmount(0))]

    def loan(self, kind: StepKind = StepKind.FLASH_AAVE, *, amount: int = LOAN, fee: int | None = None) -> Step:
        """Borrow cash in one of the ways to do it."""
        targets = {
            StepKind.FLASH_AAVE: (self.aave, FEE),
            StepKind.FLASH_MORPHO: (self.morpho, 0),
            StepKind.FLASH_BALANCER: (self.balancer, FEE),
            StepKind.FLASH_ERC3156: (self.erc3156, FEE),
            StepKind.FLASH_UNISWAP_V3: (self.factory, -(-amount * (10_000 - V3_PRICE_BPS) // 10_000)),
        }
        target, most = targets[kind]
        data = words(raw(self.gold), V3_FEE) if kind is StepKind.FLASH_UNISWAP_V3 else b""
        limit = most if fee is None else fee
        return Step(kind, raw(target), take=raw(self.cash), amount=amount, limit=limit, data=data)

    def liquidation(self, where: Any | None = None, *, amount: int = LOAN, limit: int = 0, gas: int = 0) -> Step:
        """Pay cash for gold, with the bonus."""
        data = words(raw(self.stranger))
        cash, gold = raw(self.cash), raw(self.gold)
        return Step(StepKind.LIQUIDATE_AAVE, raw(where or self.market), cash, gold, amount, limit, data, gas)

    def compound(self, *, amount: int = LOAN, gas: int = 0) -> Step:
        """The same of a market that may answer with an error's number."""
        return replace(self.liquidation(amount=amount, gas=gas), kind=StepKind.LIQUIDATE_COMPOUND)

    def morpho_liquidation(self, *, seized: int = SEIZED, most: int = LOAN * 2) -> Step:
        """Take gold now, and pay cash at the end."""
        cash, gold = raw(self.cash), raw(self.gold)
        data = words(cash, gold, ZERO_ADDRESS, ZERO_ADDRESS, 0, raw(self.stranger), seized, 0)
        return Step(StepKind.LIQUIDATE_MORPHO, raw(self.morpho), cash, gold, most, 0, data)

    def swap_first(self, *, amount: int = LOAN, most: int = LOAN * 2) -> Step:
        """Take cash from the pool now, and pay gold at the end."""
        kind, data = StepKind.SWAP_FIRST_UNISWAP_V3, words(V3_FEE)
        return Step(kind, raw(self.factory), raw(self.gold), raw(self.cash), amount, most, data)

    def sale(self, kind: StepKind = StepKind.SWAP_CURVE, *, amount: int = ALL, limit: int = 1, gas: int = 0) -> Step:
        """Sell gold for cash, in one of the ways to do it. A router's payload is `self.payload()`, at place 0."""
        targets = {
            StepKind.SWAP_CURVE: (self.exchange, words(1, 0, 0)),
            StepKind.SWAP_ROUTER: (self.router, words(0)),
            StepKind.SWAP_UNISWAP_V3: (self.factory, words(V3_FEE)),
            StepKind.SWAP_UNISWAP_V2: (self.factory_v2, words(V2_FEE_BPS)),
        }
        target, data = targets[kind]
        return Step(kind, raw(target), raw(self.gold), raw(self.cash), amount, limit, data, gas)

    def payload(self, *, amount: int = SEIZED, to: Any | None = None) -> bytes:
        """Return the router's calldata for the sale of an amount."""
        return SWAP + words(raw(self.gold), raw(self.cash), amount, 0, raw(to or self.executor))

    def plain(self, loan: StepKind = StepKind.FLASH_AAVE, sale: StepKind = StepKind.SWAP_CURVE) -> list[Step]:
        """Borrow, liquidate, sell, repay."""
        return [self.loan(loan), self.liquidation(), self.sale(sale)]

    # how it behaves

    def behave(
        self, who: Any, mood: TokenMood | LenderMood | TraderMood | PoolMood | PairMood, *, place: int = 0
    ) -> None:
        """Have a contract behave in some way from now on, with the accomplice for what needs one."""
        other = self.accomplice.address
        match mood:
            case TokenMood() | PairMood():
                who.behave(mood, other)
            case LenderMood():
                who.behave(mood, other, 0 if who is self.morpho else FEE_BPS, place)
            case TraderMood():
                who.behave(mood, other, BONUS_BPS if who in {self.market, self.second} else SALE_BPS)
            case PoolMood():
                who.behave(mood, other, V3_PRICE_BPS, place)

    def lender(self, kind: StepKind) -> Any:
        """Return who lends in one of the ways to do it."""
        return {
            StepKind.FLASH_AAVE: self.aave,
            StepKind.FLASH_MORPHO: self.morpho,
            StepKind.FLASH_BALANCER: self.balancer,
            StepKind.FLASH_ERC3156: self.erc3156,
        }[kind]


LOANS: Final = (StepKind.FLASH_AAVE, StepKind.FLASH_MORPHO, StepKind.FLASH_BALANCER, StepKind.FLASH_ERC3156)
"""The loans that `lending.vy` can spoil."""


def functions() -> dict[str, Mapping[str, Any]]:
    """Return the functions of the shipped executor that change anything, by name."""
    changing = {"nonpayable", "payable"}
    return {e["name"]: e for e in load().abi if e["type"] == "function" and e["stateMutability"] in changing}


def put_executor(owner: Any, *callers: Any) -> Any:
    """Put the shipped executor on the chain and return its address."""
    where, _ = env.deploy_code(bytecode=load().creation_data(raw(owner), [raw(each) for each in callers]))
    return where


def _kinds(*kinds: StepKind) -> int:
    return sum(1 << kind for kind in kinds)


def _permits(world: World) -> list[tuple[Address, int, bytes]]:
    nothing = bytes(32)
    return [
        (raw(world.aave), _kinds(StepKind.FLASH_AAVE), nothing),
        (raw(world.balancer), _kinds(StepKind.FLASH_BALANCER), nothing),
        (raw(world.erc3156), _kinds(StepKind.FLASH_ERC3156), nothing),
        (raw(world.morpho), _kinds(StepKind.FLASH_MORPHO, StepKind.LIQUIDATE_MORPHO), nothing),
        (raw(world.market), _kinds(StepKind.LIQUIDATE_AAVE, StepKind.LIQUIDATE_COMPOUND), nothing),
        (raw(world.second), _kinds(StepKind.LIQUIDATE_AAVE, StepKind.LIQUIDATE_COMPOUND), nothing),
        (raw(world.exchange), _kinds(StepKind.SWAP_CURVE), nothing),
        (raw(world.router), _kinds(StepKind.SWAP_ROUTER), nothing),
        (
            raw(world.factory),
            _kinds(StepKind.FLASH_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.SWAP_UNISWAP_V3),
            keccak(code_of("PoolV3")),
        ),
        (raw(world.factory_v2), _kinds(StepKind.SWAP_UNISWAP_V2), keccak(code_of("PairV2"))),
        (raw(world.wrapped), _kinds(StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE), nothing),
    ]


def _furnish(world: World) -> None:
    """Fill the lenders' and traders' purses, list their coins, and authorise them."""
    lenders = world.aave, world.balancer, world.erc3156, world.morpho
    for contract in (*lenders, world.market, world.second, world.router, world.exchange, world.pool, world.pair):
        for token in (world.cash, world.gold, world.junk):
            token.mint(contract, 10**6 * UNIT)
    for trader in (world.market, world.second, world.router, world.exchange):
        trader.list_coins([world.cash.address, world.gold.address], world.junk.address)
        world.behave(trader, TraderMood.HONEST)
    for lender in lenders:
        world.behave(lender, LenderMood.HONEST)
    world.pair.sync()
    done = world.command(AUTHORIZE, _permits(world))
    assert done.ok, reason_of(done)
    done = world.command("authorize_selectors(address,bytes4[],bool)", world.router.address, [SWAP], True)
    assert done.ok, reason_of(done)


@contextmanager
def fresh_world() -> Iterator[World]:
    """Return the world as it was built, and undo afterwards whatever was done to it."""
    world = _build()
    with env.anchor():
        yield world


@cache
def _build() -> World:
    """Put everything on the chain, once in a process."""
    owner, hot, stranger = account("owner"), account("hot"), account("stranger")
    cash, gold = deploy("Token"), deploy("Token")
    first, second = sorted((cash.address, gold.address), key=lambda text: int(text, 16))
    factory, factory_v2 = deploy("Factory"), deploy("Factory")
    pool = factory.make_v3(code_of("PoolV3"), first, second, V3_FEE)
    pair = factory_v2.make_v2(code_of("PairV2"), first, second)
    world = World(
        owner=owner,
        hot=hot,
        stranger=stranger,
        executor=put_executor(owner, hot),
        cash=cash,
        gold=gold,
        junk=deploy("Token"),
        wrapped=deploy("Token"),
        aave=deploy("AaveLender"),
        balancer=deploy("BalancerLender"),
        erc3156=deploy("Erc3156Lender"),
        morpho=deploy("MorphoMarket"),
        market=deploy("Trader"),
        second=deploy("Trader"),
        router=deploy("Trader"),
        exchange=deploy("Trader"),
        factory=factory,
        pool=at("PoolV3", pool),
        factory_v2=factory_v2,
        pair=at("PairV2", pair),
        accomplice=deploy("Accomplice"),
    )
    set_block()
    _furnish(world)
    return world
