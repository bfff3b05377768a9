"""The gate before every new transaction: the operator's switches and the budgets, as the store has them."""

from collections.abc import Mapping, Sequence
from typing import Final

from keeper.domain.chain import BlockHead
from keeper.domain.outcome import Reason
from keeper.execution.budget import (
    DAY_S,
    REFUSALS_S,
    Breaker,
    Limit,
    Limits,
    begun_lately,
    refused,
    spent,
)
from keeper.execution.ports import Observer, SilentObserver
from keeper.store.control import Control, Switches
from keeper.store.faults import StoreFailed
from keeper.store.journal import Journal
from keeper.store.records import Purpose, Settled

HALTED: Final = "halted"
PAUSED: Final = "paused"
UNKNOWN: Final = "switches_unknown"
FOREIGN_NONCE: Final = "foreign_nonce"
FINALITY_VIOLATION: Final = "finality_violation"
OVERLAP_S: Final = 900
"""How far back of the last look what ended is read again: a reorganisation may set the time back."""
_REASONS: Final = {HALTED: Reason.OPERATOR_PAUSED, PAUSED: Reason.OPERATOR_PAUSED, UNKNOWN: Reason.STORAGE}


class Warden:
    """Implements `Gate`. Everything is read from the store, so that a restart forgets nothing.

    Paused, nothing new begins; halted, nothing is signed. A budget that is used up and an open breaker let nothing
    begin. Before the first `refresh`, and after one that failed, everything counts as forbidden.
    """

    def __init__(
        self,
        journal: Journal,
        control: Control,
        limits: Limits,
        *,
        halts_on_foreign: bool = False,
        observer: Observer | None = None,
    ) -> None:
        """Watch over the signer whose journal is `journal`; `halts_on_foreign` halts once others use its key."""
        self._journal = journal
        self._control = control
        self._limits = limits
        self._halts_on_foreign = halts_on_foreign
        self._observer: Observer = observer or SilentObserver()
        self._switches: Switches | None = None
        self._known: dict[str, int] = {}
        self._losses: list[Settled] = []
        self._begun: dict[int, tuple[Reason | None, ...]] = {}
        self._breaker = Breaker()
        self._is_probing = False
        self._read_to_s: int | None = None
        self._halt_due: tuple[str, int] | None = None
        self._now_s = 0
        self._told: dict[Limit, int] = {}
        self._told_switch: str | None = None

    @property
    def is_halted(self) -> bool:
        """Return whether nothing at all may be signed, not even a replacement."""
        return self._switches is None or self._switches.halted

    @property
    def holds(self) -> Mapping[str, str]:
        """Return what lets nothing begin at present, each with its figures; nothing where all is free."""
        return self._holds(self._now_s)

    async def refresh(self, head: BlockHead) -> None:
        """Read the switches and what was spent lately, and tell what has changed.

        Raises: StoreFailed.
        """
        now_s = head.timestamp_s
        since_s = now_s - 2 * DAY_S if self._read_to_s is None else self._read_to_s - OVERLAP_S
        try:
            await self._halt()
            switches = await self._control.read()
            ended = await self._journal.settled_since(since_s)
            begun = await self._journal.begun_since(now_s - REFUSALS_S)
            self._learn(ended, now_s)
            self._is_probing = self._breaker.is_half_open(now_s) and await self._has_probe()
        except StoreFailed:
            self._switches = None
            raise
        self._remember(begun, now_s)
        self._switches, self._read_to_s = switches, now_s
        self._tell(now_s)

    def admit(self, wanted: int, head: BlockHead) -> tuple[int, Reason, str]:
        """Return how many of `wanted` transactions may begin now, and why not more."""
        now_s = head.timestamp_s
        for name, detail in self._holds(now_s).items():
            return 0, _REASONS.get(name, Reason.BUDGET), f"{name}: {detail}"
        count = min(wanted, self._limits.transactions_per_minute - begun_lately(self._history, now_s))
        why = f"{Limit.TRANSACTIONS_PER_MINUTE}: {self._limits.transactions_per_minute}"
        if self._breaker.is_half_open(now_s):
            count, why = min(count, 1), f"{Limit.BREAKER}: one transaction decides"
            self._is_probing = count > 0
        self._begun[now_s] = (*self._begun.get(now_s, ()), *[None] * count)
        self._tell(now_s)
        return count, Reason.BUDGET if count < wanted else Reason.UNKNOWN, why if count < wanted else ""

    async def intruded(self, head: BlockHead, nonce: int) -> None:
        """Halt for good, if the policy says so: somebody else has used the key.

        Raises: StoreFailed.
        """
        del nonce
        if not self._halts_on_foreign or (self._switches is not None and self._switches.halted):
            return
        await self._halt_for(FOREIGN_NONCE, head)

    async def violated(self, head: BlockHead, detail: str) -> None:
        """Halt for good, whatever the policy: what counted as final is gone from the chain.

        Raises: StoreFailed.
        """
        await self._halt_for(f"{FINALITY_VIOLATION}: {detail}", head)

    async def _halt_for(self, reason: str, head: BlockHead) -> None:
        was_paused = self._switches is not None and self._switches.paused
        self._switches = Switches(was_paused, halted=True, reason=reason, since_s=head.timestamp_s)
        self._tell(head.timestamp_s)
        self._halt_due = reason, head.timestamp_s
        await self._halt()

    async def _halt(self) -> None:
        """Write down that it is halted; what could not be written is tried again before the next read."""
        if self._halt_due is not None:
            reason, at_s = self._halt_due
            await self._control.set_halted(True, reason=reason, at_s=at_s)
            self._halt_due = None

    def _learn(self, ended: Sequence[Settled], now_s: int) -> None:
        """Take what has ended since the last time, in order; some of it is known already."""
        for each in ended:
            if each.intent_id not in self._known:
                self._known[each.intent_id] = each.settled_s
                self._breaker = self._breaker.after(each, self._limits)
                self._losses += [each] if each.is_loss else []
        self._known = {name: at_s for name, at_s in self._known.items() if at_s > now_s - 2 * OVERLAP_S}
        self._losses = [each for each in self._losses if each.settled_s > now_s - DAY_S]

    def _remember(self, begun: Sequence[tuple[int, Reason | None]], now_s: int) -> None:
        """Take what began, by the time of its head; the same transaction tried again has one row in the journal."""
        found: dict[int, tuple[Reason | None, ...]] = {}
        for created_s, reason in begun:
            found[created_s] = (*found.get(created_s, ()), reason)
        kept = self._begun | found
        self._begun = {created_s: kept[created_s] for created_s in sorted(kept) if created_s > now_s - REFUSALS_S}

    @property
    def _history(self) -> Sequence[tuple[int, Reason | None]]:
        return [(created_s, reason) for created_s, reasons in self._begun.items() for reason in reasons]

    async def _has_probe(self) -> bool:
        """Return whether the transaction that decides for a half-open breaker is on its way."""
        return any(
            entry.intent.purpose is Purpose.LIQUIDATION and entry.intent.created_s >= self._breaker.until_s
            for entry in await self._journal.open_entries()
        )

    def _holds(self, now_s: int) -> dict[str, str]:
        return self._forbidden() | {limit.value: detail for limit, detail in self._used_up(now_s).items()}

    def _forbidden(self) -> dict[str, str]:
        switches = self._switches
        if switches is None:
            return {UNKNOWN: "the store has not been read"}
        found = {HALTED: switches.halted, PAUSED: switches.paused}
        return {name: switches.reason for name, is_on in found.items() if is_on}

    def _used_up(self, now_s: int) -> dict[Limit, str]:
        """Return the limits that let nothing begin."""
        found = spent(self._losses, self._limits, now_s) | refused(self._history, now_s)
        most = self._limits.transactions_per_minute
        if begun_lately(self._history, now_s) >= most:
            found[Limit.TRANSACTIONS_PER_MINUTE] = f"{most} have begun"
        if self._breaker.is_open(now_s) or self._is_probing:
            found[Limit.BREAKER] = self._verdict()
        return found

    def _verdict(self) -> str:
        breaker = self._breaker
        return f"{breaker.losses} in a row won nothing; closed for {breaker.pause_s} s, then one transaction decides"

    def _tell(self, now_s: int) -> None:
        """Tell of each limit and switch once when it comes and once when it goes."""
        self._now_s = now_s
        details = self._used_up(now_s)
        if self._breaker.pause_s:
            details[Limit.BREAKER] = self._verdict()  # half open it is not lifted yet
        found = {limit: self._breaker.until_s if limit is Limit.BREAKER else 0 for limit in details}
        for limit, until_s in found.items():
            if self._told.get(limit) != until_s:
                self._observer.event("limit.tripped", limit=limit.value, detail=details[limit])
        for limit in self._told.keys() - found.keys():
            self._observer.event("limit.lifted", limit=limit.value)
        self._told = found
        self._tell_switch()

    def _tell_switch(self) -> None:
        found = self._forbidden()
        switch = next(iter(found), None)
        if switch == self._told_switch:
            return
        self._told_switch = switch
        if switch is None:
            self._observer.event("keeper.resumed")
        else:
            self._observer.event("keeper.paused", reason=found[switch] or switch, switch=switch)
