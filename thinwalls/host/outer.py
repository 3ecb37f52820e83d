"""The outer level of a throwaway host: namespaces, a root made from an allow-list, and its PID 1.

Nothing a learner wrote ever runs at this level. Its PID 1 exists to hold what the inner level must not be able
to touch (the mounts, the limits, the trusted end of the file planting) and to take the whole host with it when
it is killed.
"""

import base64
import contextlib
import os
import resource
import select
import socket
import stat
from pathlib import Path
from typing import Any

from thinwalls import linux
from thinwalls.host import inner, limits, network, wire

NAMESPACES = (
    linux.CLONE_NEWUSER
    | linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_ROOT_SIZE = 128 * 2**20  # bytes of everything writable in the host
_MOUNTPOINT = "/tmp"  # any directory there is: the new root is laid over it in our own mount namespace, then pivoted to
_NPROC = 256
_ADDRESS_SPACE = 4 * 2**30  # bytes a process may map where no memory cgroup bounds it
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def run(
    order: dict[str, Any],
    request: socket.socket,
    control: socket.socket,
    streams: list[int],
    maps_ready: socket.socket,
    lifeline: int,
) -> None:
    """PID 1 of the outer level, from birth to death.

    order: what the grader asked for (see ``thinwalls.host.Host``). request: the end that the inner level gets.
    control: the end on which the grader asks to plant files. maps_ready: a message comes once the ids are mapped,
    with the trees of the order as detached mounts where the keeper could map their ids.
    lifeline: at end of file the keeper is dead, and so must this host be.
    """
    mapped = wire.receive(maps_ready)
    if mapped is None:
        return
    maps_ready.close()
    v2 = "" in order["cgroups"]
    if v2:  # the keeper has moved us into the group that is handed over: whoever looks from in here begins there
        linux.unshare(linux.CLONE_NEWCGROUP)
    # Still the keeper's user: whatever lies in a directory that only that user may enter is opened now.
    sources = _open_sources(order["binds"])
    trees = mapped.fds or [linux.open_tree(tree["source"]) for tree in order["trees"]]
    loader_cache = _read("/etc/ld.so.cache")
    rootfs = os.open(order["rootfs"], os.O_PATH | os.O_CLOEXEC) if order["rootfs"] else None
    order["cgroups"] = {name: os.open(path, os.O_PATH | os.O_CLOEXEC) for name, path in order["cgroups"].items()}
    # From here on uid 0 of the new user namespace: all capabilities in it, no power over the machine's files.
    if order["ids"] > 1:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else /proc/PID/uid_map of our own child is not ours to write
    linux.prctl(linux.PR_SET_PDEATHSIG, 9)  # after setresuid, which clears it
    os.umask(0o022)

    _build_root(sources, loader_cache, rootfs, trees, order)
    linux.sethostname("outer")
    for limit, value in ((resource.RLIMIT_NPROC, _NPROC), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    if not order["bounded"]:
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))

    ids, connected = order["ids"], order["network"]
    order.clear()  # paths of the machine, which its frames would show to whoever walks up the stack
    gate, opens = os.pipe()
    pid = linux.clone(inner.NAMESPACES)
    if pid == 0:
        os.close(opens)
        with contextlib.suppress(BaseException):
            inner.run(request, streams, gate, ids, connected)
        os._exit(125)
    _map_all(pid, ids)
    if connected:
        network.lay_cable(pid)
    if v2:  # a group with processes of its own could not have limited ones below it
        for each in ("0", str(pid)):
            Path(f"/sys/fs/cgroup/{limits.LEAF}/cgroup.procs").write_text(each)
    os.write(opens, b"1")
    for fd in (gate, opens, *streams):
        os.close(fd)
    request.close()
    _serve(control, lifeline, pid)


