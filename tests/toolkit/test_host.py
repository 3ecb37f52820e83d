"""The throwaway host as it is meant to be used, and the truths it is built on: measured once, kept by a test each.

How the guests are written: a function of this file is sent to the host as source text and called there; what it
returns comes back. What guests do with ill will is in test_host_hostile.py.
"""

import contextlib
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from thinwalls import facts, linux
from thinwalls.host import Event, Gone, Host, HostError, Keeper, Late

ROOT = os.geteuid() == 0
CHECKOUT = Path(__file__).resolve().parents[2]


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """For guests: the name of the errno with which a call is refused; "" if it is not."""
    import errno

    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def raw(number: int, *arguments: Any) -> int:
    """For guests: a system call by its number."""
    import ctypes
    import os

    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def in_child(work: Callable[..., object], *arguments: object) -> Any:
    """For guests (and for us): what a function returns, or how it fails, when a forked child calls it."""
    import json
    import os

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            try:
                answer = work(*arguments)
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(write, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(write)
    text = b""
    while part := os.read(read, 65536):
        text += part
    os.close(read)
    os.waitpid(pid, 0)
    return json.loads(text)


def in_new_userns(flags: int, ids: str, work: Callable[..., object], *arguments: object) -> Any:
    """For guests (and for us): the same in a child in new namespaces, a user namespace with the map ``ids`` too."""
    import os

    from thinwalls import linux

    def enter() -> object:
        asks, answers = os.pipe(), os.pipe()
        mapper, parent = os.fork(), os.getppid()
        assert parent
        if mapper == 0:
            os.read(asks[0], 1)
            for name, text in (("setgroups", "deny"), ("uid_map", ids), ("gid_map", ids)):
                with open(f"/proc/{os.getppid()}/{name}", "w") as file:
                    file.write(text)
            os.write(answers[1], b"1")
            os._exit(0)
        linux.unshare(linux.CLONE_NEWUSER | flags)
        os.write(asks[1], b"1")
        os.close(answers[1])
        os.read(answers[0], 1)
        os.waitpid(mapper, 0)
        return work(*arguments)

    return in_child(enter)


@contextlib.contextmanager
def guest(keeper: Keeper, *functions: Callable[..., object], **given: Any) -> Iterator[Host]:
    """A host in which these functions can be called."""
    source = "\n\n".join(inspect.getsource(each) for each in (refusal, raw, in_child, in_new_userns, *functions))
    text = "from collections.abc import Callable\nfrom typing import Any\n\n" + source
    files = {"/course/guest.py": text, **given.pop("files", {})}
    with Host(keeper, files, **given) as host:
        yield host


def start(host: Host, function: Callable[..., object], *arguments: Any) -> None:
    """Have the guest call one of its functions."""
    host.request({"module": "guest", "function": function.__name__, "args": list(arguments)})


def answer(host: Host, seconds: float = 10) -> Any:
    """What the function returned. Raises Gone if the guest ended instead, Late after so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        event = host.next(deadline - time.monotonic())
        if event.kind == "end":
            raise Gone
        if event.kind == "reply":
            assert "returned" in event.body, event.body
            return event.body["returned"]


def ask(host: Host, function: Callable[..., object], *arguments: Any, seconds: float = 10) -> Any:
    """Call a function in the guest, and give what it returns."""
    start(host, function, *arguments)
    return answer(host, seconds)


def line(host: Host, seconds: float = 5) -> Event:
    """The next line that the guest prints."""
    deadline = time.monotonic() + seconds
    while True:
        event = host.next(deadline - time.monotonic())
        if event.kind == "line":
            return event
        assert event.kind != "end", "the guest ended"


@pytest.fixture(scope="module")
def keeper() -> Iterator[Keeper]:
    with Keeper() as keeper:
        yield keeper


# What it is


def pid() -> int:
    import os

    return os.getpid()


def test_every_namespace_is_its_own_at_both_levels(keeper):
    here = facts.Process(os.getpid()).namespaces()
    with guest(keeper, pid) as host:
        outer, inner = facts.Process(host.pid).namespaces(), facts.Process(host.runner).namespaces()
        assert set(here) == set(outer) == set(inner) == set(facts.NAMESPACES)
        for name in here:
            assert len({here[name], outer[name], inner[name]}) == 3, name
        assert ask(host, pid) == 2


def _ranges(pid: int) -> list[tuple[int, int]]:
    """The machine's ids that a process of ours may take: (first, how many)."""
    lines = [text.split() for text in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
    return [(int(first), int(count)) for _, first, count in lines]


def _overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> bool:
    return any(a < b + m and b < a + n for a, n in one for b, m in other)


def test_no_id_of_a_host_is_the_machines_0_or_an_accounts(keeper):
    with guest(keeper, pid) as host:
        assert ask(host, pid)
        for process in (host.pid, host.runner):
            ranges = _ranges(process)
            assert not _overlap(ranges, [(0, 1)])
            if not ROOT:
                assert sum(count for first, count in ranges if first == os.getuid()) == 1
                continue
            assert sum(count for _, count in ranges) == 65536
            accounts = [(int(text.split(":")[2]), 1) for text in Path("/etc/passwd").read_text().splitlines()]
            for name in ("/etc/subuid", "/etc/subgid"):
                if os.path.exists(name):
                    accounts += [
                        (int(a), int(b))
                        for _, a, b in (text.split(":") for text in Path(name).read_text().splitlines())
                    ]
            assert not _overlap(ranges, accounts)
            assert int(facts.Process(process).status()["Uid"].split()[0]) == ranges[0][0]


def test_concurrent_hosts(keeper):
    with guest(keeper, pid) as one, guest(keeper, pid) as other, Keeper() as stranger, guest(stranger, pid) as third:
        assert [ask(host, pid) for host in (one, other, third)] == [2, 2, 2]
        if ROOT:  # without root there is one range, or one id, for all of a user's hosts
            ranges = [_ranges(host.runner) for host in (one, other, third)]
            assert not _overlap(ranges[0], ranges[1])
            assert not _overlap(ranges[0] + ranges[1], ranges[2])


def surroundings() -> str:
    import json
    import os

    with open("/proc/self/mountinfo") as file:
        points = [text.split()[4] for text in file]
    return json.dumps(
        [dict(os.environ), os.getcwd(), os.getsid(0), sorted(os.listdir("/")), len(points) - len(set(points))]
    )


def test_it_is_given_exactly_what_is_written_down(keeper):
    with guest(keeper, surroundings) as host:
        runner = facts.Process(host.runner)
        assert set(runner.descriptors()) == {0, 1, 2, 3}
        deadline = time.monotonic() + 2  # PID 1 closes them while the runner says that it is ready
        while facts.Process(runner.parent()).descriptors() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert facts.Process(runner.parent()).descriptors() == {}
        environ, cwd, session, top, _ = json.loads(ask(host, surroundings))
        assert set(environ) == {"PATH", "HOME", "LANG", "TERM"}
        assert (cwd, session) == ("/root", 1)
        assert "course" in top
        assert runner.signals("Blk") == set()


def test_no_signal_is_ignored_but_those_that_python_ignores(keeper):
    # Ignored signals survive exec: a shell started in the host could not be ended with SIGTERM.
    with guest(keeper, pid) as host:
        ask(host, pid)
        assert facts.Process(host.runner).signals("Ign") - {signal.SIGPIPE, signal.SIGXFSZ} == set()


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def mode(path: str) -> list[int] | str:
    import os

    found = os.lstat(path)
    return f"{found.st_mode:o} {found.st_uid} {found.st_gid}"


def test_files_and_a_rootfs_are_copied_in(keeper, tmp_path):
    tmp_path.chmod(0o755)  # what is copied is read with the host's ids, which are nobody's
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").write_text("#!/bin/sh\n")
    (tmp_path / "bin/tool").chmod(0o755)
    (tmp_path / "link").symlink_to("/etc/shadow")
    with guest(keeper, read, mode, files={"/course/deep/below/it.txt": "héllo\n"}, rootfs=str(tmp_path)) as host:
        assert ask(host, read, "/course/deep/below/it.txt") == "héllo\n"
        assert ask(host, read, "/srv/rootfs/bin/tool") == "#!/bin/sh\n"
        assert ask(host, mode, "/srv/rootfs/bin/tool") == "100755 0 0"
        assert ask(host, mode, "/srv/rootfs/link") == "120777 0 0"


def run_program(path: str) -> str:
    import os

    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, [path])
        except OSError as error:
            os._exit(error.errno or 0)
    return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def uncover(path: str) -> str:
    from thinwalls import linux

    return refusal(linux.umount, path) + refusal(linux.umount, path, linux.MNT_DETACH)


def test_a_masked_program_cannot_run_and_cannot_be_uncovered(keeper):
    path = os.path.realpath("/usr/bin/true")
    with guest(keeper, run_program, uncover, masked=[path]) as host:
        assert ask(host, run_program, path) == "13"
        assert ask(host, uncover, path) == "EINVALEINVAL"
        assert ask(host, run_program, path) == "13"
    with guest(keeper, run_program) as host:
        assert ask(host, run_program, path) == "0"


def echo() -> None:
    import sys

    print(sys.stdin.readline().upper(), end="")
    print("complaint", file=sys.stderr)


def test_streams(keeper):
    with guest(keeper, echo, pid) as host:
        start(host, echo)
        host.type("shout\n")
        first = line(host)
        assert (first.body, first.pid) == ({"text": "SHOUT", "stream": 1}, host.runner)
        second = line(host)
        assert (second.body, second.pid) == ({"text": "complaint", "stream": 2}, host.runner)
        answer(host)
        assert host.output == b"SHOUT\ncomplaint\n"


def write_to(fd: int) -> None:
    import os

    os.write(fd, b"by another way\n")


def test_a_stream_of_ones_own(keeper):
    with guest(keeper, write_to) as host:
        number, fd = host.open_stream()
        assert host.stream(number) == (number, fd)
        host.request({"module": "guest", "function": "write_to", "args": [{"fd": 0}]}, [fd])
        assert line(host).body == {"text": "by another way", "stream": number}


def wait(seconds: float) -> None:
    import time

    time.sleep(seconds)


def leave() -> None:
    import os

    os._exit(0)


def test_late_and_gone(keeper):
    with guest(keeper, wait, leave) as host:
        began = time.monotonic()
        with pytest.raises(Late):
            ask(host, wait, 60, seconds=0.2)
        assert 0.2 <= time.monotonic() - began < 5
    with guest(keeper, leave) as host:
        with pytest.raises(Gone):
            ask(host, leave)
        with pytest.raises(Late):
            host.next(0.05)
        host.request({"anything": 1})  # nobody hears it, and that is all
    assert host.pid == 0
    host.close()  # a second time: nothing


# Planting files


def plant_and_read(keeper: Keeper, path: str) -> str:
    with guest(keeper, read) as host:
        host.plant(path, "grown\n", 0o600)
        return ask(host, read, path)


def test_plant_makes_directories(keeper):
    assert plant_and_read(keeper, "/tmp/some/where/file") == "grown\n"


def trap(kind: str) -> None:
    import os
    import socket

    os.mkdir("/tmp/trap")
    match kind:
        case "link to a directory":
            os.rmdir("/tmp/trap")
            os.symlink("/etc", "/tmp/trap")
        case "link to a file":
            os.symlink("/etc/passwd", "/tmp/trap/file")
        case "dangling link":
            os.symlink("/etc/fresh", "/tmp/trap/file")
        case "magic link":
            os.rmdir("/tmp/trap")
            os.symlink("/proc/self/root/etc", "/tmp/trap")
        case "fifo":
            os.mkfifo("/tmp/trap/file")
        case "fifo with a reader":
            os.mkfifo("/tmp/trap/file")
            os.open("/tmp/trap/file", os.O_RDWR)
        case "directory":
            os.mkdir("/tmp/trap/file")
        case "socket":
            socket.socket(socket.AF_UNIX).bind("/tmp/trap/file")
        case "full":
            with open("/tmp/full", "wb", 0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 20))
                except OSError:
                    pass


