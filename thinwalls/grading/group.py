"""A container's cgroup as the trusted side sees it: the kernel's own counters, which no container can talk to."""

import os
import re
from pathlib import Path

from thinwalls import facts
from thinwalls.cgroupfs import FILES
from thinwalls.host.limits import LEAF


class Group:
    """A cgroup below the one that was handed to a throwaway host. It may be gone at any time."""

    def __init__(self, name: str, directories: dict[str, Path]):
        self.name = name  # "" for none: the process is in no group of this host's own
        self._directories = directories  # controller (v2: "") -> directory, of those that it is in
        self._files = FILES["v2" if "" in directories else "v1"]

    @classmethod
    def of(cls, process: facts.Process, handed: dict[str, str]) -> "Group":
        """The group that a process is in. handed: controller -> directory that was handed to its host.

        Of controllers for which it is elsewhere there is no directory in it.
        """
        found, names = {}, set()
        paths = process.cgroups()
        for controller, top in handed.items():
            # As we see it, the path may begin anywhere; the name of the host's directory is unique.
            _, there, below = f"{paths.get(controller, '')}/".partition(f"/{os.path.basename(top)}/")
            name = below.strip("/")
            if there and name and name != LEAF:
                found[controller] = Path(top, name)
                names.add(name)
        return cls(names.pop() if len(names) == 1 else "", found)

    def controllers(self) -> list[str]:
        """For which controllers the process is in the group: on v1 by their names, on v2 "" for all."""
        return sorted(self._directories)

    def number(self, what: str) -> float:
        """A number of ``thinwalls.cgroupfs.FILES``, in bytes, seconds or processes; -1 where there is none (such as "max")."""
        file = self._files[what]
        directory = self._directories.get("") or self._directories.get(file.controller)
        try:
            text = (directory / file.name).read_text() if directory else ""
        except FileNotFoundError:
            return -1
        found = re.search(rf"^{file.key} *(\d+)\b", text, re.MULTILINE)
        return int(found[1]) * file.unit if found else -1

    def text(self, what: str) -> str:
        """What stands in a file of FILES, on one line; "": it is not there."""
        file = self._files[what]
        directory = self._directories.get("") or self._directories.get(file.controller)
        try:
            return " ".join((directory / file.name).read_text().split()) if directory else ""
        except FileNotFoundError:
            return ""

    def processes(self) -> list[int]:
        """The processes in it, as this machine counts."""
        found: set[int] = set()
        for directory in self._directories.values():
            try:
                found.update(int(pid) for pid in (directory / "cgroup.procs").read_text().split())
            except OSError:
                continue
        return sorted(found)

    def freeze(self) -> None:
        """Stop everything in it, on v2; on v1 the freezer is another tree, which no host is given."""
        if "" in self._directories:
            (self._directories[""] / "cgroup.freeze").write_text("1")

    def divide(self, name: str, pid: int) -> None:
        """Make a group below it and move a process there, as a container could that mounts a cgroupfs."""
        for directory in self._directories.values():
            (directory / name).mkdir(exist_ok=True)
            (directory / name / "cgroup.procs").write_text(str(pid))


def names_below(handed: dict[str, str]) -> list[str]:
    """The names of the groups that were made in what was handed to a host."""
    found: set[str] = set()
    for top in handed.values():
        found.update(entry.name for entry in os.scandir(top) if entry.is_dir() and entry.name != LEAF)
    return sorted(found)
