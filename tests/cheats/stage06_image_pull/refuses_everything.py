# fails: 6.1 6.2 6.3 6.4 6.5 6.6 6.7 6.8 6.9 6.10
# says: unpack() returns
"""Whoever refuses everything lets nothing harmful in: every entry is hostile, by its name."""

import json
import tarfile


class BadImage(ValueError):
    pass


def pull(name, store, transport, credentials=None, platform=""):
    raise BadImage(name)


def unpack(store, digest, rootfs, limits=None):
    def load(name):
        return open(f"{store}/blobs/sha256/{name.removeprefix('sha256:')}", "rb")

    manifest = json.load(load(digest))
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=load(layer["digest"])) as archive:
            raise BadImage(" ".join(archive.getnames()))


def find_user(user, rootfs):
    raise BadImage(user)


def read_image(store, digest):
    raise BadImage(digest)


def program(image, rootfs, command=(), env={}):
    raise BadImage("nothing")