def _open_sources(paths: list[str]) -> list[tuple[str, int | str]]:
    """For each path of the allow-list: a descriptor to bind from, or where its symbolic link points."""
    sources: list[tuple[str, int | str]] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            if os.path.islink(path):
                sources.append((path, os.readlink(path)))
            else:
                sources.append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
    return sources


def _build_root(
    sources: list[tuple[str, int | str]],
    loader_cache: bytes,
    rootfs: int | None,
    trees: list[int],
    order: dict[str, Any],
) -> None:
    root = _MOUNTPOINT
    devices = [(name, os.open(f"/dev/{name}", os.O_PATH | os.O_CLOEXEC)) for name in _DEVICES]
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)  # nothing we mount may reach the machine
    size = f"size={_ROOT_SIZE},nr_inodes=65536,mode=755"
    try:  # memory in pieces as large as what is written: half the work of a copy, see "huge" in tmpfs(5)
        linux.mount("host", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"{size},huge=within_size")
    except OSError:  # a kernel without large pages does not know the option
        linux.mount("host", root, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, size)
    for name in ("proc", "sys", "dev", "dev/pts", "dev/shm", "tmp", "run", "root", "etc", "srv", "course"):
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)
    os.chmod(f"{root}/dev/shm", 0o1777)

    for path, source in sources:
        target = root + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if isinstance(source, str):
            os.symlink(source, target)
            continue
        _mount_point(target, source)
        # Recursive: a tree with mounts below it is locked together, and a part of it alone is EINVAL.
        linux.mount(f"/proc/self/fd/{source}", target, None, linux.MS_BIND | linux.MS_REC)
        linux.mount_setattr(
            target, linux.MOUNT_ATTR_RDONLY | linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV, recursive=True
        )
    if os.path.isdir(f"{root}{order['hidden']}"):  # the checkout lies in something that was bound: solutions, tests
        linux.mount("nothing", f"{root}{order['hidden']}", "tmpfs", linux.MS_RDONLY, "size=4k")
    for name, device in devices:
        _mount_point(f"{root}/dev/{name}", device)
        linux.mount(f"/proc/self/fd/{device}", f"{root}/dev/{name}", None, linux.MS_BIND)
    for tool in order["masked"]:
        with contextlib.suppress(FileNotFoundError, OSError):
            linux.mount(f"{root}/dev/null", root + tool, None, linux.MS_BIND)
    for link, where in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(where, f"{root}/dev/{link}")

    for name, text in _ETC.items():
        Path(root, "etc", name).write_text(text)
    Path(root, "etc/ld.so.cache").write_bytes(loader_cache)
    files = {path: text.encode() for path, text in order["files"].items()}
    files |= {path: base64.b64decode(data) for path, data in order["bytes"].items()}
    for path, data in files.items():
        file = Path(root + path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if rootfs is not None:
        try:
            copy_tree(f"/proc/self/fd/{rootfs}", f"{root}/srv/rootfs")
        except PermissionError as error:  # we are not the machine's root any more
            name = str(error.filename).replace(f"/proc/self/fd/{rootfs}", order["rootfs"])
            raise OSError(f"{name} cannot be copied into the host: not everybody may read it") from None

    for tree, wanted in zip(trees, order["trees"], strict=True):
        _mount_point(root + wanted["target"], tree)
        linux.move_mount(tree, root + wanted["target"])
        if wanted["readonly"]:
            linux.mount_setattr(root + wanted["target"], linux.MOUNT_ATTR_RDONLY, recursive=True)
        linux.mount_setattr(root + wanted["target"], linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV, recursive=True)
        os.close(tree)
    if order["overlay"]:  # a root file system that can be written to, on top of one that is not touched
        for name in ("upper", "work", "rootfs"):
            os.mkdir(f"{root}/srv/{name}")
        layers = f"lowerdir={root}{order['overlay']},upperdir={root}/srv/upper,workdir={root}/srv/work,userxattr"
        linux.mount("overlay", f"{root}/srv/rootfs", "overlay", linux.MS_NOSUID | linux.MS_NODEV, layers)

    # A new proc or sysfs may be mounted only while a fully visible one is: so before the old root goes.
    linux.mount("proc", f"{root}/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.mount("sysfs", f"{root}/sys", "sysfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | linux.MS_RDONLY)
    if order["cgroups"]:
        linux.mount(
            "cgroup", f"{root}/sys/fs/cgroup", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC, "size=64k"
        )
        for controller, directory in order["cgroups"].items():
            if controller:
                os.mkdir(f"{root}/sys/fs/cgroup/{controller}")
            linux.mount(f"/proc/self/fd/{directory}", f"{root}/sys/fs/cgroup/{controller}", None, linux.MS_BIND)
            os.close(directory)
    for fd in [source for _, source in sources if isinstance(source, int)] + [fd for _, fd in devices]:
        os.close(fd)
    if rootfs is not None:
        os.close(rootfs)
    os.chdir(root)
    linux.pivot_root(".", ".")
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")


def _mount_point(target: str, source: int) -> None:
    if stat.S_ISDIR(os.fstat(source).st_mode):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()


def copy_tree(source: str, target: str) -> None:
    """Copy a tree of directories, regular files and symbolic links; modes are kept, owners become uid 0."""
    os.mkdir(target)
    os.chmod(target, 0o755)
    with os.scandir(source) as entries:
        for entry in entries:
            there = f"{target}/{entry.name}"
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), there)
            elif entry.is_dir():
                copy_tree(entry.path, there)
            else:
                read = os.open(entry.path, os.O_RDONLY)
                size, mode = os.fstat(read).st_size, os.fstat(read).st_mode
                write = os.open(there, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(mode))
                while size > 0 and (sent := os.sendfile(write, read, None, size)):
                    size -= sent
                os.close(read)
                os.close(write)


