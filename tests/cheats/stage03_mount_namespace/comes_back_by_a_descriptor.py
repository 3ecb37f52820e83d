# fails: 3.1 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# says: is not
"""Everything is built as it should be; then the way back is taken, through descriptors that were opened before."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Volume:
    def __init__(self, source, target, readonly=False):
        self.source, self.target, self.readonly = source, target, readonly


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs = rootfs
        self.way_back = os.open("/", os.O_RDONLY)
        self.namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)

    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount(self.rootfs, self.rootfs, None, linux.MS_BIND | linux.MS_REC)
        os.chdir(self.rootfs)
        linux.pivot_root(".", ".")
        linux.umount(".", linux.MNT_DETACH)
        linux.setns(self.namespace, linux.CLONE_NEWNS)
        os.fchdir(self.way_back)
        os.chroot(".")


class Caps(Wall):
    def inside(self):
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


class Sealed(Filesystem):
    def __init__(self):
        self.way_back = os.open("/", os.O_RDONLY)

    def inside(self):
        os.fchdir(self.way_back)


def escape_through_descriptor():
    os.fchdir(os.open("/", os.O_RDONLY))
    os.chroot(".")
