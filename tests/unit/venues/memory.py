"""A chain in memory with the contracts that stand beside these tests, and reads of it through the port."""

from collections.abc import Sequence

from boa import Env  # type: ignore[import-untyped]
from eth_abi.abi import encode

from keeper.devnet.abi import call_data, result
from keeper.domain.chain import BlockHead, ViewCall, ViewResult
from keeper.domain.exchange import Pool, Want
from keeper.domain.units import Address, TokenAmount
from tests.toy import head
from tests.unit.venues.creations import creation

GAS = 30_000_000


def hexed(address: bytes) -> str:
    return "0x" + address.hex()


def quote(pool: Pool, want: Want, amount: int) -> int:
    """Return what a pool says that an amount brings."""
    swapped = pool.swap(want.give, want.take, TokenAmount(amount))
    assert swapped is not None, amount
    return swapped.amount


class Memory:
    """Contracts on an EVM of their own; `user` makes every call."""

    def __init__(self) -> None:
        self._env = Env()
        self.user = Address(self._env.eoa.canonical_address)

    def deploy(self, name: str, types: Sequence[str] = (), *args: object) -> Address:
        made, code = self._env.deploy_code(bytecode=creation(name) + encode(types, args))
        assert code
        return Address(made.canonical_address)

    def send(self, to: Address, signature: str, *args: object) -> bytes:
        done = self.run(to, bytes.fromhex(call_data(signature, *args)[2:]), is_view=False)
        assert done.ok, signature
        return done.data

    def ask(self, to: Address, signature: str, *args: object) -> int:
        done = self.run(to, bytes.fromhex(call_data(signature, *args)[2:]), is_view=True)
        assert done.ok, signature
        return int(result(signature, hexed(done.data)))

    def run(self, to: Address, data: bytes, *, is_view: bool) -> ViewResult:
        done = self._env.execute_code(
            to_address=hexed(to), sender=hexed(self.user), data=data, gas=GAS, is_modifying=not is_view
        )
        return ViewResult(not done.is_error, bytes(done.output))

    def coin(self, decimals: int, spender: Address | None = None, amount: int = 10**40) -> Address:
        """Make a token that the user has plenty of."""
        made = self.deploy("Coin", ("uint8",), decimals)
        self.send(made, "mint(address,uint256)", hexed(self.user), amount)
        if spender is not None:
            self.allow(made, spender)
        return made

    def allow(self, coin: Address, spender: Address) -> None:
        self.send(coin, "approve(address,uint256)", hexed(spender), 2**255)

    def balance(self, coin: Address) -> int:
        return self.ask(coin, "balanceOf(address)(uint256)", hexed(self.user))


class MemoryReads:
    """`ports.Reads` over the chain in memory; it counts the rounds and the calls."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.rounds = 0
        self.calls = 0

    @property
    def head(self) -> BlockHead:
        return head()

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds += 1
        self.calls += len(calls)
        return [self._memory.run(call.to, call.data, is_view=True) for call in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)
