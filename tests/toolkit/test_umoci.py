"""The reference of stage 6 beside umoci(1): the same image, unpacked by both, is the same tree, entry by entry.

A Debian image, made by mmdebstrap, and a second layer on top of it with whiteouts of all kinds, are pushed by skopeo to
Debian's own registry on a free port of 127.0.0.1. Compared are type, mode, owner, what a link says, content, and extended
attributes, as root, where owners can be set. The normalisation: device files are absent (nobody who is not the machine's
root may make them).
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import time
import urllib.request
from pathlib import Path

import pytest

from solutions import stage06_image_pull as reference
from thinwalls.transport import Transport

pytestmark = pytest.mark.slow
PROGRAMS = ("umoci", "skopeo", "docker-registry", "mmdebstrap")


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """Debian's registry, with debian:base and debian:layered in it; gives host:port."""
    if os.geteuid():
        pytest.skip("the comparison is made as root, where owners can be compared too")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"this machine has no {', '.join(missing)}")
    assert not missing
    place = tmp_path_factory.mktemp("umoci")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(place / "registry")}},
        "http": {"addr": host},
        "log": {"level": "error"},
    }
    (place / "registry.yml").write_text(json.dumps(settings))
    archive = place / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(archive)]
    subprocess.run(command, check=True, timeout=600, stderr=subprocess.DEVNULL)
    with subprocess.Popen(
        ["docker-registry", "serve", str(place / "registry.yml")], stderr=subprocess.DEVNULL
    ) as server:
        try:
            for name, layers in {"base": [archive], "layered": [archive, _second(place)]}.items():
                layout = _layout(place / name, layers)
                _answers(host)
                target = f"docker://{host}/debian:{name}"
                copy = [
                    "skopeo",
                    "--insecure-policy",
                    "copy",
                    "-q",
                    "--dest-tls-verify=false",
                    f"oci:{layout}:x",
                    target,
                ]
                subprocess.run(copy, check=True, timeout=300)
            yield host
        finally:
            server.terminate()
            server.wait(20)
    shutil.rmtree(place)


@pytest.mark.parametrize("tag", ["base", "layered"])
def test_the_tree_is_the_one_that_umoci_makes(registry, tag, tmp_path):
    store, tree = tmp_path / "store", tmp_path / "tree"
    tree.mkdir()
    with Transport() as transport:
        digest = reference.pull(f"{registry}/debian:{tag}", str(store), transport)
    reference.unpack(str(store), digest, str(tree))
    layout = f"oci:{tmp_path}/layout:x"
    copy = [
        "skopeo",
        "--insecure-policy",
        "copy",
        "-q",
        "--src-tls-verify=false",
        f"docker://{registry}/debian:{tag}",
        layout,
    ]
    subprocess.run(copy, check=True, timeout=300)
    unpack = ["umoci", "unpack", "--image", f"{tmp_path}/layout:x", f"{tmp_path}/bundle"]
    subprocess.run(unpack, check=True, timeout=300)
    try:
        ours, theirs = _look(tree), _look(tmp_path / "bundle" / "rootfs")
        different = [f"{path}: {ours.get(path)}, umoci: {theirs.get(path)}" for path in sorted({*ours, *theirs}) if ours.get(path) != theirs.get(path)]  # fmt: skip
        assert not different, f"{len(different)} differences:\n" + "\n".join(different[:40])
        assert len(ours) > 5000
    finally:
        for each in ("tree", "bundle", "store", "layout"):
            shutil.rmtree(tmp_path / each, ignore_errors=True)


def _look(tree):
    """path -> what is there, normalised as this module says."""
    found = {}
    for directory, below, files in os.walk(tree):
        for name in [".", *below, *files] if directory == str(tree) else [*below, *files]:
            path = os.path.normpath(os.path.join(directory, name))
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                continue
            owner = status.st_uid, status.st_gid
            content = ""
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                with contextlib.suppress(PermissionError):
                    content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            names = os.listxattr(path, follow_symlinks=False)
            attributes = {each: os.getxattr(path, each, follow_symlinks=False) for each in names}
            links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
            found[os.path.relpath(path, tree)] = oct(status.st_mode), owner, links, content, attributes
    return found


def _second(place):
    """A layer that hides, replaces and adds in the first."""
    path = place / "second.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:

        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o644, to="", **more):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.linkname, entry.size, entry.mtime = kind, mode, to, len(data), 1_000_000_000
            for key, value in more.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(data))

        add("etc/.wh.motd")
        add("usr/share/doc/", tarfile.DIRTYPE, mode=0o755)
        add("usr/share/doc/.wh..wh..opq")
        add("usr/share/doc/readme", data=b"new\n")
        add("usr/share/.wh.man")
        add("bin/hello", data=b"#!/bin/sh\n", mode=0o4755)  # bin is a link to usr/bin
        add("usr/bin/again", tarfile.LNKTYPE, to="usr/bin/hello")
        add("usr/games", data=b"a file where a directory was\n")
        add("etc/issue/", tarfile.DIRTYPE, mode=0o1777)
        add("etc/issue/pipe", tarfile.FIFOTYPE, mode=0o622)
        add("etc/hostname", tarfile.SYMTYPE, to="/run/hostname", uid=7, gid=8)
        add("srv/mine", data=b"x", mode=0o2640, uid=33, gid=42, pax_headers={"SCHILY.xattr.user.word": "hello"})
    return path


def _layout(place, layers):
    """An OCI layout with one image of these layers, uncompressed."""
    blobs = place / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(kind, data):
        content = data.read_bytes() if isinstance(data, Path) else json.dumps(data).encode()
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    listed = [add("layer.v1.tar", layer) for layer in layers]
    diffs = {"type": "layers", "diff_ids": [each["digest"] for each in listed]}
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]
    config = add("config.v1+json", {"os": "linux", "architecture": machine, "config": {}, "rootfs": diffs})
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = add("manifest.v1+json", {"schemaVersion": 2, "mediaType": media, "config": config, "layers": listed})
    named = {**manifest, "annotations": {"org.opencontainers.image.ref.name": "x"}}
    (place / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def _answers(host):
    """Wait until the registry answers."""
    for _ in range(200):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{host}/v2/", timeout=2):
            return
        time.sleep(0.05)
    raise AssertionError("the registry does not answer")
