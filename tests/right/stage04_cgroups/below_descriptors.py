"""Two classes, one for each version, behind one that is asked for; files are opened below the descriptor of a directory.
The end: on v2 the kernel kills the whole cgroup, on v1 it is emptied round after round; the names come from a counter.
"""

import contextlib
import itertools
import os
import signal
import time
from fractions import Fraction
from types import SimpleNamespace

from thinwalls import linux
from thinwalls.wall import Wall

numbers = itertools.count()


class Tree:
    """One directory that is a cgroup."""

    def __init__(self, top, name):
        self.top, self.name, self.fd = top, name, -1

    def make(self):
        self.above = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.mkdir(self.name, dir_fd=self.above)
        self.fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.above)

    def write(self, file, text):
        fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.write(fd, f"{text}\n".encode())
        finally:
            os.close(fd)

    def read(self, file):
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)) as text:
            return text.read()

    def table(self, file):
        return {key: int(number) for key, number in (line.split() for line in self.read(file).splitlines())}

    def has(self, file):
        return os.access(file, os.F_OK, dir_fd=self.fd)

    def end(self):
        if self.fd < 0:
            return
        while True:
            with contextlib.suppress(FileNotFoundError):
                self.write("cgroup.kill", 1)
            below = [f"{self.top}/{self.name}"]
            for path in below:
                below += [entry.path for entry in os.scandir(path) if entry.is_dir()]
            for path in below:
                with open(f"{path}/cgroup.procs") as file:
                    for line in file:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(line), signal.SIGKILL)
            try:
                for path in reversed(below):
                    os.rmdir(path)
                break
            except OSError:
                time.sleep(0.002)
        os.close(self.fd)
        os.close(self.above)
        self.fd = -1


class Old:
    def __init__(self, top, name):
        self.memory, self.pids, self.cpu, self.cpuacct = self.all = [
            Tree(f"{top}/{each}", name) for each in ("memory", "pids", "cpu", "cpuacct")
        ]

    def make(self, top):
        for each in self.all:
            each.make()

    def limit_memory(self, amount):
        self.memory.write("memory.limit_in_bytes", amount)
        if self.memory.has("memory.memsw.limit_in_bytes"):
            self.memory.write("memory.memsw.limit_in_bytes", amount)

    def limit_cpu(self, quota):
        self.cpu.write("cpu.cfs_period_us", 100_000)
        self.cpu.write("cpu.cfs_quota_us", quota)

    def kills(self):
        return self.memory.table("memory.oom_control").get("oom_kill", 0)

    def usage(self):
        return SimpleNamespace(
            memory=int(self.memory.read("memory.max_usage_in_bytes")),
            cpu=int(self.cpuacct.read("cpuacct.usage")) / 10**9,
            throttled=self.cpu.table("cpu.stat")["throttled_time"] / 10**9,
            processes=int(self.pids.read("pids.current")),
        )


class New:
    def __init__(self, top, name):
        self.memory = self.pids = self.cpu = self.cpuacct = Tree(top, name)
        self.all = [self.memory]

    def make(self, top):
        with open(f"{top}/cgroup.controllers") as file:
            wanted = sorted({"memory", "pids", "cpu"}.intersection(file.read().split()))
        with open(f"{top}/cgroup.subtree_control", "w") as file:
            file.write(" ".join(f"+{each}" for each in wanted))
        self.memory.make()

    def limit_memory(self, amount):
        self.memory.write("memory.max", amount)
        if self.memory.has("memory.swap.max"):
            self.memory.write("memory.swap.max", 0)

    def limit_cpu(self, quota):
        self.cpu.write("cpu.max", f"{quota} 100000")

    def kills(self):
        return self.memory.table("memory.events").get("oom_kill", 0)

    def usage(self):
        stat = self.cpu.table("cpu.stat")
        return SimpleNamespace(
            memory=int(self.memory.read("memory.peak")) if self.memory.has("memory.peak") else 0,
            cpu=stat["usage_usec"] / 10**6,
            throttled=stat.get("throttled_usec", 0) / 10**6,
            processes=int(self.pids.read("pids.current")),
        )


class Cgroup(Wall):
    def __init__(self, memory="", pids="", cpus="", parent="/sys/fs/cgroup"):
        self.memory = parse_size(memory) if memory else 0
        self.pids = parse_count(pids) if pids else 0
        self.quota = parse_cpus(cpus) if cpus else 0
        self.parent, self.made = parent, None
        self.out_of_memory, self.usage = False, SimpleNamespace(memory=0, cpu=0.0, throttled=0.0, processes=0)

    def outside(self, pid):
        kind = New if os.path.exists(f"{self.parent}/cgroup.controllers") else Old
        self.made = kind(self.parent, f"number-{os.getpid()}-{next(numbers)}")
        self.made.make(self.parent)
        if self.memory:
            self.made.limit_memory(self.memory)
        if self.pids:
            self.made.pids.write("pids.max", self.pids)
        if self.quota:
            self.made.limit_cpu(self.quota)
        for each in self.made.all:
            each.write("cgroup.procs", pid)

    def close(self):
        made, self.made = self.made, None
        if made is None:
            return
        if all(each.fd >= 0 for each in made.all):
            self.out_of_memory, self.usage = made.kills() > 0, made.usage()
        for each in made.all:
            each.end()


class OneUserNamespace(Wall):
    def __init__(self):
        self.before = None

    def outside(self, pid):
        with open("/proc/sys/user/max_user_namespaces", "r+") as setting:
            self.before = setting.read()
            setting.seek(0)
            setting.write("0")

    def close(self):
        if self.before is not None:
            with open("/proc/sys/user/max_user_namespaces", "w") as setting:
                setting.write(self.before)
            self.before = None


def digits(text):
    if not text or any(letter not in "0123456789" for letter in text):
        raise ValueError(f"{text!r} is not made of digits")
    return int(text)


def positive(number):
    if number <= 0:
        raise ValueError("nothing at all")
    return number


def parse_size(text):
    for unit, factor in zip("bBkKmMgG", (1, 1, 1024, 1024, 1024**2, 1024**2, 1024**3, 1024**3), strict=True):
        if text.endswith(unit):
            return positive(digits(text[:-1]) * factor)
    return positive(digits(text))


def parse_count(text):
    return positive(digits(text))


def parse_cpus(text):
    whole, point, part = text.partition(".")
    exact = Fraction(digits(whole or "0" * bool(point)))
    if point:
        exact += Fraction(digits(part), 10 ** len(part))
    if exact < Fraction(1, 100):
        raise ValueError(f"{text!r} is less than the kernel takes")
    return int(exact * 100_000)


def raise_limit(limit):
    with open("/proc/self/cgroup") as file:
        places = {name: line.split(":")[2].strip() for line in file for name in line.split(":")[1].split(",")}
    os.makedirs("/tmp/here/and/there", exist_ok=True)
    if "memory" in places:
        linux.mount("none", "/tmp/here/and/there", "cgroup", 0, "memory")
        names, path = ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"], places["memory"]
    else:
        linux.mount("none", "/tmp/here/and/there", "cgroup2")
        names, path = ["memory.max"], places[""]
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(f"/tmp/here/and/there{path}/{name}", os.O_WRONLY)
            os.write(fd, b"%d" % limit)
            os.close(fd)
