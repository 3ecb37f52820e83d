# fails: 4.1 4.2 4.3 4.4 4.5 4.6 4.7
# says: it is in none
"""No cgroup at all: the limits of setrlimit(2), which count for one process or one user each, and a kill of everybody."""

import contextlib
import os
import resource
import signal
from types import SimpleNamespace

from thinwalls.wall import Wall


class Cgroup(Wall):
    def __init__(self, memory="", pids="", cpus="", parent=""):
        self.limits = {}
        if memory:
            self.limits[resource.RLIMIT_AS] = parse_size(memory)
        if pids:
            self.limits[resource.RLIMIT_NPROC] = parse_count(pids)
        if cpus:
            self.limits[resource.RLIMIT_CPU] = 1
        self.usage = SimpleNamespace(memory=2**20, cpu=0.1, throttled=0.1, processes=3)

    @property
    def out_of_memory(self):
        return bool(self.limits)

    def inside(self):
        for name, amount in self.limits.items():
            resource.setrlimit(name, (amount, amount))

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)


class OneUserNamespace(Wall):
    def inside(self):
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))


def parse_size(text):
    return int(text[:-1]) * 2**20


def parse_count(text):
    return int(text)


def parse_cpus(text):
    return int(float(text) * 100000)


def raise_limit(limit):
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
