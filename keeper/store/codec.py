"""Rows to values and back. Integers that may exceed 64 bits travel as decimal strings."""

import json
from typing import Any, Final

from sqlalchemy import RowMapping

from keeper.domain.chain import Call, Moment
from keeper.domain.outcome import Reason, Result
from keeper.domain.plan import Outcome, Realised
from keeper.domain.position import Action, Opportunity, PositionKey, Proceeds, Token
from keeper.domain.units import Address, Base, BlockHash, PositionId, TokenAmount, TxHash, Wei
from keeper.store.records import (
    Attempt,
    AttemptKind,
    AttemptState,
    Ending,
    Inclusion,
    Intent,
    IntentState,
    Purpose,
    Route,
)

_AMOUNTS: Final = (
    "repay_amount",
    "repay_limit",
    "repay_base",
    "seized_amount",
    "seized_base",
    "protocol_fee_amount",
)


def position_key(row: RowMapping) -> PositionKey:
    """Read which position a row is about."""
    return PositionKey(row["market"], PositionId(row["account"] + row["part"]))


def opportunity_to_json(opportunity: Opportunity | None) -> str | None:
    """Write an opportunity as JSON."""
    if opportunity is None:
        return None
    fields: dict[str, Any] = {name: str(getattr(opportunity, name)) for name in _AMOUNTS}
    fields["market"] = opportunity.key.market
    fields["id"] = opportunity.key.id.hex()
    fields["spender"] = opportunity.spender.hex() if opportunity.spender else None
    fields["target"] = opportunity.target.hex()
    fields["terms"] = opportunity.terms.hex()
    fields["action"] = opportunity.action.value
    fields["at"] = [opportunity.at.block, opportunity.at.time_s]
    fields["proceeds"] = _proceeds_to_json(opportunity.proceeds)
    for side in ("repay", "seize"):
        token: Token = getattr(opportunity, side)
        fields[side] = [token.address.hex(), token.symbol, token.decimals]
    return json.dumps(fields, separators=(",", ":"), sort_keys=True)


def opportunity_from_json(document: str | None) -> Opportunity | None:
    """Read an opportunity back."""
    if document is None:
        return None
    fields = json.loads(document)
    return Opportunity(
        key=PositionKey(fields["market"], PositionId(bytes.fromhex(fields["id"]))),
        repay=_token(fields["repay"]),
        repay_amount=TokenAmount(int(fields["repay_amount"])),
        repay_limit=TokenAmount(int(fields["repay_limit"])),
        repay_base=Base(int(fields["repay_base"])),
        seize=_token(fields["seize"]),
        seized_amount=TokenAmount(int(fields["seized_amount"])),
        seized_base=Base(int(fields["seized_base"])),
        protocol_fee_amount=TokenAmount(int(fields["protocol_fee_amount"])),
        spender=Address(bytes.fromhex(fields["spender"])) if fields["spender"] else None,
        target=Address(bytes.fromhex(fields["target"])),
        at=Moment(*fields["at"]),
        terms=bytes.fromhex(fields["terms"]),
        action=Action(fields["action"]),
        proceeds=_proceeds(fields.get("proceeds")),  # older rows have none
    )


def intent_row(intent: Intent) -> dict[str, Any]:
    """Return an intent as a row."""
    key = intent.opportunity.key if intent.opportunity else None
    mined = intent.inclusion
    return {
        "id": intent.id,
        "sender": intent.sender,
        "nonce": intent.nonce,
        "purpose": intent.purpose.value,
        "state": intent.state.value,
        "plan_id": intent.plan_id,
        "market": key.market if key else None,
        "account": key.account if key else None,
        "part": key.part if key else b"",
        "target": intent.call.to,
        "data": intent.call.data,
        "value_wei": intent.call.value_wei,
        "gas_limit": intent.gas_limit,
        "fee_limit_wei": intent.fee_limit_wei,
        "profit_base": intent.profit_base,
        "created_block": intent.created_block,
        "reason": intent.reason.value if intent.reason else None,
        "detail": intent.detail,
        "opportunity": opportunity_to_json(intent.opportunity),
        "mined_tx": mined.tx_hash if mined else None,
        "mined_block": mined.block if mined else None,
        "mined_hash": mined.block_hash if mined else None,
        "gas_cost_wei": mined.gas_cost_wei if mined else 0,
        "created_s": intent.created_s,
        "settled_s": intent.settled_s,
    }


