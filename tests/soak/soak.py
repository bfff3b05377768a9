"""A soak from beginning to end: the keeper at work, one fault after another, a rest, and the verdicts."""

import asyncio
import platform
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from os import cpu_count, getloadavg
from pathlib import Path
from typing import Final

from tests.soak.faults import KINDS, Kind
from tests.soak.figures import Happened, Report, Sample, Wish
from tests.soak.load import Load
from tests.soak.scene import Scene, scene_of
from tests.soak.verdicts import judge

Tell = Callable[[str], None]

START_LIMIT_S: Final = 60.0
RECOVERY_LIMIT_S: Final = 60.0
REST_LIMIT_S: Final = 120.0
_RESTARTS_UNTIL: Final = 0.4
"""After this share of the time the process is left alive, so that there is one that lives long enough to be measured."""
_RESTARTS_SHARE: Final = 0.3
_QUIET_HEADS: Final = 4
_POLL_S: Final = 0.1


async def soak(wish: Wish, folder: Path, tell: Tell) -> Report:
    """Run it in an empty folder and return what was found."""
    report = Report(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        wish=wish,
        machine={
            "system": f"{platform.system()} {platform.release()}",
            "processors": str(cpu_count()),
            "python": platform.python_version(),
            "load": " ".join(f"{each:.2f}" for each in getloadavg()),
        },
    )
    begun_s = time.monotonic()
    async with scene_of(wish, folder) as scene:
        load = Load(scene)
        scene.keeper.start()
        async with _beside(scene, report):
            await _until(lambda: scene.keeper.height > 0, START_LIMIT_S, "the keeper made no pass")
            tell(f"the keeper is at work as {scene.operator.address}")
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run(wish.seconds), name="load")
                group.create_task(_direct(scene, report, tell), name="faults")
            tell("no more faults: waiting for what is in flight")
            await _rest(scene)
        tell("the chain stands still: reading the books")
        report.verdicts = await judge(scene, report)
        report.alarms = dict(scene.keeper.alarms.most_common())
        report.figures |= {
            "price steps": str(load.steps),
            "bids of the rival": str(load.rival_bids),
            "positions opened meanwhile": str(len(scene.owners) - wish.positions),
            "what the load could not do": str(len(scene.hiccups)),
        }
    report.seconds = time.monotonic() - begun_s
    return report


@asynccontextmanager
async def _beside(scene: Scene, report: Report) -> AsyncIterator[None]:
    """Watch the keeper and run the chain while the body works; what fails there fails the body."""
    async with asyncio.TaskGroup() as group:
        works = (scene.keeper.follow(), scene.tick(), _sample(scene, report.samples))
        tasks = [group.create_task(each) for each in works]
        yield
        for task in tasks:
            task.cancel()


async def _sample(scene: Scene, samples: list[Sample]) -> None:
    """Look at the keeper each second, for ever."""
    while True:
        begun_s = time.monotonic()
        scene.height = await scene.chain.block_number()
        samples.append(await scene.keeper.sample(scene.height))
        await asyncio.sleep(max(0.0, begun_s + 1.0 - time.monotonic()))


async def _direct(scene: Scene, report: Report, tell: Tell) -> None:
    """Let one fault after another happen, in an order that the seed decides; each comes once before any comes again."""
    wish, deck = scene.wish, Deck(scene)
    begun_s = scene.keeper.now_s
    due_s = begun_s + scene.random.uniform(*wish.gap_s)
    while due_s < begun_s + wish.seconds:
        await asyncio.sleep(max(0.0, due_s - scene.keeper.now_s))
        due_s = scene.keeper.now_s + scene.random.uniform(*wish.gap_s)
        kind = deck.draw((scene.keeper.now_s - begun_s) / wish.seconds)
        happened = await _happen(scene, kind, report.samples)
        report.faults.append(happened)
        recovered = "never" if happened.recovery_s is None else f"{happened.recovery_s:.1f} s"
        tell(f"{happened.begin_s:5.0f} s  {kind.name} ({happened.detail}): acting again after {recovered}")


