"""Metrics: numbers for Prometheus, in a registry of our own, with a bounded number of series."""

from collections.abc import Sequence
from math import nan
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from keeper.domain.ports import Clock

M = TypeVar("M", Counter, Gauge, Histogram)

OTHER: Final = "other"
MAX_VALUES: Final = 64
"""Different values that one label can have before the rest is `other`."""
MAX_SERIES: Final = 512
"""Combinations of labels that one metric can have before the rest is `other` altogether."""
MAX_LABEL: Final = 64

LATENCY_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SCAN_S: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
DIFFERENCES: Final = (-1.0, -0.1, -0.01, -0.001, 0.0, 0.001, 0.01, 0.1, 1.0)
BLOCKS: Final = (1, 2, 3, 5, 8, 13, 21, 50)


class Bounded(Generic[M]):
    """A metric with labels whose values the world chooses: what exceeds the bounds is counted as `other`."""

    def __init__(self, metric: M, labels: Sequence[str]) -> None:
        self._metric: M = metric
        self._values: dict[str, set[str]] = {label: set() for label in labels}
        self._series: set[tuple[str, ...]] = set()

    def at(self, **labels: str) -> M:
        """Return the series of some label values."""
        values = tuple(self._bound(label, str(labels.get(label, ""))) for label in self._values)
        if values not in self._series:
            if len(self._series) >= MAX_SERIES:
                values = (OTHER,) * len(values)
            self._series.add(values)
        series: M = self._metric.labels(*values)
        return series

    def _bound(self, label: str, value: str) -> str:
        known = self._values[label]
        if value in known:
            return value
        if len(known) >= MAX_VALUES or len(value) > MAX_LABEL or not (value.isascii() and value.isprintable()):
            return OTHER
        known.add(value)
        return value


class Metrics:
    """Every number that the keeper shows; the names begin with `keeper_`."""

    def __init__(self, *, clock: Clock, version: str, chain: str, mode: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for every counter, to say when it began
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._clock = clock
        self._head_timestamp_s: int | None = None
        self._node_states: dict[str, str] = {}
        build = self._gauge("build_info", "The program that runs", "version", "chain", "mode")
        build.at(version=version, chain=chain, mode=mode).set(1)
        self._chain()
        self._network()
        self._decisions()
        self._transactions()

    def _chain(self) -> None:
        self.head_block = self._plain_gauge("head_block", "Number of the newest block")
        age = self._plain_gauge("head_age_seconds", "Age of the newest block; NaN before the first")
        age.set_function(self._head_age_s)
        self.loop_lag_seconds = self._plain_gauge("loop_lag_seconds", "How late the event loop's last heartbeat was")
        self.tasks = self._plain_gauge("tasks", "Tasks of the event loop at its last heartbeat")
        self.reorgs = self._plain_counter("reorgs", "Reorganisations followed")
        self.scan_seconds = self._histogram("scan_seconds", "Time of one pass, by stage", SCAN_S, "stage")
        self.invariant_violations = self._counter(
            "invariant_violations", "Times that something which must always be true was not", "id"
        )
        self.log_dropped = self._plain_counter("log_dropped", "Log lines lost because nobody read them")

    def _network(self) -> None:
        self.rpc_requests = self._counter("rpc_requests", "Requests to nodes", "node", "method", "result")
        self.rpc_calls = self._counter("rpc_calls", "JSON-RPC calls within those requests", "node")
        self.rpc_latency_seconds = self._histogram(
            "rpc_latency_seconds", "Time to an answer", LATENCY_S, "node", "method"
        )
        self._rpc_node_state = self._gauge("rpc_node_state", "1 for the state that a node is in", "node", "state")

    def _decisions(self) -> None:
        self.positions = self._gauge("positions", "Positions watched", "market")
        self.positions_liquidatable = self._gauge("positions_liquidatable", "Positions to liquidate now", "market")
        self.quarantined = self._plain_gauge("quarantined", "Positions with impossible values")
        self.prices_quarantined = self._gauge("prices_quarantined", "Prices that are not acted upon", "market")
        self.parity_checks = self._counter("parity_checks", "Positions compared with the protocol's view", "result")
        self.decisions = self._counter("decisions", "Decisions on liquidatable positions", "outcome", "reason")

    def _transactions(self) -> None:
        self.tx = self._counter("tx", "Transactions that reached a state", "state")
        self.tx_inclusion_blocks = self._plain_histogram("tx_inclusion_blocks", "Blocks until mined", BLOCKS)
        self.nonce_mined = self._plain_gauge("nonce_mined", "Transactions of ours that were ever mined")
        self.nonce_next = self._plain_gauge("nonce_next", "Nonce of the next transaction")
        self.nonce_gap = self._plain_gauge("nonce_gap", "Nonces below ours that no live transaction has")
        self.inflight = self._plain_gauge("inflight", "Transactions that are neither mined nor given up")
        self.gas_spent_wei = self._plain_counter("gas_spent_wei", "Paid for gas")
        self.profit_usd = self._plain_gauge("profit_usd", "Realised by liquidations since the start, before gas")
        self.profit_difference = self._plain_histogram(
            "profit_difference_ratio", "Realised less planned profit of a trade, in planned ones", DIFFERENCES
        )
        self.balance_wei = self._plain_gauge("balance_wei", "The signer's native balance")

    def head(self, number: int, timestamp_s: int) -> None:
        """Take the newest block."""
        self.head_block.set(number)
        self._head_timestamp_s = timestamp_s

    def node_state(self, node: str, state: str) -> None:
        """Move a node from the state it was in to another."""
        before = self._node_states.get(node)
        if before is not None:
            self._rpc_node_state.at(node=node, state=before).set(0)
        if before is not None or len(self._node_states) < MAX_VALUES:
            self._node_states[node] = state
        self._rpc_node_state.at(node=node, state=state).set(1)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return every series as text, and its content type, in the dialect that a client accepts."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def _head_age_s(self) -> float:
        return nan if self._head_timestamp_s is None else self._clock.unix_s() - self._head_timestamp_s

    def _plain_counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, namespace="keeper", registry=self.registry)

    def _plain_gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, namespace="keeper", registry=self.registry)

    def _plain_histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, namespace="keeper", buckets=buckets, registry=self.registry)

    def _counter(self, name: str, meaning: str, *labels: str) -> Bounded[Counter]:
        return Bounded(Counter(name, meaning, labels, namespace="keeper", registry=self.registry), labels)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Bounded[Gauge]:
        return Bounded(Gauge(name, meaning, labels, namespace="keeper", registry=self.registry), labels)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Bounded[Histogram]:
        made = Histogram(name, meaning, labels, namespace="keeper", buckets=buckets, registry=self.registry)
        return Bounded(made, labels)
