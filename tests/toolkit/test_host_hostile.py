"""Whatever code in a throwaway host does costs that call and nothing else.

After each of these tests the machine is as it was, the same keeper makes the next host as if nothing had happened,
and the grader has waited no longer than it meant to. How the guests are written: see test_host.py.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import machine_state
import pytest
from test_host import CHECKOUT, ROOT, answer, ask, guest, pid, raw, refusal, start, wait

from thinwalls import facts
from thinwalls.grading.machine import Machine
from thinwalls.host import Gone, HostError, Keeper, Late, limits, wire

pytestmark = pytest.mark.slow

MARK = re.compile(r"tw-mark-[0-9a-f]{16}")  # what the tests on secrets look for in a guest's reach


PATIENCE = 8.0  # seconds for what takes a tenth of one where nothing else is going on


class Hung(BaseException):
    """The grader waited for a guest longer than it meant to."""


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    with Keeper() as keeper:
        assert keeper.cgroup in ("v1", "v2", None)
        yield keeper


@pytest.fixture(autouse=True)
def nothing_else_is_lost(keeper: Keeper) -> Iterator[None]:
    def hung(*_: object) -> None:
        raise Hung

    before = machine_state.snapshot()
    process = keeper._process
    previous = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, 40)
    try:
        yield
        with guest(keeper, pid) as host:
            assert ask(host, pid) == 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    if keeper._process is process:  # else the kernel chose the keeper when memory ran out, and its name is in the state
        assert machine_state.difference(before, machine_state.settled(before)) == []


def mark() -> str:
    return f"tw-mark-{random.SystemRandom().getrandbits(64):016x}"


def ends_soon(host: object) -> None:
    """Close a host, which must not take long, whatever is in it."""
    began = time.monotonic()
    host.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < PATIENCE


# Ends


def kill_everything() -> str:
    import os
    import signal
    import time

    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    os.kill(-1, signal.SIGKILL)  # all but the caller and PID 1: kill(2)
    return f"{os.getpid()} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}"


def test_kill_minus_nine_minus_one(keeper):
    with guest(keeper, kill_everything, pid) as host:
        assert ask(host, kill_everything) == "2 -9"
        assert ask(host, pid) == 2


def end_pid_1(how: str) -> None:
    import ctypes
    import os
    import platform
    import signal

    x86 = platform.machine() == "x86_64"
    if how == "ptrace":  # PTRACE_SEIZE, PTRACE_INTERRUPT, and death with the tracer: PTRACE_O_EXITKILL
        raw(101 if x86 else 117, 0x4206, 1, 0, 0x00100000)
        os._exit(0)
    if how == "reboot":  # of a PID namespace: reboot(2)
        assert (
            len(os.listdir("/proc/1/task")) and os.stat("/proc/self/ns/pid").st_ino != 0xEFFFFFFC
        )  # the machine's own
        raw(169 if x86 else 142, 0xFEE1DEAD, 672274793, 0x01234567, 0)
    if how == "memory":  # every page that it can write, overwritten
        with open("/proc/1/maps") as maps, open("/proc/1/mem", "r+b", 0) as memory:
            for text in maps:
                first, last = (int(edge, 16) for edge in text.split()[0].split("-"))
                if " rw" in text:
                    memory.seek(first)
                    memory.write(bytes(last - first))
    if how == "signals":
        for number in range(1, 65):
            refusal(os.kill, 1, number)
        return
    ctypes.CDLL(None)
    signal.pause()


@pytest.mark.parametrize("how", ["ptrace", "reboot", "memory", "signals"])
def test_killing_the_inner_pid_1(keeper, how):
    with guest(keeper, end_pid_1, pid) as host:
        inner = facts.Process(facts.Process(host.runner).parent())
        start(host, end_pid_1, how)
        if how == "signals":  # its own namespace's signals do not reach a PID 1 that has no handler for them
            answer(host)
            assert not inner.ended()
            return
        with contextlib.suppress(Gone, Late):
            answer(host, 2 if how != "memory" else 0.5)
        assert how == "memory" or inner.ended(3)
        ends_soon(host)


def wreck_files() -> str:
    import shutil
    import subprocess

    try:
        subprocess.run(["rm", "-rf", "--no-preserve-root", "/"], capture_output=True, timeout=0.7)
    except subprocess.TimeoutExpired:
        pass  # it is still trying the machine's own, file by file
    for path in ("/course", "/tmp", "/etc", "/root", "/srv", "/run", "/dev", "/usr/bin"):
        shutil.rmtree(path, ignore_errors=True)
    return refusal(open, "/course/guest.py")


# The machine's files


def real_files() -> dict[str, str]:
    """Files that a host has a view of: their contents and all that could be changed of them."""
    sample = [
        "/usr",
        "/usr/bin",
        "/bin/sh",
        "/usr/bin/env",
        "/lib64",
        os.path.realpath(sys.executable),
        sys.executable,
        sys.prefix,
        sys.base_prefix,
        json.__file__,
        pytest.__file__,
        os.path.dirname(json.__file__),
        f"{sys.prefix}/pyvenv.cfg",
    ]
    found = {}
    for path in sample:
        if os.path.exists(path):
            real = os.path.realpath(path)
            now = os.stat(real)
            digest = (
                hashlib.sha256(Path(real).read_bytes()).hexdigest()
                if os.path.isfile(real)
                else sorted(os.listdir(real))
            )
            found[real] = f"{digest} {now.st_mode:o} {now.st_uid} {now.st_gid} {now.st_mtime_ns} {now.st_ctime_ns}"
    return found


def test_rm_rf(keeper):
    before = real_files()
    with guest(keeper, wreck_files) as host:
        assert ask(host, wreck_files, seconds=15) == "ENOENT"
        host.plant("/tmp/file", "the trusted side still has a root\n")
    assert real_files() == before


def alter(paths: list[str]) -> str:
    """Everything that could make the machine's files writable, and then everything that would write to them."""
    import ctypes
    import os
    import time

    from thinwalls import linux

    def points() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [text.split()[4].encode().decode("unicode_escape") for text in file]

    def loosen() -> None:
        for point in points():
            for extra in (
                0,
                linux.MS_NOSUID,
                linux.MS_NOSUID | linux.MS_NODEV,
                linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC,
            ):
                refusal(linux.mount, None, point, None, linux.MS_REMOUNT | linux.MS_BIND | extra)
                refusal(linux.mount, None, point, None, linux.MS_REMOUNT | extra)
            refusal(linux.mount, None, point, None, linux.MS_SHARED | linux.MS_REC)
            refusal(
                linux.mount_setattr,
                point,
                0,
                linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV,
                True,
            )

    wrote = []

    def write() -> None:
        now = time.time()
        for path in paths:
            for where in (path, f"/proc/self/root{path}", f"/proc/1/root{path}", f"/proc/1/cwd/..{path}"):
                for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
                    if not refusal(os.open, where, flags):
                        wrote.append(f"open {flags:o} {where}")
                for call, more in (
                    (os.chmod, (0o777,)),
                    (os.chown, (0, 0)),
                    (os.chown, (1, 1)),
                    (os.utime, ((now, now),)),
                    (os.truncate, (0,)),
                    (os.unlink, ()),
                    (os.rmdir, ()),
                    (os.rename, (where + "~",)),
                    (os.setxattr, ("user.was", b"here")),
                    (os.mkdir, ()),
                ):
                    if os.path.exists(where) and not refusal(call, where, *more):
                        wrote.append(f"{call.__name__} {where}")
                if os.path.isdir(where) and not refusal(os.mkdir, f"{where}/was-here"):
                    wrote.append(f"mkdir in {where}")

    def through_handles() -> None:
        """open_by_handle_at(2) with the handle of the root of the file system below a mount."""
        import platform
        import struct

        number = 304 if platform.machine() == "x86_64" else 265
        for path in ("/usr", "/", *paths[:3]):
            if os.path.exists(path):
                directory = os.open(path, os.O_RDONLY)
                for kind, inode in ((1, 2), (1, 128), (0x81, 128)):
                    handle = struct.pack("Ii", 8, kind) + struct.pack("II", inode, 0) + bytes(120)
                    if not refusal(raw, number, directory, ctypes.c_char_p(handle), os.O_RDONLY):
                        wrote.append(f"a handle below {path}")

    loosen()
    write()
    through_handles()
    for _ in range(2):
        for point in reversed(points()):
            if not point.startswith("/proc"):
                refusal(linux.umount, point, linux.MNT_DETACH)
        loosen()
    # What stands at these paths now may be the host's own: so the machine's are looked at from outside.
    kept, wrote[:] = list(wrote), []
    write()
    return "\n".join(kept)[:1900]


