"""However grading ends, the machine is afterwards as it was before."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import machine_state
import pytest
from test_host import CHECKOUT, ROOT, ask, guest, pid

from thinwalls import facts, linux
from thinwalls.host import Keeper, limits

pytestmark = pytest.mark.slow

# A grader in a process of its own: says when it starts, and how often it has gone through a stage.
GRADER = """
import sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from thinwalls.grading import driver
print("begins", flush=True)
for _ in range(100):
    driver.grade(driver.select(["0", "1"]), "solutions", seed=1, tell=lambda verdict: print(verdict.id, flush=True))
"""
SIDE_BY_SIDE = GRADER.replace("seed=1,", "seed=1, at_once=4,")
# The same with a host in which the worst is going on.
HOSTILE = """
import sys, os
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from thinwalls.host import Host, Keeper
source = '''
import os, time
from thinwalls import linux
def run():
    for n in range(5):
        if linux.clone(linux.CLONE_NEWNET | linux.CLONE_NEWPID | linux.CLONE_NEWNS) == 0:
            os.setsid()
            if os.fork() == 0:
                os.system("ip link add v0 type veth peer name v1; ip link add b0 type bridge")
            time.sleep(1000)
    os.mkdir("/tmp/big"); linux.mount("t", "/tmp/big", "tmpfs")
    if os.path.isdir("/sys/fs/cgroup/memory"):
        os.makedirs("/sys/fs/cgroup/memory/a/b")
    while True:
        print("x" * 1000)
'''
keeper = Keeper()
hosts = [Host(keeper, {"/course/guest.py": source}, delegate=True) for _ in range(2)]
for host in hosts:
    host.request({"module": "guest", "function": "run", "args": []})
for host in hosts:
    host.next(10)
print("begins", flush=True)
while True:
    hosts[0].next(10)
