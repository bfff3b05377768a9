"""A pool, its oracle and its tokens as a table of answers, behind `ports.Reads`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from keeper.domain import abi
from keeper.domain.abi import view
from keeper.domain.chain import BlockHead, Log, ViewCall, ViewResult
from keeper.domain.units import RAY, Address, BlockHash, TxHash
from keeper.protocols.aave_v3 import contracts as aave
from tests.unit.protocols.aave_v3.market import BORROWER, NOW_S, POOL, asset, head

ROOT = Address(b"\x01" * 20)
ORACLE = Address(b"\x02" * 20)
SENTINEL = Address(b"\x03" * 20)
CONFIGURATOR = Address(b"\x04" * 20)
A_TOKEN, VARIABLE_TOKEN, STABLE_TOKEN = 0xA0000, 0xB0000, 0xC0000
REVERTED = ViewResult(ok=False, data=b"")


def token(kind: int, reserve_id: int) -> Address:
    return Address((kind + reserve_id).to_bytes(20, "big"))


def words(*values: int | bytes) -> bytes:
    return b"".join(each.rjust(32, b"\0") if isinstance(each, bytes) else each.to_bytes(32, "big") for each in values)


def text(value: bytes) -> bytes:
    return words(32, len(value)) + value + bytes(-len(value) % 32)


def configuration(*, threshold: int = 8_000, bonus: int = 10_500, decimals: int = 18, category: int = 0) -> int:
    return threshold << 16 | bonus << 32 | decimals << 48 | 1 << 56 | 1_000 << 152 | category << 168


@dataclass
class FakeMarket:
    """Change `answers` to change the chain; whatever is not in it reverts."""

    revision: int = 10
    reserves: int = 2
    head: BlockHead = field(default_factory=head)
    answers: dict[ViewCall, bytes] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.say(ROOT, aave.GET_POOL, POOL)
        self.say(ROOT, aave.GET_ORACLE, ORACLE)
        self.say(ROOT, aave.GET_SENTINEL, 0)
        self.say(ROOT, aave.GET_CONFIGURATOR, CONFIGURATOR)
        self.say(POOL, aave.POOL_REVISION, self.revision)
        self.say(POOL, aave.ADDRESSES_PROVIDER, ROOT)
        self.say(ORACLE, aave.BASE_CURRENCY, 0)
        self.say(ORACLE, aave.BASE_CURRENCY_UNIT, 10**8)
        for each in range(1, 256):
            self.list_category(each, 0, 0)
        self.list_reserves(*range(self.reserves))
        self.account(BORROWER, bits=0)

    async def many(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        self.rounds.append(len(calls))
        return [ViewResult(ok=True, data=self.answers[each]) if each in self.answers else REVERTED for each in calls]

    async def sequence(self, calls: Sequence[ViewCall]) -> Sequence[ViewResult]:
        return await self.many(calls)

    def say(self, to: Address, function: bytes, *values: int | bytes, of: Address | int | None = None) -> None:
        """Set an answer; `of` is the question's argument."""
        argument = () if of is None else (words(of),)
        self.answers[view(to, function, *argument)] = words(*values)

    def forget(self, to: Address, function: bytes, of: Address | int) -> None:
        del self.answers[view(to, function, words(of))]

    def list_reserves(self, *ids: int) -> None:
        self.say(POOL, aave.GET_RESERVES, 32, len(ids), *map(asset, ids))
        for each in ids:
            self.reserve(each)
            self.say(ORACLE, aave.GET_PRICE, (each + 1) * 10**8, of=asset(each))
            self.say(POOL, aave.GET_GRACE_PERIOD, 0, of=asset(each))
            self.answers[view(asset(each), abi.SYMBOL)] = text(f"T{each}".encode())

    def reserve(self, reserve_id: int, *, packed: int | None = None, index: int = RAY, updated: int = NOW_S) -> None:
        self.say(
            POOL,
            aave.GET_RESERVE,
            *(configuration() if packed is None else packed, index, 10**25, index, 2 * 10**25, 0, updated, reserve_id),
            *(token(kind, reserve_id) for kind in (A_TOKEN, STABLE_TOKEN, VARIABLE_TOKEN)),
            *(0, 0, 0, 0),
            of=asset(reserve_id),
        )

    def list_category(self, category: int, threshold: int, bits: int, source: bytes = b"") -> None:
        if self.revision <= 4:
            named = (0xC0, 4, b"name".ljust(32, b"\0"))
            self.say(POOL, aave.GET_CATEGORY_LEGACY, 32, threshold, threshold, 10_100, source, *named, of=category)
        else:
            self.say(POOL, aave.GET_CATEGORY, threshold, threshold, 10_100, of=category)
            self.say(POOL, aave.GET_CATEGORY_BITMAP, bits, of=category)

    def account(
        self, account: Address, *, bits: int, category: int = 0, balances: dict[Address, int] | None = None
    ) -> None:
        self.say(POOL, aave.GET_USER_BITMAP, bits, of=account)
        self.say(POOL, aave.GET_USER_CATEGORY, category, of=account)
        for each in range(8):
            for kind in (A_TOKEN, VARIABLE_TOKEN):
                self.say(token(kind, each), aave.SCALED_BALANCE, 0, of=account)
            for function in (aave.STABLE_PRINCIPAL, aave.STABLE_RATE, aave.STABLE_UPDATED):
                self.say(token(STABLE_TOKEN, each), function, 0, of=account)
        for contract, balance in (balances or {}).items():
            self.say(contract, aave.SCALED_BALANCE, balance, of=account)


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
