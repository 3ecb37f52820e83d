"""What is read of an image is of the shape that everybody goes on to rely on, or a BadImage."""

import json

import pytest

from thinwalls.image import BadImage, blob_path, descriptor, load

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
