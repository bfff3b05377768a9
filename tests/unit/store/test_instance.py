"""One keeper per state directory and chain, freed by the operating system however the other one ends."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keeper.errors import AlreadyRunning, ExitCode
from keeper.store import instance
from keeper.store.faults import Fault, StoreFailed
from keeper.store.instance import InstanceLock

ROOT = Path(__file__).parents[3]


def test_sto_06_a_second_keeper_is_refused_and_told_who_is_first_until_that_is_killed(tmp_path: Path):
    program = f"""
from pathlib import Path
from keeper.store.instance import InstanceLock
lock = InstanceLock.acquire(Path({str(tmp_path)!r}), 1, "0xabc")
print("held", flush=True)
input()
"""
    first = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None
    assert first.stdin is not None
    try:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(AlreadyRunning) as refused:
            InstanceLock.acquire(tmp_path, 1, "0xabc")
        assert f"pid {first.pid} (chain 1, 0xabc)" in str(refused.value)
        assert refused.value.exit_code == ExitCode.ALREADY_RUNNING
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
        first.stdin.close()
        first.stdout.close()
    InstanceLock.acquire(tmp_path, 1, "0xabc").release()


def test_other_chains_share_a_state_directory(tmp_path: Path):
    locks = [InstanceLock.acquire(tmp_path, chain_id) for chain_id in (1, 10)]
    with pytest.raises(AlreadyRunning, match="observer"):
        InstanceLock.acquire(tmp_path, 10, "0xabc")
    for lock in locks:
        lock.release()


def test_the_state_directory_is_made_private(tmp_path: Path):
    lock = InstanceLock.acquire(tmp_path / "a" / "b", 1)
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    lock.release()


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreFailed) as failed:
        InstanceLock.acquire(tmp_path / "file", 1)
    assert failed.value.fault is Fault.CANNOT_OPEN


def test_sto_05_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(instance, "_NETWORK_FILE_SYSTEMS", frozenset(_kinds()))
    with pytest.raises(StoreFailed, match="network file system"):
        InstanceLock.acquire(tmp_path, 1)


def _kinds() -> set[str]:
    return {line.split(" ")[2] for line in Path("/proc/self/mounts").read_text().splitlines()}
