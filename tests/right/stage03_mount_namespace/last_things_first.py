"""Another order, and another place: the new root is a mount of its own below a fresh tmpfs, volumes come first, then the
kernel's files; the old root is put into a directory of the new one, which is removed. mount(2) is called by ctypes.
"""

import ctypes
import errno
import os
from collections import namedtuple

from thinwalls import linux
from thinwalls.wall import Wall

from .stage01_chroot import check_rootfs as checked

libc = ctypes.CDLL(None, use_errno=True)
Volume = namedtuple("Volume", "source target readonly", defaults=(False,))
BIND, REC, PRIVATE, RDONLY, NOSUID, NODEV, NOEXEC = 4096, 16384, 1 << 18, 1, 2, 4, 8
HIDDEN = (
    "proc/acpi proc/asound proc/interrupts proc/kcore proc/keys proc/latency_stats proc/sched_debug proc/scsi "
    "proc/timer_list proc/timer_stats sys/devices/virtual/powercap sys/firmware"
)
FIXED = "proc/bus proc/fs proc/irq proc/sys proc/sysrq-trigger"


def mount(source, target, kind=None, flags=0, options=None):
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    if libc.mount(*texts, ctypes.c_ulong(flags), None if options is None else options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source or target)


def below(root, path, directory=True):
    """The name of a place in the root that is made if it is missing, by its descriptor."""
    return f"/proc/self/fd/{linux.mount_point_in_root(root, path, directory)}"


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.where, self.volumes = checked(rootfs), list(volumes)

    def inside(self):
        mount("none", "/", None, PRIVATE | REC)
        # What is open here is closed by furnish(), before the program.
        source = linux.open_tree(self.where)
        mount("stage", "/tmp", "tmpfs")
        os.mkdir("/tmp/root")
        mount(f"/proc/self/fd/{source}", "/tmp/root", None, BIND | REC)
        os.close(source)
        root = "/tmp/root"
        self.volumes_in(root)
        self.devices_in(root)
        mount("sysfs", below(root, "/sys"), "sysfs", NOSUID | NODEV | NOEXEC | RDONLY)
        mount("proc", below(root, "/proc"), "proc", NOSUID | NODEV | NOEXEC)
        self.masks_in(root)
        self.move(root)

    def volumes_in(self, root):
        for volume in self.volumes:
            if not os.path.exists(volume.source):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), volume.source)
            mount(volume.source, below(root, volume.target, os.path.isdir(volume.source)), None, BIND | REC)
            if volume.readonly:
                linux.mount_setattr(
                    below(root, volume.target, os.path.isdir(volume.source)), linux.MOUNT_ATTR_RDONLY, recursive=True
                )

    def devices_in(self, root):
        mount("dev", below(root, "/dev"), "tmpfs", NOSUID | NOEXEC, "mode=0755")
        for path, kind, flags, options in (
            ("/dev/pts", "devpts", NOSUID | NOEXEC, "ptmxmode=0666,newinstance"),
            ("/dev/mqueue", "mqueue", NOSUID | NODEV | NOEXEC, None),
            ("/dev/shm", "tmpfs", NOSUID | NODEV | NOEXEC, "mode=01777,size=8m"),
        ):
            mount(kind, below(root, path), kind, flags, options)
        for name in ("tty", "urandom", "random", "full", "zero", "null"):
            mount(f"/dev/{name}", below(root, f"/dev/{name}", False), None, BIND)
        dev = linux.open_in_root(root, "/dev", os.O_RDONLY | os.O_DIRECTORY)
        os.symlink("pts/ptmx", "ptmx", dir_fd=dev)
        os.symlink("/proc/self/fd", "fd", dir_fd=dev)
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.symlink(f"/proc/self/fd/{number}", name, dir_fd=dev)
        os.close(dev)

    def masks_in(self, root):
        for path in FIXED.split():
            if os.path.lexists(f"{root}/{path}"):
                mount(f"{root}/{path}", f"{root}/{path}", None, BIND | REC)
                linux.mount_setattr(f"{root}/{path}", linux.MOUNT_ATTR_RDONLY, recursive=True)
        for path in HIDDEN.split():
            if os.path.isdir(f"{root}/{path}"):
                mount("hidden", f"{root}/{path}", "tmpfs", RDONLY | NOSUID | NODEV, "size=0")
            elif os.path.exists(f"{root}/{path}"):
                mount("/dev/null", f"{root}/{path}", None, BIND)

    def move(self, root):
        linux.pivot_root(root, below(root, "/dev/.old"))  # the image may be read-only; /dev is ours
        os.chdir("/")
        linux.umount("/dev/.old", linux.MNT_DETACH)
        os.rmdir("/dev/.old")


class Caps(Wall):
    def inside(self):
        for option, amount in ((38, 1), (24, 21)):
            if libc.prctl(option, ctypes.c_ulong(amount), *[ctypes.c_ulong(0)] * 3):
                raise OSError(ctypes.get_errno(), "prctl")


class Sealed(Wall):
    def inside(self):
        for fd in range(3, 4096):
            try:
                if os.fstat(fd).st_mode & 0o170000 == 0o040000:
                    os.close(fd)
            except OSError:
                pass


def escape_through_descriptor():
    for fd in range(3, 1024):
        try:
            name = os.readlink(f"/proc/self/fd/{fd}")
            os.fchdir(fd)
        except OSError:
            continue
        # What the kernel calls it is its name from our root, if it is below that: then it is the same directory.
        if not os.path.exists(name) or not os.path.samestat(os.stat(name), os.stat(".")):
            os.chroot(".")
            return
    os.chdir("/")
    raise FileNotFoundError(errno.ENOENT, "there is none")