def test_nothing_makes_the_machines_files_writable(keeper):
    before = real_files()
    assert len(before) > 6
    with guest(keeper, alter) as host:
        said = ask(host, alter, list(before))
    assert real_files() == before
    assert said == ""


def alter_own_executable() -> str:
    import os
    import time

    wrote = []
    for path in ("/proc/self/exe", "/proc/1/exe"):
        held = os.open(path, os.O_PATH)
        for where in (path, f"/proc/self/fd/{held}"):
            for call, more in (
                (os.chmod, (0o700,)),
                (os.chown, (1, 1)),
                (os.utime, ((1, 1),)),
                (os.truncate, (0,)),
                (os.setxattr, ("user.was", b"here")),
                (os.open, (os.O_WRONLY,)),
                (os.open, (os.O_RDWR,)),
            ):
                if not refusal(call, where, *more):
                    wrote.append(f"{call.__name__} {where}")
    directory = "/proc/self/map_files"
    for name in os.listdir(directory):
        if not refusal(os.utime, f"{directory}/{name}", (1, 1)):
            wrote.append(f"utime {os.readlink(f'{directory}/{name}')}")
    time.sleep(0)
    return "\n".join(wrote)


def test_the_interpreter_itself_is_out_of_reach(tmp_path, monkeypatch):
    """/proc/self/exe of the runner leads past every mount of the host: to the file of the interpreter on the machine.

    Where that file is the user's own (uv, pyenv, conda, venv --copies), uid 0 of an unprivileged host may own it too.
    """
    copy = tmp_path / "bin" / "python3"
    copy.parent.mkdir()
    tmp_path.chmod(0o755)
    shutil.copy2(os.path.realpath(sys.executable), copy)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    monkeypatch.setattr(sys, "executable", str(copy))

    def now() -> tuple[object, ...]:
        found = copy.stat()
        return (
            found.st_mode,
            found.st_uid,
            found.st_gid,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            os.listxattr(copy),
        )

    before = now()
    with Keeper() as keeper, guest(keeper, alter_own_executable) as host:
        said = ask(host, alter_own_executable)
    assert now() == before, said


# What it sees


