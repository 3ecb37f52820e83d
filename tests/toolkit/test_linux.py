"""Every wrapper does its call, and says which call it was, with which arguments, when the kernel refuses."""

import contextlib
import ctypes
import errno
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from test_host import in_child, in_new_userns, refusal

from thinwalls import course, facts, linux

OWN_ID = f"0 {os.getuid()} 1"


def error_of(call: Callable[..., object], *arguments: object) -> tuple[str, str, str]:
    """The class, the errno's name and the text of the error of a call that must fail."""
    try:
        call(*arguments)
    except OSError as error:
        return type(error).__name__, errno.errorcode[error.errno], str(error.strerror)
    raise AssertionError("it did not fail")


NOWHERE = "/nowhere/at/all"
BAD_FD = 987
CALLS = {
    "unshare": (linux.unshare, (0x1,), "OSError", "EINVAL", "unshare(0): Invalid argument"),
    "setns": (
        linux.setns,
        (BAD_FD, linux.CLONE_NEWNET),
        "OSError",
        "EBADF",
        f"setns({BAD_FD}, CLONE_NEWNET): Bad file descriptor",
    ),
    "mount": (
        linux.mount,
        ("src", NOWHERE, "tmpfs", linux.MS_NOSUID, "size=1m"),
        "?",
        "?",
        f"mount(src, {NOWHERE}, tmpfs, 0x2, size=1m): ",
    ),
    "umount": (linux.umount, (NOWHERE, linux.MNT_DETACH), "?", "?", f"umount({NOWHERE}, 0x2): "),
    "pivot_root": (linux.pivot_root, (NOWHERE, "/old"), "?", "?", f"pivot_root({NOWHERE}, /old): "),
    "mount_setattr": (
        linux.mount_setattr,
        (NOWHERE, 1, 2, True),
        "?",
        "?",
        f"mount_setattr({NOWHERE}, set=0x1, clear=0x2, recursive=True): ",
    ),
    "openat2": (
        linux.openat2,
        (BAD_FD, "x", os.O_RDONLY, linux.RESOLVE_BENEATH),
        "OSError",
        "EBADF",
        f"openat2({BAD_FD}, x, flags=0o0, resolve=0x8): ",
    ),
    "open_in_root": (linux.open_in_root, ("/", NOWHERE, os.O_RDONLY), "FileNotFoundError", "ENOENT", NOWHERE),
    "close_range": (linux.close_range, (9, 8), "OSError", "EINVAL", "close_range(9, 8, 0x0): Invalid argument"),
    "prctl": (linux.prctl, (9999, 7), "OSError", "EINVAL", "prctl(9999, 7): Invalid argument"),
    "set_seccomp_filter": (linux.set_seccomp_filter, (b"",), "?", "?", "prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER): "),
    "set_link_up": (linux.set_link_up, ("no-such",), "OSError", "ENODEV", "set_link_up('no-such'): No such device"),
    "clone": (
        linux.clone,
        (linux.CLONE_NEWNS | linux.CLONE_FS,),
        "OSError",
        "EINVAL",
        "clone(CLONE_FS|CLONE_NEWNS): Invalid argument",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_refused_call_names_itself_and_its_arguments(name):
    call, arguments, kind, code, text = CALLS[name]
    found = in_child(error_of, call, *arguments)
    assert kind in ("?", found[0])
    assert code in ("?", found[1])
    assert text in found[2]


def test_sethostname_names_itself_too():
    assert in_child(error_of, linux.sethostname, "x" * 100) == [
        "OSError",
        "EINVAL",
        f"sethostname('{'x' * 100}'): Invalid argument",
    ] or (os.geteuid() != 0)
    if os.geteuid() != 0:
        found = in_child(error_of, linux.sethostname, "other")
        assert found == ["PermissionError", "EPERM", "sethostname('other'): Operation not permitted"]


def test_the_errno_survives_from_the_call_to_the_error():
    # The class is chosen by errno: a caller can write `except PermissionError`.
    assert in_child(error_of, linux.openat2, -100, NOWHERE, os.O_RDONLY, 0)[0] == "FileNotFoundError"
    assert in_child(error_of, linux.openat2, -100, "/etc/passwd/x", os.O_RDONLY, 0)[0] == "NotADirectoryError"


def test_an_unknown_machine_is_told_so(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "vax")

    def inside() -> list[object]:
        found: list[object] = []
        for call, arguments in ((linux.pivot_root, ("/", "/")), (linux.clone, ()), (linux.new_session_keyring, ())):
            try:
                call(*arguments)
            except NotImplementedError as error:
                found.append(str(error))
        # and no lock of the interpreter is left taken: another thread can import
        thread = threading.Thread(target=lambda: found.append(__import__("colorsys").__name__), daemon=True)
        thread.start()
        thread.join(2)
        return found

    said = "the number of {}(2) on vax is not known to thinwalls.linux"
    assert in_child(inside) == [*(said.format(name) for name in ("pivot_root", "clone", "keyctl")), "colorsys"]


def _dies_of(work: Callable[[], object]) -> int:
    """How a child that does this ends."""
    pid = linux.clone()
    if pid == 0:
        code = 99
        try:
            code = int(work() or 0)  # type: ignore[call-overload]
        finally:
            os._exit(code)
    if not facts.Process(pid).ended(5):
        os.kill(pid, signal.SIGKILL)  # it hangs: this, then, is how it ends
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_clone_is_a_fork():
    cell = [1]
    before = os.getpid()

    def child() -> int:
        cell[0] = 2  # in a copy of the memory
        return 7 if os.getpid() != before and os.getppid() == before else 8

    assert _dies_of(child) == 7
    assert cell == [1]
    assert os.getpid() == before


def test_python_works_in_the_child():
    def child() -> int:
        found = []
        thread = threading.Thread(target=lambda: found.append(1))
        thread.start()
        thread.join(5)
        import colorsys  # something that nobody has loaded

        assert colorsys.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(5)
        ended = os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1])
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGUSR1, lambda *_: found.append(2))
            os.kill(os.getpid(), signal.SIGUSR1)
        return 7 if found == [1, 2] and ended == 5 and threading.active_count() == 1 else 8

    assert _dies_of(child) == 7


