"""What the bench measures, as plain data: what is printed, drawn and saved."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


def middle(values: Iterable[float]) -> float:
    """Return the median, or NaN of nothing."""
    known = list(values)
    return statistics.median(known) if known else float("nan")


@dataclass(frozen=True, slots=True)
class Steady:
    """Heads in a row at which there was nothing to do. Times are one entry per head."""

    heads: int
    blocks: int
    requests_per_head: float
    calls_per_head: float
    requests_by_method: dict[str, float]
    received_bytes_per_head: float
    sent_bytes_per_head: float
    cpu_ms_per_head: float
    pass_ms: list[float]
    stages_ms: dict[str, list[float]]
    seen_after_ms: list[float]


@dataclass(frozen=True, slots=True)
class Reaction:
    """From one price move to its transactions. `seen`: the daemon took the head; `mined`: the node announced it."""

    positions: int
    transactions: int
    behind_blocks: int
    pass_ms: float
    seen_to_first_ms: float
    seen_to_last_ms: float
    mined_to_first_ms: float
    mined_to_last_ms: float
    landed_after_blocks: list[int]


@dataclass(frozen=True, slots=True)
class Shift:
    """One process of the daemon, from its start to its stop."""

    transport: str
    start: str
    first_pass_s: float
    rss_mib: float
    peak_mib: float
    steady: Steady
    reactions: list[Reaction]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One client that asks `getUserAccountData` for every account, and how long that takes at one head.

    Everything but `sampled` and `sampled_s` is for all accounts: extrapolated linearly where `sampled` are fewer.
    """

    client: str
    sampled: int
    sampled_s: float
    seconds: float
    requests: float
    calls: float
    is_extrapolated: bool


@dataclass(frozen=True, slots=True)
class Size:
    """Everything that was measured with one number of positions."""

    positions: int
    tracked: int
    node_mib: float
    shifts: list[Shift]
    patterns: list[Pattern]


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine alone, over so many rows; times in milliseconds, `suspects` by scan."""

    rows: int
    fill_ms: float
    pack_ms: float
    bytes_per_row: float
    scans_ms: dict[str, float]
    suspects: dict[str, int]
    exact_ms: float
    is_exact_extrapolated: bool


@dataclass(slots=True)
class Screening:
    """The screen alone, over so many rows, by move of the prices; times in milliseconds.

    `scans_ms` is everything, `read_ms` without naming the suspects; `flat_ms` multiplies and adds up all entries with numpy, `plain_ms` does so in plain Python (extrapolated linearly
    beyond 20,000 rows). `read` is how many sorted rows were read.
    """

    rows: int
    fill_ms: float
    build_ms: float
    ranking_bytes: float
    """For each row, of the sorted arrays alone."""
    array_bytes: float
    """For each row, of all of the screen's arrays, without the dictionary of its keys."""
    plain_ms: float = 0.0
    scans_ms: dict[str, float] = field(default_factory=dict)
    read_ms: dict[str, float] = field(default_factory=dict)
    flat_ms: dict[str, float] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    suspects: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Restart:
    """Starts of the daemon without moves, one entry each; times since the process was made.

    `cpu_s` is the processor time, and `calls` the JSON-RPC calls, up to the first decided head, at which the memory was
    read.
    """

    positions: int
    start: str
    first_line_s: list[float]
    first_head_s: list[float]
    cpu_s: list[float]
    calls: list[float]
    rss_mib: list[float]
    peak_mib: list[float]

    @property
    def work_s(self) -> list[float]:
        """Return the times from the first line to the first decided head."""
        return [head - line for line, head in zip(self.first_line_s, self.first_head_s, strict=True)]


@dataclass(slots=True)
class Report:
    """One run."""

    started: str
    machine: dict[str, str]
    settings: dict[str, str]
    sizes: list[Size] = field(default_factory=list)
    engines: list[Engine] = field(default_factory=list)
    screenings: list[Screening] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Write a median with the range around it."""
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    return f"{middle(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"