def attach_to_pid_1() -> str:
    import os
    import platform

    number = 101 if platform.machine() == "x86_64" else 117
    seize, detach, interrupt = 0x4206, 17, 0x4207
    found = [refusal(raw, number, seize, 1, 0, 0), refusal(raw, number, interrupt, 1, 0, 0)]
    os.waitid(os.P_PID, 1, os.WSTOPPED | 0x40000000)  # __WALL
    found.append(refusal(raw, number, detach, 1, 0, 0))
    with open("/proc/1/status") as file:
        parent = next(text.split()[1] for text in file if text.startswith("PPid"))
    pids = ",".join(sorted(name for name in os.listdir("/proc") if name.isdigit()))
    return f"{''.join(found)} {parent} {pids}"


def reach(pids: list[int]) -> str:
    """Signals and pidfds by every number the machine might know its processes under."""
    import os

    found = []
    for number in pids:
        if os.path.exists(f"/proc/{number}") and number > 2:
            found.append(f"/proc/{number}")
        if number > 2 and (refusal(os.kill, number, 0), refusal(os.pidfd_open, number)) != ("ESRCH", "ESRCH"):
            found.append(f"kill {number}")
    return " ".join(found)


def test_pid_1_can_be_traced_and_the_outer_level_cannot_be_seen(keeper):
    with guest(keeper, attach_to_pid_1, reach) as host:
        assert ask(host, attach_to_pid_1) == " 0 1,2"
        theirs = [
            os.getpid(),
            os.getppid(),
            keeper._process.pid,
            host.pid,
            facts.Process(host.runner).parent(),
            host.runner,
        ]
        assert ask(host, reach, theirs) == ""
        for process in (os.getpid(), keeper._process.pid, host.pid):
            assert not facts.Process(process).ended()


def climb_along_sockets() -> str:
    """A pidfd of whoever made our sockets (SO_PEERPIDFD, Linux 6.5) is one of the grader: what is it good for?"""
    import os
    import platform
    import signal
    import socket

    found = []
    for fd in range(4):
        sock = socket.socket(fileno=os.dup(fd))
        try:
            peer = sock.getsockopt(socket.SOL_SOCKET, 77)
        except OSError:
            continue
        getfd = 438
        for number in (0, signal.SIGKILL):
            if not refusal(signal.pidfd_send_signal, peer, number):
                found.append(f"signal {number}")
        for theirs in range(8):
            if not refusal(raw, getfd, peer, theirs, 0):
                found.append(f"descriptor {theirs}")
        for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
            if not refusal(raw, 308 if platform.machine() == "x86_64" else 268, peer, flag):
                found.append(f"setns {flag:x}")
        for request in range(1, 11):  # PIDFD_GET_CGROUP_NAMESPACE ...
            if not refusal(raw, 16 if platform.machine() == "x86_64" else 29, peer, 0xFF00 | request, 0):
                found.append(f"namespace {request}")
    return " ".join(found)


def test_the_graders_pidfd_is_good_for_nothing(keeper):
    with guest(keeper, climb_along_sockets) as host:
        assert ask(host, climb_along_sockets) == ""


def memories() -> str:
    """Every mark in the memory, the environment, the descriptors and the files of all processes of the guest."""
    import json
    import os
    import re

    found = set()
    for process in ("self", "1"):
        with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb", 0) as memory:
            for text in maps:
                first, last = (int(edge, 16) for edge in text.split()[0].split("-"))
                if text.split()[1].startswith("r") and "[v" not in text:
                    memory.seek(first)
                    try:
                        found |= {
                            each.decode() for each in re.findall(rb"tw-mark-[0-9a-f]{16}", memory.read(last - first))
                        }
                    except OSError:
                        pass
            maps.seek(0)
            found |= set(re.findall(r"tw-mark-[0-9a-f]{16}", maps.read()))
        for name in ("environ", "cmdline"):
            with open(f"/proc/{process}/{name}", "rb") as file:
                found |= {each.decode() for each in re.findall(rb"tw-mark-[0-9a-f]{16}", file.read())}
    for top, directories, names in os.walk("/"):
        directories[:] = [name for name in directories if f"{top}/{name}" not in ("//proc", "//dev")]
        if os.statvfs(top).f_flag & os.ST_RDONLY:  # the machine's own, or the kernel's
            directories[:] = []
            continue
        for name in names:
            try:
                with open(os.path.join(top, name), "rb") as file:
                    found |= {each.decode() for each in re.findall(rb"tw-mark-[0-9a-f]{16}", file.read(1 << 20))}
            except OSError:
                pass
    return json.dumps(sorted(found))


STANDING = "tw-mark-" + "feedfacefeedface"  # in the text of this file, as a graded test's text is


def test_nothing_that_the_grader_knows_is_within_reach(keeper, monkeypatch, tmp_path):
    seed, variable, in_file, own, others, memfd = (mark() for _ in range(6))
    monkeypatch.setenv("THINWALLS_SECRET", variable)
    (tmp_path / "secret.txt").write_text(in_file)
    with (
        open(tmp_path / "secret.txt") as held,
        guest(keeper, pid, files={"/course/reference.py": f"# {others}\n" * 50}) as before,
    ):
        os.set_inheritable(held.fileno(), True)
        ask(before, pid)
        order = os.memfd_create("a-test", 0)
        os.write(order, memfd.encode())
        with Keeper() as late, guest(late, memories) as host:
            found = json.loads(ask(host, memories))
            assert not {seed, variable, in_file, memfd, STANDING} & set(found)
        os.close(order)
        with guest(keeper, memories, files={"/course/own.txt": own}) as host:
            found = json.loads(ask(host, memories))
    assert own in found, "the search itself finds nothing"
    # The keeper's own memory is in every host, so nothing of another host's order may ever have been in it.
    assert others not in found
    assert set(found) <= {own}


def look_for_keys() -> str:
    with open("/proc/keys") as file:
        return file.read()[:1900]


