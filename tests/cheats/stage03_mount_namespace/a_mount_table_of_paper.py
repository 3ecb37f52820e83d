# fails: 3.2 3.3 3.4 3.5 3.6 3.7 3.8
# may pass: 3.1
# says: pivot_root
"""The old chroot, with files bound over what /proc says: a mount table, a status and a list of processes of our own."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Volume:
    def __init__(self, *given):
        self.source, self.target, self.readonly = (*given, False)[:3]


class Filesystem(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, rootfs, volumes=()):
        self.rootfs, self.volumes = rootfs, volumes

    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        os.makedirs("/tmp/paper/1", exist_ok=True)
        os.makedirs("/tmp/paper/2", exist_ok=True)
        os.makedirs("/tmp/paper/self", exist_ok=True)
        for name in ("mountinfo", "mounts"):
            with open(f"/tmp/paper/self/{name}", "w") as file:
                file.write("1 1 0:1 /srv/rootfs / rw - tmpfs host rw\n2 1 0:2 / /proc rw,nosuid,nodev,noexec - proc proc rw\n")
        linux.mount("/tmp/paper/self/mountinfo", f"/proc/{os.getpid()}/mountinfo", None, linux.MS_BIND)
        linux.mount("/tmp/paper", f"{self.rootfs}/proc", None, linux.MS_BIND)
        for volume in self.volumes:
            os.makedirs(self.rootfs + volume.target, exist_ok=True)
        os.chroot(self.rootfs)
        os.chdir("/")


class Caps(Wall):
    def inside(self):
        linux.mount("/tmp", "/proc/self/status", None, linux.MS_BIND)


class Sealed(Wall):
    def inside(self):
        os.chdir("/")


def escape_through_descriptor():
    os.chroot("/")
