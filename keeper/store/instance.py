"""One keeper per state directory and chain: a lock that the operating system frees however the process ends."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Self

from keeper.errors import AlreadyRunning
from keeper.store.faults import Fault, StoreFailed

OBSERVER: Final = "observer"
_NETWORK_FILE_SYSTEMS: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "fuse.sshfs"})


class InstanceLock:
    """Hold a chain's files in a state directory until `release` or the end of the process."""

    def __init__(self, descriptor: int) -> None:
        """Take over a locked file; use `acquire` to make one."""
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, state_dir: Path, chain_id: int, owner: str = OBSERVER) -> Self:
        """Lock the chain's files for `owner`, a signer's address, and leave our process id in the lock file.

        Raises: AlreadyRunning, naming the other process; StoreFailed where nothing can be locked.
        """
        path = state_dir / f"keeper-{chain_id}.lock"
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _refuse_network(state_dir)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            raise StoreFailed(Fault.READ_ONLY, path) from None
        except OSError as error:
            fault = Fault.READ_ONLY if error.errno == errno.EROFS else Fault.CANNOT_OPEN
            raise StoreFailed(fault, path, error.strerror or "") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "an unknown process"
            os.close(descriptor)
            raise AlreadyRunning(
                f"{path}: held by {holder}: stop it, or give this keeper another state directory"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"pid {os.getpid()} (chain {chain_id}, {owner})\n".encode())
        return cls(descriptor)

    def release(self) -> None:
        """Let the next keeper in. The file stays: removing it would let two in."""
        os.close(self._descriptor)


def _refuse_network(state_dir: Path) -> None:
    """Refuse a network file system, where neither the lock nor a commit can be trusted."""
    kind, best = "", -1
    target = state_dir.resolve()
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return
    for line in mounts.read_text().splitlines():
        _device, point, found, *_rest = line.split(" ")
        place = Path(point.encode().decode("unicode_escape"))
        if target.is_relative_to(place) and len(place.parts) > best:
            kind, best = found, len(place.parts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise StoreFailed(Fault.CANNOT_OPEN, state_dir, f"{kind} is a network file system: use a local disk")
