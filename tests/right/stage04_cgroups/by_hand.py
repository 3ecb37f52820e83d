"""No table: the names are written out. Whole trees are killed through pidfds, and the container has its own user namespace."""

import os
import pathlib
import signal
import time

from thinwalls import linux
from thinwalls.wall import Wall


class Usage:
    def __init__(self, memory=0, cpu=0.0, throttled=0.0, processes=0):
        self.memory, self.cpu, self.throttled, self.processes = memory, cpu, throttled, processes


class Cgroup(Wall):
    def __init__(self, memory="", pids="", cpus="", parent="/sys/fs/cgroup"):
        self.limits = {}
        self.v2 = os.path.isfile(parent + "/cgroup.controllers")
        if memory:
            size = parse_size(memory)
            names = ("memory.max", "memory.swap.max") if self.v2 else ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            self.limits |= {("memory", names[0]): size, ("memory", names[1]): 0 if self.v2 else size}
        if pids:
            self.limits["pids", "pids.max"] = parse_count(pids)
        if cpus:
            name = "cpu.max" if self.v2 else "cpu.cfs_quota_us"
            self.limits["cpu", name] = f"{parse_cpus(cpus)} 100000" if self.v2 else parse_cpus(cpus)
        self.top, self.name = parent, f"box.{time.time_ns()}"
        self.out_of_memory, self.usage = False, Usage()

    def where(self, controller):
        return os.path.join(self.top, "" if self.v2 else controller, self.name)

    def places(self):
        return sorted({self.where(controller) for controller in ("memory", "pids", "cpu", "cpuacct")})

    def outside(self, pid):
        self.create()
        for (controller, name), amount in self.limits.items():
            path = f"{self.where(controller)}/{name}"
            if os.path.exists(path):
                put(path, amount)
        self.enter(pid)

    def close(self):
        if os.path.isdir(self.where("memory")):
            self.out_of_memory = self.killed_for_memory()
            self.usage = self.measure()
            self.remove()

    def create(self):
        if self.v2:
            there = set(get(f"{self.top}/cgroup.controllers").split())
            put(f"{self.top}/cgroup.subtree_control", " ".join(f"+{each}" for each in there & {"memory", "pids", "cpu"}))
        for place in self.places():
            os.mkdir(place)

    def enter(self, pid):
        for place in self.places():
            put(f"{place}/cgroup.procs", pid)

    def limit_memory(self):
        pass

    def limit_pids(self):
        pass

    def limit_cpu(self):
        pass

    def killed_for_memory(self):
        name = "memory.events" if self.v2 else "memory.oom_control"
        return "oom_kill 0\n" not in get(f"{self.where('memory')}/{name}")

    def measure(self):
        stat = dict(line.split() for line in get(f"{self.where('cpu')}/cpu.stat").splitlines())
        if self.v2:
            cpu, throttled = int(stat["usage_usec"]) / 1e6, int(stat["throttled_usec"]) / 1e6
        else:
            cpu, throttled = int(get(f"{self.where('cpuacct')}/cpuacct.usage")) / 1e9, int(stat["throttled_time"]) / 1e9
        peak = get(f"{self.where('memory')}/{'memory.peak' if self.v2 else 'memory.max_usage_in_bytes'}")
        return Usage(int(peak), cpu, throttled, int(get(f"{self.where('pids')}/pids.current")))

    def remove(self):
        while left := [place for place in self.places() if os.path.isdir(place)]:
            for place in left:
                for below in sorted(map(str, pathlib.Path(place).glob("**/")), key=len, reverse=True):
                    try:
                        for pid in map(int, get(f"{below}/cgroup.procs").split()):
                            signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGKILL)
                        os.rmdir(below)
                    except OSError:
                        time.sleep(0.001)


class OneUserNamespace(Wall):
    """Its own user namespace, whose setting is its own."""

    flags = linux.CLONE_NEWUSER

    def outside(self, pid):
        for kind in ("uid_map", "gid_map"):
            if kind == "gid_map" and "deny" in get("/proc/self/setgroups"):
                put(f"/proc/{pid}/setgroups", "deny")
            ranges = [line.split() for line in get(f"/proc/self/{kind}").splitlines()]
            put(f"/proc/{pid}/{kind}", "".join(f"{first} {first} {count}\n" for first, _, count in ranges))

    def inside(self):
        put("/proc/sys/user/max_user_namespaces", 0)

    def close(self):
        pass


def put(path, what):
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(what).encode())
    finally:
        os.close(fd)


def get(path):
    with open(path) as file:
        return file.read()


def whole(text, extra=""):
    if not text or set(text) - set("0123456789" + extra):
        raise ValueError(text)
    return text


def parse_size(text):
    shift = {"b": 0, "k": 10, "m": 20, "g": 30}.get(text[-1:].lower() if text.isascii() else "")
    number = int(whole(text if shift is None else text[:-1])) << (shift or 0)
    if number < 1:
        raise ValueError(text)
    return number


def parse_count(text):
    if int(whole(text)) < 1:
        raise ValueError(text)
    return int(text)


def parse_cpus(text):
    before, point, after = whole(text, ".").partition(".")
    if "." in after or (point and not after):
        raise ValueError(text)
    quota = int(before or "0") * 100_000 + int((after + "00000")[:5])
    if quota < 1000:
        raise ValueError(text)
    return quota


def raise_limit(limit):
    lines = [line.split(":", 2) for line in get("/proc/self/cgroup").splitlines()]
    v1 = [line for line in lines if "memory" in line[1].split(",")]
    os.mkdir("/dev/shm/c") if os.path.isdir("/dev/shm") else None
    place = "/dev/shm/c" if os.path.isdir("/dev/shm/c") else "/tmp"
    linux.mount("none", place, "cgroup" if v1 else "cgroup2", 0, v1[0][1] if v1 else None)
    group = place + (v1 or lines)[0][2]
    if v1:
        put(f"{group}/memory.memsw.limit_in_bytes", limit)
        put(f"{group}/memory.limit_in_bytes", limit)
    else:
        put(f"{group}/memory.max", limit)