"""
GRACE = 5.0  # seconds the kernel may take to do away with what has ended


@pytest.fixture(autouse=True)
def places_of_its_own(tmp_path, monkeypatch):
    for name in ("TMPDIR", "XDG_CACHE_HOME", "HOME"):
        (tmp_path / name).mkdir(mode=0o755)
        monkeypatch.setenv(name, str(tmp_path / name))
    tmp_path.chmod(0o755)
    return tmp_path


@pytest.fixture
def before(places_of_its_own):
    """The state before a test; small root file systems are built, and orphans will be ours."""
    # The cache is a product, not a leftover: it is there before.
    code = "import sys; sys.path.insert(0, sys.argv[1]); from thinwalls import rootfs; rootfs.cached()"
    subprocess.run([sys.executable, "-B", "-c", code, str(CHECKOUT)], check=True)
    return machine_state.snapshot(*_places(places_of_its_own))


def _places(top: Path) -> list[Path]:
    return [top / "TMPDIR", top / "HOME", top / "XDG_CACHE_HOME" / "thinwalls"]


def _as_before(before, top: Path) -> None:
    """The machine is as it was; where a keeper was killed, once the next one has swept."""
    machine_state.reap(before)
    with Keeper() as keeper:
        _ = keeper.cgroup
    after = machine_state.settled(before, *_places(top), seconds=GRACE)
    assert machine_state.difference(before, after) == []


def _grader(source: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", source, str(CHECKOUT)], stdout=subprocess.PIPE, cwd="/", text=True)


def _keeper_of(grader: subprocess.Popen) -> int | None:
    for child in facts.descendants(grader.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            if facts.Process(child).parent() == grader.pid and words[1:4] == [b"-I", b"-S", b"-"]:
                return child
    return None


def _kill(pid: int | None) -> None:
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _end(graders: list[subprocess.Popen]) -> None:
    for grader in graders:
        grader.kill()
        assert grader.stdout
        grader.stdout.close()
        grader.wait()


MOMENTS = 20


def test_kill_of_the_grader_at_random_moments(before, places_of_its_own):
    seed = random.SystemRandom().getrandbits(32)
    print(f"moments drawn with seed {seed}")
    moments = random.Random(seed)
    for _ in range(MOMENTS // 4):
        graders = [_grader(GRADER) for _ in range(4)]  # four at a time: what counts is the moment in each one's life
        try:
            for grader in graders:
                assert grader.stdout
                assert grader.stdout.readline() == "begins\n"
            delays = sorted((moments.uniform(0, 0.8), number) for number in range(4))
            began = time.monotonic()
            for delay, number in delays:
                time.sleep(max(0, began + delay - time.monotonic()))
                graders[number].kill()
        finally:
            _end(graders)
    _as_before(before, places_of_its_own)


@pytest.mark.parametrize(
    "whom",
    [
        "grader",
        "keeper",
        "keeper, then grader",
        "both at once",
        "grader, then keeper",
        "grader's process group",
        "interrupt",
    ],
)
@pytest.mark.parametrize("source", [GRADER, SIDE_BY_SIDE, HOSTILE], ids=["grading", "side by side", "hostile"])
def test_kill_in_the_middle(before, places_of_its_own, whom, source):
    """Killed while hosts are at work. The keeper alone: its grader then notices, and ends or goes on, as it will."""
    grader = _grader(source)
    try:
        assert grader.stdout
        assert grader.stdout.readline() == "begins\n"
        time.sleep(0.15)
        keeper = None
        while keeper is None and grader.poll() is None:
            keeper = _keeper_of(grader)
        everybody = {pid: facts.Process(pid) for pid in _living(grader.pid)}
        match whom:
            case "grader":
                grader.kill()
            case "keeper":
                _kill(keeper)
                time.sleep(0.2)
                grader.kill()
            case "keeper, then grader":
                _kill(keeper)
                grader.kill()
            case "both at once":
                for stopped in (keeper, grader.pid):
                    os.kill(stopped, signal.SIGSTOP)
                _kill(keeper)
                grader.kill()
            case "grader, then keeper":
                grader.kill()
                _kill(keeper)
            case "grader's process group" | "interrupt":
                grader.send_signal(signal.SIGINT if whom == "interrupt" else signal.SIGTERM)
                grader.wait(10)
        for process in everybody.values():
            assert process.ended(GRACE), process.pid
    finally:
        _end([grader])
    _as_before(before, places_of_its_own)


def _living(pid: int) -> list[int]:
    found = []
    for child in facts.descendants(pid):
        with contextlib.suppress(facts.Ended):
            facts.Process(child)
            found.append(child)
    return found


def test_a_keeper_killed_while_it_makes_hosts(before, places_of_its_own):
    """At every stage of a host's making: the pauses between order and kill go from nothing to more than it takes."""
    for step in range(12):
        keeper = Keeper()
        _ = keeper.cgroup
        with guest(keeper, pid):
            time.sleep(step * 0.002)
            keeper._process.kill()
        keeper.close()
    _as_before(before, places_of_its_own)


def test_a_keeper_whose_grader_died_before_it_was_ready(before, places_of_its_own, capfd):
    keeper = Keeper()
    keeper.close()
    # Without the help of a next keeper: this one has itself cleaned up, and has nothing to complain about.
    assert machine_state.difference(before, machine_state.settled(before, *_places(places_of_its_own), seconds=1)) == []
    assert capfd.readouterr().err == ""


def test_a_grader_that_forgets_its_hosts(before, places_of_its_own):
    with Keeper() as keeper:
        contexts = [guest(keeper, pid) for _ in range(3)]
        hosts = [context.__enter__() for context in contexts]
        assert [ask(host, pid) for host in hosts] == [2, 2, 2]
        inside = [facts.Process(process) for process in facts.descendants(keeper._process.pid)]
        assert len(inside) >= 9
    for process in inside:
        assert process.ended(0)
    for host in hosts:
        host.close()  # of a keeper that is gone: nothing to do, nothing to say
    del contexts
    _as_before(before, places_of_its_own)


@pytest.mark.skipif(not ROOT, reason="only root's keepers make cgroups here")
def test_the_cgroup_of_a_killed_keeper_is_swept_by_the_next(before, places_of_its_own):
    keeper = Keeper()
    if keeper.cgroup is None:
        keeper.close()
        pytest.skip("no memory cgroup on this machine")
    with guest(keeper, pid, delegate=True) as host:
        ask(host, pid)
        own = f"thinwalls-{keeper._process.pid}-"
        assert any(own in str(directory) for directory in machine_state.cgroup_directories())
        keeper._process.kill()
        keeper._process.wait()
        assert any(own in str(directory) for directory in machine_state.cgroup_directories())
    keeper.close()
    with Keeper() as other:
        assert other.cgroup
        assert not any(own in str(directory) for directory in machine_state.cgroup_directories())
        assert any(
            f"thinwalls-{other._process.pid}-" in str(directory) for directory in machine_state.cgroup_directories()
        )
    _as_before(before, places_of_its_own)


