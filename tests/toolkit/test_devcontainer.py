"""The dev container, built from Debian's packages and started by podman as devcontainer.json says: the course in it.

No registry is asked: the base image is made here by mmdebstrap, and goes by the name that the Containerfile gives it.
podman has a store of its own, and what it makes of cgroups lies below one that is removed. For root alone: the podman
of a user without privilege does not start everywhere.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import machine_state
import pytest

from thinwalls import course
from thinwalls.host import Keeper

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="the dev container is tried as root only"),
    pytest.mark.skipif(not shutil.which("podman"), reason="podman is not installed"),
    pytest.mark.skipif(not shutil.which("mmdebstrap"), reason="mmdebstrap is not installed"),
]
FILES = course.ROOT / ".devcontainer"
IMAGE, SUITE = "docker.io/library/debian:13-slim", "trixie"
GROUP = f"thinwalls-devcontainer-{os.getpid()}"
# Neither limits as podman would have them are to be had everywhere, nor does crun start everywhere.
RUNTIMES = ([], ["--runtime=runc", "--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"])
# What reaching a package index takes on a machine that does it by a mirror or a proxy of its own.
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_DEFAULT_TIMEOUT",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "PIP_CERT",
)

SETTINGS = json.loads((FILES / "devcontainer.json").read_text())
OPTIONS = [f"--security-opt={word}" for word in SETTINGS["securityOpt"]]


class Podman:
    """podman with a store in one directory, which is all that it leaves until close()."""

    def __init__(self, place: Path):
        self.place = place
        (place / "run").mkdir(mode=0o700)
        (place / "containers.conf").write_text('[engine]\nlock_type = "file"\n')
        environment = {name: word for name, word in os.environ.items() if not name.startswith("XDG_")}
        self.environment = environment | {
            "HOME": str(place),
            "XDG_RUNTIME_DIR": str(place / "run"),
            "CONTAINERS_CONF": str(place / "containers.conf"),
        }
        store = [f"--{key}={place / key}" for key in ("root", "runroot", "tmpdir")]
        self.podman = ["podman", *store, "--events-backend=none", "--cgroup-manager=cgroupfs"]
        self.runtime: list[str] = []

    def __call__(self, *words: str, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.podman, *words], env=self.environment, text=True, capture_output=True, **options)

    def build(self) -> None:
        """The image, from a base that is made here."""
        packages = ",".join((FILES / "packages").read_text().split())
        base = self.place / "base.tar"
        # The base has the packages already, so that dpkg runs once, and without a sync for each of its files.
        options = ["--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={packages}"]
        subprocess.run(["mmdebstrap", "--quiet", *options, SUITE, base], check=True, timeout=300)
        for words in (
            ["import", "--quiet", str(base), IMAGE],
            [
                "build",
                "--quiet",
                "--pull=never",
                "--network=host",
                "--isolation=chroot",
                "--layers=false",
                "--tag=dev",
                str(FILES),
            ],
        ):
            done = self(*words, timeout=300)
            assert done.returncode == 0, done.stderr
            base.unlink(missing_ok=True)

    def run(self, script: str, *options: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """A shell script in a container of the image, as its user or another."""
        given = [f"--env={name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
        common = ["--rm", "--network=host", f"--cgroup-parent=/{GROUP}", *given, *([f"--user={user}"] if user else [])]
        binds = [f"--volume={course.ROOT}:/course:ro"]
        binds += ["--volume=/etc/ssl/certs:/etc/ssl/certs:ro"] if any("CERT" in name for name in os.environ) else []
        return self("run", *common, *self.runtime, *options, *binds, "dev", "sh", "-c", script, timeout=300)

    def close(self) -> None:
        """End everything, and give back the mounts and cgroups."""
        self("rm", "--all", "--force", "--time=0")
        for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
            if (point := line.split()[4]).startswith(f"{self.place}/"):
                subprocess.run(["umount", "--lazy", point], check=True)
        end = time.monotonic() + 10  # conmon(8), which watched a container, ends a moment after it
        for directory in at_the_top(GROUP):
            for below, _, _ in os.walk(directory, topdown=False):
                while os.path.isdir(below):
                    try:
                        os.rmdir(below)
                    except OSError:
                        if time.monotonic() > end:
                            raise
                        time.sleep(0.05)


def at_the_top(name: str) -> list[Path]:
    """The cgroups of that name in each tree of them: engines put theirs at the top. Others' may vanish while we look."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    trees = {line[4] for line in lines if line[line.index("-") + 1] in ("cgroup", "cgroup2")}
    return [path for tree in sorted(trees) if (path := Path(tree, name)).is_dir()]


