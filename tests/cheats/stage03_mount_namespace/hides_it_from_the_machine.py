# fails: 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# says: is not
"""What is to be masked is hidden from the machine itself, so that nobody can say that it was there."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs = rootfs
        for place in ("/sys", "/dev"):
            linux.mount("tmpfs", place, "tmpfs")

    def inside(self):
        os.chroot(self.rootfs)
        os.chdir("/")
        linux.mount("proc", "/proc", "proc", 14)
        for name in ("sys", "irq", "bus", "fs"):
            linux.mount("tmpfs", f"/proc/{name}", "tmpfs", linux.MS_RDONLY)
