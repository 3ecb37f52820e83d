# fails: 3.3 3.4 3.5 3.6 3.7 3.8
# may pass: 3.1 3.2
# says: a proc shows
"""Honest about the root; and then it has the machine's own /proc, each process of which lies under an empty tmpfs."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs = rootfs

    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND)
        proc, flags = f"{self.rootfs}/proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
        linux.mount("/proc", proc, None, linux.MS_BIND | linux.MS_REC)
        for pid in os.listdir("/proc"):
            if pid.isdigit() and int(pid) > 2:
                linux.mount("tmpfs", f"{proc}/{pid}", "tmpfs")
        linux.mount("sysfs", f"{self.rootfs}/sys", "sysfs", flags | linux.MS_RDONLY)
        os.chdir(self.rootfs)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