def read_intent(row: RowMapping) -> Intent:
    """Return a row as an intent."""
    inclusion = None
    if row["mined_block"] is not None:
        tx_hash = None if row["mined_tx"] is None else TxHash(row["mined_tx"])
        inclusion = Inclusion(tx_hash, row["mined_block"], BlockHash(row["mined_hash"]), Wei(row["gas_cost_wei"]))
    return Intent(
        id=row["id"],
        sender=Address(row["sender"]),
        nonce=row["nonce"],
        purpose=Purpose(row["purpose"]),
        state=IntentState(row["state"]),
        call=Call(Address(row["target"]), row["data"], Wei(row["value_wei"])),
        gas_limit=row["gas_limit"],
        fee_limit_wei=Wei(row["fee_limit_wei"]),
        created_block=row["created_block"],
        plan_id=row["plan_id"],
        opportunity=opportunity_from_json(row["opportunity"]),
        profit_base=Base(row["profit_base"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"],
        inclusion=inclusion,
        created_s=row["created_s"],
        settled_s=row["settled_s"],
    )


def attempt_row(intent_id: str, number: int, attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as a row; `number` is its place among the attempts of its intent."""
    return {
        "tx_hash": attempt.tx_hash,
        "intent_id": intent_id,
        "nonce": attempt.nonce,
        "kind": attempt.kind.value,
        "state": attempt.state.value,
        "max_fee_wei": attempt.max_fee_wei,
        "tip_wei": attempt.tip_wei,
        "gas_limit": attempt.gas_limit,
        "raw": attempt.raw,
        "first_block": attempt.first_block,
        "route": attempt.route.value,
        "expires_block": attempt.expires_block,
        "number": number,
    }


def read_attempt(row: RowMapping) -> Attempt:
    """Return a row as an attempt."""
    return Attempt(
        tx_hash=TxHash(row["tx_hash"]),
        nonce=row["nonce"],
        kind=AttemptKind(row["kind"]),
        state=AttemptState(row["state"]),
        max_fee_wei=Wei(row["max_fee_wei"]),
        tip_wei=Wei(row["tip_wei"]),
        gas_limit=row["gas_limit"],
        raw=row["raw"],
        first_block=row["first_block"],
        route=Route(row["route"]),
        expires_block=row["expires_block"],
    )


def outcome_row(ending: Ending) -> dict[str, Any]:
    """Return an outcome as a row."""
    outcome = ending.outcome
    return {
        "intent_id": ending.intent_id,
        "plan_id": outcome.plan_id,
        "market": outcome.key.market,
        "account": outcome.key.account,
        "part": outcome.key.part,
        "result": outcome.result.value,
        "reason": outcome.reason.value if outcome.reason else None,
        "detail": outcome.detail,
        "block": outcome.block,
        "tx_hash": outcome.tx_hash,
        "gas_cost_wei": outcome.gas_cost_wei,
        "repaid_amount": outcome.realised.repaid_amount if outcome.realised else None,
        "seized_amount": outcome.realised.seized_amount if outcome.realised else None,
        "profit_amount": outcome.realised.profit_amount if outcome.realised else None,
        "opportunity": opportunity_to_json(outcome.opportunity),
    }


def read_outcome(row: RowMapping) -> Outcome:
    """Return a row as an outcome."""
    realised = None
    if row["repaid_amount"] is not None:
        profit = None if row["profit_amount"] is None else TokenAmount(row["profit_amount"])
        realised = Realised(TokenAmount(row["repaid_amount"]), TokenAmount(row["seized_amount"]), profit)
    return Outcome(
        plan_id=row["plan_id"],
        key=position_key(row),
        result=Result(row["result"]),
        reason=Reason(row["reason"]) if row["reason"] else None,
        detail=row["detail"],
        block=row["block"],
        tx_hash=None if row["tx_hash"] is None else TxHash(row["tx_hash"]),
        gas_cost_wei=Wei(row["gas_cost_wei"]),
        realised=realised,
        opportunity=opportunity_from_json(row["opportunity"]),
    )


def _proceeds_to_json(proceeds: Proceeds | None) -> dict[str, Any] | None:
    if proceeds is None:
        return None
    token = proceeds.token
    amounts = {"amount": str(proceeds.amount), "base": str(proceeds.base), "least": str(proceeds.least)}
    amounts["stake_base"] = str(proceeds.stake_base)
    return {"token": [token.address.hex(), token.symbol, token.decimals], **amounts}


def _proceeds(fields: dict[str, Any] | None) -> Proceeds | None:
    if fields is None:
        return None
    amount, least = TokenAmount(int(fields["amount"])), TokenAmount(int(fields["least"]))
    return Proceeds(_token(fields["token"]), amount, Base(int(fields["base"])), least, Base(int(fields["stake_base"])))


def _token(fields: list[Any]) -> Token:
    return Token(Address(bytes.fromhex(fields[0])), fields[1], fields[2])
