"""The addresses that containers are given: no two alike at a time, and each given back, also after a crash.

An address is leased by an exclusive lock, flock(2), on a file of its number. The kernel drops the lock when its holder
ends, however that was; so nothing has to be cleaned up, and a file that nobody has locked means nothing.

What a container needs on the machine has its name from the lease too (``Lease.name``). So whoever holds an address
owns what has its name: anything of it that is there already was left by somebody who is dead, and may be removed.
"""

import contextlib
import errno
import fcntl
import os
import weakref
from collections.abc import Iterator

DIRECTORY = "/run/thinwalls"  # where the files are: on one machine all must use the same
NETWORK, PREFIX = "10.57.0.0", 24  # the containers' network: 10.57.0.0/24
GATEWAY = "10.57.0.1"  # the machine's own address in it
GATEWAY_MAC = "02:57:0a:39:00:01"
NUMBERS = range(2, 255)  # what is left for containers
_LOCK = "lock"


class Lease:
    """An address that is this process's own until give_back(), or until the process ends."""

    def __init__(self, number: int, fd: int):
        self.number = number  # one of NUMBERS
        self._fd = fd  # its file, locked; -1: not ours
        _leases.add(self)

    @property
    def address(self) -> str:
        """The IPv4 address, such as "10.57.0.2"."""
        return f"10.57.0.{self.number}"

    @property
    def mac(self) -> str:
        """The hardware address to go with it. Neighbours remember the pair: so the same one gets the same."""
        return f"02:57:0a:39:00:{self.number:02x}"

    @property
    def name(self) -> str:
        """What things of this container may be called on the machine, such as "walls2": fit for a network device."""
        return f"walls{self.number}"

    def give_back(self) -> None:
        """Let others have the address. More than once does nothing, nor does it in a child of the holder."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            fcntl.flock(fd, fcntl.LOCK_UN)  # close alone would not do: a child may have a copy of the descriptor
            os.close(fd)

    def __del__(self) -> None:
        self.give_back()

    def _forget(self) -> None:
        """In a child: close the copy, or the lock would live as long as the child, though its holder has died."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _forget_all() -> None:
    for each in list(_leases):
        each._forget()


os.register_at_fork(after_in_child=_forget_all)


def lease(directory: str = DIRECTORY) -> Lease:
    """Lease the lowest address that is free. Raises OSError (EADDRNOTAVAIL) if none is."""
    with alone(directory):
        for number in NUMBERS:
            fd = _open(directory, str(number))
            if _lock(fd, fcntl.LOCK_EX):
                return Lease(number, fd)
            os.close(fd)
    raise OSError(errno.EADDRNOTAVAIL, f"All {len(NUMBERS)} addresses for containers are taken")


def in_use(directory: str = DIRECTORY) -> set[int]:
    """The numbers that are leased, by this process or any other. True for as long as one is ``alone``."""
    found = set()
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        if name.isdigit():
            fd = _open(directory, name)
            if not _lock(fd, fcntl.LOCK_SH):
                found.add(int(name))
            os.close(fd)
    return found


@contextlib.contextmanager
def alone(directory: str = DIRECTORY) -> Iterator[None]:
    """Wait until nobody else is in here, and be alone until the end of the block: nobody leases an address meanwhile.

    For what containers have in common, such as a bridge: who makes it, and whether anybody still needs it.
    """
    os.makedirs(directory, exist_ok=True)
    fd = _open(directory, _LOCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _open(directory: str, name: str) -> int:
    return os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(fd: int, kind: int) -> bool:
    """Take a lock if it is to be had at once; whether it was."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
