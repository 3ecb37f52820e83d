"""`walls`, the bootstrap: what it makes, what it leaves alone, what it says when the machine cannot do it.

No network and no real pip: each test has a course of its own, with a tiny command line, and an interpreter
whose `-m venv` puts a pip in place that writes down how it was called and fails as $FAKE_PIP says.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
REAL_PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
TOOLS = (
    "sh",
    "cat",
    "date",
    "find",
    "flock",
    "grep",
    "mkdir",
    "mv",
    "readlink",
    "rm",
    "sed",
    "tail",
    "uname",
)

CLI = """
import json, os, sys
print(json.dumps({"args": sys.argv[1:], "cwd": os.getcwd(), "prefix": sys.prefix, "file": __file__}))
sys.exit(7)
"""

PIP = """
import json, os, signal, sys, time
with open(os.environ["PIP_CALLS"], "a") as calls:
    print(json.dumps(sys.argv[1:]), file=calls)
behaviour = os.environ.get("FAKE_PIP")
if behaviour == "slow":
    time.sleep(0.5)
elif behaviour == "killed":
    print("Installing collected packages: rich")
    open(os.path.join(os.path.dirname(__file__), "..", "half_a_package.py"), "w")
    os.kill(os.getppid(), signal.SIGKILL)
elif behaviour == "no network":
    print("WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError'")
    sys.exit("ERROR: No matching distribution found for rich")
elif behaviour == "disk full":
    sys.exit("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")
elif behaviour == "impossible" or (behaviour == "pin gone" and "-c" in sys.argv):
    sys.exit("ERROR: No matching distribution found for rich==13.7.1")
"""


def write_script(path: Path, text: str) -> Path:
    """An executable file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_python(path: Path, prelude: str = "") -> Path:
    """An interpreter at `path`: the real one, but for the pip it makes; `prelude` runs before any `-c`."""
    claim = f"import sys; sys._base_executable = {str(path)!r}; {prelude}\n"
    return write_script(
        path,
        f"""#!/bin/sh
case "$*" in
    "-I -m venv "*)
        {REAL_PYTHON} -I -m venv --without-pip "$4" || exit
        for site in "$4"/lib/python3.*/site-packages; do mkdir "$site/pip"; done
        : >"$site/pip/__init__.py"
        printf %s {shlex.quote(PIP)} >"$site/pip/__main__.py" ;;
    "-I -c "*) exec {REAL_PYTHON} -I -c {shlex.quote(claim)}"$3" ;;
    *) exit 99 ;;
esac
""",
    )


class Course:
    """A checkout with nothing in it but the bootstrap and a command line that reports how it was called."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "the course"
        self.calls = folder / "pip calls"
        self.tools = folder / "tools"
        for name in TOOLS:
            self.tools.mkdir(parents=True, exist_ok=True)
            (self.tools / name).symlink_to(str(shutil.which(name)))
        # The tests decide which Pythons there are: even the one in /usr/bin is looked for among the tools.
        script = (REPO / "walls").read_text()
        last_resort = " /usr/bin/python3\n"
        assert script.count(last_resort) == 1
        script = script.replace(last_resort, f" {shlex.quote(str(self.tools))}/usr-bin-python3\n")
        self.walls = write_script(self.root / "walls", script)
        (self.root / "thinwalls").mkdir()
        (self.root / "thinwalls" / "__init__.py").touch()
        (self.root / "thinwalls" / "cli.py").write_text(CLI)
        (self.root / "requirements.txt").write_text("rich>=13\n")
        (self.root / "constraints.txt").write_text("# tested\nrich==13.7.1\n")
        self.venv = self.root / ".venv"
        self.python = make_python(folder / "python")

    def environment(self, **more: str) -> dict[str, str]:
        """What `walls` is started with: few tools, and no Python but THINWALLS_PYTHON with its fake pip."""
        chosen = {"THINWALLS_PYTHON": str(self.python), "PIP_CALLS": str(self.calls)}
        return {"PATH": str(self.tools)} | chosen | more

    def call(
        self,
        *args: str,
        walls: Path | None = None,
        cwd: Path | None = None,
        user: dict[str, Any] | None = None,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run `walls args`, wait for it, and give back status, output and messages."""
        return subprocess.run(
            [walls or self.walls, *args],
            cwd=cwd or self.root,
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            **(user or {}),
        )

    def pip_calls(self) -> list[list[str]]:
        """The arguments of every call of pip so far."""
        if not self.calls.exists():
            return []
        return [json.loads(line) for line in self.calls.read_text().splitlines()]


