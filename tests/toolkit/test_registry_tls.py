"""``./walls pull`` from a real registry by TLS: Debian's docker-registry, certified by an authority of one's own.

127.0.0.1 and localhost may be asked without encryption, so the registry is at 127.0.0.2. What is pulled goes through
the door, as all pulls of ``./walls`` do: it passes on what it cannot read.
"""

import contextlib
import io
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request

import pytest

from solutions import stage06_image_pull as reference
from thinwalls import course, images, rootfs
from thinwalls.transport import Transport, TransportError

pytestmark = pytest.mark.slow
PLACE = "127.0.0.2"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A directory with ca.pem, and server.crt and server.key that it vouches for."""
    folder = tmp_path_factory.mktemp("authority")

    def run(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=30)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run(*new, "-x509", "-days", "2", "-subj", "/CN=an authority", "-keyout", "ca.key", "-out", "ca.pem")
    run(*new, "-subj", "/CN=a registry", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text(f"subjectAltName=IP:{PLACE}\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    run("x509", "-req", "-in", "server.csr", *signed, "-out", "server.crt")
    return folder


@pytest.fixture(scope="module")
def registry(authority, tmp_path_factory):
    """The registry, with the image small:1 in it; gives host:port, and the digest of its manifest."""
    missing = [program for program in ("docker-registry", "openssl") if not shutil.which(program)]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"this machine has no {', '.join(missing)}")
    assert not missing
    place = tmp_path_factory.mktemp("registry")
    with socket.create_server((PLACE, 0)) as free:
        host = f"{PLACE}:{free.getsockname()[1]}"
    tls = {"certificate": str(authority / "server.crt"), "key": str(authority / "server.key")}
    settings = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(place / "registry")}},
        "http": {"addr": host, "tls": tls},
        "log": {"level": "error"},
    }
    (place / "registry.yml").write_text(json.dumps(settings))
    command = ["docker-registry", "serve", str(place / "registry.yml")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        try:
            yield host, _push(host, ssl.create_default_context(cafile=authority / "ca.pem"))
        finally:
            server.terminate()
            server.wait(20)


def _push(host, context):
    """Put an image into the registry, as the distribution specification says; gives its digest."""

    def send(method, url, body=b"", kind="application/octet-stream"):
        request = urllib.request.Request(url, body, {"Content-Type": kind}, method=method)
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.headers

    base = f"https://{host}/v2"
    for _ in range(200):
        try:
            send("GET", f"{base}/", None)
            break
        except urllib.error.URLError:
            time.sleep(0.05)
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as archive:
        archive.add(rootfs.cached(), arcname=".")
    blobs, manifest, _ = images.build([layer.getvalue()], {"Cmd": ["echo", "hello"]}, "gzip", "oci", images.HERE)
    for descriptor, blob in blobs:
        where = send("POST", f"{base}/small/blobs/uploads/")["Location"]
        with images.opened(blob) as file:
            send("PUT", f"{where}{'&' if '?' in where else '?'}digest={descriptor['digest']}", file.read())
    body = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
    return send("PUT", f"{base}/small/manifests/1", body, images.MANIFEST["oci"])["Docker-Content-Digest"]


@pytest.fixture
def walls(tmp_path):
    """./walls with a cache of its own, which is emptied afterwards."""

    def call(*words, authorities=None):
        environment = {**os.environ, "PYTHONPATH": str(course.ROOT), "XDG_CACHE_HOME": str(tmp_path)}
        environment.pop("SSL_CERT_FILE", None)
        if authorities:
            environment["SSL_CERT_FILE"] = str(authorities)
        command = [sys.executable, "-m", "thinwalls.cli", *words]
        done = subprocess.run(command, cwd=course.ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done

    yield call
    assert call("forget").returncode == 0


def test_the_authority_that_ssl_cert_file_names_is_believed(walls, registry, authority):
    host, digest = registry
    pulled = walls("pull", "--impl", "solutions", f"{host}/small:1", authorities=authority / "ca.pem")
    assert (pulled.returncode, pulled.stdout.strip()) == (0, digest), pulled.stderr
    done = walls("run", "--impl", "solutions", f"{host}/small:1")
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_a_certificate_that_nobody_vouches_for_is_refused(walls, registry):
    done = walls("pull", "--impl", "solutions", f"{registry[0]}/small:1")
    assert done.returncode == 1 and "certificate verify failed" in " ".join(done.stderr.split())


@pytest.mark.parametrize(("name", "says"), [("nowhere.pem", "cannot be read"), ("server.key", "has no certificate")])
def test_a_file_that_is_no_such_thing_is_told_in_a_sentence(walls, registry, authority, name, says):
    done = walls("pull", "--impl", "solutions", f"{registry[0]}/small:1", authorities=authority / name)
    assert done.returncode == 1 and says in " ".join(done.stderr.split())


def test_the_reference_pulls_the_same_without_a_door(registry, authority, tmp_path):
    host, digest = registry
    with Transport(cafile=str(authority / "ca.pem")) as transport:
        assert reference.pull(f"{host}/small:1", str(tmp_path), transport) == digest
    with Transport() as transport, contextlib.closing(transport), pytest.raises(TransportError, match="certificate"):
        reference.pull(f"{host}/small:1", str(tmp_path / "other"), transport)
