"""The Linux system calls a container is made of, and that Python 3.11 does not offer.

Every function is one system call. A call that fails raises ``OSError`` (or the subclass that belongs to its
errno, such as ``PermissionError``) whose text names the call and its arguments, for a bare "Operation not
permitted" has cost more evenings than any other sentence in this field.
"""

import ctypes
import errno
import fcntl
import functools
import itertools
import operator
import os
import platform
import signal
import socket
import struct

# linux/sched.h, see clone(2) and namespaces(7)
CLONE_NEWTIME = 0x00000080
CLONE_FS = 0x00000200  # root and working directory in common with the parent
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# linux/mount.h, see mount(2)
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 0x2  # umount2(2)
MOUNT_ATTR_RDONLY = 0x1  # mount_setattr(2)
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

# linux/openat2.h, see openat2(2)
RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h, see prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2

CLOSE_RANGE_CLOEXEC = 0x4  # linux/close_range.h, see close_range(2)

CAP_SYS_ADMIN = 21  # capabilities(7)

# Calls that libc does not wrap are made by number. Numbers above 423 are the same on every architecture.
_NUMBERS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "keyctl": 250},
    "aarch64": {"clone": 220, "pivot_root": 41, "keyctl": 219},
}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_ATTR_IDMAP = 428, 429, 0x100000
_CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 436, 437, 442

# PyDLL keeps the interpreter lock for the length of the call: in a child of clone(2) no other thread could give it back.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000
_AT_EMPTY_PATH = 0x1000


def _number(name: str) -> int:
    try:
        return _NUMBERS[platform.machine()][name]
    except KeyError:
        raise NotImplementedError(
            f"the number of {name}(2) on {platform.machine()} is not known to thinwalls.linux"
        ) from None


def _failed(call: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{call}: {os.strerror(code)}")


def _path(value: str | bytes | os.PathLike[str] | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def clone(flags: int = 0) -> int:
    """Fork, with the child born into the new namespaces that ``flags`` (CLONE_NEW*, or 0) asks for.

    Returns the child's process id in the parent and 0 in the child, exactly as ``os.fork`` does. The child shares
    nothing it could change: memory is copied, descriptors are duplicated. For processes of one thread: a lock that
    another thread holds in the C library at this moment stays locked in the child for ever. See clone(2).
    """
    python, number = ctypes.pythonapi, _number("clone")
    wanted = ctypes.c_ulong(flags | signal.SIGCHLD)
    call = functools.partial(_libc.syscall, ctypes.c_long(number), wanted, None, None, None, None)
    child = ctypes.PYFUNCTYPE(None)(("PyOS_AfterFork_Child", python))
    parent = ctypes.PYFUNCTYPE(None)(("PyOS_AfterFork_Parent", python))
    before = ctypes.PYFUNCTYPE(None)(("PyOS_BeforeFork", python))
    # before() takes the interpreter's locks, call() gives a pid, and child() or parent() gives the locks back. list()
    # does all three, with no line of Python between them: there the interpreter may go on in another thread, which
    # wants one of those locks, or, in the child, was not copied. From Python 3.13 on that is a deadlock.
    do = operator.methodcaller("__call__")
    pids, choices = itertools.tee(map(do, (before, call)))  # None, then the pid
    chosen = map({None: int, 0: child}.get, choices, itertools.repeat(parent))  # int() does nothing
    list(map(do, chosen))
    pid = list(pids)[-1]
    if pid < 0:
        raise _failed(f"clone({_flag_names(flags)})")
    return int(pid)


def unshare(flags: int) -> None:
    """Move the calling process itself into new namespaces (a new PID namespace: its next child). See unshare(2)."""
    if _libc.unshare(ctypes.c_int(flags)) != 0:
        raise _failed(f"unshare({_flag_names(flags)})")


def setns(fd: int, flags: int = 0) -> None:
    """Join the namespace behind the descriptor ``fd`` (of ``/proc/PID/ns/*``, or a pidfd with flags). See setns(2)."""
    if _libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)) != 0:
        raise _failed(f"setns({fd}, {_flag_names(flags)})")


