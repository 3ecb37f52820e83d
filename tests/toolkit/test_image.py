"""What is read of an image is of the shape that everybody goes on to rely on, or a BadImage."""

import json

import pytest

from thinwalls.image import BadImage, Image, blob_path, descriptor, load, platform_of, read_image, read_manifest
from thinwalls.image import stored as is_stored

DIGEST = "sha256:" + "a" * 64


def stored(tmp_path, text):
    path = tmp_path / "blobs" / "sha256" / ("a" * 64)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return load(str(tmp_path), DIGEST)


@pytest.mark.parametrize(
    "document",
    [{}, {"config": None}, {"config": {"User": "x"}}, {"layers": [], "manifests": [{}]}, {"layers": None, "else": [1]}],
)
def test_a_document_is_given_as_it_is(tmp_path, document):
    assert stored(tmp_path, json.dumps(document)) == document


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "1",
        '"x"',
        "null",
        "{",
        "[" * 100_000,
        '{"config": "x"}',
        '{"config": [1]}',
        '{"layers": {"a": 1}}',
        '{"layers": ["x"]}',
        '{"manifests": [null]}',
        '{"manifests": "x"}',
        " " * (5 << 20) + "{}",
    ],
)
def test_what_is_no_such_document_is_a_bad_image(tmp_path, text):
    with pytest.raises(BadImage):
        stored(tmp_path, text)


@pytest.mark.parametrize(
    "part", [None, {}, {"mediaType": "x", "digest": 1, "size": 1}, {"mediaType": "x", "digest": "y", "size": -1}]
)
def test_what_is_no_descriptor_is_a_bad_image(part):
    with pytest.raises(BadImage):
        descriptor(part)


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../x", "sha256:" + "A" * 64, "md5:" + "a" * 32, "a" * 64])
def test_a_path_is_made_of_a_digest_and_of_nothing_else(tmp_path, digest):
    with pytest.raises(ValueError):
        blob_path(str(tmp_path), digest)


def test_what_is_there_is_stored_and_a_tag_never_is(tmp_path):
    stored(tmp_path, "{}")
    assert is_stored(str(tmp_path), DIGEST)
    assert not is_stored(str(tmp_path), "sha256:" + "b" * 64)
    assert not is_stored(str(tmp_path), "latest")
    with pytest.raises(BadImage):
        is_stored(str(tmp_path), "sha256:../x")


@pytest.mark.parametrize(
    ("platform", "parts"),
    [
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, ["linux", "arm", "v7"]),
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, ["linux", "arm64"]),
        ({"os": "linux", "architecture": "amd64", "variant": ""}, ["linux", "amd64"]),
        ({}, []),
        (None, []),
        ("linux/amd64", []),
    ],
)
def test_a_platform_is_read_and_none_is_nobodys(platform, parts):
    assert platform_of({"platform": platform}) == parts
    assert platform_of({}) == []


def test_an_index_in_an_index_is_told_in_a_sentence(tmp_path):
    stored(tmp_path, json.dumps({"manifests": []}))
    with pytest.raises(BadImage, match="an index in an index is not followed"):
        read_manifest(str(tmp_path), DIGEST)


@pytest.mark.parametrize("document", [{}, {"layers": []}, {"layers": [{}], "config": None}, {"layers": None}])
def test_what_is_no_manifest_is_a_bad_image(tmp_path, document):
    stored(tmp_path, json.dumps(document))
    with pytest.raises(BadImage):
        read_manifest(str(tmp_path), DIGEST)


def image(tmp_path, config):
    """What read_image() makes of a config, for an image of one layer."""
    place = tmp_path / "blobs" / "sha256"
    place.mkdir(parents=True)
    (place / ("c" * 64)).write_text(json.dumps(config))
    parts = [{"mediaType": "x", "digest": "sha256:" + letter * 64, "size": 1} for letter in "cd"]
    (place / ("a" * 64)).write_text(json.dumps({"config": parts[0], "layers": parts[1:]}))
    return read_image(str(tmp_path), DIGEST)


@pytest.mark.parametrize("nothing", [{}, {"config": None}, {"config": {"Cmd": None, "Env": [], "User": ""}}])
def test_what_a_config_leaves_out_is_as_an_image_has_it(tmp_path, nothing):
    found = image(tmp_path, nothing)
    assert found == Image(found.layers, [], [], {}, "/", "")
    assert [layer.digest for layer in found.layers] == ["sha256:" + "d" * 64]


def test_a_config_says_what_runs(tmp_path):
    said = {"Entrypoint": ["a"], "Cmd": ["b", ""], "Env": ["A=b=c", "D="], "WorkingDir": "/x", "User": "y:z"}
    found = image(tmp_path, {"config": said})
    assert found == Image(found.layers, ["a"], ["b", ""], {"A": "b=c", "D": ""}, "/x", "y:z")


@pytest.mark.parametrize(
    "said",
    [
        {"Env": ["A"]},
        {"Env": ["=x"]},
        {"Env": "A=b"},
        {"Cmd": "sh"},
        {"Entrypoint": [1]},
        {"WorkingDir": "x"},
        {"User": 5},
        {"Cmd": ["a\0b"]},
        {"User": "a\0b"},
    ],
)
def test_a_config_that_is_malformed_is_a_bad_image(tmp_path, said):
    with pytest.raises(BadImage):
        image(tmp_path, {"config": said})
