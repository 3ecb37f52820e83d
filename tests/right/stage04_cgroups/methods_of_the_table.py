"""Like the reference in what it knows, unlike it in how: settings are written after the child is in, which still waits;
limits are a list of pairs; the end is a recursion; and the exact number of a fraction is counted in whole numbers.
"""

import errno
import os
import re
import signal
import time
from decimal import Decimal

from thinwalls import cgroupfs, linux
from thinwalls.wall import Wall


class Usage(dict):
    __getattr__ = dict.__getitem__


NOTHING = Usage(memory=0, cpu=0.0, throttled=0.0, processes=0)


class Cgroup(Wall):
    out_of_memory = False
    usage = NOTHING

    def __init__(self, memory="", pids="", cpus="", parent=cgroupfs.TOP):
        self.limits = []
        if memory:
            self.limits += [("memory", parse_size(memory)), ("swap", parse_size(memory))]
        if pids:
            self.limits.append(("pids", parse_count(pids)))
        if cpus:
            self.limits.append(("quota", parse_cpus(cpus)))
        self.parent = parent
        self.name = f"c{os.getpid()}.{id(self):x}"

    @property
    def table(self):
        return cgroupfs.FILES[cgroupfs.version(self.parent)]

    def places(self):
        return list(dict.fromkeys(cgroupfs.directory(self.parent, each, self.name) for each in cgroupfs.CONTROLLERS))

    def at(self, what):
        return cgroupfs.directory(self.parent, self.table[what].controller, self.name) / self.table[what].name

    def outside(self, pid):
        if cgroupfs.version(self.parent) == "v2":
            for each in "memory", "pids", "cpu":
                try:
                    with open(f"{self.parent}/cgroup.subtree_control", "w") as file:
                        file.write("+" + each)
                except FileNotFoundError:
                    continue  # as the kernel says it of a controller that is not there
                except OSError as error:
                    if error.errno != errno.ENOENT:
                        raise
        for place in self.places():
            os.mkdir(place)
            (place / "cgroup.procs").write_text(f"{pid}\n")
        for what, amount in self.limits:
            if what != "swap" or self.at("swap").exists():
                self.at(what).write_text(self.table[what].text.format(amount))

    def number(self, what):
        if not self.at(what).exists():
            return 0
        for line in self.at(what).read_text().splitlines():
            *key, amount = line.split()
            if " ".join(key) == self.table[what].key and amount.isdigit():
                return int(amount) * self.table[what].unit
        return 0

    def close(self):
        if any(place.exists() for place in self.places()):
            self.out_of_memory = bool(self.number("memory kills"))
            self.usage = Usage(
                memory=int(self.number("peak memory")),
                cpu=self.number("cpu time"),
                throttled=self.number("throttled time"),
                processes=int(self.number("processes")),
            )
        for place in self.places():
            while place.exists() and not empty(place):
                time.sleep(0.003)


def empty(directory):
    """Kill what is in a cgroup, those below it first, and remove it; whether that succeeded."""
    try:
        for entry in os.scandir(directory):
            if entry.is_dir(follow_symlinks=False):
                empty(entry.path)
        with open(f"{os.fspath(directory)}/cgroup.procs") as file:
            for pid in map(int, file.read().split()):
                os.kill(pid, signal.SIGKILL)
        os.rmdir(directory)
        return True
    except OSError:
        return False


class OneUserNamespace(Wall):
    path = "/proc/sys/user/max_user_namespaces"
    taken = ()

    def outside(self, pid):
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self.taken = (os.read(fd, 100),)
        os.pwrite(fd, b"0", 0)
        os.close(fd)

    def close(self):
        for text in self.taken:
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            os.write(fd, text)
            os.close(fd)


def parse_size(text):
    match = re.match(r"(?=.*[1-9])([0-9]+)([bkmg]?)\Z", text, re.IGNORECASE | re.ASCII)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * 1024 ** ("bkmg".find(match[2].lower()) if match[2] else 0)


def parse_count(text):
    if not (text.isascii() and text.isdigit() and text.strip("0")):
        raise ValueError(text)
    return int(text)


def parse_cpus(text):
    if re.match(r"([0-9]*\.)?[0-9]+\Z", text) is None or Decimal(text) < Decimal("0.01"):
        raise ValueError(text)
    return int(Decimal(text) * cgroupfs.PERIOD)


def raise_limit(limit):
    with open("/proc/self/cgroup") as file:
        text = file.read()
    v1 = re.search(r"^\d+:([^:\n]*\bmemory\b[^:\n]*):(.*)$", text, re.MULTILINE)
    options, path = v1.groups() if v1 else (None, re.search(r"^0::(.*)$", text, re.MULTILINE)[1])
    os.mkdir("/tmp/m")
    linux.mount("m", "/tmp/m", "cgroup" if v1 else "cgroup2", linux.MS_NOSUID, options)
    files = cgroupfs.FILES["v1" if v1 else "v2"]
    for what in "swap", "memory":
        try:
            fd = os.open(f"/tmp/m{path}/{files[what].name}", os.O_WRONLY)
        except FileNotFoundError:
            continue
        os.write(fd, files[what].text.format(limit).encode())
        os.close(fd)