def mount(
    source: str | os.PathLike[str] | None,
    target: str | os.PathLike[str],
    fstype: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """Attach a file system, or change how one is attached (bind, remount, propagation). See mount(2).

    source: what to attach: a device, a path (MS_BIND), or a word for file systems without a source ("proc").
    target: path of an existing directory or file, in the caller's mount namespace.
    """
    if _libc.mount(_path(source), _path(target), _path(fstype), ctypes.c_ulong(flags), data.encode() if data else None):
        raise _failed(f"mount({source!s}, {target!s}, {fstype}, {flags:#x}, {data})")


def umount(target: str | os.PathLike[str], flags: int = 0) -> None:
    """Detach what is mounted at ``target``; MNT_DETACH: at once, even while busy. See umount2(2)."""
    if _libc.umount2(_path(target), ctypes.c_int(flags)) != 0:
        raise _failed(f"umount({target!s}, {flags:#x})")


def pivot_root(new_root: str | os.PathLike[str], put_old: str | os.PathLike[str]) -> None:
    """Make ``new_root`` (a mount point) the root of the mount namespace, the old one to appear at ``put_old``.

    See pivot_root(2), whose notes also explain ``pivot_root(".", ".")``.
    """
    if _libc.syscall(ctypes.c_long(_number("pivot_root")), _path(new_root), _path(put_old)) != 0:
        raise _failed(f"pivot_root({new_root!s}, {put_old!s})")


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


def mount_setattr(path: str | os.PathLike[str], attr_set: int = 0, attr_clr: int = 0, recursive: bool = False) -> None:
    """Set and clear MOUNT_ATTR_* of the mount at ``path``, of those below it too if ``recursive``.

    Linux 5.12. See mount_setattr(2).
    """
    attr = _MountAttr(attr_set, attr_clr, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    if _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        _path(path),
        ctypes.c_uint(flags),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    ):
        raise _failed(f"mount_setattr({path!s}, set={attr_set:#x}, clear={attr_clr:#x}, recursive={recursive})")


def open_tree(path: str | os.PathLike[str]) -> int:
    """A detached copy of the mount at ``path`` and all below it: a descriptor, for move_mount(). See open_tree(2).

    The kernel drops the copy when the descriptor is closed before the copy was attached.
    """
    clone_tree, cloexec = 1, os.O_CLOEXEC
    fd = _libc.syscall(
        ctypes.c_long(_OPEN_TREE),
        ctypes.c_int(_AT_FDCWD),
        _path(path),
        ctypes.c_uint(clone_tree | cloexec | _AT_RECURSIVE),
    )
    if fd < 0:
        raise _failed(f"open_tree({path!s}, OPEN_TREE_CLONE|AT_RECURSIVE)")
    return int(fd)


def move_mount(fd: int, target: str | os.PathLike[str]) -> None:
    """Attach a detached mount at the path ``target``, a link (/proc/self/fd/N too) followed. See move_mount(2)."""
    empty_path, follow_links = 0x4, 0x10
    if _libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(fd),
        b"",
        ctypes.c_int(_AT_FDCWD),
        _path(target),
        ctypes.c_uint(empty_path | follow_links),
    ):
        raise _failed(f"move_mount({fd}, {target!s})")