@pytest.fixture
def course(tmp_path: Path) -> Course:
    return Course(tmp_path)


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """`walls` said that this machine cannot do it, with these words, and nothing of a tool's own noise."""
    assert result.returncode == 3, result
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr
    for line in result.stderr.splitlines():
        assert line.startswith(("walls: ", "       ")), line


# --- the first call and the ones after it


def test_the_first_call_makes_the_venv_and_hands_over(course: Course, tmp_path: Path) -> None:
    result = course.call("start", "two words", "", cwd=tmp_path)
    assert result.returncode == 7
    seen = json.loads(result.stdout)
    assert seen["args"] == ["start", "two words", ""]
    assert seen["cwd"] == str(tmp_path)
    assert seen["prefix"] == str(course.venv)
    assert seen["file"] == str(course.root / "thinwalls" / "cli.py")
    making, fetching, ready = result.stderr.splitlines()
    assert making.startswith(f"walls: making {course.venv} with Python 3.")
    assert fetching.startswith("walls: fetching and installing")
    assert ready.startswith("walls: ready after ")
    [arguments] = course.pip_calls()
    assert arguments[arguments.index("-r") + 1] == str(course.root / "requirements.txt")
    assert arguments[arguments.index("-c") + 1] == str(course.root / "constraints.txt")


def test_a_warm_call_is_silent_and_writes_nothing(course: Course) -> None:
    course.call()
    before = {path: path.lstat().st_mtime_ns for path in course.root.rglob("*")}
    result = course.call("check", "0")
    assert (result.returncode, result.stderr) == (7, "")
    assert {path: path.lstat().st_mtime_ns for path in course.root.rglob("*")} == before


def test_it_is_found_through_symbolic_links(course: Course, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "first").symlink_to(os.path.join("the course", "walls"))
    (tmp_path / "bin" / "walls").symlink_to(os.path.join("..", "first"))
    for walls in (tmp_path / "bin" / "walls", Path("walls"), Path("../first")):
        result = course.call(walls=walls, cwd=tmp_path / "bin", PATH=f"{tmp_path}/bin:{course.tools}")
        assert json.loads(result.stdout)["prefix"] == str(course.venv)


def test_modules_in_the_callers_directory_are_not_imported(course: Course, tmp_path: Path) -> None:
    submissions = tmp_path / "submissions"
    (submissions / "thinwalls").mkdir(parents=True)
    for name in ("json.py", "pip.py", "venv.py", "thinwalls/__init__.py", "thinwalls/cli.py"):
        (submissions / name).write_text("raise SystemExit('code of a submission was run')")
    result = course.call(cwd=submissions)
    assert json.loads(result.stdout)["file"] == str(course.root / "thinwalls" / "cli.py")


def test_a_moved_course_still_works(course: Course, tmp_path: Path) -> None:
    course.call()
    course.root = course.root.rename(tmp_path / "elsewhere")
    result = course.call(walls=course.root / "walls")
    assert json.loads(result.stdout)["file"] == str(tmp_path / "elsewhere" / "thinwalls" / "cli.py")
    assert len(course.pip_calls()) == 1


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_changed_requirements_are_installed_and_a_new_date_is_no_change(course: Course, name: str) -> None:
    course.call()
    (course.root / name).touch()
    course.call()
    assert len(course.pip_calls()) == 1
    (course.root / name).write_text((course.root / name).read_text() + "# and more\n")
    result = course.call()
    assert result.returncode == 7
    assert "bringing .venv up to date" in result.stderr
    course.call()
    assert len(course.pip_calls()) == 2