KEYRING = """
import sys, ctypes, json
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/toolkit"]
from thinwalls import linux
from thinwalls.host import Keeper
import platform
from test_host import guest, ask
from test_host_hostile import look_for_keys
linux.new_session_keyring()
add_key = 248 if platform.machine() == "x86_64" else 217
ctypes.CDLL(None).syscall(add_key, b"user", b"tw-secret-key", b"x", 1, -3)
with Keeper() as keeper, guest(keeper, look_for_keys) as host:
    print(json.dumps([look_for_keys(), ask(host, look_for_keys)]))
"""


@pytest.mark.skipif(not os.path.exists("/proc/keys"), reason="this kernel has no keyrings")
def test_the_session_keyring_is_its_own():
    done = subprocess.run([sys.executable, "-c", KEYRING, str(CHECKOUT)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    here, there = json.loads(done.stdout)
    assert "tw-secret-key" in here
    # The user's keys are listed to all of the user's processes; what is in them, keyctl(2) alone would tell.
    assert "tw-secret-key" not in there or not ROOT
    assert re.search(r"keyring +_ses: empty", there)


def knock(name: str, port: int) -> str:
    import socket

    found = []
    with socket.socket(socket.AF_UNIX) as sock:
        found.append(refusal(sock.connect, f"\0{name}"))
    for address in ("127.0.0.1", "10.0.0.1", "192.0.2.1", "8.8.8.8"):
        with socket.socket() as sock:
            sock.settimeout(2)
            found.append(refusal(sock.connect, (address, port)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        found.append(refusal(sock.bind, f"\0{name}"))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        found.append(refusal(sock.sendto, b"\x08\0\0\0\0\0\0\0", ("192.0.2.1", 0)))
    return " ".join(found)


def test_no_way_to_the_machines_sockets_or_network(keeper):
    name = mark()
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket() as tcp, guest(keeper, knock) as host:
        abstract.bind(f"\0{name}")
        abstract.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        said = ask(host, knock, name, tcp.getsockname()[1])
        # the name is free in the host, the loopback is another: both of its own
        assert said == "ECONNREFUSED ECONNREFUSED ENETUNREACH ENETUNREACH ENETUNREACH  ENETUNREACH"
        abstract.setblocking(False)
        with pytest.raises(BlockingIOError):
            abstract.accept()


# What the kernel is asked for


def forbidden_calls() -> str:
    import platform

    x86 = platform.machine() == "x86_64"
    numbers = {
        "keyctl": 250 if x86 else 219,
        "add_key": 248 if x86 else 217,
        "request_key": 249 if x86 else 218,
        "bpf": 321 if x86 else 280,
        "userfaultfd": 323 if x86 else 282,
        "perf_event_open": 298 if x86 else 241,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
    }
    import socket

    found = [
        f"{name} {said}" for name, number in numbers.items() if (said := refusal(raw, number, 0, 0, 0, 0, 0)) != "EPERM"
    ]
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        if refusal(socket.socket, 40, kind) != "EPERM":
            found.append(f"AF_VSOCK {kind}")
    return " ".join(found)


def test_calls_that_namespaces_do_not_cover_are_refused(keeper):
    with guest(keeper, forbidden_calls) as host:
        assert ask(host, forbidden_calls) == ""


def call_as_x32() -> str:
    return refusal(raw, 0x40000000 | 39) + refusal(raw, 0x40000000 | 250, 0, 0)


def call_as_i386() -> str:
    import ctypes
    import mmap
    import os

    code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    pid = os.fork()
    if pid == 0:
        ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
        os._exit(0)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x32 and i386 calls exist only on x86-64")
def test_no_way_round_the_filter_by_another_calling_convention(keeper):
    with guest(keeper, call_as_x32, call_as_i386) as host:
        assert ask(host, call_as_x32) == "EPERMEPERM"
        assert ask(host, call_as_i386) in (
            str(-signal.SIGSYS),
            str(-signal.SIGSEGV),
        )  # the latter: no int 0x80 in this kernel


def only_for_the_machines_root() -> str:
    """Calls that would change the machine itself. Each is made so that it would do no harm if it were allowed."""
    import ctypes
    import os
    import platform
    import resource
    import time

    x86 = platform.machine() == "x86_64"
    found = []

    def expect(name: str, said: str) -> None:
        if said not in ("EPERM", "EACCES", "EROFS", "ENOSYS", "ENODEV", "ENOENT"):
            found.append(f"{name}: {said or 'allowed'}")

    expect("clock_settime", refusal(time.clock_settime, time.CLOCK_REALTIME, time.time()))
    expect("swapoff", refusal(raw, 168 if x86 else 225, ctypes.c_char_p(b"/tmp/none")))
    expect("init_module", refusal(raw, 175 if x86 else 105, 0, 0, ctypes.c_char_p(b"")))
    expect("finit_module", refusal(raw, 313 if x86 else 273, 0, ctypes.c_char_p(b""), 0))
    expect("delete_module", refusal(raw, 176 if x86 else 106, ctypes.c_char_p(b"none"), 0))
    expect("acct", refusal(raw, 163 if x86 else 89, 0))
    expect("syslog clear", refusal(raw, 103 if x86 else 116, 5, 0, 0))
    expect("kexec_load", refusal(raw, 246 if x86 else 104, 0, 0, 0, 0))
    if x86:
        expect("iopl", refusal(raw, 172, 3))
        expect("ioperm", refusal(raw, 173, 0x80, 1, 1))
    for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_CORE, resource.RLIMIT_AS):
        soft, hard = resource.getrlimit(limit)
        if hard == resource.RLIM_INFINITY:
            continue
        try:
            resource.setrlimit(limit, (soft, hard + 1000))
            found.append(f"limit {limit} raised")
        except (OSError, ValueError):
            pass
    for path in (
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/sysrq",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/drop_caches",
        "/proc/sys/fs/binfmt_misc/register",
        "/proc/kcore",
        "/proc/kmsg",
        "/proc/timer_list",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/sys/kernel/mm/ksm/run",
        "/dev/mem",
        "/dev/kmsg",
    ):
        expect(path, refusal(os.open, path, os.O_WRONLY))
    for name in ("ext4", "devtmpfs", "debugfs", "securityfs", "tracefs", "configfs", "hugetlbfs", "vfat"):
        from thinwalls import linux

        os.makedirs("/tmp/kernel", exist_ok=True)
        if not refusal(linux.mount, "/dev/vda", "/tmp/kernel", name):
            found.append(f"mounted {name}")
            linux.umount("/tmp/kernel")
    return "\n".join(found)


def change_settings() -> str:
    """Write another value into every setting that can be opened for writing; gives those that no namespace has."""
    import os

    from thinwalls import linux

    ours = (
        "net/",
        "user/",
        "fs/mqueue/",
        "kernel/shm",
        "kernel/msg",
        "kernel/sem",
        "kernel/auto_msgmni",
        "kernel/ns_last_pid",
        "kernel/pid_max",
    )
    found = []
    for top in ("/proc/sys", "/sys"):
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                try:
                    with open(path) as file:
                        value = file.read().strip()
                    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
                except (OSError, UnicodeDecodeError):
                    continue
                if value.isdigit():
                    refusal(os.write, fd, str(int(value) + 1).encode())
                os.close(fd)
                if not path.removeprefix("/proc/sys/").startswith(ours):
                    found.append(path)
    os.mkdir("/tmp/sys")
    writable = refusal(linux.mount, "sysfs", "/tmp/sys", "sysfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    return "\n".join(found) + ("" if writable else "a writable sysfs")


def settings() -> dict[str, str]:
    """The machine's values of what a guest might write to; those that change by themselves are left out."""
    moving = re.compile(
        r"nr_|/nr$|-nr|state|random/|last_pid|count$|/slabs|epoll|boot_id|_time$|timestamp|cad_pid|sched_domain|nf_log|ns_last|stats"
    )
    found = {}
    for top in ("kernel", "vm", "fs", "net/core", "net/ipv4", "net/unix", "user", "dev"):
        for directory, _, names in os.walk(f"/proc/sys/{top}"):
            for name in names:
                path = os.path.join(directory, name)
                if not moving.search(path):
                    with contextlib.suppress(OSError):
                        found[path] = Path(path).read_text(errors="replace")
    return found


def test_nothing_of_the_machine_itself_can_be_set(keeper):
    before = settings()
    assert len(before) > 100
    with guest(keeper, only_for_the_machines_root, change_settings) as host:
        assert ask(host, only_for_the_machines_root) == ""
        assert ask(host, change_settings) == ""
    after = settings()
    assert {path: (before[path], after.get(path)) for path in before if before[path] != after.get(path)} == {}


def devices() -> str:
    import os
    import stat

    found = []
    for directory, _, names in os.walk("/dev"):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                kind = os.stat(path).st_mode
                found.append(f"{path}{'' if stat.S_ISCHR(kind) else ' which is no character device'}")
    found.sort()
    tty = refusal(os.open, "/dev/tty", os.O_RDWR)
    vsock = [name for name in ("/dev/vsock", "/dev/kvm", "/dev/fuse", "/dev/vda", "/dev/loop0") if os.path.exists(name)]
    return f"{' '.join(found)} {tty} {vsock}"


def test_only_the_devices_of_the_list_are_there(keeper):
    with guest(keeper, devices) as host:
        listed = " ".join(f"/dev/{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero"))
        assert ask(host, devices) == f"{listed} ENXIO []"


# Too much of something


def fork_bomb() -> None:
    import os
    import signal

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    uid = 0
    while True:
        try:
            os.fork()
            uid += 1
            if uid % 3 == 0:  # another id has a count of its own
                os.setresuid(uid % 1000, uid % 1000, 0)
        except OSError:
            refusal(os.setresuid, 0, 0, 0)


def test_a_fork_bomb(keeper):
    with guest(keeper, fork_bomb) as host:
        start(host, fork_bomb)
        with pytest.raises(Late):
            answer(host, 0.6)
        everybody = facts.descendants(host.pid)
        assert 5 < len(everybody) <= limits.PROCESSES
        pid = os.fork()  # the machine itself still can
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        ends_soon(host)


def eat_memory(use: bool) -> str:
    import mmap

    held = []
    try:
        for _ in range(10 * 1024 // 64):
            held.append(mmap.mmap(-1, 64 << 20))
            if use:
                held[-1].write(b"\1" * (64 << 20))
    except (MemoryError, OSError):
        return f"refused after {len(held) * 64} MiB"
    return "ten gigabytes"


def test_ten_gigabytes_of_memory(keeper):
    with guest(keeper, eat_memory) as host:
        if keeper.cgroup:
            with pytest.raises(Gone):
                ask(host, eat_memory, True, seconds=15)
            host.close()
            assert host.oom_kills >= 1
        else:
            assert "refused" in ask(host, eat_memory, False)


def eat_memory_unseen() -> None:
    """Memory that is no process's own, and small processes that all look less worth killing than the keeper."""
    import os

    from thinwalls import linux

    for name in os.listdir("/proc"):
        if name.isdigit():
            with open(f"/proc/{name}/oom_score_adj", "w") as file:
                refusal(file.write, "0")
                refusal(file.flush)
    os.mkdir("/tmp/big")
    linux.mount("big", "/tmp/big", "tmpfs", 0, "size=10g")
    os.dup2(3, 9, inheritable=True)
    os.execv("/bin/sh", ["sh", "-c", "i=0; while :; do i=$((i+1)); head -c 8000000 /dev/zero > /tmp/big/$i; done"])


def test_memory_that_is_nobodys(keeper):
    if not keeper.cgroup:
        pytest.skip("without a memory cgroup nothing bounds a guest's tmpfs: doctor and check say so")
    with guest(keeper, eat_memory_unseen) as host:
        start(host, eat_memory_unseen)
        with contextlib.suppress(Gone, Late):
            answer(host, PATIENCE if keeper.cgroup else 0)
        host.close()
        assert host.oom_kills >= 1


def fill_disk() -> str:
    import os

    def fill(path: str) -> int:
        with open(path, "wb", 0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                return os.fstat(file.fileno()).st_size >> 20

    sizes = [fill(path) for path in ("/tmp/full", "/dev/shm/full", "/root/full", "/full", "/course/full")]
    count = 0
    try:
        os.truncate("/tmp/full", 0)
        while count < 200_000:
            os.close(os.open(f"/tmp/{count}", os.O_CREAT | os.O_WRONLY))
            count += 1
    except OSError:
        pass
    return f"{sum(sizes)} {count}"


def test_a_full_disk(keeper):
    free = shutil.disk_usage("/tmp").free
    with guest(keeper, fill_disk) as host:
        megabytes, files = ask(host, fill_disk, seconds=15).split()
        assert int(megabytes) <= 130
        assert int(files) < 100_000
        with pytest.raises(OSError, match="No space left"):
            host.plant("/tmp/one-more", "x" * 10_000)
    assert shutil.disk_usage("/tmp").free > free - (1 << 30)


def talk(how: str) -> None:
    import os

    data = {
        "lines": b"x" * 80 + b"\n",
        "no line's end": b"x",
        "not UTF-8": b"\xff\xfe\n",
        "escapes": b"\x1b[2J\x1b]0;title\x07\n",
        "empty lines": b"\n",
    }[how]
    data *= 65536 // len(data)
    while True:
        os.write(1, data)
        os.write(2, data)


@pytest.mark.parametrize("how", ["lines", "no line's end", "not UTF-8", "escapes", "empty lines"])
def test_endless_output(keeper, how):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with guest(keeper, talk) as host:
        start(host, talk, how)
        began = time.monotonic()
        with pytest.raises(Late):
            answer(host, 0.7)
        assert time.monotonic() - began < PATIENCE
        assert len(host.output) <= 1 << 20
        ends_soon(host)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_endless_output_is_not_hoarded_by_the_grader(keeper):
    source = "import os\ndef talk():\n    while True: os.write(1, (b'x' * 1300 + b'\\n') * 50)\n"
    files = {"/course/stages/__init__.py": "", "/course/stages/loud.py": source}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Machine(keeper, "yours", "1", files, None) as machine:
        machine.allow(1.5)
        machine.call("loud.talk")
        with pytest.raises(Late):
            machine.outcome()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def mount_bomb() -> str:
    import os

    from thinwalls import linux

    os.mkdir("/tmp/bomb")
    linux.mount("bomb", "/tmp/bomb", "tmpfs")
    os.mkdir("/tmp/bomb/seed")
    linux.mount("/tmp/bomb/seed", "/tmp/bomb/seed", None, linux.MS_BIND)
    doublings = 0
    while doublings < 40:
        os.mkdir(f"/tmp/bomb/{doublings}")
        if said := refusal(linux.mount, "/tmp/bomb", f"/tmp/bomb/{doublings}", None, linux.MS_BIND | linux.MS_REC):
            return f"{said} {doublings}"
        doublings += 1
    return "no end"


def test_mounts_without_end(keeper):
    with guest(keeper, mount_bomb) as host:
        assert re.fullmatch(r"(ENOSPC|ENOMEM) \d+", ask(host, mount_bomb, seconds=15))
        ends_soon(host)


def open_namespaces() -> str:
    import os

    from thinwalls import linux

    count = 0
    while count < 60:
        pid = linux.clone(linux.CLONE_NEWNET | linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWUSER)
        if pid == 0:
            import signal

            signal.pause()
        os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
        count += 1
    return str(count)


def test_many_namespaces(keeper):
    with guest(keeper, open_namespaces) as host:
        assert ask(host, open_namespaces) == "60"
        ends_soon(host)


# Not ending


def refuse_to_end(how: str) -> None:
    import os
    import signal
    import time

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    match how:
        case "sleep":
            time.sleep(1 << 20)
        case "busy":
            os.fork()
            while True:
                pass
        case "stopped":
            for _ in range(3):
                if os.fork() == 0:
                    os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGSTOP)
        case "daemons":
            for _ in range(5):
                if os.fork() == 0:
                    os.setsid()
                    if os.fork() == 0:
                        os.setsid()
                        for fd in range(10):
                            refusal(os.close, fd)
                        time.sleep(1 << 20)
                    os._exit(0)
            os._exit(0)
        case "traced":
            import platform

            child = os.fork()
            if child == 0:
                time.sleep(1 << 20)
            raw(101 if platform.machine() == "x86_64" else 117, 0x4206, child, 0, 0)
            time.sleep(1 << 20)
        case "vfork":
            raw(58 if __import__("platform").machine() == "x86_64" else 220, 0x4111, 0, 0, 0, 0)
            time.sleep(1 << 20)
        case "nested":
            from thinwalls import linux

            for _ in range(25):
                try:
                    pid = linux.clone(linux.CLONE_NEWPID | linux.CLONE_NEWUSER)
                except OSError:
                    break
                if pid:
                    break
            signal.pause()


@pytest.mark.parametrize("how", ["sleep", "busy", "stopped", "daemons", "traced", "vfork", "nested"])
def test_code_that_does_not_end(keeper, how):
    with guest(keeper, refuse_to_end) as host:
        start(host, refuse_to_end, how)
        began = time.monotonic()
        with pytest.raises((Late, Gone)):
            answer(host, 0.4)
        assert time.monotonic() - began < PATIENCE
        ends_soon(host)


def freeze() -> str:
    """Every cgroup hierarchy that can be mounted, and everything in it that can be opened for writing."""
    import os

    from thinwalls import linux

    found = []
    hierarchies = [
        "v2",
        "memory",
        "pids",
        "cpu",
        "cpuacct",
        "cpu,cpuacct",
        "freezer",
        "devices",
        "cpuset",
        "blkio",
        "none,name=systemd",
        "none,name=mine",
    ]
    for name in hierarchies:
        point = f"/tmp/cgroup-{name}"
        os.mkdir(point)
        kind = ("cgroup2", None) if name == "v2" else ("cgroup", name)
        if refusal(linux.mount, "cgroup", point, kind[0], 0, kind[1]):
            continue
        for directory, _, names in os.walk(point):
            if not refusal(os.mkdir, f"{directory}/mine"):
                found.append(f"mkdir in {directory}")
            for file in names:
                if not refusal(os.open, os.path.join(directory, file), os.O_WRONLY):
                    found.append(os.path.join(directory, file))
    return "\n".join(found)[:1900]


def test_no_cgroup_can_be_written_to(keeper):
    with guest(keeper, freeze) as host:
        assert ask(host, freeze) == ""


def misuse_cgroup() -> str:
    import glob
    import os

    top = "/sys/fs/cgroup/memory"
    if not os.path.isdir(top):
        return "none"
    os.makedirs(f"{top}/a/b/c")
    found = []
    for path in glob.glob("/sys/fs/cgroup/*/*"):  # the limits above what was handed over
        if (
            os.path.isfile(path)
            and not path.endswith(("/cgroup.procs", "/tasks"))
            and not refusal(os.open, path, os.O_WRONLY)
        ):
            found.append(path)
    pid = os.fork()
    if pid == 0:
        for name, value in (
            ("memory.oom_control", "1"),
            ("memory.limit_in_bytes", str(8 << 20)),
            ("cgroup.procs", str(os.getpid())),
        ):
            with open(f"{top}/a/b/{name}", "w") as file:
                file.write(value)
        held = []
        while True:  # hangs in the kernel: out of memory, and told not to kill for it
            held.append(b"\1" * (1 << 20))
    import time

    time.sleep(0.3)
    return " ".join(found) or "hung"


def test_a_cgroup_that_was_handed_over(keeper):
    with guest(keeper, misuse_cgroup, delegate=True) as host:
        said = ask(host, misuse_cgroup)
        assert said == ("hung" if keeper.cgroup == "v1" else "none")
        ends_soon(host)


# The sockets


def abuse_socket(how: str) -> None:
    import array
    import json
    import os
    import socket
    import struct
    import time

    fd = 1 if how.startswith("stream") else 3
    sock = socket.socket(fileno=os.dup(fd))

    def send(data: bytes, fds: tuple[int, ...] = (), more: tuple[int, bytes] | None = None) -> None:
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        refusal(sock.sendmsg, [data], [*extra, *([(socket.SOL_SOCKET, *more)] if more else [])])

    match how.removeprefix("stream "):
        case "close":
            os.close(fd)
            sock.close()
            time.sleep(60)
        case "duplicate":
            for _ in range(100):
                os.dup(fd)
            os.fork()
            send(b'{"returned": "twice"}')
        case "shutdown":
            sock.shutdown(socket.SHUT_RDWR)
            time.sleep(60)
        case "garbage":
            for data in (
                b"\0",
                b"[]",
                b"null",
                b"{",
                b"\xff" * 100,
                b"1" * 100_000,
                b"[" * 100_000,
                b'{"a":' * 20_000,
                b"{}" * 30,
                b'"x"',
            ):
                send(data)
        case "odd":
            for body in (
                {"beacon": 1},
                {"returned": float("inf")},
                {"raised": 7},
                {"unloadable": []},
                {"ready": 1},
                {"unable": "?"},
                {"\ud800": "\ud800"},
                {},
            ):
                send(json.dumps(body).encode())
        case "giant":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            for size in (159, 161, 200):
                refusal(sock.send, b'{"a": "' + b"x" * (size << 10) + b'"}')
        case "empty":
            send(b"")
        case "urgent":
            refusal(sock.send, b"x", socket.MSG_OOB)
            time.sleep(60)
        case "descriptors":
            for _ in range(50):
                send(b"{}\n", tuple([0] * 16))
                send(b"{}\n", tuple([0] * 200))
            time.sleep(60)
        case "lingering":
            listening = socket.create_server(("127.0.0.1", 0))
            ours = socket.create_connection(listening.getsockname())
            theirs, _ = listening.accept()
            ours.setblocking(False)
            try:
                while True:
                    ours.send(bytes(65536))
            except BlockingIOError:
                pass
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 6))
            send(b"{}\n", (ours.fileno(), theirs.fileno()))
            send(b'{"beacon": "b", "hook": "inside"}', (ours.fileno(), theirs.fileno()))  # as if to be answered there
            ours.close()
            theirs.close()
            time.sleep(60)
        case "loop":
            one, other = socket.socketpair()
            other.sendmsg(
                [b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno(), other.fileno()]))]
            )
            send(b"{}\n", (one.fileno(), other.fileno()))
        case "flood":
            while True:
                send(b'{"beacon": "b", "hook": "inside"}\n')


