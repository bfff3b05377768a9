"""The executor on the local chain: its parties, what it may call, programs sent by hand, and the books afterwards."""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from eth_account import Account
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from keeper.devnet.chain import ADMIN, DevChain, Receipt, Tx
from keeper.devnet.devnet import Devnet, DevnetSpec, cached_devnet
from keeper.devnet.executor import DevExecutor, Permit, deploy_executor
from keeper.devnet.market import MINT, AaveMarket, Generation
from keeper.devnet.morpho import MorphoMarket
from keeper.devnet.packages import default_cache_dir
from keeper.devnet.uniswap_market import UniswapMarket
from keeper.devnet.venus_market import VenusMarket
from keeper.domain.program import Output, Program, Step, StepKind
from keeper.domain.units import TokenAmount
from keeper.executor import calls
from tests.e2e.flash_operator import moved
from tests.parity.desk import address, log_of

SPEC: Final = DevnetSpec(generations=("3.0", "3.6"), others=("morpho", "venus", "uniswap"), n_positions=4)
# The same on every run, so that the gas of a path does not depend on the zeros in an address.
OPERATOR_KEY: Final = "0x" + keccak(text="the hot account of the flash tests").hex()
OWNER: Final = to_checksum_address(keccak(text="the cold account of the flash tests")[-20:])
NATIVE: Final = to_checksum_address("0x" + "ee" * 20)
OPERATOR_WEI: Final = 10**20
NO_HASH: Final = bytes(32)
BALANCE: Final = "balanceOf(address)(uint256)"
ALLOWANCE: Final = "allowance(address,address)(uint256)"
TRANSFER: Final = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
WRAPPED: Final = {
    "0x" + keccak(text="Deposit(address,uint256)").hex(): 1,
    "0x" + keccak(text="Withdrawal(address,uint256)").hex(): -1,
}
BLOCK_S: Final = 12
_GAS_LIMIT: Final = 8_000_000
_LIVES_S: Final = 600


def mask(*kinds: StepKind) -> int:
    """Return kinds of steps as the bits of a permit."""
    return sum(1 << kind for kind in kinds)


@dataclass(frozen=True, slots=True)
class Done:
    """A program that ran: its receipt, what it moved, and what the executor said went to the owner.

    `moved` tells what the executor received of each token from each party, less what it gave it.
    """

    receipt: Receipt
    moved: Mapping[tuple[str, str], int]
    profits: Mapping[str, int]
    failed: Sequence[calls.StepFailed]

    @property
    def gas(self) -> int:
        """Return what the transaction took."""
        return int(self.receipt["gasUsed"], 16)

    @property
    def cost_wei(self) -> int:
        """Return what was paid for it."""
        return self.gas * int(self.receipt["effectiveGasPrice"], 16)


