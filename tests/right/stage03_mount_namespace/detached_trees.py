"""With the calls of today: mounts are made as detached trees, changed, and attached where a descriptor says."""

import ctypes
import os
import stat
from dataclasses import dataclass

from thinwalls import linux
from thinwalls.wall import Wall

from . import stage01_chroot

MASKED = frozenset(
    "/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi "
    "/proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware".split()
)
READ_ONLY = frozenset("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split())
libc = ctypes.PyDLL(None, use_errno=True)
KERNEL = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


@dataclass
class Volume:
    source: str
    target: str
    readonly: bool = False


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs, self.volumes = stage01_chroot.check_rootfs(rootfs), volumes

    def inside(self):
        keep_mounts_private()
        # The rootfs is attached over a directory that every machine has.
        attach(linux.open_tree(self.rootfs), os.open("/tmp", os.O_PATH))
        for build in (mount_devices, mount_kernel_files, mask_paths):
            build("/tmp")
        mount_volumes("/tmp", self.volumes)
        enter_root("/tmp")


class Caps(Wall):
    def inside(self):
        for capability in (21, 22, 16):
            linux.prctl(linux.PR_CAPBSET_DROP, capability)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


class Sealed(Wall):
    def inside(self):
        with os.scandir("/proc/self/fd") as entries:
            directories = [int(entry.name) for entry in entries if entry.is_dir()]
        for fd in directories:
            try:
                os.close(fd)
            except OSError:
                pass


def attach(tree, point):
    """move_mount(2), MOVE_MOUNT_F_EMPTY_PATH and MOVE_MOUNT_T_EMPTY_PATH: from a descriptor to a descriptor."""
    failed = libc.syscall(ctypes.c_long(429), ctypes.c_int(tree), b"", ctypes.c_int(point), b"", ctypes.c_uint(0x44))
    code = ctypes.get_errno()
    os.close(tree)
    os.close(point)
    if failed:
        raise OSError(code, os.strerror(code))


def attach_in(tree, root, path, directory=True):
    attach(tree, linux.mount_point_in_root(root, path, directory))


def keep_mounts_private():
    linux.mount("", "/", "", linux.MS_PRIVATE | linux.MS_REC)


def enter_root(rootfs):
    new, old = os.open(rootfs, os.O_DIRECTORY), os.open("/", os.O_DIRECTORY)
    os.fchdir(new)
    linux.pivot_root(".", ".")
    os.fchdir(old)
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")
    os.close(new)
    os.close(old)


def mount_kernel_files(rootfs):
    linux.mount_in_root("none", rootfs, "/sys", "sysfs", KERNEL | linux.MS_RDONLY)
    linux.mount_in_root("none", rootfs, "/proc", "proc", KERNEL)


def mount_devices(rootfs):
    devices = {name: linux.open_tree(f"/dev/{name}") for name in ("null", "zero", "full", "random", "urandom", "tty")}
    linux.mount_in_root("none", rootfs, "/dev", "tmpfs", linux.MS_NOSUID, "mode=0755,size=1m")
    for name, tree in devices.items():
        attach_in(tree, rootfs, f"/dev/{name}", directory=False)
    linux.mount_in_root("none", rootfs, "/dev/mqueue", "mqueue", KERNEL)
    linux.mount_in_root("none", rootfs, "/dev/shm", "tmpfs", KERNEL, "mode=1777")
    linux.mount_in_root("none", rootfs, "/dev/pts", "devpts", linux.MS_NOSUID, "newinstance,ptmxmode=666")
    here = os.getcwd()
    os.fchdir(linux.open_in_root(rootfs, "dev", os.O_RDONLY | os.O_DIRECTORY))
    for number, name in enumerate(["stdin", "stdout", "stderr"]):
        os.symlink(f"/proc/self/fd/{number}", name)
    os.symlink("/proc/self/fd", "fd")
    os.symlink("pts/ptmx", "ptmx")
    os.chdir(here)


def mount_volumes(rootfs, volumes):
    for volume in volumes:
        tree = linux.open_tree(volume.source)
        attach_in(tree, rootfs, volume.target, os.path.isdir(volume.source))
        if volume.readonly:
            mounted = linux.open_in_root(rootfs, volume.target, os.O_PATH)
            linux.mount_setattr(f"/proc/self/fd/{mounted}", attr_set=1, recursive=True)
            os.close(mounted)


def mask_paths(rootfs):
    for path in sorted(MASKED):
        try:
            point = linux.open_in_root(rootfs, path, os.O_PATH)
        except OSError:
            continue
        if stat.S_ISDIR(os.fstat(point).st_mode):
            linux.mount("none", f"/proc/self/fd/{point}", "tmpfs", linux.MS_RDONLY)
        else:
            attach(linux.open_tree("/dev/null"), os.dup(point))
        os.close(point)
    for path in sorted(READ_ONLY):
        if os.path.exists(path):
            point = linux.open_in_root(rootfs, path, os.O_PATH)
            attach(linux.open_tree(f"/proc/self/fd/{point}"), point)
            mounted = linux.open_in_root(rootfs, path, os.O_PATH)
            linux.mount_setattr(f"/proc/self/fd/{mounted}", linux.MOUNT_ATTR_RDONLY, 0, True)
            os.close(mounted)


def escape_through_descriptor():
    for number in sorted(map(int, os.listdir("/proc/self/fd")), reverse=True):
        link = f"/proc/self/fd/{number}"
        try:
            # The name of what lies outside our root is told from the top of its own tree, or not at all.
            outside = os.path.isdir(link) and not os.path.samestat(os.stat(link), os.stat(os.readlink(link)))
            outside = outside or (os.path.isdir(link) and os.readlink(link) == "/" and differs(link))
        except OSError:
            continue
        if outside or differs(link):
            os.chdir(link)
            os.chroot(".")
            return
    raise FileNotFoundError("no such descriptor")


def differs(link):
    """Whether the directory's top is not ours."""
    if not os.path.isdir(link):
        return False
    top = os.open(link, os.O_PATH)
    while True:
        above = os.open("..", os.O_PATH, dir_fd=top)
        same = os.path.samestat(os.fstat(above), os.fstat(top))
        os.close(top)
        top = above
        if same:
            found = not os.path.samestat(os.fstat(top), os.stat("/"))
            os.close(top)
            return found