HOWS = [
    "close",
    "duplicate",
    "shutdown",
    "garbage",
    "odd",
    "giant",
    "empty",
    "urgent",
    "descriptors",
    "lingering",
    "loop",
    "flood",
]


@pytest.mark.parametrize("how", [*HOWS, *(f"stream {how}" for how in HOWS)])
def test_abuse_of_the_sockets(keeper, how):
    """The grader listens, answers what looks like a beacon, and is back within the time it meant to take."""
    once = len(os.listdir("/proc/self/fd"))
    with guest(keeper, abuse_socket) as host:
        start(host, abuse_socket, how)
        began = time.monotonic()
        with contextlib.suppress(Late):
            while time.monotonic() - began < 0.5:
                event = host.next(0.3)
                if event.kind == "beacon":
                    host.answer(event, {"go": True})
                assert event.kind in ("reply", "beacon", "line", "end")
                assert event.pid == 0 or event.pid in facts.descendants(host.pid)
        assert time.monotonic() - began < PATIENCE
        host.request({"module": "guest", "function": "abuse_socket", "args": ["empty"]})
        host.type("are you there?\n")
        ends_soon(host)
    if "lingering" not in how:  # those are closed when the kernel has done waiting for a connection that is gone
        assert len(os.listdir("/proc/self/fd")) <= once