def test_a_venv_whose_python_is_gone_is_made_again(course: Course) -> None:
    course.call()
    (course.venv / "bin" / "python").unlink()
    (course.venv / "bin" / "python").symlink_to("/nowhere/python3.11")
    assert course.call().returncode == 7
    assert len(course.pip_calls()) == 2


def test_an_interrupted_set_up_starts_again_from_nothing(course: Course) -> None:
    assert course.call(FAKE_PIP="killed").returncode == -9
    assert list(course.venv.rglob("half_a_package.py"))
    assert course.call().returncode == 7
    assert not list(course.venv.rglob("half_a_package.py"))


def test_an_interrupted_update_starts_again_from_nothing(course: Course) -> None:
    course.call()
    before = (course.root / "requirements.txt").read_text()
    (course.root / "requirements.txt").write_text("rich>=14\n")
    assert course.call(FAKE_PIP="killed").returncode == -9
    (course.root / "requirements.txt").write_text(before)  # what the stamp says, but not what is there
    assert course.call().returncode == 7
    assert not list(course.venv.rglob("half_a_package.py"))


def test_an_update_that_cannot_be_fetched_leaves_the_earlier_venv_whole(course: Course) -> None:
    course.call()
    before = (course.root / "requirements.txt").read_text()
    (course.root / "requirements.txt").write_text("rich>=14\n")
    refused(course.call(FAKE_PIP="no network"), "could not be fetched")
    (course.root / "requirements.txt").write_text(before)
    assert course.call().stderr == ""