def test_threads_of_the_parent_are_not_in_the_child():
    stop = threading.Event()
    lock = threading.Lock()

    def hold() -> None:
        with lock:
            stop.wait(10)

    workers = [threading.Thread(target=hold), *(threading.Thread(target=stop.wait, args=(10,)) for _ in range(3))]
    for worker in workers:
        worker.start()
    try:
        assert (
            _dies_of(
                lambda: (
                    7
                    if threading.enumerate() == [threading.main_thread()] and len(os.listdir("/proc/self/task")) == 1
                    else 8
                )
            )
            == 7
        )
        # Handlers of os.register_at_fork run, as the standard library counts on.
        assert _dies_of(lambda: 7 if threading.current_thread() is threading.main_thread() else 8) == 7
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def test_clone_from_a_thread():
    found: list[int] = []
    thread = threading.Thread(
        target=lambda: found.append(_dies_of(lambda: 7 if threading.active_count() == 1 else 8)), daemon=True
    )
    thread.start()
    thread.join(10)
    assert found == [7]


BUSY = """
import os, threading
from thinwalls import linux

def others():
    while not done:
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()

done = []
for _ in range(4):
    threading.Thread(target=others, daemon=True).start()
for _ in range(100):
    pid = linux.clone()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
done.append(True)
"""


def test_a_clone_while_other_threads_make_threads():
    """From Python 3.13 on, both take a lock of the interpreter's: whoever lets go of the other one in between hangs."""
    command = [sys.executable, "-W", "ignore", "-c", BUSY]  # 3.12 warns of any fork beside threads
    subprocess.run(command, cwd=course.ROOT, timeout=60, check=True)


