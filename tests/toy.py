"""A protocol small enough to check by hand: one collateral, one debt, no interest. It implements the real ports."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from keeper.domain.chain import BlockHead, Call, Log, LogFilter
from keeper.domain.outcome import Reason
from keeper.domain.plan import Realised
from keeper.domain.ports import Market, Reads, Taken, Touched
from keeper.domain.position import Assessment, Health, Holding, Opportunity, PositionKey, Row, Token, Weight
from keeper.domain.units import MAX_UINT256, WAD, Address, Base, BlockHash, Column, TokenAmount, Wad, Wei

GOLD = Token(Address(b"\x01" * 20), "GOLD", 0)
CASH = Token(Address(b"\x02" * 20), "CASH", 0)
POOL = Address(b"\x0f" * 20)
COLLATERAL, DEBT = Column(0), Column(1)
THRESHOLD_BPS = 8_000
BONUS_BPS = 11_000


def head(number: int = 100, *, fork: int = 0, parent_fork: int | None = None, base_fee_wei: int = 10) -> BlockHead:
    """Return a block whose hash tells its number and fork."""
    before = fork if parent_fork is None else parent_fork
    return BlockHead(
        number=number,
        hash=block_hash(number, fork),
        parent_hash=block_hash(number - 1, before),
        timestamp_s=1_700_000_000 + 12 * number,
        base_fee_wei=Wei(base_fee_wei),
        gas_limit=30_000_000,
        logs_bloom=bytes(256),
    )


def block_hash(number: int, fork: int = 0) -> BlockHash:
    """Return the hash of the block with that number on that fork."""
    return BlockHash(fork.to_bytes(8, "big") + number.to_bytes(24, "big"))


def account(number: int) -> Address:
    """Return an account by its number."""
    return Address(number.to_bytes(20, "big"))


@dataclass(frozen=True, slots=True)
class ToyPosition:
    """Whole units of gold and cash."""

    account: Address
    gold: int
    cash: int

    @property
    def has_debt(self) -> bool:
        """Return whether it owes cash."""
        return self.cash > 0


@dataclass(frozen=True, slots=True)
class ToySnapshot:
    """One gold costs `price_base`, one cash a dollar."""

    head: BlockHead
    price_base: int = 100 * 10**8
    native_price_base: Base | None = Base(1_000 * 10**8)
    blocked: Reason | None = None
    spender: Address = POOL
    inventory_tokens: Mapping[Address, Token] = field(default_factory=lambda: {CASH.address: CASH})

    def value_base(self, token: Address, amount: TokenAmount) -> Base | None:
        """Value gold or cash."""
        prices = {GOLD.address: self.price_base, CASH.address: 10**8}
        price = prices.get(token)
        return None if price is None else Base(amount * price)


class ToyRules:
    """Liquidatable when cash exceeds 80 % of the gold's value; half may be repaid, a tenth is the bonus."""

    def row(self, position: ToyPosition, snapshot: ToySnapshot) -> Row:
        """Return gold and cash."""
        del snapshot
        return ((COLLATERAL, position.gold), (DEBT, position.cash))

    def weights(self, snapshot: ToySnapshot, columns: Set[Column], at_s: int) -> Mapping[Column, Weight]:
        """Return exact weights: nothing is rounded here."""
        del columns, at_s
        return {
            COLLATERAL: Weight(snapshot.price_base * THRESHOLD_BPS, 10_000, 1),
            DEBT: Weight(-(10**8), 1, 1),
        }

    def health(self, position: ToyPosition, snapshot: ToySnapshot, at_s: int) -> Health:
        """Value a position."""
        del at_s
        collateral, debt = position.gold * snapshot.price_base, position.cash * 10**8
        factor = collateral * THRESHOLD_BPS * WAD // (10_000 * debt) if debt else MAX_UINT256
        return Health(
            health_factor_wad=Wad(factor),
            collateral_base=Base(collateral),
            debt_base=Base(debt),
            is_liquidatable=factor < WAD,
            collateral=(Holding(GOLD, TokenAmount(position.gold), Base(collateral)),),
            debt=(Holding(CASH, TokenAmount(position.cash), Base(debt)),),
        )

    def assess(
        self, position: ToyPosition, snapshot: ToySnapshot, at_s: int, budget: Mapping[Address, TokenAmount] | None
    ) -> Assessment:
        """Repay half of the debt, or what the budget allows."""
        health = self.health(position, snapshot, at_s)
        if not health.is_liquidatable or snapshot.blocked is not None:
            return Assessment(health, (), snapshot.blocked)
        repay = position.cash // 2 if budget is None else min(position.cash // 2, budget.get(CASH.address, 0))
        seized = min(position.gold, repay * 10**8 * BONUS_BPS // (10_000 * snapshot.price_base))
        if not repay or not seized:
            return Assessment(health, (), Reason.DUST_RULE if seized else None)
        return Assessment(health, (self._opportunity(position, snapshot, at_s, repay, seized),), None)

    def _opportunity(
        self, position: ToyPosition, snapshot: ToySnapshot, at_s: int, repay: int, seized: int
    ) -> Opportunity:
        return Opportunity(
            key=PositionKey("toy", position.account),
            repay=CASH,
            repay_amount=TokenAmount(repay),
            repay_limit=TokenAmount(repay),
            repay_base=Base(repay * 10**8),
            seize=GOLD,
            seized_amount=TokenAmount(seized),
            seized_base=Base(seized * snapshot.price_base),
            protocol_fee_amount=TokenAmount(0),
            spender=POOL,
            at_s=at_s,
        )


class ToyCalls:
    """Calldata is the account."""

    GAS_ESTIMATE = 100_000
    SELECTORS = frozenset({b"toy!"})

    def liquidation(self, opportunity: Opportunity) -> Call:
        """Return a call that names the account."""
        return Call(opportunity.spender, opportunity.key.account)

    def decode_revert(self, data: bytes) -> tuple[Reason, str]:
        """Return what the data says."""
        return Reason.UNKNOWN, data[:256].decode("ascii", "replace")


@dataclass
class ToyReader:
    """Serve positions and a price from memory; a log's first topic marks it as ours, its data is the account."""

    market: str = "toy"
    state: dict[Address, ToyPosition] = field(default_factory=dict)
    price_base: int = 100 * 10**8
    blocked: Reason | None = None
    chain_error_base: int = 0
    discovered: int = 0
    discovery_filter: LogFilter = LogFilter(frozenset({POOL}), frozenset({b"\x01" * 32}))
    head_filter: LogFilter = LogFilter(frozenset({POOL}), frozenset({b"\x01" * 32}))

    async def discover(self, reads: Reads) -> None:
        """Count discoveries."""
        del reads
        self.discovered += 1

    def accounts(self, logs: Iterable[Log]) -> frozenset[Address]:
        """Return the accounts that logs name."""
        return frozenset(Address(log.data) for log in logs)

    def touched(self, logs: Iterable[Log]) -> Touched:
        """Return the accounts that logs name."""
        return Touched(self.accounts(logs), is_market_changed=False)

    def liquidations(self, logs: Iterable[Log]) -> Sequence[Taken]:
        """Return none: the toy emits no events."""
        del logs
        return ()

    async def snapshot(self, reads: Reads) -> ToySnapshot:
        """Return the price at the head."""
        return ToySnapshot(reads.head, self.price_base, blocked=self.blocked)

    async def positions(self, reads: Reads, accounts: Sequence[Address]) -> Sequence[ToyPosition]:
        """Return positions from memory."""
        del reads
        return [self.state.get(each, ToyPosition(each, 0, 0)) for each in accounts]

    async def chain_health(self, reads: Reads, accounts: Sequence[Address]) -> Sequence[Health | None]:
        """Return the same arithmetic, off by `chain_error_base` where a test wants a mismatch."""
        rules, snapshot = ToyRules(), await self.snapshot(reads)
        healths = [rules.health(self.state[each], snapshot, reads.head.timestamp_s) for each in accounts]
        return [replace(each, debt_base=Base(each.debt_base + self.chain_error_base)) for each in healths]


def toy_market(reader: ToyReader | None = None) -> Market:
    """Return the toy protocol bound to one market."""
    return Market("toy", "toy", 1, reader or ToyReader(), ToyRules(), ToyCalls())


def realised(repaid: int, seized: int) -> Realised:
    """Return realised amounts."""
    return Realised(TokenAmount(repaid), TokenAmount(seized))