class Deck:
    """Draws faults: each once before any comes again; those that end the process in the first part of the time only."""

    def __init__(self, scene: Scene) -> None:
        self._random = scene.random
        wanted = [
            each
            for each in KINDS
            if (not scene.wish.only or each.name in scene.wish.only)
            and (scene.has_small_disk or each.name != "the disk is full")
        ]
        self._ending = Pile([each for each in wanted if each.ends_process], scene.random)
        self._lasting = Pile([each for each in wanted if not each.ends_process], scene.random)

    def draw(self, share: float) -> Kind:
        """Return the next fault after a share of the time."""
        is_early = share < _RESTARTS_UNTIL
        is_ending = self._ending.kinds and (not self._lasting.kinds or self._random.random() < _RESTARTS_SHARE)
        return (self._ending if is_early and is_ending else self._lasting).take()


class Pile:
    """Some faults in a random order, shuffled again when all have been drawn."""

    def __init__(self, kinds: list[Kind], source: random.Random) -> None:
        self.kinds = kinds
        self._random = source
        self._left: list[Kind] = []
        self._is_shuffled = False

    def take(self) -> Kind:
        """Return the next one.

        Raises: LookupError where there is none.
        """
        if not self._left:
            self._left = [each for each in self.kinds if not (self._is_shuffled and each.is_once)]
            self._random.shuffle(self._left)
            self._is_shuffled = True
        if not self._left:
            raise LookupError("there is no fault that may happen now")
        return self._left.pop()


async def _happen(scene: Scene, kind: Kind, samples: list[Sample]) -> Happened:
    """Let a fault happen and wait until the keeper acts again."""
    begin_s = scene.keeper.now_s
    detail = await kind.does(scene)
    end_s, end_block = scene.keeper.now_s, await scene.chain.block_number()
    happened = Happened(kind.name, detail, begin_s, end_s, end_block)
    ready: bool | None = None
    reasons: tuple[str, ...] = ()
    while scene.keeper.now_s < end_s + RECOVERY_LIMIT_S:
        ready, reasons = await scene.keeper.readiness()
        if ready and _has_passed(scene, end_s, end_block):
            happened.recovery_s = scene.keeper.now_s - end_s
            happened.recovery_blocks = await scene.chain.block_number() - end_block
            break
        await asyncio.sleep(_POLL_S)
    else:
        happened.detail += f"; /readyz says {ready} {' '.join(reasons)}"
    passes = [line["at_s"] for line in scene.keeper.events("chain.head") if line["at_s"] >= begin_s]
    ends = [begin_s, *passes, scene.keeper.now_s]
    happened.longest_pause_s = max(later - earlier for earlier, later in pairwise(ends))
    refused = [each.at_s - begin_s for each in samples if each.at_s >= begin_s and not each.is_ready]
    happened.not_ready_after_s = min(refused, default=None)
    return happened


def _has_passed(scene: Scene, since_s: float, block: int) -> bool:
    """Say whether the keeper made a pass since a moment, at a block or later."""
    return any(
        line["number"] >= block and line["at_s"] > since_s for line in reversed(scene.keeper.events("chain.head")[-20:])
    )


async def _rest(scene: Scene) -> None:
    """Wait until nothing is in flight and nothing is left to do, then stop the chain and let the keeper see its end."""
    deadline_s = scene.keeper.now_s + REST_LIMIT_S
    begun_s = scene.keeper.now_s
    while scene.keeper.now_s < deadline_s:
        heads = [line for line in scene.keeper.events("chain.head")[-_QUIET_HEADS:] if line["at_s"] > begun_s]
        is_quiet = len(heads) == _QUIET_HEADS and not any("in_flight" in each["skipped"] for each in heads)
        accepted = scene.keeper.events("decision.accepted")[-1:]
        if is_quiet and not any(line["at_s"] > heads[0]["at_s"] for line in accepted):
            shown = await scene.keeper.metrics()
            if shown and not shown["keeper_inflight"]:
                break
        await asyncio.sleep(0.5)
    else:
        scene.breaches.append(("N3", f"after {REST_LIMIT_S:.0f} s of rest something is still in flight"))
    await scene.chain.set_interval(0)
    last = await scene.chain.block_number()
    await _until(lambda: scene.keeper.height >= last, START_LIMIT_S, "the keeper does not see the last block")


async def _until(is_so: Callable[[], bool], limit_s: float, otherwise: str) -> None:
    """Wait for something without which there is nothing to judge.

    Raises: TimeoutError.
    """
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > deadline_s:
            raise TimeoutError(otherwise)
        await asyncio.sleep(_POLL_S)
