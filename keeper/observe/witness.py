"""The witness: takes the facts that the network door and the sender tell, as log lines and as numbers."""

from keeper.observe.events import Event, emit
from keeper.observe.metrics import Metrics


class Witness:
    """Fits every part's `Observer` port; it neither raises nor waits."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def event(self, name: str, /, **fields: object) -> None:
        """Log an event, and count it where it counts."""
        emit(name, **fields)
        if name == Event.RPC_NODE_STATE:
            self._metrics.node_state(str(fields.get("node")), str(fields.get("state")))
        elif name == Event.CHAIN_REORG:
            self._metrics.reorgs.inc()

    def reached(self, step: str, /) -> None:
        """Take that a transaction's life has reached a step: its events and numbers tell of it."""

    def request(self, *, node: str, method: str, result: str, seconds: float, requests: int) -> None:
        """Count one exchange with a node: `requests` JSON-RPC calls that shared one round trip."""
        self._metrics.rpc_requests.at(node=node, method=method, result=result).inc()
        self._metrics.rpc_calls.at(node=node).inc(requests)
        self._metrics.rpc_latency_seconds.at(node=node, method=method).observe(seconds)

    def transaction(self, state: str) -> None:
        """Count one transaction that reached a state."""
        self._metrics.tx.at(state=state).inc()

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Take the nonce lane's numbers."""
        self._metrics.nonce_mined.set(mined_nonce)
        self._metrics.nonce_next.set(next_nonce)
        self._metrics.inflight.set(in_flight)
        self._metrics.nonce_gap.set(gap)

    def gas_spent(self, cost_wei: int) -> None:
        """Add what a final transaction cost."""
        self._metrics.gas_spent_wei.inc(cost_wei)

    def inclusion(self, blocks: int) -> None:
        """Take how many blocks a transaction waited."""
        self._metrics.tx_inclusion_blocks.observe(blocks)