def map_ids(fd: int, userns: int) -> None:
    """Have the detached mount ``fd`` show the ids of its files as the user namespace ``userns`` maps them.

    What belongs to uid 0 on disk then belongs to uid 0 of that namespace. Needs CAP_SYS_ADMIN over the file system.
    See mount_setattr(2), MOUNT_ATTR_IDMAP.
    """
    attr = _MountAttr(_MOUNT_ATTR_IDMAP, 0, 0, userns)
    if _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(fd),
        b"",
        ctypes.c_uint(_AT_EMPTY_PATH | _AT_RECURSIVE),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
    ):
        raise _failed(f"mount_setattr({fd}, MOUNT_ATTR_IDMAP)")


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def openat2(dirfd: int, path: str | os.PathLike[str], flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below the directory ``dirfd`` under the restrictions RESOLVE_*; gives a descriptor.

    Linux 5.6. The descriptor is close-on-exec. See openat2(2).
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd = _libc.syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(dirfd),
        _path(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        raise _failed(f"openat2({dirfd}, {path!s}, flags={flags:#o}, resolve={resolve:#x})")
    return int(fd)


def open_in_root(root: str | os.PathLike[str] | int, path: str | os.PathLike[str], flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process chrooted to ``root`` would: no "..", link or /proc trick leads out of it.

    root: a directory's path outside the container, or its descriptor. path: as seen inside the container.
    Gives a close-on-exec descriptor.
    """
    dirfd = root if isinstance(root, int) else os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return openat2(dirfd, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode)
    finally:
        if not isinstance(root, int):
            os.close(dirfd)


def mount_point_in_root(root: str | os.PathLike[str], path: str | os.PathLike[str], directory: bool = True) -> int:
    """Open ``path`` to be mounted on, making it (a directory, or an empty file) and its parents where they are missing.

    root: a directory's path outside the container. path: as seen inside; links in it are followed inside the root
    only. Gives an O_PATH descriptor: mount at /proc/self/fd/NUMBER. Raises OSError.
    """
    parts = [part for part in os.fspath(path).split("/") if part]
    if ".." in parts or not parts:
        raise OSError(errno.EINVAL, "a mount point needs a plain absolute path", os.fspath(path))
    below = open_in_root(root, "/", os.O_PATH | os.O_DIRECTORY)
    for number, part in enumerate(parts, start=1):
        here = "/".join(parts[:number])
        last = number == len(parts)
        try:
            found = open_in_root(root, here, os.O_PATH | (0 if last else os.O_DIRECTORY))
        except FileNotFoundError:
            # A link that leads nowhere is not made real: mkdir and O_EXCL refuse a name that exists.
            if last and not directory:
                os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=below))
            else:
                os.mkdir(part, 0o755, dir_fd=below)
            found = open_in_root(root, here, os.O_PATH)
        os.close(below)
        below = found
    return below


def mount_in_root(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str],
    path: str | os.PathLike[str],
    fstype: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount() at a place inside a root file system that is not to be trusted; see mount_point_in_root().

    source: as for mount(), a path outside the container where it is one. root: its directory's path outside.
    path: where to mount, as seen inside. A file is mounted on a file, everything else on a directory.
    """
    target = mount_point_in_root(root, path, directory=fstype is not None or os.path.isdir(source))
    try:
        mount(source, f"/proc/self/fd/{target}", fstype, flags, data)
    finally:
        os.close(target)


def close_range(first: int, last: int = 2**32 - 1, flags: int = 0) -> None:
    """Close every descriptor from ``first`` to ``last``; CLOSE_RANGE_CLOEXEC: only when this process calls exec.

    Linux 5.9, the flag 5.11. See close_range(2).
    """
    if _libc.syscall(ctypes.c_long(_CLOSE_RANGE), ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(flags)):
        raise _failed(f"close_range({first}, {last}, {flags:#x})")


def prctl(option: int, arg: int = 0) -> int:
    """Operate on the calling process (PR_*); gives what the option gives. See prctl(2)."""
    result = _libc.prctl(
        ctypes.c_int(option), ctypes.c_ulong(arg), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    if result < 0:
        raise _failed(f"prctl({option}, {arg})")
    return int(result)


def set_seccomp_filter(program: bytes) -> None:
    """Let the kernel run the classic BPF ``program`` on every later system call of this process. See seccomp(2)."""

    class _Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    code = _Program(len(program) // 8, program)
    if _libc.prctl(
        ctypes.c_int(PR_SET_SECCOMP),
        ctypes.c_ulong(SECCOMP_MODE_FILTER),
        ctypes.byref(code),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    ):
        raise _failed("prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER)")


def sethostname(name: str) -> None:
    """Set the host name of the caller's UTS namespace. See sethostname(2)."""
    encoded = os.fsencode(name)
    if _libc.sethostname(encoded, ctypes.c_size_t(len(encoded))) != 0:
        raise _failed(f"sethostname({name!r})")


def set_link_up(name: str) -> None:
    """Switch on a network device of the caller's network namespace, such as "lo". See netdevice(7)."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
    request = struct.Struct("16sh22x")  # the part of struct ifreq that these two use
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            flags = request.unpack(fcntl.ioctl(any_socket, get_flags, request.pack(os.fsencode(name), 0)))[1]
            fcntl.ioctl(any_socket, set_flags, request.pack(os.fsencode(name), flags | up))
        except OSError as error:
            raise OSError(error.errno, f"set_link_up({name!r}): {os.strerror(error.errno or 0)}") from None


def link_address(name: str) -> str | None:
    """The IPv4 address of a network device of the caller's network namespace; None: no such device, or no address.

    See netdevice(7), SIOCGIFADDR.
    """
    get_address = 0x8915
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, get_address, struct.pack("16s24x", os.fsencode(name)))
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EADDRNOTAVAIL):
                return None
            raise OSError(error.errno, f"link_address({name!r}): {os.strerror(error.errno or 0)}") from None
    return socket.inet_ntoa(answer[20:24])  # behind the name a struct sockaddr_in: family, port, address


def new_session_keyring() -> None:
    """Leave the session keyring inherited from the parent for an empty one of this process's own. See keyctl(2)."""
    join_session_keyring = 1
    if _libc.syscall(ctypes.c_long(_number("keyctl")), ctypes.c_int(join_session_keyring), None) < 0:
        raise _failed("keyctl(KEYCTL_JOIN_SESSION_KEYRING)")


def _flag_names(flags: int) -> str:
    names = [name for name, bit in globals().items() if name.startswith("CLONE_") and flags & bit]
    return "|".join(names) or "0"
