"""The executor as a state machine: whatever is run, by whomever, among contracts of any mood, nobody takes anything.

Programs are encoded by the keeper's own encoder and run by the shipped bytecode. What must hold is asserted after every
transaction: a stranger never moves anything, no allowance stands, nothing of an output rests, the owner never loses, the
least came out or nothing happened, and no door is left open.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from keeper.domain.program import ALL, Output, Program, Step, StepKind
from keeper.domain.units import NATIVE, TokenAmount
from keeper.executor import calls
from tests.hostile.contracts import Done, LenderMood, PairMood, PoolMood, TokenMood, TraderMood, env, raw, transact
from tests.hostile.words import EVER, call, execution, reason_of, words
from tests.hostile.world import LOAN, LOANS, PROFIT, SALE_BPS, SEIZED, SWAP, World, fresh_world

AMOUNTS = st.sampled_from([0, 1, LOAN // 3, LOAN, LOAN, SEIZED, ALL])
LEAST = st.sampled_from([0, 0, 1, PROFIT // 2, PROFIT, PROFIT + 1])
STEP_GAS = st.sampled_from([0, 0, 0, 100_000, 600_000])
SALES = (StepKind.SWAP_CURVE, StepKind.SWAP_ROUTER, StepKind.SWAP_UNISWAP_V2, StepKind.SWAP_UNISWAP_V3)
PRICED = (
    TokenMood.SILENT | TokenMood.STUBBORN | TokenMood.NO_ZERO | TokenMood.BLOCKING | TokenMood.HOOKED | TokenMood.BOMB
)
"""How the token that profit is counted in may behave: the owner chose it, so that it tells the truth of balances."""
LYING = TokenMood.LIAR | TokenMood.FLATTERER | TokenMood.SHRINKING
"""With these a token itself says that it went where it did not, or takes of what others hold."""
TRADERS = ("market", "second", "router", "exchange")
LENDERS = ("aave", "balancer", "erc3156", "morpho")


Trouble = tuple[str, TokenMood | LenderMood | TraderMood | PoolMood | PairMood]
MOODS: dict[str, list[Any]] = {
    "cash": [mood for mood in TokenMood if mood in PRICED],
    "gold": list(TokenMood),
    "junk": list(TokenMood),
    **{which: list(LenderMood) for which in LENDERS},
    **{which: list(TraderMood) for which in TRADERS},
    "pool": list(PoolMood),
    "pair": list(PairMood),
}
TROUBLES: list[Trouble] = [(which, mood) for which, moods in MOODS.items() for mood in moods]
PARTIES = {
    StepKind.FLASH_AAVE: "aave",
    StepKind.FLASH_MORPHO: "morpho",
    StepKind.FLASH_BALANCER: "balancer",
    StepKind.FLASH_ERC3156: "erc3156",
    StepKind.FLASH_UNISWAP_V3: "pool",
    None: "cash",
    StepKind.SWAP_CURVE: "exchange",
    StepKind.SWAP_ROUTER: "router",
    StepKind.SWAP_UNISWAP_V2: "pair",
    StepKind.SWAP_UNISWAP_V3: "pool",
}
SOME = st.lists(st.sampled_from(TROUBLES), max_size=2)
"""What else is wrong in the world while a program runs: often nothing, so that most of it works."""
LEFT = st.sampled_from([0, 0, 1, LOAN])
"""What somebody left in the executor before."""


class ExecutorMachine(RuleBasedStateMachine):
    """One executor, its owner, its caller, strangers, and everybody whom its programs deal with."""

    @initialize(first=st.integers(0, 20))
    def begin(self, first: int) -> None:
        self.stage = fresh_world()
        self.world: World = self.stage.__enter__()
        self.is_paused = False
        self.last = b""
        self.moods: dict[str, Any] = {}
        world = self.world
        for who in (world.hot, world.stranger):  # what others allowed the executor is theirs
            world.cash.mint(who, LOAN)
            world.cash.let_stand(who, world.executor, EVER)
        world.gold.block_account(world.stranger)
        deeds = self._deeds()
        world.accomplice.prepare([deeds[(first + number) % len(deeds)] for number in range(3)])

    def teardown(self) -> None:
        if hasattr(self, "stage"):
            self.stage.__exit__(None, None, None)

    # how the world changes

    def _trouble(self, troubles: Sequence[Trouble], place: int = 31) -> None:
        """Calm everybody down, and then upset some."""
        world = self.world
        moods: dict[str, Any] = dict.fromkeys(("cash", "gold", "junk"), TokenMood.HONEST)
        moods |= dict.fromkeys(LENDERS, LenderMood.HONEST) | dict.fromkeys(TRADERS, TraderMood.HONEST)
        moods |= {"pool": PoolMood.HONEST, "pair": PairMood.HONEST, **dict(troubles)}
        for which, mood in moods.items():
            if self.moods.get(which) != mood:
                world.behave(getattr(world, which), mood, place=place)
                self.moods[which] = mood

    # what the hot account does, or who stole its key

    @rule(
        loan=st.sampled_from([*LOANS, StepKind.FLASH_UNISWAP_V3, None]),
        sale=st.sampled_from(SALES),
        gas=STEP_GAS,
        least=LEAST,
        who=st.sampled_from(["hot", "hot", "hot", "owner", "stranger"]),
        market=st.sampled_from(["market", "second"]),
        data=st.data(),
        left=LEFT,
        paid_bps=st.sampled_from([SALE_BPS, SALE_BPS, 9_000, 5_000]),
    )
    def a_liquidation_is_run(
        self,
        *,
        loan: StepKind | None,
        sale: StepKind,
        gas: int,
        least: int,
        who: str,
        market: str,
        data: st.DataObject,
        left: int,
        paid_bps: int,
    ) -> None:
        world = self.world
        involved = st.sampled_from([PARTIES[loan], market, PARTIES[sale], "cash", "gold"])
        upset = data.draw(st.lists(involved, max_size=2, unique=True))
        self._trouble([(each, data.draw(st.sampled_from(MOODS[each]))) for each in upset])
        world.exchange.behave(self.moods.pop("exchange"), world.accomplice.address, paid_bps)
        world.cash.mint(world.executor, left)
        door = self._pull() if loan is None else world.loan(loan)
        done_by = world.liquidation(getattr(world, market), gas=gas, limit=SEIZED if gas else 0)
        self._run([door, done_by, self._sale(sale)], least, who)

    @rule(
        data=st.data(),
        least=LEAST,
        who=st.sampled_from(["hot", "hot", "owner", "stranger"]),
        troubles=SOME,
        left=LEFT,
    )
    def any_program_is_run(
        self, *, data: st.DataObject, least: int, who: str, troubles: list[Trouble], left: int
    ) -> None:
        self._trouble(troubles)
        self.world.cash.mint(self.world.executor, left)
        steps = data.draw(st.sampled_from([[], self.world.plain(), self.world.plain()]))
        for kind in data.draw(st.lists(st.sampled_from(list(self._menu())), min_size=1, max_size=5)):
            step = replace(self._menu()[kind], amount=data.draw(AMOUNTS))
            is_door = step.kind < StepKind.LIQUIDATE_AAVE
            step = step if is_door else replace(step, gas=data.draw(STEP_GAS))
            steps.insert(data.draw(st.integers(0, len(steps))), step)
        self._run(steps, least, who)

    # what the owner does

    @rule(who=st.sampled_from(["hot", "owner", "stranger"]))
    def somebody_pauses(self, who: str) -> None:
        done = self.world.command("pause()", sender=getattr(self.world, who))
        assert done.ok is (who != "stranger")
        self.is_paused = self.is_paused or done.ok

    @rule(who=st.sampled_from(["hot", "owner", "stranger"]))
    def somebody_unpauses(self, who: str) -> None:
        done = self.world.command("unpause()", sender=getattr(self.world, who))
        assert done.ok is (who == "owner")
        self.is_paused = self.is_paused and not done.ok

    @rule(who=st.sampled_from(["hot", "owner", "stranger"]))
    def somebody_sweeps(self, who: str) -> None:
        before = self.world.books()
        tokens = [self.world.cash.address, self.world.wrapped.address]
        done = self.world.command("sweep(address[])", tokens, sender=getattr(self.world, who))
        if who == "owner" and done.ok:
            assert self.world.held(self.world.cash) == 0
            self._assert_owner_never_loses(before)
        else:
            assert who != "owner" or self.world.books() == before
            self._assert_nothing_moved(done, before)

    # what strangers do

    @rule(who=st.sampled_from(["stranger", *LENDERS, *TRADERS, "pool", "accomplice"]), number=st.integers(0, 30))
    def a_stranger_calls_something(self, who: str, number: int) -> None:
        before = self.world.books()
        deeds = [data for where, data in self._deeds() if where == str(self.world.executor)]
        sender = getattr(self.world, who)
        done = self.world.send(deeds[number % len(deeds)], sender=getattr(sender, "address", sender))
        self._assert_nothing_moved(done, before)

    @rule(who=st.sampled_from(["stranger", "accomplice", "market"]))
    def a_stranger_copies_what_was_sent_last(self, who: str) -> None:
        before = self.world.books()
        sender = getattr(self.world, who)
        if self.last:
            done = self.world.send(self.last, sender=getattr(sender, "address", sender))
            self._assert_nothing_moved(done, before)

    @rule(number=st.integers(0, 2))
    def a_stranger_takes_a_loan_in_our_name(self, number: int) -> None:
        before = self.world.books()
        loans = [(where, data) for where, data in self._deeds() if where != str(self.world.executor)]
        where, data = loans[number % len(loans)]
        transact(where, data, sender=self.world.stranger)
        after = self.world.books()
        assert all(
            after[key] >= before[key] for key in before
        )  # a lender may swallow our refusal, and have paid for it
        assert self.world.allowances() == []

    @rule(who=st.sampled_from(TRADERS), which=st.sampled_from(["cash", "gold"]))
    def a_trader_takes_what_its_allowances_let_it(self, who: str, which: str) -> None:
        before = self.world.books()
        self._trouble([])
        token = getattr(self.world, which)
        getattr(self.world, who).loot(token.address, self.world.executor)
        assert self.world.books() == before

    @rule()
    def all_are_honest_again_and_the_plain_program_pays(self) -> None:
        """Whatever happened left nothing behind that stands in the way."""
        world = self.world
        self._trouble([])
        with env.anchor():
            assert world.command("unpause()").ok
            held = world.held(world.gold)
            before = world.books()
            steps = [world.loan(), world.liquidation(), world.sale(amount=SEIZED)]
            done = world.run(steps, world.outputs(least=PROFIT))
            assert done.ok, reason_of(done)
            assert world.books()[str(world.owner), str(world.gold.address)] >= held
            self._assert_owner_never_loses(before)

    # the parts

    def _pull(self) -> Step:
        return Step(StepKind.PULL, raw(self.world.executor), take=raw(self.world.cash), amount=LOAN)

    def _sale(self, kind: StepKind) -> Step:
        """Sell all; a router is handed its calldata, which the encoder puts in its place."""
        sale = self.world.sale(kind)
        return replace(sale, data=self.world.payload()) if kind is StepKind.SWAP_ROUTER else sale

    def _menu(self) -> dict[str, Step]:
        world = self.world
        wrapped = raw(world.wrapped)
        return {
            **{loan.name: world.loan(loan) for loan in (*LOANS, StepKind.FLASH_UNISWAP_V3)},
            **{sale.name: self._sale(sale) for sale in SALES},
            "pull": self._pull(),
            "swap first": world.swap_first(),
            "liquidate Morpho": world.morpho_liquidation(),
            "liquidate": world.liquidation(),
            "liquidate elsewhere": world.liquidation(world.second, limit=1),
            "liquidate Compound": world.compound(),
            "wrap": Step(StepKind.WRAP_NATIVE, wrapped, NATIVE, wrapped),
            "unwrap": Step(StepKind.UNWRAP_NATIVE, wrapped, wrapped, NATIVE),
            "not authorised": replace(world.liquidation(), target=raw(world.accomplice)),
        }

    def _deeds(self) -> list[tuple[str, bytes]]:
        """Return what strangers try from outside, and hooks from inside."""
        world = self.world
        executor, token, index = str(world.executor), str(world.cash.address), words(0)
        payout = world.stranger
        tried = [
            execution([], world.outputs(least=0)),
            call("perform(uint256)", 0),
            call("sweep(address[])", [token]),
            call("set_caller(address,bool)", payout, True),
            call("authorize((address,uint256,bytes32)[])", [(payout, EVER, bytes(32))]),
            call("authorize_selectors(address,bytes4[],bool)", token, [SWAP], True),
            call("transfer_ownership(address)", payout),
            call("accept_ownership()"),
            call("unpause()"),
            call("pause()"),
            call("executeOperation(address,uint256,uint256,address,bytes)", token, LOAN, 0, executor, index),
            call("onMorphoFlashLoan(uint256,bytes)", LOAN, index),
            call("onMorphoLiquidate(uint256,bytes)", LOAN, index),
            call("onPreLiquidate(uint256,bytes)", LOAN, index),
            call("onFlashLoan(address,address,uint256,uint256,bytes)", executor, token, LOAN, 0, index),
            call("receiveFlashLoan(address[],uint256[],uint256[],bytes)", [token], [LOAN], [0], index),
        ]
        pools = ("uniswapV3FlashCallback(uint256,uint256,bytes)", "uniswapV3SwapCallback(int256,int256,bytes)")
        tried += [call(name, LOAN, LOAN, index) for name in pools]
        loans = [
            (
                world.aave,
                call("flashLoanSimple(address,address,uint256,bytes,uint16)", executor, token, LOAN, index, 0),
            ),
            (world.erc3156, call("flashLoan(address,address,uint256,bytes)", executor, token, LOAN, index)),
            (world.balancer, call("flashLoan(address,address[],uint256[],bytes)", executor, [token], [LOAN], index)),
        ]
        return [*((executor, each) for each in tried), *((where.address, data) for where, data in loans)]

    # what must hold

    def _run(self, steps: Sequence[Step], least: int, who: str) -> None:
        world = self.world
        tokens = [raw(token) for token in world.tokens]
        outputs = (
            Output(tokens[0], TokenAmount(least)),
            *(Output(each, TokenAmount(0)) for each in (*tokens[1:], NATIVE)),
        )
        before, pulled = world.books(), [world.held(world.cash, each) for each in (world.hot, world.stranger)]
        routers = sum(each.kind is StepKind.SWAP_ROUTER for each in steps)
        kept = [each for each in steps if each.kind is not StepKind.SWAP_ROUTER or routers <= calls.MAX_PAYLOADS]
        program = Program(tuple(kept), outputs, EVER, EVER)
        self.last = calls.call(raw(world.executor), program).data
        done = world.send(self.last, sender=getattr(world, who))
        is_refused = who == "stranger" or self.is_paused
        assert not (done.ok and (is_refused or any(each.target == raw(world.accomplice) for each in kept)))
        self._assert_doors_are_shut()
        assert world.allowances() == []
        assert [world.held(world.cash, each) for each in (world.hot, world.stranger)] == pulled
        after = world.books()
        if not done.ok:
            assert after == before
            return
        lying = [getattr(world, each) for each in ("gold", "junk") if TokenMood(int(self.moods[each])) & LYING]
        for token in world.tokens:
            place = str(world.owner), str(token.address)
            assert token in lying or (after[place] >= before[place] and world.held(token) == 0)
        cash = str(world.cash.address)
        gained = after[str(world.owner), cash] - before[str(world.owner), cash]
        assert gained >= before[str(world.executor), cash] + least if least else gained >= 0
        assert env.get_balance(world.executor) == 0

    def _assert_doors_are_shut(self) -> None:
        """In the same transaction: no payment, no step, no callback is taken, whoever it is that calls."""
        world = self.world
        cash, executor = str(world.cash.address), str(world.executor)
        for sender, data, value in (
            (world.hot, b"", 1),
            (world.hot, call("perform(uint256)", 0), 0),
            (world.aave.address, call("executeOperation(address,uint256,uint256,address,bytes)", cash, LOAN, 0, executor, words(0)), 0),
            (world.morpho.address, call("onMorphoFlashLoan(uint256,bytes)", LOAN, words(0)), 0),
            (world.pool.address, call("uniswapV3SwapCallback(int256,int256,bytes)", LOAN, -LOAN, words(0)), 0),
        ):  # fmt: skip
            assert not transact(world.executor, data, sender=sender, value=value, is_new=False).ok

    def _assert_nothing_moved(self, done: Done, before: dict[tuple[str, str], int]) -> None:
        assert not done.ok
        assert self.world.books() == before
        assert self.world.allowances() == []

    def _assert_owner_never_loses(self, before: dict[tuple[str, str], int]) -> None:
        after = self.world.books()
        assert all(after[key] >= before[key] for key in before if key[0] == str(self.world.owner))
        assert self.world.allowances() == []


def test_whatever_is_run_by_whomever_nobody_takes_anything_from_the_executor() -> None:
    run_state_machine_as_test(ExecutorMachine, settings=settings(max_examples=8, stateful_step_count=20))


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_whatever_is_run_in_long_stories_nobody_takes_anything_from_the_executor() -> None:
    run_state_machine_as_test(ExecutorMachine, settings=settings(max_examples=300, stateful_step_count=50))
