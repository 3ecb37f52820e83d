"""``./walls run`` as its user meets it: a process of its own, whose exit status and streams are the program's."""

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import machine_state
import pytest

from thinwalls import course, rootfs
from thinwalls.host import Keeper

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path):
    before = machine_state.snapshot()
    yield
    assert machine_state.difference(before, machine_state.settled(before)) == []


def command(*words, impl="solutions"):
    """The words of the command line: options first, CMD last; the root file system is put between them at "IN"."""
    small = rootfs.cached()
    words = [small if word == "IN" else word for word in words]
    return [sys.executable, "-m", "thinwalls.cli", "run", "--impl", str(impl), *words]


def run(*words, impl="solutions", **given):
    environment = {**os.environ, "PYTHONPATH": str(course.ROOT), **given.pop("env", {})}
    done = subprocess.run(
        command(*words, impl=impl),
        cwd=course.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **given,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_exit_status_is_the_programs():
    assert run("IN", "/bin/true").returncode == 0
    assert run("IN", "sh", "-c", "exit 7").returncode == 7
    assert run("IN", "sh", "-c", "kill -9 $$").returncode == 137


def test_what_cannot_be_executed_counts_as_in_a_shell():
    done = run("IN", "/no/such/program")
    assert (done.returncode, done.stdout) == (127, "")
    assert "No such file or directory" in done.stderr and "/no/such/program" in done.stderr
    assert run("IN", "no-such-program").returncode == 127
    assert run("IN", "/bin").returncode == 126


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["/no/such/rootfs", "true"], 125, "no directory with a root file system"),
        (["-t", "IN", "true"], 125, "leave it out"),
        (["-v", "/no/such/source:/data", "IN", "true"], 125, "/no/such/source"),
        (["-m", "64q", "IN", "true"], 2, "'64q' is no size"),
        (["-m", "0", "IN", "true"], 2, "'0' is no size"),
        (["--pids", "0", "IN", "true"], 2, "'0' is no number of processes"),
        (["-m", "64\u212a", "IN", "true"], 2, "-m/--memory: '64\u212a' is no size"),  # the Kelvin sign, no K
        (["-m", "99999999999g", "IN", "true"], 2, "-m/--memory: '99999999999g' is no size"),
        (["--pids", "9" * 20, "IN", "true"], 2, f"--pids: '{'9' * 20}' is no number of processes"),
        (["--cpus", "9" * 400, "IN", "true"], 2, "is no number of processors"),
        (["--cpus", "nan", "IN", "true"], 2, "'nan' is no number of processors"),
        (["-v", "relative-only", "IN", "true"], 2, "SRC:DST"),
        (["-v", "/tmp:/a/../b", "IN", "true"], 2, "SRC:DST"),
        ([], 2, "ROOTFS"),
        (["--frobnicate", "IN"], 2, "frobnicate"),
    ],
)
def test_what_cannot_be_started_is_a_sentence(words, status, says):
    done = run(*words)
    assert (done.returncode, done.stdout) == (status, "")
    assert says in " ".join(done.stderr.split())


