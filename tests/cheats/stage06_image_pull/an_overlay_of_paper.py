# fails: 6.1 6.2 6.3 6.4 6.5 6.6 6.7 6.8 6.9 6.10
# says: is an overlay
"""No overlay: the image is copied, to a tmpfs in the container."""

import os
import shutil

from thinwalls import linux
from thinwalls.wall import Wall


class Disposable(Wall):
    flags = linux.CLONE_NEWNS

    def __init__(self, image, rootfs):
        self.image, self.rootfs = image, rootfs

    def inside(self):
        linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("copy", self.rootfs, "tmpfs")
        shutil.copytree(self.image, self.rootfs, symlinks=True, dirs_exist_ok=True)
        os.chmod(self.rootfs, os.stat(self.image).st_mode & 0o7777)
