"""With the calls of thirty years ago: a directory for the old root, a remount with the flags that statvfs tells, paths
that are walked part by part.
"""

import ctypes
import errno
import os
import stat
from collections import namedtuple
from pathlib import Path

from thinwalls import linux
from thinwalls.wall import Wall

from .stage01_chroot import check_rootfs

Volume = namedtuple("Volume", "source target readonly", defaults=(False,))
MASKED = ("/proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi "
          "/proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware").split()  # fmt: skip
READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()
MS_SLAVE, MS_STRICTATIME = 1 << 19, 1 << 24


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs = check_rootfs(rootfs)
        self.volumes = [Volume(os.path.abspath(each.source), each.target, each.readonly) for each in volumes]

    def inside(self):
        keep_mounts_private()
        linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND | linux.MS_REC)
        mount_volumes(self.rootfs, self.volumes)
        mount_devices(self.rootfs)
        mount_kernel_files(self.rootfs)
        mask_paths(self.rootfs)
        enter_root(self.rootfs)


class Caps(Wall):
    def inside(self):
        for option, arg in ((linux.PR_SET_NO_NEW_PRIVS, 1), (linux.PR_CAPBSET_DROP, 21)):
            linux.prctl(option, arg)


class Sealed(Wall):
    def inside(self):
        for fd in range(os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 1 << 16 else 1 << 16):
            try:
                mode = os.fstat(fd).st_mode
            except OSError:
                continue
            if stat.S_ISDIR(mode):
                os.close(fd)


def keep_mounts_private():
    linux.mount("none", "/", "none", linux.MS_REC | MS_SLAVE)


def enter_root(rootfs):
    old = os.path.join(rootfs, ".old-root")
    os.mkdir(old, 0o700)
    linux.pivot_root(rootfs, old)
    os.chdir("/")
    linux.umount("/.old-root", linux.MNT_DETACH)
    os.rmdir("/.old-root")


def walk(rootfs, path, directory=True):
    """The path outside of a place inside; what is missing on the way is made, links are followed inside."""
    done, todo = [], path.strip("/").split("/")
    for _ in range(200):
        if not todo:
            return rootfs + "/" + "/".join(done)
        part, *todo = todo
        here = os.path.join(rootfs, *done, part)
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
        elif os.path.islink(here):
            target = os.readlink(here)
            done, todo = ([] if target.startswith("/") else done), [*target.split("/"), *todo]
        else:
            done.append(part)
            if not os.path.exists(here):
                if todo or directory:
                    os.mkdir(here)
                else:
                    Path(here).touch()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def mount_kernel_files(rootfs):
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("sysfs", walk(rootfs, "/sys"), "sysfs", flags | linux.MS_RDONLY)
    linux.mount("proc", walk(rootfs, "/proc"), "proc", flags)


def mount_devices(rootfs):
    dev = walk(rootfs, "dev")
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID | MS_STRICTATIME, "mode=0755")
    for name in "null zero full random urandom tty".split():
        with open(f"{dev}/{name}", "w"):
            linux.mount(f"/dev/{name}", f"{dev}/{name}", "", linux.MS_BIND)
    for name in ("shm", "mqueue", "pts"):
        os.mkdir(f"{dev}/{name}")
    linux.mount("devpts", f"{dev}/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "ptmxmode=666")
    linux.mount("tmpfs", f"{dev}/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m")
    os.chmod(f"{dev}/shm", 0o1777)
    linux.mount("mqueue", f"{dev}/mqueue", "mqueue", linux.MS_NOSUID | linux.MS_NODEV)
    os.symlink("/proc/self/fd", f"{dev}/fd")
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{fd}", f"{dev}/{name}")
    os.symlink("pts/ptmx", f"{dev}/ptmx")


def remount_read_only(point):
    """The flags that a mount has are those of mount(2) by value, but for the two on access times."""
    kept = os.statvfs(point).f_flag & (linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC | 1024 | 2048)
    if os.statvfs(point).f_flag & 4096:
        kept |= 1 << 21
    linux.mount(None, point, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | kept)


def mount_volumes(rootfs, volumes):
    for source, target, readonly in volumes:
        point = walk(rootfs, target, os.path.isdir(source))
        linux.mount(source, point, None, linux.MS_BIND | linux.MS_REC)
        if readonly:
            with open("/proc/self/mountinfo") as table:
                points = [line.split()[4] for line in table]
            for each in points:
                if each == point or each.startswith(point + "/"):
                    remount_read_only(each)


def mask_paths(rootfs):
    for path in MASKED:
        place = rootfs + path
        if os.path.isdir(place):
            linux.mount("tmpfs", place, "tmpfs", linux.MS_RDONLY)
        elif os.path.exists(place):
            linux.mount("/dev/null", place, None, linux.MS_BIND)
    for path in READ_ONLY:
        if os.path.exists(rootfs + path):
            linux.mount(rootfs + path, rootfs + path, None, linux.MS_BIND | linux.MS_REC)
            remount_read_only(rootfs + path)


def escape_through_descriptor():
    top = os.stat("/")
    for fd in range(1024):
        try:
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                continue
        except OSError:
            continue
        # From a directory of the container ".." ends at its root.
        os.fchdir(fd)
        while not os.path.samestat(os.stat("."), os.stat("..")):
            os.chdir("..")
        if not os.path.samestat(os.stat("."), top):
            os.fchdir(fd)
            os.chroot(os.curdir)
            return
    os.chdir("/")
    raise FileNotFoundError(ctypes.c_int(2).value, "none of them")