def test_streams_are_apart_and_input_comes_only_when_asked_for():
    done = run("IN", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")
    assert run("-i", "IN", "cat", input="hello\n").stdout == "hello\n"
    assert run("IN", "cat", input="hello\n").stdout == ""
    much = "x" * 300_000
    assert run("-i", "IN", "cat", input=much).stdout == much


def test_its_environment_and_its_name():
    done = run("-e", "A=b", "-e", "GIVEN", "-e", "NOT_THERE", "IN", "env", env={"GIVEN": "on", "SECRET": "x"})
    assert set(done.stdout.split()) >= {"A=b", "GIVEN=on", "HOME=/root"}
    assert "SECRET" not in done.stdout and "NOT_THERE" not in done.stdout
    assert run("--name", "box", "IN", "cat", "/proc/sys/kernel/hostname").stdout == "box\n"


def test_the_walls_stand():
    done = run("IN", "sh", "-c", "echo $$; cat /proc/1/comm; echo /proc/[0-9]*; ls /; mount -t tmpfs x /tmp; exit $?")
    number, init, processes, *names = done.stdout.splitlines()
    assert init == "python" and number != "1"
    assert set(processes.split()) <= {"/proc/1", f"/proc/{number}"}
    assert "srv" not in names and "proc" in names
    assert done.returncode != 0 and "ermi" in done.stderr  # permission denied: CAP_SYS_ADMIN is gone


def test_what_it_writes_ends_with_it():
    small = rootfs.cached()
    before = sorted(os.listdir(small))
    assert run("IN", "sh", "-c", "mkdir /fresh && echo x > /fresh/file && cat /fresh/file").stdout == "x\n"
    assert sorted(os.listdir(small)) == before


def test_volumes(tmp_path):
    (tmp_path / "given").write_text("here\n")
    done = run("-v", f"{tmp_path}:/data", "IN", "sh", "-c", "cat /data/given; echo back > /data/made")
    assert (done.returncode, done.stdout) == (0, "here\n")
    assert (tmp_path / "made").read_text() == "back\n"
    assert (tmp_path / "made").stat().st_uid == os.getuid()
    done = run("-v", f"{tmp_path}:/data:ro", "IN", "sh", "-c", "cat /data/given; echo back > /data/again")
    assert (done.returncode != 0, done.stdout) == (True, "here\n")
    assert not (tmp_path / "again").exists()
    done = run("-v", f"{tmp_path / 'given'}:/etc/one", "IN", "cat", "/etc/one")
    assert done.stdout == "here\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_program(number):
    name = number.name.removeprefix("SIG")
    script = f"trap 'exit 5' {name}; echo ready; while :; do sleep 0.02; done"
    with subprocess.Popen(command("IN", "sh", "-c", script), stdout=subprocess.PIPE, cwd=course.ROOT) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(20) == 5


def test_a_wall_that_waits_for_ever_can_be_ended(tmp_path):
    for stage in course.stages():
        shutil.copy(course.ROOT / "solutions" / f"{stage.stem}.py", tmp_path)
    file = tmp_path / "stage03_mount_namespace.py"
    file.write_text(
        file.read_text().replace(
            "        keep_mounts_private()  #", "        print('waits'); os.read(os.pipe()[0], 1)  #"
        )
    )
    with subprocess.Popen(
        command("IN", "true", impl=tmp_path), stderr=subprocess.PIPE, text=True, cwd=course.ROOT
    ) as process:
        assert process.stderr.readline() == "waits\n"  # what a wall prints is not the program's output
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 125
        assert "ended by SIGINT" in process.stderr.read()


def test_only_the_walls_that_are_built(tmp_path):
    stages = course.stages()
    for stage in stages:
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    done = run("IN", "true", impl=tmp_path)
    assert done.returncode == 125 and "the launcher of stage 0 is not built yet" in done.stderr
    for stage in stages[:2]:
        shutil.copy(course.ROOT / "solutions" / f"{stage.stem}.py", tmp_path)
    done = run("IN", "sh", "-c", "echo $$ in", impl=tmp_path)
    assert done.returncode == 0
    assert done.stdout.endswith(" in\n") and done.stdout != "1 in\n"  # behind chroot alone
    assert "stage 2 is not built yet: its walls are missing" in done.stderr


def test_limits():
    with Keeper() as keeper:
        possible = keeper.cgroup
    words = ["-m", "64m", "--pids", "32", "--cpus", "0.5", "IN", "sh", "-c"]
    if not possible:
        done = run(*words, "exit 7")
        assert (done.returncode, done.stdout) == (125, "")
        assert "this machine lets you make none" in done.stderr
        return
    assert run(*words, "exit 7").returncode == 7
    done = run(*words, "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done")
    assert (done.returncode, done.stderr) == (137, "walls run: killed: out of memory (64 MiB)\n")
    done = run(*words, "kill -9 $$")
    assert (done.returncode, done.stderr) == (137, "")
    done = run(*words, "bomb() { bomb & bomb & wait; }; sleep 0.3 & slept=$!; bomb & wait $slept; exit 7")
    assert done.returncode == 7 and "annot fork" in done.stderr
    assert run("--cpus", "0.2", "IN", "true").returncode == 0


def test_no_user_namespace_can_be_made():
    done = run("IN", "cat", "/proc/sys/user/max_user_namespaces")
    assert done.stdout == "0\n"


def test_limits_need_their_stage(tmp_path):
    for stage in course.stages()[:4]:
        shutil.copy(course.ROOT / "solutions" / f"{stage.stem}.py", tmp_path)
    done = run("-m", "64m", "IN", "true", impl=tmp_path)
    assert done.returncode == 125 and "limits come with stage 4" in done.stderr


def test_a_terminal_of_its_own():
    """A shell under -t has a terminal, and it is the container's: job control, Ctrl-C, the size of the window."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(course.ROOT)
        words = command("-t", "IN", "sh", "-c", "test -t 0 && ls /dev/pts && echo ready && sleep 100")
        os.execv(words[0], words)
    said = b""
    deadline = time.monotonic() + 20
    try:
        while b"ready" not in said and time.monotonic() < deadline:
            said += os.read(terminal, 4096)
        assert b"0" in said and b"ready" in said
        os.write(terminal, b"\x03")
        while time.monotonic() < deadline:
            try:
                said += os.read(terminal, 4096)
            except OSError:  # it has hung up
                break
    finally:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130, said


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="there is no /usr/bin/python3 to serve with")
def test_a_published_port_is_answered_by_the_container_and_given_back():
    port = free_port()
    serve = ["/usr/bin/python3", "-m", "http.server", "80"]
    words = command("--name", "box", "-p", f"{port}:80", "-v", "/usr:/usr:ro", "IN", *serve)
    environment = {**os.environ, "PYTHONPATH": str(course.ROOT)}
    with subprocess.Popen(words, cwd=course.ROOT, env=environment, stdout=-1, stderr=-1, text=True) as container:
        deadline = time.monotonic() + 30
        answer = ""
        while not answer and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/etc/hostname", timeout=2).read().decode()
        assert answer == "box\n", container.stderr.read() if container.poll() is not None else "no answer"
        taken = run("-p", f"{port}:80", "IN", "/bin/true")
        assert taken.returncode == 125
        assert f"port {port} of this machine cannot be published" in taken.stderr
        container.send_signal(signal.SIGINT)
        container.communicate(timeout=20)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))  # it is free again


@pytest.mark.parametrize("pair", ["80", "0:80", "80:0", "80:65536", "a:b", "-1:80", "80:80:80", ""])
def test_ports_that_make_no_sense_are_refused(pair):
    done = run(f"-p={pair}", "IN", "/bin/true")
    assert done.returncode == 2
    assert "no pair of ports" in done.stderr


def test_the_container_has_a_network_and_names_of_its_own():
    done = run("--name", "box", "IN", "sh", "-c", "cat /proc/net/dev /etc/hosts /etc/hostname")
    assert "eth0:" in done.stdout and "uplink:" not in done.stdout
    assert done.stdout.endswith(" box\nbox\n")
