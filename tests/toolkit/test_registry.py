"""The registry for tests serves what was added, as a real one would, and misbehaves exactly as often as it was told to."""

import base64
import contextlib
import gzip
import hashlib
import http.client
import json
import secrets
import shutil
import socket
import subprocess
import threading
import time

import pytest

from thinwalls.registry import Registry


@pytest.fixture
def registry():
    with Registry() as registry:
        yield registry


def ask(registry, path, method="GET", **headers):
    """(status, headers, body) of one request on a connection of its own, through nothing but http.client."""
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    with contextlib.closing(connection):
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        with answer:
            return answer.status, answer.headers, answer.read()


def digest(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


# As it should be


def test_it_says_that_it_is_a_registry(registry):
    status, headers, body = ask(registry, "/v2/")
    assert (status, body, headers["Content-Type"]) == (200, b"{}", "application/json")
    assert ask(registry, "/")[0] == ask(registry, "/v2/x")[0] == ask(registry, "/v2/a/things/b")[0] == 404


def test_a_blob_is_served_from_memory_and_from_a_file(registry, tmp_path):
    data = secrets.token_bytes(600_000)
    (tmp_path / "layer").write_bytes(data)
    for blob in (data, tmp_path / "layer"):
        found = registry.add_blob(blob, "some/type")
        assert found == {"mediaType": "some/type", "digest": digest(data), "size": len(data)}
        path = f"/v2/any/name/blobs/{found['digest']}"
        status, headers, body = ask(registry, path)
        assert (status, headers["Content-Length"], headers["Docker-Content-Digest"]) == (200, "600000", digest(data))
        assert body == data
        status, headers, body = ask(registry, path, "HEAD")
        assert (status, headers["Content-Length"], body) == (200, "600000", b"")
    status, _, body = ask(registry, f"/v2/any/blobs/{digest(b'nothing')}")
    assert status == 404 and json.loads(body)["errors"][0]["code"] == "BLOB_UNKNOWN"


@pytest.mark.parametrize(
    ("asked", "status", "said", "part"),
    [
        ("bytes=0-", 206, "bytes 0-9/10", b"0123456789"),
        ("bytes=7-", 206, "bytes 7-9/10", b"789"),
        ("bytes=2-4", 206, "bytes 2-4/10", b"234"),
        ("bytes=2-99", 206, "bytes 2-9/10", b"23456789"),
        ("bytes=10-", 416, "bytes */10", b""),
        ("nonsense", 200, None, b"0123456789"),
    ],
)
def test_a_range_is_honoured(registry, tmp_path, asked, status, said, part):
    (tmp_path / "ten").write_bytes(b"0123456789")
    for blob in (b"0123456789", tmp_path / "ten"):
        path = f"/v2/a/blobs/{registry.add_blob(blob)['digest']}"
        found, headers, body = ask(registry, path, Range=asked)
        assert (found, headers["Content-Range"], body) == (status, said, part)


def test_a_manifest_is_found_by_tag_and_by_digest_and_only_in_its_repository(registry):
    found = registry.add_manifest("some/thing", "1.0", {"schemaVersion": 2}, "application/x")
    for name in ("1.0", found["digest"]):
        status, headers, body = ask(registry, f"/v2/some/thing/manifests/{name}")
        assert status == 200 and headers["Content-Type"] == "application/x"
        assert headers["Docker-Content-Digest"] == found["digest"] == digest(body) and len(body) == found["size"]
    assert ask(registry, "/v2/some/other/manifests/1.0")[0] == 404
    assert ask(registry, "/v2/some/thing/manifests/2.0")[0] == 404
    assert json.loads(ask(registry, "/v2/some/thing/tags/list")[2]) == {"name": "some/thing", "tags": ["1.0"]}
    untagged = registry.add_manifest("some/thing", "", b"{}")
    assert ask(registry, f"/v2/some/thing/manifests/{untagged['digest']}")[0] == 200
    assert json.loads(ask(registry, "/v2/some/thing/tags/list")[2])["tags"] == ["1.0"]


def test_accept_is_honoured(registry):
    registry.add_manifest("a", "1", b"{}", "application/x")
    for accept in ("application/x", "*/*", "text/a, application/x;q=0.5", "application/*"):
        assert ask(registry, "/v2/a/manifests/1", Accept=accept)[0] == 200
    status, _, body = ask(registry, "/v2/a/manifests/1", Accept="application/y")
    assert status == 404 and json.loads(body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"


UNPACK = {
    "none": lambda data: data,
    "gzip": gzip.decompress,
    "zstd": lambda data: subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout,
}


@pytest.mark.parametrize("compression", UNPACK)
@pytest.mark.parametrize(
    ("media", "manifest_type", "config_type", "layer_type"),
    [
        ("oci", "vnd.oci.image.manifest.v1+json", "vnd.oci.image.config.v1+json", "vnd.oci.image.layer.v1.tar"),
        (
            "docker",
            "vnd.docker.distribution.manifest.v2+json",
            "vnd.docker.container.image.v1+json",
            "vnd.docker.image.rootfs.diff.tar",
        ),
    ],
)
def test_an_image_fits_together(registry, tmp_path, compression, media, manifest_type, config_type, layer_type):
    if compression == "zstd" and not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    tars = [b"the lowest" * 100, b"the highest"]
    packed = tmp_path / "packed"
    first = registry.add_image("a/b", "1", tars, {"Cmd": ["x"]}, compression, media, "linux/arm/v7")
    layers = json.loads(ask(registry, "/v2/a/b/manifests/1")[2])["layers"]
    packed.write_bytes(ask(registry, f"/v2/a/b/blobs/{layers[0]['digest']}")[2])
    # A file is taken as packed already, and its diff_id is found all the same.
    second = registry.add_image("a/b", "2", [packed, tars[1]], {"Cmd": ["x"]}, compression, media, "linux/arm/v7")
    assert second == first
    assert first["platform"] == {"os": "linux", "architecture": "arm", "variant": "v7"}
    _, headers, body = ask(registry, "/v2/a/b/manifests/1")
    manifest = json.loads(body)
    assert headers["Content-Type"] == manifest["mediaType"] == first["mediaType"] == f"application/{manifest_type}"
    assert manifest["config"]["mediaType"] == f"application/{config_type}"
    separator = "+" if media == "oci" else "."
    suffix = "" if compression == "none" else separator + compression
    assert [layer["mediaType"] for layer in manifest["layers"]] == [f"application/{layer_type}{suffix}"] * 2
    blobs = []
    for one in (manifest["config"], *manifest["layers"]):
        blobs.append(ask(registry, f"/v2/a/b/blobs/{one['digest']}")[2])
        assert (digest(blobs[-1]), len(blobs[-1])) == (one["digest"], one["size"])
    config = json.loads(blobs[0])
    assert [UNPACK[compression](blob) for blob in blobs[1:]] == tars
    assert config["rootfs"] == {"type": "layers", "diff_ids": [digest(tar) for tar in tars]}
    assert (config["config"], config["os"], config["architecture"]) == ({"Cmd": ["x"]}, "linux", "arm")


def test_an_index_lists_platforms(registry):
    images = [registry.add_image("a", "", [b"x"], platform=where) for where in ("linux/amd64", "plan9/pdp11")]
    registry.add_index("a", "1", images)
    registry.add_index("a", "2", images, media="docker")
    _, headers, body = ask(registry, "/v2/a/manifests/1")
    assert headers["Content-Type"] == "application/vnd.oci.image.index.v1+json"
    assert [one["platform"]["os"] for one in json.loads(body)["manifests"]] == ["linux", "plan9"]
    for one in json.loads(body)["manifests"]:
        assert ask(registry, f"/v2/a/manifests/{one['digest']}")[0] == 200
    found = ask(registry, "/v2/a/manifests/2")[1]["Content-Type"]
    assert found == "application/vnd.docker.distribution.manifest.list.v2+json"


def test_every_request_is_written_down(registry):
    ask(registry, "/v2/a/manifests/1?x=y", "HEAD", X_Some="thing")
    ask(registry, "/token?scope=z")
    assert [(one.method, one.path) for one in registry.requests] == [
        ("HEAD", "/v2/a/manifests/1?x=y"),
        ("GET", "/token?scope=z"),
    ]
    assert registry.requests[0].headers["x-some"] == "thing" and registry.requests[0].headers["Authorization"] is None
    assert registry.asked("/v2/*/manifests/*") == registry.requests[:1]


def test_it_serves_on_a_socket_that_is_given():
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with Registry(listening) as registry:
        assert registry.host == f"127.0.0.1:{port}" and ask(registry, "/v2/")[0] == 200
    assert listening.fileno() == -1


def test_closing_ends_everything(registry):
    before = threading.active_count()
    with Registry() as other:
        other.misbehave("*", "stall", seconds=60)
        other.misbehave("*", "endless")
        waiting = [socket.create_connection(tuple(other._server.server_address)) for _ in range(3)]
        for connection in waiting[:2]:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\n\r\n")
        while len(other.requests) < 2:
            time.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    for connection in waiting:
        connection.settimeout(5)
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass
        connection.close()
    while threading.active_count() > before:
        assert time.monotonic() - began < 5
        time.sleep(0.01)


# Tokens


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def token(registry, scope, **headers):
    status, _, body = ask(registry, f"/token?service={registry.host}&scope={scope}", **headers)
    return "Bearer " + json.loads(body)["token"] if status == 200 else status


def test_without_a_token_there_is_a_challenge():
    with Registry(token=True) as registry:
        registry.add_manifest("a/b", "1", b"{}")
        status, headers, _ = ask(registry, "/v2/a/b/manifests/1")
        realm = f'Bearer realm="{registry.url}/token",service="{registry.host}"'
        assert (status, headers["WWW-Authenticate"]) == (401, realm + ',scope="repository:a/b:pull"')
        assert ask(registry, "/v2/")[1]["WWW-Authenticate"] == realm
        good = token(registry, "repository:a/b:pull")
        assert ask(registry, "/v2/a/b/manifests/1", Authorization=good)[0] == 200
        assert ask(registry, "/v2/", Authorization=good)[0] == 200
        for bad in ("Bearer x", "Basic x", token(registry, "repository:a/c:pull"), token(registry, "")):
            assert ask(registry, "/v2/a/b/manifests/1", Authorization=bad)[0] == 401
        registry.challenge = 'Basic realm="x"'
        assert ask(registry, "/v2/a/b/manifests/1")[1]["WWW-Authenticate"] == 'Basic realm="x"'


def test_with_credentials_not_everybody_gets_a_token():
    with Registry(credentials=("me", "pass:word")) as registry:
        registry.add_manifest("a", "1", b"{}")
        scope = "repository:a:pull"
        assert token(registry, scope) == token(registry, scope, Authorization=basic("me", "other")) == 401
        good = token(registry, scope, Authorization=basic("me", "pass:word"))
        assert ask(registry, "/v2/a/manifests/1", Authorization=good)[0] == 200


def test_tokens_expire_by_time_and_on_demand():
    with Registry(token=True, token_seconds=0.1) as registry:
        registry.add_manifest("a", "1", b"{}")
        scope = "repository:a:pull"
        old = token(registry, scope)
        time.sleep(0.15)
        assert ask(registry, "/v2/a/manifests/1", Authorization=old)[0] == 401
        registry.token_seconds = 60
        for expire in (registry.expire_tokens, lambda: registry.misbehave("/v2/*", "expired")):
            good = token(registry, scope)
            assert ask(registry, "/v2/a/manifests/1", Authorization=good)[0] == 200
            expire()
            for _ in range(2):
                assert ask(registry, "/v2/a/manifests/1", Authorization=good)[0] == 401


# Misbehaviour

DATA = bytes(range(256)) * 40


@pytest.fixture
def path(registry):
    return f"/v2/a/blobs/{registry.add_blob(DATA)['digest']}"


def test_faults_hit_what_fits_as_often_as_they_were_told(registry, path):
    registry.misbehave("*/manifests/*", "status", 1, code=500)
    fault = registry.misbehave("*/blobs/*", "status", 2, code=429, headers={"Retry-After": "7"})
    found = [ask(registry, path) for _ in range(3)]
    assert [(status, headers["Retry-After"]) for status, headers, _ in found] == [(429, "7"), (429, "7"), (200, None)]
    assert fault.times == 0
    assert ask(registry, "/v2/a/manifests/1")[0] == 500
    assert ask(registry, "/v2/a/manifests/1")[0] == 404


def test_truncate(registry, path):
    registry.misbehave("*", "truncate", at=1000)
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(registry, path)
    assert caught.value.partial == DATA[:1000] and ask(registry, path)[2] == DATA


@pytest.mark.parametrize("at", [-1, 0, 1000])
def test_reset(registry, path, at):
    registry.misbehave("*", "reset", at=at)
    with pytest.raises(ConnectionResetError):
        ask(registry, path)
    assert ask(registry, path)[2] == DATA


@pytest.mark.parametrize("kind", ["stall", "slow"])
def test_stall_and_slow(registry, path, kind):
    how = {"at": 1000, "seconds": 0.3} if kind == "stall" else {"piece": 2000, "seconds": 0.1}
    registry.misbehave("*", kind, **how)
    began = time.monotonic()
    try:
        assert ask(registry, path)[2] == DATA
    except http.client.IncompleteRead as error:
        assert kind == "stall" and error.partial == DATA[:1000]
    assert 0.3 <= time.monotonic() - began < 3


def test_breaking_off_ends_a_stall_and_no_more(registry, path):
    registry.misbehave("*", "stall", at=1000)
    began = time.monotonic()
    threading.Timer(0.1, registry.break_off).start()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(registry, path)
    assert time.monotonic() - began < 5
    assert ask(registry, path)[2] == DATA


def test_wrong_bytes(registry, path):
    registry.misbehave("*", "wrong")
    registry.misbehave("*", "wrong", body=b"others")
    same, other = ask(registry, path)[2], ask(registry, path)[2]
    assert len(same) == len(DATA) and same != DATA and other == b"others"


def test_redirect(registry, path):
    registry.misbehave("*", "redirect", to="http://127.0.0.1:1")
    registry.misbehave("*", "redirect", to="https://elsewhere.example/some/where", code=302)
    found = [ask(registry, path + "?q=1")[:2] for _ in range(2)]
    assert [(status, headers["Location"]) for status, headers in found] == [
        (307, f"http://127.0.0.1:1{path}?q=1"),
        (302, "https://elsewhere.example/some/where"),
    ]


@pytest.mark.parametrize("kind", ["no-length", "chunked", "endless"])
def test_bodies_without_a_length(registry, path, kind):
    registry.misbehave("*", kind)
    if kind != "endless":
        _, headers, body = ask(registry, path)
        assert headers["Content-Length"] is None and body == DATA
        return
    with socket.create_connection(tuple(registry._server.server_address), 5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        count = 0
        while count < 20_000_000:
            count += len(connection.recv(1 << 20))
    assert ask(registry, path)[2] == DATA


def test_ranges_that_are_ignored_or_wrong(registry, path):
    registry.misbehave("*", "no-range")
    registry.misbehave("*", "bad-range")
    assert ask(registry, path, Range="bytes=100-")[::2] == (200, DATA)
    status, headers, body = ask(registry, path, Range="bytes=100-")
    assert (status, headers["Content-Range"], body) == (206, f"bytes 99-{len(DATA) - 1}/{len(DATA)}", DATA[99:])