REASONS = {
    "link to a directory": "symbolic link",
    "link to a file": "symbolic link",
    "dangling link": "symbolic link",
    "magic link": "symbolic link",
    "fifo": "No such device or address",
    "fifo with a reader": "no regular file",
    "directory": "Is a directory",
    "socket": "No such device or address",
    "full": "No space left on device",
}


def fingerprints() -> str:
    import os

    found = []
    for path in sorted(os.listdir("/etc")):
        if os.path.isfile(f"/etc/{path}"):
            with open(f"/etc/{path}", "rb") as file:
                found.append(f"{path} {hash(file.read())}")
    return "\n".join(found)


@pytest.mark.parametrize("kind", REASONS)
def test_plant_follows_nothing_the_guest_made(keeper, kind):
    with guest(keeper, trap, fingerprints) as host:
        before = ask(host, fingerprints)
        ask(host, trap, kind)
        with pytest.raises(OSError, match=REASONS[kind]) as caught:
            host.plant("/tmp/trap/file", "planted " * 1000)  # more than a page, for a full disk
        assert "/tmp/trap/file" in str(caught.value)
        assert ask(host, fingerprints) == before
        if kind != "full":
            host.plant("/tmp/other", "still served\n")


def lease() -> str:
    import fcntl
    import os
    import signal

    signal.signal(signal.SIGIO, signal.SIG_IGN)
    with open("/tmp/leased", "w") as file:
        file.write("mine\n")
    held = os.open("/tmp/leased", os.O_RDONLY)
    return refusal(fcntl.fcntl, held, fcntl.F_SETLEASE, fcntl.F_RDLCK)