@pytest.mark.skipif(not ROOT, reason="only root's keepers make cgroups here")
def test_sweeping_spares_the_living(before, places_of_its_own):
    with Keeper() as one, guest(one, pid) as host:
        ask(host, pid)
        with Keeper() as other:
            _ = other.cgroup
            limits.sweep()
            if one.cgroup:
                assert any(
                    f"thinwalls-{one._process.pid}-" in str(directory)
                    for directory in machine_state.cgroup_directories()
                )
            assert ask(host, pid) == 2
    _as_before(before, places_of_its_own)


def test_a_build_of_the_small_root_that_was_killed_is_swept(places_of_its_own):
    from thinwalls import rootfs

    before = machine_state.snapshot(*_places(places_of_its_own))
    cache = places_of_its_own / "XDG_CACHE_HOME" / "thinwalls"
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from thinwalls import rootfs\n"
        "def build(*_): os.kill(os.getpid(), 9)\n"
        "rootfs.build = build\n"
        "rootfs.cached()\n"
    )
    subprocess.run([sys.executable, "-B", "-c", code, str(CHECKOUT)], check=False)
    (left,) = cache.iterdir()
    assert left.name.startswith(".rootfs-")
    os.utime(left, (time.time() - 3600, time.time() - 3600))
    made = Path(rootfs.cached())
    assert [path.name for path in cache.iterdir()] == [made.name]
    after = machine_state.snapshot(*_places(places_of_its_own))
    assert machine_state.difference(before, after) == [f"+ files: {made}"]


# The witness itself: it must see what it is there to see.


def test_the_snapshot_sees_a_process_a_file_and_an_orphan(places_of_its_own):
    before = machine_state.snapshot(*_places(places_of_its_own))
    assert machine_state.snapshot(*_places(places_of_its_own)) == before
    orphan = int(
        subprocess.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], capture_output=True, text=True).stdout
    )
    (places_of_its_own / "TMPDIR" / "left").write_text("")
    after = machine_state.settled(before, *_places(places_of_its_own), seconds=0.1)
    assert [text for text in machine_state.difference(before, after) if "processes" in text] == [
        f"+ processes: {orphan} 'sleep 60'"
    ]
    assert [text for text in machine_state.difference(before, after) if "files" in text] == [
        f"+ files: {places_of_its_own}/TMPDIR/left"
    ]
    os.kill(orphan, signal.SIGKILL)
    (places_of_its_own / "TMPDIR" / "left").unlink()
    assert machine_state.settled(before, *_places(places_of_its_own)) == before


@pytest.mark.skipif(not shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin"), reason="needs ip(8), of iproute2")
def test_the_snapshot_sees_a_mount_and_a_link():
    def inside() -> list[str]:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        before = machine_state.snapshot()
        linux.mount("host", "/mnt", "tmpfs")
        subprocess.run(
            ["ip", "link", "add", "witness0", "type", "veth", "peer", "name", "witness1"], capture_output=True
        )
        return machine_state.difference(before, machine_state.snapshot())

    from test_host import in_new_userns

    found = in_new_userns(linux.CLONE_NEWNS | linux.CLONE_NEWNET, f"0 {os.getuid()} 1", inside)
    assert any(text.startswith("+ mounts: ") and " on /mnt " in text for text in found)
    assert "+ links: witness0" in found


@pytest.mark.skipif(not ROOT, reason="only root's keepers make cgroups and claim ranges here")
def test_the_snapshot_sees_a_cgroup_and_a_claim(before, places_of_its_own):
    with Keeper() as keeper, guest(keeper, pid) as host:
        ask(host, pid)
        found = machine_state.difference(before, machine_state.snapshot(*_places(places_of_its_own)))
        assert any(text.startswith("+ processes: ") for text in found)
        assert any(text.startswith("+ sockets: @thinwalls-ids-") for text in found)
        if keeper.cgroup:
            assert any(text.startswith("+ cgroups: ") and f"thinwalls-{keeper._process.pid}-" in text for text in found)
    _as_before(before, places_of_its_own)
