"""Values to store, larger than 64 bits wherever the chain's may be."""

from keeper.domain.chain import Call, Moment
from keeper.domain.outcome import Decision, Reason, Result
from keeper.domain.plan import DecisionRecord, Outcome, Realised
from keeper.domain.position import Action, Opportunity, PositionKey, Proceeds, Token
from keeper.domain.units import Address, Base, BlockHash, PositionId, TokenAmount, TxHash, Wei
from keeper.store.records import (
    Attempt,
    AttemptKind,
    AttemptState,
    Entry,
    Inclusion,
    Intent,
    IntentState,
    Purpose,
)

CHAIN_ID = 8_453
SENDER = Address(b"\x5e" * 20)
HUGE = 2**255 + 7


def address(number: int) -> Address:
    return Address(number.to_bytes(20))


HELD = PositionId(address(1))


def opportunity(key: PositionId = HELD) -> Opportunity:
    return Opportunity(
        key=PositionKey("aave", key),
        repay=Token(address(11), "USDC", 6),
        repay_amount=TokenAmount(HUGE),
        repay_limit=TokenAmount(2**256 - 1),
        repay_base=Base(HUGE + 1),
        seize=Token(address(12), "WETH", 18),
        seized_amount=TokenAmount(HUGE + 2),
        seized_base=Base(HUGE + 3),
        protocol_fee_amount=TokenAmount(0),
        spender=address(13),
        target=address(14),
        at=Moment(101, 1_700_000_012),
        terms=b"\x01" * 32,
        action=Action.PREPARE,
        proceeds=Proceeds(
            Token(address(12), "WETH", 18), TokenAmount(HUGE + 4), Base(HUGE + 5), TokenAmount(HUGE), Base(HUGE + 6)
        ),
    )


def intent(nonce: int = 0, *, state: IntentState = IntentState.LIVE, name: str = "") -> Intent:
    mined = state in {IntentState.MINED, IntentState.FINAL}
    return Intent(
        id=name or f"0x{nonce:064x}",
        sender=SENDER,
        nonce=nonce,
        purpose=Purpose.LIQUIDATION,
        state=state,
        call=Call(address(13), b"\x00\xa7\x18\xa9" + bytes(160)),
        gas_limit=600_000,
        fee_limit_wei=Wei(HUGE),
        created_block=100,
        plan_id=f"plan-{nonce}",
        opportunity=opportunity(),
        profit_base=Base(-HUGE),
        reason=Reason.UNPROFITABLE,
        detail="naïve",
        inclusion=Inclusion(TxHash(bytes(32)), 101, BlockHash(b"\x01" * 32), Wei(HUGE)) if mined else None,
    )


def attempt(nonce: int = 0, number: int = 0) -> Attempt:
    return Attempt(
        tx_hash=TxHash(nonce.to_bytes(16) + number.to_bytes(16)),
        nonce=nonce,
        kind=AttemptKind.SEND,
        state=AttemptState.SIGNED,
        max_fee_wei=Wei(HUGE + number),
        tip_wei=Wei(1),
        gas_limit=600_000,
        raw=b"\x02raw",
        first_block=100,
    )


def entry(nonce: int = 0, *, state: IntentState = IntentState.LIVE, attempts: int = 1, name: str = "") -> Entry:
    return Entry(intent(nonce, state=state, name=name), tuple(attempt(nonce, number) for number in range(attempts)))


def outcome(number: int = 0, *, result: Result = Result.WON, reason: Reason | None = None) -> Outcome:
    return Outcome(
        plan_id=f"plan-{number}",
        key=opportunity().key,
        result=result,
        reason=reason,
        detail="",
        block=100 + number,
        tx_hash=TxHash(bytes(32)),
        gas_cost_wei=Wei(HUGE),
        realised=Realised(TokenAmount(HUGE), TokenAmount(3), TokenAmount(HUGE + 9)) if result is Result.WON else None,
        opportunity=opportunity(),
    )


def decision(
    block: int, account: Address = address(1), reason: Reason | None = Reason.UNPROFITABLE, plan_id: str | None = None
) -> DecisionRecord:
    return DecisionRecord(
        key=PositionKey("aave", PositionId(account)),
        block=block,
        decision=Decision.ACCEPTED if plan_id else Decision.SKIPPED,
        reason=None if plan_id else reason,
        plan_id=plan_id,
        health_factor_wad=10**18 - block,
        debt_base=HUGE,
        profit_base=-block,
        detail=f"at {block}",
    )