def test_plant_does_not_wait_for_a_lease(keeper):
    with guest(keeper, lease) as host:
        assert ask(host, lease) == ""
        began = time.monotonic()
        with pytest.raises(OSError, match="temporarily unavailable"):
            host.plant("/tmp/leased", "too late\n")
        assert time.monotonic() - began < 5


def test_plant_cannot_write_what_is_the_machines(keeper):
    with guest(keeper, pid) as host:
        ask(host, pid)
        for path in ("/usr/planted", f"{sys.base_prefix}/planted", "/bin/planted"):
            with pytest.raises(OSError, match="Read-only|symbolic link"):
                host.plant(path, "")


def test_plant_after_the_guests_end_is_an_error_with_a_reason(keeper):
    with guest(keeper, leave) as host:
        with pytest.raises(Gone):
            ask(host, leave)
        with pytest.raises(HostError, match="ended|died"):
            for _ in range(50):
                host.plant("/tmp/file", "")
                time.sleep(0.02)


# What is said when it cannot be


def test_a_keeper_that_was_killed_is_started_anew():
    """The kernel may choose it when memory runs out; the next task must not pay for that."""
    with Keeper() as keeper:
        assert keeper.cgroup in ("v1", "v2", None)
        first = keeper._process
        with guest(keeper, pid) as host:
            ask(host, pid)
            first.kill()
            assert facts.Process(host.runner).ended(5)
            with pytest.raises(Gone):
                ask(host, pid)
        with guest(keeper, pid) as host:
            assert ask(host, pid) == 2
        assert first.poll() is not None