@pytest.mark.parametrize("how", ["descriptors", "lingering", "stream descriptors", "stream lingering"])
def test_abuse_with_descriptors_where_the_kernel_cannot_refuse_them(keeper, how, monkeypatch):
    monkeypatch.setattr(wire, "SO_PASSRIGHTS", 9999, raising=False)  # as before Linux 6.16
    before = len(os.listdir("/proc/self/fd"))
    with guest(keeper, abuse_socket) as host:
        start(host, abuse_socket, how)
        began = time.monotonic()
        with contextlib.suppress(Late):
            while time.monotonic() - began < 0.5:
                host.next(0.3)
        assert time.monotonic() - began < PATIENCE
        ends_soon(host)
    if "lingering" not in how:
        assert len(os.listdir("/proc/self/fd")) <= before


def leave_unread() -> None:
    import os
    import time

    time.sleep(0.1)
    os._exit(0)


def test_a_guest_that_ends_without_reading(keeper):
    with guest(keeper, leave_unread) as host:
        for _ in range(3):
            start(host, leave_unread)
        with pytest.raises(Gone):
            answer(host)


def test_a_guest_that_does_not_read(keeper):
    with guest(keeper, wait) as host:
        start(host, wait, 60)
        began = time.monotonic()
        for _ in range(1000):
            host.request({"go": True})
            host.type("x" * 100)
        host.request({"much": "x" * 150_000})
        assert time.monotonic() - began < PATIENCE
        ends_soon(host)


