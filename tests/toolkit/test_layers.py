"""A layer is read as a stream, whatever it is compressed by; what it is not is an error, not an end."""

import gzip
import io
import os
import tarfile

import pytest

from thinwalls import layers
from thinwalls.image import BadImage

OCI = "application/vnd.oci.image.layer.v1.tar"


def packed(*files, **more):
    """An archive of (name, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            for key, value in more.items():
                setattr(entry, key, value)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _members(*pieces):
    """A gzip file of several members, as some builders make it."""
    return b"".join(map(gzip.compress, pieces))


FILES = ("a", b"x" * 700_000), ("./b", b""), ("c/d", b"hello")


def read(path, kind):
    return [(entry.name, b"".join(data)) for entry, data in layers.entries(str(path), kind)]


@pytest.mark.parametrize(
    ("kind", "pack"),
    [
        (OCI, bytes),
        (f"{OCI}+gzip", gzip.compress),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", lambda data: _members(data[:999], data[999:])),
    ],
)  # fmt: skip
def test_entries_come_in_their_order_with_their_data(tmp_path, kind, pack):
    (tmp_path / "layer").write_bytes(pack(packed(*FILES)))
    assert read(tmp_path / "layer", kind) == list(FILES)
    assert [entry.name for entry, _ in layers.entries(str(tmp_path / "layer"), kind)] == [name for name, _ in FILES]


@pytest.mark.parametrize("cut", [20, 400, -100])
def test_a_layer_that_is_cut_off_is_unreadable(tmp_path, cut):
    for kind, data in ((OCI, packed(*FILES)[:700_000]), (f"{OCI}+gzip", gzip.compress(packed(*FILES))[:cut])):
        (tmp_path / "layer").write_bytes(data)
        with pytest.raises(layers.Unreadable):
            read(tmp_path / "layer", kind)


def test_a_type_that_nobody_knows_is_unreadable(tmp_path):
    with pytest.raises(layers.Unreadable, match="none that can be unpacked"):
        read(tmp_path, "text/plain")


def test_attributes_are_those_of_pax_without_overlayfs_own(tmp_path):
    headers = {"SCHILY.xattr.user.word": "hello", "SCHILY.xattr.user.overlay.opaque": "y", "comment": "no"}
    (tmp_path / "layer").write_bytes(packed(("a", b""), pax_headers=headers))
    (entry,) = (entry for entry, _ in layers.entries(str(tmp_path / "layer"), OCI))
    assert layers.attributes(entry) == {"user.word": b"hello"}


class Noting(layers.Unpacking):
    """Notes the names, and stumbles over one that is called bad."""

    def take(self, entry, data):
        if entry.name == "bad":
            raise ValueError("it is bad")
        self.skipped.append(entry.name)
        self.fresh.add((0, entry.name))


def test_what_a_subclass_raises_names_the_entry_and_each_layer_begins_fresh(tmp_path):
    before = os.listdir("/proc/self/fd")
    noting = Noting(str(tmp_path))
    for number, files in enumerate((FILES, (("good", b""), ("bad", b"")))):
        (tmp_path / f"{number}").write_bytes(packed(*files))
    noting.apply(str(tmp_path / "0"), OCI)
    assert noting.skipped == ["a", "./b", "c/d"]
    with pytest.raises(BadImage, match="entry 'bad': it is bad"):
        noting.apply(str(tmp_path / "1"), OCI)
    assert noting.fresh == {(0, "good")}
    noting.close()
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_one_file_of_a_layer_says_something_else(tmp_path, pack):
    (tmp_path / "layer").write_bytes(pack(packed(*FILES)))
    (tmp_path / "other").write_bytes(layers.rewritten(str(tmp_path / "layer"), "b", "new"))
    assert read(tmp_path / "other", OCI) == [FILES[0], ("./b", b"new"), FILES[2]]
    with pytest.raises(ValueError, match="no file 'never'"):
        layers.rewritten(str(tmp_path / "layer"), "never", "x")