def test_a_keeper_that_dies_takes_its_hosts_along_and_close_is_still_possible():
    keeper = Keeper()
    host = Host(keeper, {})
    runner = facts.Process(host.runner)
    keeper._process.kill()
    assert runner.ended(5)
    assert host.next(5).kind == "end"
    host.close()
    keeper.close()


def test_a_rootfs_that_is_not_there_is_a_host_error_that_names_it(keeper, tmp_path):
    with pytest.raises(HostError, match="no throwaway host can be made here: .*absent"):
        with Host(keeper, {}, str(tmp_path / "absent")) as host:
            _ = host.runner
    assert plant_and_read(keeper, "/tmp/file") == "grown\n"


REFUSING = """
import sys, struct
sys.path.insert(0, sys.argv[1])
from thinwalls import linux
from thinwalls.host import Host, HostError, Keeper
number, bit = int(sys.argv[2]), int(sys.argv[3])
load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
code = [(load, 0, 0, 0), (equal, 0, 3, number), (load, 0, 0, 16), (any_bit, 0, 1, bit)]
code += [(give, 0, 0, 0x50001), (give, 0, 0, 0x7FFF0000)]
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
linux.set_seccomp_filter(b"".join(struct.pack("HBBI", *each) for each in code))
with Keeper() as keeper:
    try:
        with Host(keeper, {}) as host:
            print("made", host.runner)
    except HostError as error:
        print(error)
"""


CLONE, MOUNT = {"x86_64": (56, 165), "aarch64": (220, 40)}[os.uname().machine]