def forge_sender() -> str:
    import os
    import socket
    import struct

    sock = socket.socket(fileno=os.dup(1))
    child = os.fork()
    if child == 0:
        import signal

        signal.pause()
    found = []
    for claimed in (1, child, os.getpid(), os.getppid(), 12345, 0, -1, 1 << 22):
        credentials = struct.pack("3i", claimed, 0, 0)
        found.append(
            refusal(
                sock.sendmsg,
                [f"{claimed} {child}\n".encode()],
                [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials)],
            )
            or "sent"
        )
    return " ".join(found)


def test_a_forged_sender_is_a_process_of_the_same_host(keeper):
    """Uid 0 of a PID namespace may sign for others in it (unix(7)): so a line's sender is some process of that host."""
    with guest(keeper, forge_sender) as host:
        start(host, forge_sender)
        inner = facts.Process(host.runner).parent()
        said, signed = "", []
        while not said or len(signed) < said.split().count("sent"):
            event = host.next(5)
            if event.kind == "reply":
                said = event.body["returned"]
            elif event.kind == "line":
                signed.append((int(event.body["text"].split()[0]), event.pid))
        assert said.split()[:3] == ["sent", "sent", "sent"]
        assert "sent" not in said.split()[4:]
        assert [claimed for claimed, _ in signed[:3]] == [1, 3, 2]
        for claimed, sender in signed:
            assert sender in facts.descendants(host.pid)
            assert facts.Process(sender).status()["NSpid"].split()[-1] == str(claimed)
            assert (sender == inner) == (claimed == 1)


def network_mess() -> str:
    import subprocess

    commands = """
        ip link add b0 type bridge; ip link add v0 type veth peer name v1; ip link set v0 up; ip link add d0 type dummy
        ip netns add x; ip link set v1 netns x
    """
    subprocess.run(commands, shell=True, capture_output=True)
    return subprocess.run("ip -o link", shell=True, capture_output=True, text=True).stdout.split("\n", 1)[0][:20]


def test_links_made_in_a_host_end_with_it(keeper):
    with guest(keeper, network_mess) as host:
        assert "lo" in ask(host, network_mess)


def test_a_host_that_cannot_be_made_leaves_nothing(keeper):
    for _ in range(3):
        with pytest.raises(HostError):
            with guest(keeper, pid, rootfs="/nowhere") as host:
                ask(host, pid)