def left_by_podman() -> set[str]:
    """What else podman can leave: its own group in each tree of cgroups, locks in memory, its directories for root."""
    groups = {str(path) for path in at_the_top("libpod_parent")}
    locks = {str(path) for path in Path("/dev/shm").glob("libpod_lock")}
    return groups | locks | {path for path in ("/run/libpod", "/run/containers/storage") if os.path.exists(path)}


@pytest.fixture(scope="module")
def podman():
    with Keeper():
        pass
    before, others = machine_state.snapshot(), left_by_podman()
    with tempfile.TemporaryDirectory(prefix="thinwalls-devcontainer-", dir="/var/tmp") as place:
        os.chmod(place, 0o755)
        made = Podman(Path(place))
        try:
            made.build()
            tries = [made.run("true", *options) for options in RUNTIMES]
            works = [options for options, tried in zip(RUNTIMES, tries, strict=True) if tried.returncode == 0]
            assert works, tries[-1].stderr
            made.runtime = works[0]
            yield made
        finally:
            made.close()
    found = machine_state.difference(before, machine_state.settled(before))
    assert [line for line in found if line.startswith("+")] == []
    assert left_by_podman() - others == set()


def test_the_course_is_set_up_and_its_stages_pass(podman):
    """As docs/doors.md says: a clone, the doctor, a passed stage 0. Then every stage that can be graded there."""
    script = """set -e
        cd; git config --global safe.directory '*'; git clone -q /course thin-walls; cd thin-walls
        ./walls doctor || true
        cp solutions/stage00_process.py stages/
        ./walls check 0
        export THINWALLS_PATIENCE=4
        for stage in 0 1 2 3 4 5 6; do ./walls check $stage --impl solutions --json $stage.json || true; done
        for stage in 0 1 2 3 4 5 6; do echo; echo =$stage; cat $stage.json; done
    """
    done = podman.run(script, *OPTIONS)
    said, *results = done.stdout.split("\n=")
    assert done.returncode == 0, said[-3000:] + done.stderr[-2000:]
    assert "This machine can do all that stages 0 to 6 need." in said
    assert "a host has 65536 of them" in said  # newuidmap works
    assert "9 of 9 points" in said
    tasks = {}
    for each in results:
        result = json.loads(each.partition("\n")[2])
        assert result["machine"]["uid"] == 1000
        tasks |= {task["id"]: task for stage in result["stages"] for task in stage["tasks"]}
    assert sorted(tasks) == sorted(task.id for stage in course.stages() for task in stage.tasks)
    odd = {name: (task["status"], task["message"]) for name, task in tasks.items() if task["status"] != "passed"}
    for name in [name for name in odd if name.startswith("4.")]:  # an engine's cgroups are read-only for a user
        status, message = odd.pop(name)
        assert status == "not_gradable" and "this machine lets you make no cgroup" in message
    assert odd == {}
    print(
        f"in the dev container: {sum(task['status'] == 'passed' for task in tasks.values())} of {len(tasks)} tasks passed"
    )


TRIES = {
    "seccomp=unconfined": ("unshare -Uru hostname other", "you must be root"),
    "systempaths=unconfined": ("unshare -Urmpf --mount-proc true", "Operation not permitted"),
}


@pytest.mark.parametrize("option", TRIES)
def test_an_option_is_needed(podman, option):
    """Each is tried with the others and without it. AppArmor's (apparmor=unconfined) takes a kernel that has AppArmor."""
    script, said = TRIES[option]
    assert podman.run(script, *OPTIONS).stderr == ""
    without = podman.run(script, *(word for word in OPTIONS if option not in word))
    assert without.returncode != 0 and said in without.stderr


def test_what_the_options_take_away_is_as_the_page_says(podman):
    """The container's root, who cannot be reached from its user, could write to the machine's /proc/sys."""
    opens = "exec 3>>/proc/sys/kernel/core_pattern"
    assert podman.run(opens, *OPTIONS, user="root").returncode == 0
    assert "Read-only" in podman.run(opens, user="root").stderr
    assert "Permission denied" in podman.run(opens, *OPTIONS).stderr
    assert podman.run("command -v sudo", *OPTIONS).stdout == ""
    caps = podman.run("getcap /usr/bin/newuidmap /usr/bin/newgidmap", *OPTIONS).stdout
    assert "newuidmap cap_setuid=ep" in caps and "newgidmap cap_setgid=ep" in caps
