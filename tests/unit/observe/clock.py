"""A clock that stands still until it is moved."""


class StoppedClock:
    def __init__(self, unix_s: float = 1_000_000.0) -> None:
        self.unix = unix_s
        self.monotonic = 50.0

    def unix_s(self) -> float:
        return self.unix

    def monotonic_s(self) -> float:
        return self.monotonic

    def forward(self, seconds: float) -> None:
        self.unix += seconds
        self.monotonic += seconds