def test_two_first_calls_at_once(course: Course) -> None:
    both = [
        subprocess.Popen(
            [course.walls],
            env=course.environment(FAKE_PIP="slow"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    messages = [process.communicate(timeout=60)[1] for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert len(course.pip_calls()) == 1
    assert "walls: waiting for another ./walls that is making .venv\n" in messages


# --- what can go wrong


def test_a_pin_that_is_gone_is_done_without(course: Course) -> None:
    result = course.call(FAKE_PIP="pin gone")
    assert result.returncode == 7
    assert "the versions in constraints.txt cannot be installed here; trying the ranges" in result.stderr
    assert ["-c" in arguments for arguments in course.pip_calls()] == [True, False]
    assert course.call().stderr == ""


@pytest.mark.parametrize(
    ("behaviour", "words", "tries"),
    [
        ("no network", ("could not be fetched", "https_proxy", "PIP_INDEX_URL"), 1),
        ("disk full", ("the disk is full",), 2),
        ("impossible", ("could not be fetched or installed", "No matching distribution", "PIP_INDEX_URL"), 2),
    ],
)
def test_pip_fails(course: Course, behaviour: str, words: tuple[str, ...], tries: int) -> None:
    log = course.venv / "install.log"
    refused(course.call(FAKE_PIP=behaviour), f"pip's log: {log}", *words)
    assert "ERROR: " in log.read_text()
    assert len(course.pip_calls()) == tries
    assert course.call().returncode == 7


def test_there_is_no_python(course: Course) -> None:
    result = course.call(THINWALLS_PYTHON="")
    refused(result, "Python 3.11 or newer, and there is none", "apt install python3 python3-venv")
    refused(result, "dnf install python3", "Ubuntu 22.04", "deadsnakes", "uv python install")


def test_there_is_only_an_old_python(course: Course) -> None:
    make_python(course.tools / "python3", "sys.version_info = (3, 10, 12)")
    refused(course.call(THINWALLS_PYTHON=""), "there is only Python 3.10.12")


def test_the_first_python_that_is_good_enough_is_taken(course: Course) -> None:
    write_script(course.tools / "python3.13", "#!/bin/sh\necho 'not the active version' >&2; exit 127\n")
    make_python(course.tools / "python3.12", "sys.modules['ensurepip'] = None")
    make_python(course.tools / "python3", "sys.version_info = (3, 9, 2)")
    good = make_python(course.tools / "usr-bin-python3", "sys.version_info = (3, 11, 4)")
    result = course.call(THINWALLS_PYTHON="")
    assert result.returncode == 7
    assert f"with Python 3.11.4 ({good})" in result.stderr


def test_python_without_its_venv_module(course: Course) -> None:
    make_python(course.tools / "python3", "sys.modules['ensurepip'] = None; sys.version_info = (3, 12, 3)")
    words = "apt install python3-venv (or python3.12-venv)"
    refused(course.call(THINWALLS_PYTHON=""), "Python 3.12.3 is here, but not its module venv", words)


@pytest.mark.parametrize(
    ("chosen", "words"), [("old", "which is Python 3.10.1."), ("none", "which is no Python that runs")]
)
def test_a_chosen_python_that_will_not_do_is_not_replaced(course: Course, chosen: str, words: str) -> None:
    make_python(course.tools / "python3")
    make_python(course.tools / "old", "sys.version_info = (3, 10, 1)")
    refused(course.call(THINWALLS_PYTHON=chosen), f"THINWALLS_PYTHON is {chosen}, {words}")


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("Darwin", ("macOS", "Lima", "OrbStack", "UTM")),
        ("MINGW64_NT-10.0-22631", ("Windows", "WSL2")),
        ("MSYS_NT-10.0-22631", ("Windows", "WSL2")),
        ("CYGWIN_NT-10.0", ("Windows", "WSL2")),
        ("FreeBSD", ("FreeBSD", "virtual machine")),
    ],
)
def test_another_kernel(course: Course, system: str, words: tuple[str, ...]) -> None:
    (course.tools / "uname").unlink()
    write_script(course.tools / "uname", f'#!/bin/sh\n[ "$*" = -s ] && echo {system}\n')
    refused(course.call("start"), "containers are made of parts of the Linux kernel", *words)
    assert not course.venv.exists()


@pytest.mark.parametrize("name", ["requirements.txt", "constraints.txt"])
def test_half_a_course(course: Course, name: str) -> None:
    (course.root / name).unlink()
    refused(course.call(), f"{course.root / name} is missing")


# --- somebody else's course


@pytest.fixture
def readable() -> Iterator[Course]:
    """A course with its .venv made, where every user can reach it; its Python says only that it ran."""
    with tempfile.TemporaryDirectory(prefix="thinwalls-bootstrap-") as folder:
        os.chmod(folder, 0o755)
        course = Course(Path(folder))
        assert course.call().returncode == 7
        # The interpreter these tests run on may be one that other users cannot read.
        (course.venv / "bin" / "python").unlink()
        write_script(course.venv / "bin" / "python", '#!/bin/sh\necho "ran $*"\n')
        for path in (course.root, course.venv, course.root / "thinwalls"):
            path.chmod(0o555)
        yield course
        for path in (course.root, course.venv, course.root / "thinwalls"):
            if path.exists():
                path.chmod(0o755)


def stranger() -> dict[str, Any]:
    """How to start a program as someone whom file modes bind: as root, that is another user."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def test_a_reader_can_use_a_course_that_is_set_up(readable: Course) -> None:
    result = readable.call("hint", "1.1", user=stranger())
    assert (result.stdout, result.stderr) == ("ran -P -m thinwalls.cli hint 1.1\n", "")


def test_a_reader_cannot_bring_it_up_to_date(readable: Course) -> None:
    (readable.root / "requirements.txt").write_text("rich>=14\n")
    result = readable.call(user=stranger())
    refused(result, "out of date", f"sudo rm -r '{readable.venv}'", "ask its owner to run ./walls")


def test_a_folder_that_cannot_be_written_to(readable: Course) -> None:
    readable.root.chmod(0o755)
    readable.venv.chmod(0o755)
    shutil.rmtree(readable.venv)
    readable.root.chmod(0o555)
    refused(readable.call(user=stranger()), f"{readable.root} cannot be written to", "home directory")