@dataclass(frozen=True, slots=True)
class Desk:
    """A devnet with an executor on it; the operator holds native currency and nothing else."""

    devnet: Devnet
    executor: DevExecutor
    operator: str
    tokens: tuple[str, ...]
    spenders: set[str] = field(default_factory=set)

    @property
    def chain(self) -> DevChain:
        """Return the node."""
        return self.devnet.chain

    def aave(self, generation: Generation) -> AaveMarket:
        """Return one of the Aave markets."""
        return self.devnet.markets[generation]

    @property
    def morpho(self) -> MorphoMarket:
        """Return Morpho."""
        assert self.devnet.morpho is not None
        return self.devnet.morpho

    @property
    def venus(self) -> VenusMarket:
        """Return Venus."""
        assert self.devnet.venus is not None
        return self.devnet.venus

    @property
    def uniswap(self) -> UniswapMarket:
        """Return Uniswap."""
        assert self.devnet.uniswap is not None
        return self.devnet.uniswap

    def token(self, symbol: str) -> str:
        """Return an asset's token."""
        return self.uniswap.assets[symbol].token

    async def authorize(self, *permits: Permit) -> None:
        """Let the executor's owner permit more."""
        signature = "authorize((address,uint256,bytes32)[])"
        self.spenders.update(target for target, _, _ in permits)
        async with self.chain.impersonate(OWNER):
            await self.chain.send(self.executor.address, signature, list(permits), sender=OWNER)

    async def program(self, steps: Sequence[Step], least: Mapping[str, int]) -> Program:
        """Return a program of these steps that may run for ten minutes, with the least that it has to bring."""
        header = await self.chain.header()
        outputs = tuple(Output(address(token), TokenAmount(amount)) for token, amount in least.items())
        return Program(tuple(steps), outputs, int(header["number"], 16) + 50, int(header["timestamp"], 16) + _LIVES_S)

    async def run(self, steps: Sequence[Step], least: Mapping[str, int]) -> Done:
        """Send a program from the operator's account, a block's time later, and have the books checked.

        Raises: AssertionError when anything rests, an allowance is left, or the sums differ by a unit.
        """
        # Interest is then due everywhere, however fast the test was: a path takes the same gas each time.
        await self.chain.increase_time(BLOCK_S)
        before = await self.books()
        receipt = await self.submit(steps, least)
        assert receipt["status"] == "0x1", await self.why(receipt)
        done = _read(receipt, self.executor.address)
        await self._check(before, done)
        return done

    async def submit(self, steps: Sequence[Step], least: Mapping[str, int]) -> Receipt:
        """Send a program from the operator's account, whatever becomes of it."""
        program = await self.program(steps, least)
        call = calls.call(address(self.executor.address), program)
        return await self.send(self.executor.address, "0x" + call.data.hex())

    async def send(self, to: str, data: str) -> Receipt:
        """Sign a transaction with the operator's key, send it, and return its receipt."""
        count = await self.chain.rpc("eth_getTransactionCount", self.operator, "latest")
        fee = 2 * int((await self.chain.header())["baseFeePerGas"], 16) + 10**9
        signed = Account.sign_transaction(
            {
                "to": to,
                "data": data,
                "nonce": int(count, 16),
                "chainId": 31_337,
                "gas": _GAS_LIMIT,
                "maxFeePerGas": fee,
                "maxPriorityFeePerGas": 10**6,
                "value": 0,
            },
            OPERATOR_KEY,
        )
        return await self.chain.receipt(
            await self.chain.rpc("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
        )

    async def why(self, receipt: Receipt) -> str:
        """Return what a transaction reverted with."""
        tracer = {"tracer": "callTracer"}
        trace = await self.chain.rpc("debug_traceTransaction", receipt["transactionHash"], tracer)
        return _innermost(trace)

    async def books(self) -> dict[tuple[str, str], int]:
        """Read what the three parties hold of every token, native currency included."""
        parties = (self.executor.address, OWNER, self.operator)
        wanted = [(party, token) for party in parties for token in self.tokens]
        held = await self.chain.call_all((token, BALANCE, (party,)) for party, token in wanted)
        found = dict(zip(wanted, held, strict=True))
        for party in parties:
            found[party, NATIVE] = int(await self.chain.rpc("eth_getBalance", party, "latest"), 16)
        return found

    async def _check(self, before: Mapping[tuple[str, str], int], done: Done) -> None:
        """Compare the balances with what the events say, party by party, and look for what should not be there."""
        after = await self.books()
        gained = {key: after[key] - before[key] for key in after if after[key] != before[key]}
        gains = {(OWNER, token): amount for token, amount in done.profits.items() if amount}
        assert gained == gains | {(self.operator, NATIVE): -done.cost_wei}
        assert not [token for token in (*self.tokens, NATIVE) if after[self.executor.address, token]]
        asked = [(token, spender) for token in self.tokens for spender in sorted(self.spenders)]
        left = await self.chain.call_all((token, ALLOWANCE, (self.executor.address, who)) for token, who in asked)
        assert not [pair for pair, amount in zip(asked, left, strict=True) if amount]
        # What the executor received of a token, from whomever, is what it passed on.
        sums: dict[str, int] = defaultdict(int)
        for (token, _), amount in done.moved.items():
            sums[token] += amount
        assert not {token: amount for token, amount in sums.items() if amount}


@asynccontextmanager
async def opened(spec: DevnetSpec = SPEC) -> AsyncIterator[Desk]:
    """Run a devnet with an executor that may call all that is on it."""
    async with cached_devnet(default_cache_dir(), spec) as devnet:
        operator = Account.from_key(OPERATOR_KEY).address
        await devnet.chain.set_balance(operator, OPERATOR_WEI)
        permits = list(permits_of(devnet))
        executor = await deploy_executor(devnet.chain, owner=OWNER, callers=[operator], permits=permits)
        yield Desk(devnet, executor, operator, tuple(moved(devnet)), {target for target, _, _ in permits})


def permits_of(devnet: Devnet) -> Iterable[Permit]:
    """Yield what an executor may call on a devnet."""
    for market in devnet.markets.values():
        yield market.pool, mask(StepKind.FLASH_AAVE, StepKind.LIQUIDATE_AAVE), NO_HASH
    if devnet.morpho:
        yield devnet.morpho.morpho, mask(StepKind.FLASH_MORPHO, StepKind.LIQUIDATE_MORPHO), NO_HASH
    if devnet.venus:
        yield devnet.venus.liquidator, mask(StepKind.LIQUIDATE_VENUS), NO_HASH
        for reserve in devnet.venus.reserves.values():
            yield reserve.v_token, mask(StepKind.REDEEM_COMPOUND), NO_HASH
    if devnet.uniswap:
        swaps = mask(StepKind.FLASH_UNISWAP_V3, StepKind.SWAP_FIRST_UNISWAP_V3, StepKind.SWAP_UNISWAP_V3)
        yield devnet.uniswap.v3_factory, swaps, bytes.fromhex(devnet.uniswap.v3_init_code_hash[2:])
        v2_hash = bytes.fromhex(devnet.uniswap.v2_init_code_hash[2:])
        yield devnet.uniswap.v2_factory, mask(StepKind.SWAP_UNISWAP_V2), v2_hash
        wrapped = devnet.uniswap.assets["WETH"].token
        yield wrapped, mask(StepKind.WRAP_NATIVE, StepKind.UNWRAP_NATIVE), NO_HASH


async def mint(chain: DevChain, token: str, owner: str, amount: int) -> None:
    """Give somebody tokens."""
    async with chain.held():
        await chain.send_all([Tx(ADMIN, token, MINT, (owner, amount))])


def _read(receipt: Receipt, executor: str) -> Done:
    said = list(calls.events(address(executor), map(log_of, receipt["logs"])))
    profits: dict[str, int] = {
        to_checksum_address(each.token): each.amount for each in said if isinstance(each, calls.Profit)
    }
    failed = [each for each in said if isinstance(each, calls.StepFailed)]
    moved: dict[tuple[str, str], int] = defaultdict(int)
    for log in receipt["logs"]:
        token, (name, *named) = to_checksum_address(log["address"]), log["topics"]
        parties = [to_checksum_address("0x" + topic[-40:]) for topic in named]
        if executor not in parties:
            continue
        if name == TRANSFER:
            giver, taker = parties
            other, sign = (giver, 1) if taker == executor else (taker, -1)
            moved[token, other] += sign * int(log["data"], 16)
        elif name in WRAPPED:
            moved[token, token] += WRAPPED[name] * int(log["data"], 16)
    return Done(receipt, moved, profits, failed)


def _innermost(trace: Mapping[str, Any]) -> str:
    """Return the deepest call that failed first, and what it said."""
    for call in trace.get("calls", ()):
        if "error" in call:
            return _innermost(call)
    said = bytes.fromhex(str(trace.get("output", "0x"))[2:])
    return f"{trace.get('to')} {str(trace.get('input'))[:10]}: {trace.get('error')} {said!r}"
