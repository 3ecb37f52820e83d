"""A hundred containers, ended at random moments in random ways, leave no cgroup, link, address or rule behind."""

import random
import time
from pathlib import Path

import pytest
from test_host import ask, guest, start
from test_leftovers import _as_before, before, places_of_its_own  # noqa: F401 - fixtures

from thinwalls import course, rootfs
from thinwalls.host import Keeper

pytestmark = pytest.mark.slow

AT_ONCE, ROUNDS = 10, 10
WAYS = ("the program", "its init", "a SIGTERM to the launcher", "the launcher", "by itself")


def ended_at_random(ways: list[str], delays: list[float], limited: bool) -> str:
    """Start a container for each way, and end it so after its delay; gives what is left over, of cgroups by way.

    Limited, or else with a network and a published port. A launcher that was killed closes nothing: its container's
    cgroup is left to whoever made the machine, and what its network left there to the next that has its address.
    """
    import os
    import signal
    import subprocess
    import sys
    import time

    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage04_cgroups import Cgroup
    from stages.stage05_networking import Network
    from thinwalls.cgroupfs import CONTROLLERS
    from thinwalls.wall import Program

    def children(pid: int) -> list[int]:
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                return [int(each) for each in file.read().split()]
        except OSError:
            return []

    launchers = []
    for number, way in enumerate(ways):
        group = Cgroup("64m", "32", "0.5") if limited else None
        pid = os.fork()
        if pid == 0:
            try:
                signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
                wall = group or Network([(8000 + number, 80)])
                script = "exit 7" if way == "by itself" else "sleep 1000 & while :; do (:); done"
                launch(Program(["/bin/sh", "-c", script], {"PATH": "/bin:/usr/bin"}, "/"), [wall, Pids(), Init()])
            finally:
                os._exit(0)
        launchers.append((pid, way, group))
    began, left = time.monotonic(), []
    for delay, (pid, way, _) in sorted(zip(delays, launchers, strict=True)):
        time.sleep(max(0, began + delay - time.monotonic()))
        target = {"a SIGTERM to the launcher": [pid], "the launcher": [pid], "by itself": []}.get(way)
        if target is None:
            init = children(pid)
            target = init if way == "its init" else [each for one in init for each in children(one)][:1]
        for each in target:
            try:
                os.kill(each, signal.SIGTERM if way.startswith("a SIGTERM") else signal.SIGKILL)
            except ProcessLookupError:
                pass
    deadline = time.monotonic() + 8
    for pid, way, group in launchers:
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            # Ended before its init or its program was there: then it still runs, and is ended now.
            for each in children(pid) if way in ("the program", "its init") or time.monotonic() > deadline else []:
                os.kill(each, signal.SIGKILL)
            time.sleep(0.01)
        if group and way != "the launcher" and any(group.directory(controller).exists() for controller in CONTROLLERS):
            left.append(way)
    if not limited:
        for wall in [Network() for _ in ways]:  # each has an address, and removes what its last holder has left
            launch(Program(["/bin/true"], {}, "/"), [wall, Pids(), Init()])
        for command in (["ip", "-oneline", "link"], ["ip", "-oneline", "-4", "address"], ["nft", "list", "ruleset"]):
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            left += [line for line in said.splitlines() if not line.startswith("1: lo")]
    return ", ".join(left)


@pytest.mark.parametrize("limited", [True, False], ids=["limited", "networked"])
def test_a_hundred_containers_ended_at_random(limited, before, places_of_its_own):  # noqa: F811
    seed = random.SystemRandom().getrandbits(32)
    print(f"drawn with seed {seed}")
    dice = random.Random(seed)
    files = {f"/course/stages/{stage.stem}.py": course.reference(stage) for stage in course.stages()}
    files["/course/stages/__init__.py"] = ""
    with Keeper() as keeper:
        if limited and not keeper.cgroup:
            pytest.skip("no cgroup can be made on this machine")
        for number in range(ROUNDS):
            ways = [dice.choice(WAYS) for _ in range(AT_ONCE)]
            delays = [dice.uniform(0, 0.4) for _ in range(AT_ONCE)]
            with guest(keeper, ended_at_random, files=files, rootfs=rootfs.cached(), delegate=limited) as host:
                handed = [Path(path) for path in host.cgroups.values()]
                assert bool(handed) == limited and all(path.is_dir() for path in handed)
                if number % 5 == 4:  # the whole machine ends in the middle
                    start(host, ended_at_random, ways, delays, limited)
                    time.sleep(dice.uniform(0.05, 0.4))
                else:
                    assert ask(host, ended_at_random, ways, delays, limited, seconds=40) == "", ways
            assert not [path for path in handed if path.exists()]
    _as_before(before, places_of_its_own)