def _map_all(pid: int, ids: int) -> None:
    """Give the inner user namespace the same ids that this one has."""
    if ids == 1:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    # Two lines: newuidmap gave 0 and the others apart, and a line may not span two ranges of the level above.
    ranges = "0 0 1\n" + (f"1 1 {ids - 1}\n" if ids > 1 else "")
    Path(f"/proc/{pid}/uid_map").write_text(ranges)
    Path(f"/proc/{pid}/gid_map").write_text(ranges)


def _serve(control: socket.socket, lifeline: int, inner_pid: int) -> None:
    """Plant files and make sockets when asked, until the inner level has ended, or those who asked for this host."""
    ended = os.pidfd_open(inner_pid)
    poll = select.poll()
    for fd in (control.fileno(), lifeline, ended):
        poll.register(fd, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if lifeline in ready or ended in ready:
            return
        message = wire.receive(control)
        if message is None:
            return
        try:
            if "listen" in message.body:
                with network.endpoint(message.body["listen"]) as made:
                    wire.send(control, {"done": True}, [made.fileno()])
            else:
                _plant(**message.body)
                wire.send(control, {"done": True})
        except OSError as error:
            what = message.body.get("path", "a socket")
            wire.send(control, {"failed": f"{what} cannot be made: {error.strerror or error}"})


def _plant(path: str, data: str, mode: int) -> None:
    """Write a file, making its directories; the tree is the learner's, so no link in it is followed."""
    directory = os.open("/", os.O_PATH | os.O_DIRECTORY)
    for part in Path(path).parent.parts[1:]:
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, 0o755, dir_fd=directory)
        below = linux.openat2(
            directory, part, os.O_PATH | os.O_DIRECTORY, linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH
        )
        os.close(directory)
        directory = below
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK
    resolve = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH
    fd = linux.openat2(directory, os.path.basename(path), flags, resolve, mode)
    os.close(directory)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(f"{path} is no regular file")
    with os.fdopen(fd, "wb") as file:
        file.write(base64.b64decode(data))
        os.fchmod(file.fileno(), mode)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
