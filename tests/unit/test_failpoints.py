"""Failpoints: what a description means, where it is refused, and that a process told to die really dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

from keeper.domain.units import Wei
from keeper.errors import ConfigurationError
from keeper.execution.ports import Observer, SilentObserver
from keeper.failpoints import STEPS, Deed, Failpoint, FailpointReached, Failpoints, Saboteur


class Listener(SilentObserver):
    """Keeps everything that it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def event(self, name: str, /, **fields: object) -> None:
        self.told.append((name, fields))

    def reached(self, step: str, /) -> None:
        self.told.append(step)

    def transaction(self, state: str) -> None:
        self.told.append(state)

    def lane(self, *, mined_nonce: int, next_nonce: int, in_flight: int, gap: int) -> None:
        self.told.append((mined_nonce, next_nonce, in_flight, gap))

    def gas_spent(self, cost_wei: Wei) -> None:
        self.told.append(cost_wei)

    def inclusion(self, blocks: int) -> None:
        self.told.append(blocks)


def test_a_description_names_steps_deeds_and_times():
    found = Failpoints.parse("after_sign=exit137, before_send=stall:0.5,after_ack=raise@2 , mid_shutdown = stop")
    assert found.points == (
        Failpoint("after_sign", Deed.EXIT),
        Failpoint("before_send", Deed.STALL, stall_s=0.5),
        Failpoint("after_ack", Deed.RAISE, at=2),
        Failpoint("mid_shutdown", Deed.STOP),
    )


@pytest.mark.parametrize("text", ["", "  ", " , "])
def test_no_description_is_no_failpoint(text: str):
    assert Failpoints.parse(text) == Failpoints()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("after_lunch=raise", "after_lunch"),
        ("after_sign", "after_sign"),
        ("after_sign=explode", "explode"),
        ("after_sign=exit", "after_sign=exit"),
        ("after_sign=raise@0", "raise@0"),
        ("after_sign=raise@x", "raise@x"),
        ("after_sign=stall", "seconds"),
        ("after_sign=raise:3", "seconds"),
        ("after_sign=stall:-1", "stall:-1"),
        ("after_sign=stall:99999", "stalls"),
        ("after_sign=raise; rm -rf", "rm -rf"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, what: str):
    with pytest.raises(ConfigurationError) as refused:
        Failpoints.parse(text)
    assert what in str(refused.value)
    assert "KEEPER_FAILPOINTS" in str(refused.value)


def test_every_problem_is_told_at_once():
    with pytest.raises(ConfigurationError) as refused:
        Failpoints.parse("nowhere=raise, after_ack=raise, after_sign=nothing")
    assert len(refused.value.problems) == 2


def test_failpoints_are_for_chains_without_money():
    for chain_id in (1_337, 31_337):
        Failpoints.parse("after_sign=raise").allow_on(chain_id)
    with pytest.raises(ConfigurationError, match="chain 1: unset it"):
        Failpoints.parse("after_sign=raise").allow_on(1)
    Failpoints().allow_on(1)


def test_a_saboteur_passes_everything_on():
    listener = Listener()
    front: Observer = Saboteur(listener, Failpoints())
    front.event("tx.mined", nonce=1)
    for step in sorted(STEPS):
        front.reached(step)
    front.transaction("mined")
    front.lane(mined_nonce=1, next_nonce=2, in_flight=3, gap=4)
    front.gas_spent(Wei(5))
    front.inclusion(6)
    assert listener.told == [("tx.mined", {"nonce": 1}), *sorted(STEPS), "mined", (1, 2, 3, 4), 5, 6]


def test_a_deed_is_done_the_time_it_is_meant_for_and_never_again():
    listener = Listener()
    front = Saboteur(listener, Failpoints.parse("after_ack=raise@2"))
    front.reached("after_ack")
    front.reached("after_sign")
    with pytest.raises(FailpointReached, match="after_ack"):
        front.reached("after_ack")
    front.reached("after_ack")
    assert listener.told == ["after_ack", "after_sign", "after_ack", "after_ack"]


def test_a_stall_holds_the_whole_process():
    front = Saboteur(Listener(), Failpoints.parse("after_ack=stall:0.05"))
    begun_s = time.monotonic()
    front.reached("after_ack")
    assert time.monotonic() - begun_s >= 0.05


def program(deed: str) -> "subprocess.Popen[str]":
    code = (
        "import atexit, sys\n"
        "from keeper.execution.ports import SilentObserver\n"
        "from keeper.failpoints import Failpoints, Saboteur\n"
        "atexit.register(print, 'goodbye', flush=True)\n"
        "print('here', flush=True)\n"
        f"Saboteur(SilentObserver(), Failpoints.parse('after_sign={deed}')).reached('after_sign')\n"
        "print('beyond', flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_process_told_to_die_leaves_no_last_word():
    with program("exit137") as process:
        said, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert said == "here\n"


def test_a_process_told_to_stop_goes_on_when_it_is_woken():
    with program("stop") as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said == "here\nbeyond\ngoodbye\n"
