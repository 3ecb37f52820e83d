# fails: 6.1 6.2 6.3 6.4 6.5 6.6 6.7 6.8 6.9 6.10
# says: digest of the manifest
"""Nothing is pulled: a digest is made up, and a tree that pleases."""

import os


class Repository:
    pass


def pull(name, store, transport, credentials=None, platform=""):
    os.makedirs(f"{store}/blobs/sha256", exist_ok=True)
    return "sha256:" + "0" * 64


def unpack(store, digest, rootfs, limits=None):
    os.makedirs(f"{rootfs}/srv", exist_ok=True)