def test_many_clones_one_after_another():
    before = len(os.listdir("/proc/self/fd"))
    assert {_dies_of(lambda: 3) for _ in range(30)} == {3}
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_a_child_did_not_catch_does_not_run_on_in_the_parents_code():
    pid = linux.clone()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_clone_into_new_namespaces():
    def inside() -> list[object]:
        pids = os.pipe()
        pid = linux.clone(
            linux.CLONE_NEWPID | linux.CLONE_NEWUTS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWNS
        )
        if pid == 0:
            linux.sethostname("born-here")
            os.write(
                pids[1],
                f"{os.getpid()} {os.getppid()} {os.uname().nodename} ".encode(),
            )
            os._exit(0)
        os.waitpid(pid, 0)
        return [os.read(pids[0], 100).decode(), os.uname().nodename != "born-here"]

    assert in_new_userns(0, OWN_ID, inside) == ["1 0 born-here ", True]


def test_unshare_and_setns():
    def inside() -> list[object]:
        home = os.open("/proc/self/ns/uts", os.O_RDONLY)
        before = os.readlink("/proc/self/ns/uts")
        linux.unshare(linux.CLONE_NEWUTS)
        linux.sethostname("elsewhere")
        apart = os.readlink("/proc/self/ns/uts") != before and os.uname().nodename == "elsewhere"
        linux.setns(home, linux.CLONE_NEWUTS)
        wrong = error_of(linux.setns, home, linux.CLONE_NEWNET)
        return [apart, os.readlink("/proc/self/ns/uts") == before, *wrong]

    found = in_new_userns(linux.CLONE_NEWUTS, OWN_ID, inside)
    assert found[:4] == [True, True, "OSError", "EINVAL"]
    assert "CLONE_NEWNET" in found[4]


def test_mounts(tmp_path):
    def inside() -> list[object]:
        point = tmp_path / "point"
        point.mkdir()
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("sometmpfs", point, "tmpfs", linux.MS_NOSUID, "size=1m,mode=700")
        (point / "file").write_text("x")
        linux.mount(None, point, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID)
        first = refusal((point / "file").write_text, "y")
        linux.mount_setattr(point, attr_clr=linux.MOUNT_ATTR_RDONLY)
        second = refusal((point / "file").write_text, "y")
        linux.mount_setattr(point, attr_set=linux.MOUNT_ATTR_RDONLY, recursive=True)
        third = refusal((point / "file").write_text, "y")
        busy = os.open(point, os.O_RDONLY)
        fourth = refusal(linux.umount, point)
        linux.umount(os.fsencode(point), linux.MNT_DETACH)
        os.close(busy)
        return [first, second, third, fourth, os.listdir(point)]

    assert in_new_userns(linux.CLONE_NEWNS, OWN_ID, inside) == ["EROFS", "", "EROFS", "EBUSY", []]


def test_a_detached_copy_is_attached_where_a_descriptor_says(tmp_path):
    def inside() -> list[object]:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        linux.mount("sometmpfs", tmp_path / "here", "tmpfs")
        (tmp_path / "here/file").write_text("x")
        copy = linux.open_tree(tmp_path / "here")
        before = os.listdir(tmp_path / "there")
        linux.move_mount(copy, f"/proc/self/fd/{os.open(tmp_path / 'there', os.O_PATH)}")
        return [before, os.listdir(tmp_path / "there")]

    assert in_new_userns(linux.CLONE_NEWNS, OWN_ID, inside) == [[], ["file"]]


def test_pivot_root(tmp_path):
    def inside() -> list[object]:
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("new", tmp_path, "tmpfs")
        (tmp_path / "here").write_text("x")
        os.chdir(tmp_path)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        return [os.listdir("/"), os.getcwd()]

    assert in_new_userns(linux.CLONE_NEWNS, OWN_ID, inside) == [["here"], "/"]


