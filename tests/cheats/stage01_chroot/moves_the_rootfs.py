# fails: 1.1 1.2 1.3 1.4
# says: rootfs
"""As uid 0 the machine is put under the rootfs's name, instead of the program into the rootfs."""

import os

from thinwalls import linux
from thinwalls.wall import Wall


class Root(Wall):
    def __init__(self, rootfs):
        linux.mount(f"{rootfs}/tmp", "/tmp", None, linux.MS_BIND)
        linux.mount(f"{rootfs}/bin/sh", "/bin/sh", None, linux.MS_BIND)
        linux.mount("/", rootfs, None, linux.MS_BIND | linux.MS_REC)

    def inside(self):
        os.chdir("/")
