"""How much memory a process takes, told in two ways: by its share of pages, and by what the kernel charges to a cgroup."""

import contextlib
import os
import re
import time
from pathlib import Path

from thinwalls.host import limits


def pss(pid: int) -> int:
    """Bytes of a process, what it shares with others divided by their number (proc_pid_smaps(5)); 0: it is gone."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0
    return int(found[1]) * 1024 if found else 0


def calls(table: str) -> int:
    """How many system calls a table of ``strace -c`` has counted: 100.00, seconds, microseconds a call, calls, ..."""
    return int(table.rstrip().rpartition("\n")[2].split()[3])


class Group:
    """A memory cgroup without a limit, for counting; a context manager. Where none can be made, it counts nothing."""

    def __init__(self) -> None:
        self.directory = limits.counting()

    def bytes(self) -> int | None:
        """What is charged to it now; None where there is none."""
        for name in ("memory.current", "memory.usage_in_bytes"):
            if self.directory and (self.directory / name).exists():
                return int((self.directory / name).read_text())
        return None

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        for _turn in range(100):  # a process that has ended leaves its group a moment later
            with contextlib.suppress(OSError):
                if self.directory:
                    os.rmdir(self.directory)
                return
            time.sleep(0.02)