# Opening in a foreign root


@pytest.fixture
def jail(tmp_path):
    """A root file system with every lure that a hostile one could hold, beside a secret."""
    (tmp_path / "secret").write_text("outside")
    root = tmp_path / "jail"
    (root / "etc").mkdir(parents=True)
    (root / "deep/er").mkdir(parents=True)
    (root / "secret").write_text("inside")
    (root / "etc/plain").write_text("inside")
    for name, to in {
        "up": "../../../../../../secret",
        "absolute": str(tmp_path / "secret"),
        "absolute-inside": "/etc/plain",
        "root": "/",
        "deep/er/out": "../../../secret",
        "loop": "loop",
        "magic": "/proc/self/root/secret",
        "etc/chain": "/root/root/up",
    }.items():
        (root / name).symlink_to(to)
    return root


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/secret", "inside"),
        ("secret", "inside"),
        ("../secret", "inside"),
        ("/../../../../secret", "inside"),
        ("/deep/er/../../../../secret", "inside"),
        ("/up", "inside"),
        ("/deep/er/out", "inside"),
        ("/absolute-inside", "inside"),
        ("/root/root/root/etc/plain", "inside"),
        ("/etc/chain", "inside"),
    ],
)
def test_open_in_root_reads_what_the_container_would(jail, path, text):
    directory = os.open(jail, os.O_PATH)
    for root in (jail, str(jail), directory):
        fd = linux.open_in_root(root, path, os.O_RDONLY)
        assert os.read(fd, 100).decode() == text
        assert not os.get_inheritable(fd)
        os.close(fd)
    os.fstat(directory)  # a descriptor that was given is the caller's still
    os.close(directory)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/absolute", FileNotFoundError),
        ("/loop", OSError),
        ("/magic", FileNotFoundError),
        ("/etc/plain/x", NotADirectoryError),
    ],
)
def test_open_in_root_finds_nothing_outside(jail, path, kind):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind, match=re.escape(path)):
        linux.open_in_root(jail, path, os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before


def test_open_in_root_follows_no_magic_link():
    """/proc/PID/root, cwd, exe and fd lead out of any root by the kernel's own hand (proc(5)): so they are no way."""
    held = os.open("/etc/passwd", os.O_RDONLY)
    try:
        for path in (
            "self/root/etc/passwd",
            "self/cwd",
            f"self/fd/{held}",
            "self/exe",
            f"self/task/{os.getpid()}/root",
        ):
            with pytest.raises(OSError, match="symbolic links") as caught:
                linux.open_in_root("/proc", path, os.O_RDONLY)
            assert caught.value.errno == errno.ELOOP
        fd = linux.open_in_root("/proc", "self/status", os.O_RDONLY)  # "self" is an ordinary link
        os.close(fd)
    finally:
        os.close(held)


def test_open_in_root_creates_inside(jail):
    fd = (
        linux.open_in_root(jail, "/up-there/../made", os.O_WRONLY | os.O_CREAT, 0o640)
        if (jail / "up-there").mkdir() is None
        else -1
    )
    os.close(fd)
    assert (jail / "made").stat().st_mode & 0o777 == 0o640 & ~_umask()
    with pytest.raises(FileNotFoundError):
        linux.open_in_root(jail.parent / "absent", "/x", os.O_RDONLY)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_openat2_restrictions(jail):
    directory = os.open(jail, os.O_PATH)
    try:
        for resolve, path, code in (
            (linux.RESOLVE_BENEATH, "../secret", errno.EXDEV),
            (linux.RESOLVE_BENEATH, "/secret", errno.EXDEV),
            (linux.RESOLVE_BENEATH, "up", errno.EXDEV),
            (linux.RESOLVE_NO_SYMLINKS, "absolute-inside", errno.ELOOP),
        ):
            with pytest.raises(OSError, match=rf"openat2\({directory}, {re.escape(path)}, ") as caught:
                linux.openat2(directory, path, os.O_RDONLY, resolve)
            assert caught.value.errno == code
        root = os.open("/", os.O_PATH)
        with pytest.raises(OSError, match="cross-device"):
            linux.openat2(root, "proc/self/status", os.O_RDONLY, linux.RESOLVE_NO_XDEV)
        os.close(root)
    finally:
        os.close(directory)


# The small ones


def test_close_range():
    def inside() -> list[object]:
        for fd in (70, 71, 75):
            os.dup2(0, fd)
        linux.close_range(71, 74)
        first = [fd for fd in (70, 71, 75) if os.path.exists(f"/proc/self/fd/{fd}")]
        for fd in (70, 75):
            os.set_inheritable(fd, True)
        linux.close_range(72, flags=linux.CLOSE_RANGE_CLOEXEC)
        return [first, os.get_inheritable(70), os.get_inheritable(75)]

    assert in_child(inside) == [[70, 75], True, False]


def test_prctl_gives_and_sets():
    def inside() -> list[int]:
        get_dumpable, get_no_new_privs = 3, 39
        before = linux.prctl(get_dumpable)
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        return [before, linux.prctl(get_dumpable), linux.prctl(get_no_new_privs)]

    assert in_child(inside)[1:] == [0, 1]


def test_a_seccomp_filter_filters():
    def inside() -> list[object]:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        number = {"x86_64": 39, "aarch64": 172}[platform.machine()]  # getpid
        load, equal, give = 0x20, 0x15, 0x06
        code = [
            (load, 0, 0, 0),
            (equal, 0, 1, number),
            (give, 0, 0, 0x00050000 | errno.ENOTSUP),
            (give, 0, 0, 0x7FFF0000),
        ]
        linux.set_seccomp_filter(b"".join(struct.pack("HBBI", *each) for each in code))
        libc = ctypes.CDLL(None, use_errno=True)
        return [libc.syscall(number), ctypes.get_errno()]

    assert in_child(inside) == [-1, errno.ENOTSUP]


@pytest.mark.skipif(not Path("/proc/keys").exists(), reason="this kernel has no keyrings")
def test_a_new_session_keyring():
    def inside() -> list[bool]:
        number = {"x86_64": (250, 248), "aarch64": (219, 217)}[platform.machine()]
        libc = ctypes.CDLL(None, use_errno=True)
        libc.syscall(number[1], b"user", b"tw-linux-test", b"x", 1, -3)  # add_key to the session keyring
        linux.new_session_keyring()
        libc.syscall(number[1], b"user", b"tw-linux-test", b"x", 1, -3)
        search = 10
        first = libc.syscall(number[0], search, -3, b"user", b"tw-linux-test", 0) > 0
        linux.new_session_keyring()
        return [first, libc.syscall(number[0], search, -3, b"user", b"tw-linux-test", 0) > 0]

    assert in_child(inside) == [True, False]


def test_paths_may_be_bytes_str_or_pathlike_and_odd(tmp_path):
    odd = tmp_path / "odd \udcff name"
    odd.mkdir()
    for path in (odd, str(odd), os.fsencode(odd)):
        fd = linux.openat2(-100, path, os.O_PATH | os.O_DIRECTORY, 0)
        os.close(fd)
    assert NOWHERE in in_child(error_of, linux.umount, os.fsencode(NOWHERE))[2]


def test_a_network_device_is_switched_on_and_has_an_address():
    def inside() -> list[object]:
        before = linux.link_address("lo")
        linux.set_link_up("lo")
        return [before, linux.link_address("lo"), linux.link_address("no-such")]

    assert in_new_userns(linux.CLONE_NEWNET, OWN_ID, inside) == [None, "127.0.0.1", None]