@pytest.mark.parametrize(
    ("what", "number", "bit"),
    [
        ("clone.*CLONE_NEWUSER.*not permitted", CLONE, linux.CLONE_NEWUSER),
        ("(mount|newuidmap).*not permitted", MOUNT, 0),
    ],
    ids=["no user namespaces", "no mounts"],
)
def test_where_the_kernel_says_no_the_sentence_names_the_call(what, number, bit):
    # bit 0: of mount(2) every call whose source is given
    command = [sys.executable, "-c", REFUSING, str(CHECKOUT), str(number), str(bit or 0xFFFFFFFF)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert done.stdout.startswith("no throwaway host can be made here: ")
    assert re.search(what, done.stdout), done.stdout


# The truths that it is built on


def test_one_level_would_not_do(tmp_path):
    """Uid 0 of the user namespace that made a read-only bind takes the read-only away: the reason for two levels."""

    def at_one_level() -> list[str]:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        point = str(tmp_path / "usr")
        os.mkdir(point)
        linux.mount("/usr", point, None, linux.MS_BIND | linux.MS_REC)
        linux.mount_setattr(
            point, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV, recursive=True
        )
        read_only = os.statvfs(point).f_flag & os.ST_RDONLY
        flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NOSUID | linux.MS_NODEV
        return [
            str(bool(read_only)),
            refusal(linux.mount, None, point, None, flags),
            str(bool(os.statvfs(point).f_flag & os.ST_RDONLY)),
        ]

    ids = f"0 {os.getuid()} 1"
    # May be refused only where the machine's own /usr is read-only for this user namespace too.
    assert in_new_userns(linux.CLONE_NEWNS, ids, at_one_level) == ["True", "", "False"]


def loosen(path: str) -> str:
    import ctypes
    import os

    from thinwalls import linux

    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NOSUID | linux.MS_NODEV
    found = [
        refusal(linux.mount, None, path, None, flags),
        refusal(linux.mount_setattr, path, 0, linux.MOUNT_ATTR_RDONLY, True),
    ]
    os.makedirs("/tmp/copy", exist_ok=True)
    linux.mount(path, "/tmp/copy", None, linux.MS_BIND | linux.MS_REC)
    found.append(refusal(linux.mount, None, "/tmp/copy", None, flags))
    open_tree, clone_recursive = 428, 0x1 | 0x8000  # open_tree(2): OPEN_TREE_CLONE | AT_RECURSIVE
    tree = raw(open_tree, -100, ctypes.c_char_p(os.fsencode(path)), clone_recursive)
    attributes = (ctypes.c_uint64 * 4)(0, linux.MOUNT_ATTR_RDONLY, 0, 0)
    found.append(
        refusal(raw, 442, tree, ctypes.c_char_p(b""), 0x1000 | 0x8000, attributes, 32)
    )  # AT_EMPTY_PATH | AT_RECURSIVE
    in_nested = in_new_userns(linux.CLONE_NEWNS, "0 0 1", lambda: refusal(linux.mount, None, path, None, flags))
    return " ".join([*found, in_nested])


def test_at_two_levels_nothing_makes_a_read_only_bind_writable(keeper):
    with guest(keeper, loosen) as host:
        for path in {"/usr", sys.base_prefix if not sys.base_prefix.startswith("/usr") else "/usr"}:
            assert ask(host, loosen, path) == "EPERM EPERM EPERM EPERM EPERM"


def furnish_a_container() -> str:
    import os
    import tempfile

    from thinwalls import linux

    def inside() -> list[str]:
        box = tempfile.mkdtemp()
        ro = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        steps = [
            refusal(linux.mount, "t", box, "tmpfs"),
            *(
                refusal(os.mkdir, f"{box}/{name}")
                for name in ("proc", "sys", "pts", "lower", "upper", "work", "merged")
            ),
            refusal(linux.mount, "sysfs", f"{box}/sys", "sysfs", ro | linux.MS_RDONLY),
            refusal(
                linux.mount,
                "devpts",
                f"{box}/pts",
                "devpts",
                linux.MS_NOSUID | linux.MS_NOEXEC,
                "newinstance,ptmxmode=666",
            ),
            refusal(
                linux.mount,
                "o",
                f"{box}/merged",
                "overlay",
                0,
                f"lowerdir={box}/lower,upperdir={box}/upper,workdir={box}/work",
            ),
        ]

        def as_pid_1() -> str:
            return (
                refusal(linux.mount, "proc", f"{box}/proc", "proc", ro)
                + str(os.getpid())
                + os.readlink(f"{box}/proc/self")
            )

        return [*steps, in_child(as_pid_1)]

    new = (
        linux.CLONE_NEWNS
        | linux.CLONE_NEWPID
        | linux.CLONE_NEWNET
        | linux.CLONE_NEWIPC
        | linux.CLONE_NEWUTS
        | linux.CLONE_NEWCGROUP
    )

    def plain() -> list[str]:
        linux.unshare(new)
        return inside()

    return f"{''.join(in_child(plain))} {''.join(in_new_userns(new, '0 0 1', inside))}"


def test_a_container_can_be_furnished_in_the_inner_level(keeper):
    """tmpfs, proc, sysfs, devpts, overlay, nested PID namespaces: in the same user namespace, and in one more."""
    with guest(keeper, furnish_a_container) as host:
        assert ask(host, furnish_a_container) == "11 11"


def plug_cables() -> str:
    import os
    import subprocess

    def ip(command: str) -> str:
        done = subprocess.run(command.split(), capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""

    from thinwalls import linux

    ready, go = os.pipe()
    child = linux.clone(linux.CLONE_NEWNET)
    if child == 0:
        os.close(go)
        os.read(ready, 1)
        os._exit(0)
    words = [
        "ip link add bridge0 type bridge",
        "ip link set bridge0 up",
        f"ip link add near type veth peer name far netns {child}",
        "ip link set near master bridge0",
        "ip link set near up",
        "ip address add 10.9.8.1/24 dev bridge0",
    ]
    if os.path.exists("/usr/sbin/nft"):
        words += [
            "nft add table ip course",
            "nft add chain ip course post { type nat hook postrouting priority 100 ; }",
            "nft add rule ip course post ip saddr 10.9.8.0/24 masquerade",
        ]
    found = [f"{word}: {said}" for word in words if (said := ip(word))]
    os.close(go)
    os.waitpid(child, 0)
    return "\n".join(found)


@pytest.mark.skipif(
    not os.path.exists("/usr/sbin/ip") and not os.path.exists("/sbin/ip"), reason="needs ip(8), of iproute2"
)
def test_bridge_veth_and_nft_work_in_the_inner_level(keeper):
    with guest(keeper, plug_cables) as host:
        assert ask(host, plug_cables) == ""


def mount_kernel_file_systems(when: str) -> str:
    import os

    from thinwalls import linux

    new = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC

    def work() -> str:
        os.mkdir("/tmp/new")
        linux.mount("t", "/tmp/new", "tmpfs")
        for name in ("proc", "sys"):
            os.mkdir(f"/tmp/new/{name}")
        os.chdir("/tmp/new")
        if when != "before":
            linux.pivot_root(".", ".")
            linux.umount(".", linux.MNT_DETACH)
        found = []
        for name in ("proc", "sys"):
            read_only = linux.MS_RDONLY if name == "sys" else 0
            found.append(refusal(linux.mount, name, name, "sysfs" if name == "sys" else name, new | read_only))
        return " ".join(found)

    def enter() -> str:
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET)
        return str(in_child(work))

    return str(in_child(enter))


def test_proc_and_sysfs_can_be_mounted_only_while_fully_visible_ones_are(keeper):
    with guest(keeper, mount_kernel_file_systems) as host:
        assert ask(host, mount_kernel_file_systems, "before") == " "
    with guest(keeper, mount_kernel_file_systems) as host:
        assert ask(host, mount_kernel_file_systems, "after") == "EPERM EPERM"


def bind_a_tree() -> str:
    import os

    from thinwalls import linux

    os.mkdir("/tmp/dev")
    alone = refusal(linux.mount, "/dev", "/tmp/dev", None, linux.MS_BIND)
    whole = refusal(linux.mount, "/dev", "/tmp/dev", None, linux.MS_BIND | linux.MS_REC)
    return f"{alone} {whole}"


def test_a_tree_with_locked_mounts_can_only_be_bound_whole(keeper):
    with guest(keeper, bind_a_tree) as host:
        assert ask(host, bind_a_tree) == "EINVAL "


def remount_read_only() -> str:
    import os

    from thinwalls import linux

    os.mkdir("/tmp/usr")
    linux.mount("/usr", "/tmp/usr", None, linux.MS_BIND | linux.MS_REC)
    flags = linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY
    bare = refusal(linux.mount, None, "/tmp/usr", None, flags)
    kept = refusal(linux.mount, None, "/tmp/usr", None, flags | linux.MS_NOSUID | linux.MS_NODEV)
    return f"{bare} {kept}"


def test_a_read_only_remount_must_keep_nosuid_and_nodev(keeper):
    with guest(keeper, remount_read_only) as host:
        assert ask(host, remount_read_only) == "EPERM "


def nest_user_namespaces() -> str:
    import os

    from thinwalls import linux

    def chrooted() -> str:
        os.chroot("/tmp")
        return refusal(linux.unshare, linux.CLONE_NEWUSER)

    def deep(levels: int) -> str:
        return in_new_userns(0, "0 0 1", deep, levels - 1) if levels else "deep"

    return f"{in_child(chrooted)} {in_child(refusal, linux.unshare, linux.CLONE_NEWUSER)} {deep(5)}"


def test_user_namespaces_nest_but_not_inside_a_chroot(keeper):
    with guest(keeper, nest_user_namespaces) as host:
        assert ask(host, nest_user_namespaces) == "EPERM  deep"


def make_a_device() -> str:
    import os
    import stat

    from thinwalls import linux

    made = refusal(os.mknod, "/srv/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    made += " " + refusal(os.mknod, "/srv/disk", stat.S_IFBLK | 0o666, os.makedev(254, 0))
    with open("/srv/null", "w"):
        pass
    bound = refusal(linux.mount, "/dev/null", "/srv/null", None, linux.MS_BIND)
    with open("/srv/null", "wb", 0) as file:
        return f"{made} {bound} {file.write(b'gone')} {os.stat('/srv/null').st_rdev == os.makedev(1, 3)}"


def test_no_device_can_be_made_but_dev_null_can_be_bound(keeper):
    with guest(keeper, make_a_device) as host:
        assert ask(host, make_a_device) == "EPERM EPERM  4 True"


def mount_terminals() -> str:
    import os

    from thinwalls import linux

    def with_group() -> str:
        os.makedirs("/tmp/pts", exist_ok=True)
        return refusal(linux.mount, "p", "/tmp/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,gid=5")

    def plain() -> str:
        linux.unshare(linux.CLONE_NEWNS)
        return with_group()

    with open("/proc/self/gid_map") as file:
        ids = sum(int(text.split()[2]) for text in file)
    return f"{ids > 5} [{in_child(plain)}] [{in_new_userns(linux.CLONE_NEWNS, '0 0 1', with_group)}]"


def test_devpts_gid_5_needs_a_second_id(keeper):
    with guest(keeper, mount_terminals) as host:
        many, here, one_id = ask(host, mount_terminals).split()
        assert one_id == "[EINVAL]"
        assert here == ("[]" if many == "True" else "[EINVAL]")
        if ROOT:
            assert many == "True"


def own_proc() -> str:
    import os

    return ",".join(sorted(name for name in os.listdir("/proc") if name.isdigit())) + os.uname().nodename


def test_the_inner_level_sees_itself_and_nothing_else(keeper):
    with guest(keeper, own_proc) as host:
        assert ask(host, own_proc) == "1,2machine"
        assert socket.gethostname() != "machine" or ROOT


def test_many_hosts_one_after_another_leave_no_descriptor_behind(keeper):
    def once() -> None:
        with guest(keeper, pid) as host:
            ask(host, pid)
            host.plant("/tmp/x", "")
            host.open_stream()

    once()
    ours, theirs = (len(os.listdir(f"/proc/{process}/fd")) for process in ("self", keeper._process.pid))
    for _ in range(3):
        once()
    assert len(os.listdir("/proc/self/fd")) == ours
    assert len(os.listdir(f"/proc/{keeper._process.pid}/fd")) == theirs


def test_a_uid_0_with_one_id_has_a_host_with_one_id():
    """As in somebody's container: uid 0 there, and no other id to give away."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from thinwalls.host import Host, Keeper\n"
        "with Keeper() as keeper, Host(keeper) as host:\n"
        "    print(*Path(f'/proc/{host.runner}/uid_map').read_text().split())\n"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-B", "-c", code, str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout.split()[2:] == ["1"], done.stderr
