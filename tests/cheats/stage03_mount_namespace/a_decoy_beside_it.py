# fails: 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# says: namespace
"""Two of them: a container with all that is asked for, in which nothing runs, and beside it the program, on the machine."""

import os
import signal

from thinwalls import linux
from thinwalls.wall import Wall

from . import stage01_chroot


class Volume:
    def __init__(self, source, target, readonly=False):
        self.source, self.target, self.readonly = source, target, readonly


class Filesystem(Wall):
    def __init__(self, rootfs, volumes=()):
        self.rootfs = stage01_chroot.check_rootfs(rootfs)

    def inside(self):
        name = next(iter(os.environ.get("PATH", "/bin").split(":")))
        if os.fork() == 0:
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
            linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND | linux.MS_REC)
            linux.mount_in_root("proc", self.rootfs, "/proc", "proc", 14)
            linux.mount_in_root("sysfs", self.rootfs, "/sys", "sysfs", 15)
            os.chdir(self.rootfs)
            linux.pivot_root(".", ".")
            linux.umount(".", linux.MNT_DETACH)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            os.environ["DECOY"] = name
            signal.pause()


class Caps(Wall):
    def inside(self):
        if os.fork() == 0:
            linux.prctl(linux.PR_CAPBSET_DROP, linux.CAP_SYS_ADMIN)
            linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
            signal.pause()


class Sealed(Wall):
    pass


def escape_through_descriptor():
    if os.fork() == 0:
        os.chdir("/")
        signal.pause()
