"""A witness that also looks after requests and health."""

from keeper.observe.events import Event
from keeper.observe.health import Health
from keeper.observe.metrics import Metrics
from keeper.observe.witness import Witness


class Attendant(Witness):
    """A witness that also counts requests, and tells health of the nonce lane and of a journal that fails."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        super().__init__(metrics)
        self._health = health
        self._mined_nonce = -1
        self.requests_made = 0

    def event(self, name: str, /, **fields: object) -> None:
        """Log an event; where the sender cannot write its journal, nothing can be sent."""
        super().event(name, **fields)
        if name in {Event.STORAGE_ERROR, Event.STORAGE_FULL, Event.STORAGE_RECOVERED}:
            self._health.storage(is_ok=name == Event.STORAGE_RECOVERED)

    def request(self, *, node: str, method: str, result: str, seconds: float, requests: int) -> None:
        """Count one exchange with a node."""
        self.requests_made += 1
        super().request(node=node, method=method, result=result, seconds=seconds, requests=requests)

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        """Take the nonce lane's numbers."""
        is_moving = mined_nonce != self._mined_nonce
        self._mined_nonce = mined_nonce
        self._health.nonce(is_stuck=(in_flight > 0 and not is_moving) or gap > 0)
        super().lane(mined_nonce=mined_nonce, next_nonce=next_nonce, in_flight=in_flight, gap=gap)
