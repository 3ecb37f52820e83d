"""``./walls pull`` and ``./walls run IMAGE``: from a registry into a store that holds only what was verified."""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import machine_state
import pytest

from thinwalls import course, imagestore, rootfs
from thinwalls.host import Keeper
from thinwalls.registry import Registry

pytestmark = pytest.mark.slow

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/tmp:/bin/sh\n"


@pytest.fixture(scope="module")
def layer():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.add(rootfs.cached(), arcname=".")
        info = tarfile.TarInfo("etc/passwd")
        info.size = len(PASSWD)
        archive.addfile(info, io.BytesIO(PASSWD))
    return out.getvalue()


@pytest.fixture
def registry(layer):
    with Registry() as registry:
        config = {
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["pwd; echo $A"],
            "Env": ["PATH=/bin", "A=1"],
            "WorkingDir": "/tmp",
        }
        registry.add_image("small", "1", [layer], config=config)
        yield registry


@pytest.fixture
def walls(tmp_path):
    """./walls with a cache of its own, and the machine as before afterwards."""
    with Keeper():
        pass
    before = machine_state.snapshot()
    cache = tmp_path / "cache"

    def call(*words, impl="solutions"):
        environment = {**os.environ, "PYTHONPATH": str(course.ROOT), "XDG_CACHE_HOME": str(cache)}
        implementation = [] if words[0] == "forget" else ["--impl", str(impl)]
        command = [sys.executable, "-m", "thinwalls.cli", words[0], *implementation, *words[1:]]
        done = subprocess.run(command, cwd=course.ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr
        return done

    call.images = cache / "thinwalls" / "images"
    yield call
    # Trees may hold files of other ids of this user's, which whoever clears the temporary directory could not remove.
    done = call("forget")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(call.images.iterdir()) == []
    assert machine_state.difference(before, machine_state.settled(before)) == []


def test_an_image_runs_by_its_name_and_as_its_config_says(walls, registry):
    name = f"{registry.host}/small:1"
    assert walls("run", name).stdout == "/tmp\n1\n"
    asked = len(registry.requests)
    assert walls("run", "-e", "A=2", name, "echo $A; exit 7").returncode == 7
    assert walls("run", "-e", "A=2", name, "echo $A").stdout == "2\n"
    assert len(registry.requests) == asked  # what is here is not asked for


def test_changes_vanish_with_the_container(walls, registry):
    name = f"{registry.host}/small:1"
    assert walls("run", name, "echo x > /tmp/new; echo x > /etc/passwd; cat /tmp/new /etc/passwd").stdout == "x\nx\n"
    assert walls("run", name, "test ! -e /tmp/new && cat /etc/passwd").stdout == PASSWD.decode()


def test_a_second_pull_fetches_no_blob(walls, registry):
    first = walls("pull", f"{registry.host}/small:1")
    assert first.returncode == 0 and first.stdout.startswith("sha256:")
    blobs = len(registry.asked("*/blobs/*"))
    second = walls("pull", f"{registry.host}/small:1")
    assert second.stdout == first.stdout
    assert len(registry.asked("*/blobs/*")) == blobs


def test_the_store_holds_nothing_but_what_its_names_say(walls, registry):
    digest = walls("pull", f"{registry.host}/small:1").stdout.strip()
    blobs = list((walls.images / "store" / "blobs" / "sha256").iterdir())
    assert digest.removeprefix("sha256:") in [blob.name for blob in blobs] and len(blobs) == 3
    for blob in blobs:
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    assert sorted(path.name for path in walls.images.iterdir()) == ["names", "store", "trees"]
    assert os.stat(walls.images).st_mode & 0o77 == 0


def test_whoever_pulls_cannot_put_anything_under_a_false_name(walls, registry, tmp_path):
    stage = course.stage("06")
    for each in course.stages():
        shutil.copy(course.ROOT / "solutions" / f"{each.stem}.py", tmp_path)
    source = (tmp_path / f"{stage.stem}.py").read_text()
    liar = 'open(store + "/blobs/sha256/" + "0" * 64, "w").write("not what it says")'
    marker = "def pull("
    assert source.count(marker) == 1
    source = source.replace(marker, "def honest(") + (
        f"\n\ndef pull(name, store, *given, **more):\n    digest = honest(name, store, *given, **more)\n    {liar}\n    return digest\n"
    )
    (tmp_path / f"{stage.stem}.py").write_text(source)
    done = walls("pull", f"{registry.host}/small:1", impl=tmp_path)
    assert done.returncode == 1 and "is not what its digest says" in " ".join(done.stderr.split())
    assert not (walls.images / "store" / "blobs" / "sha256" / ("0" * 64)).exists()


@pytest.mark.parametrize(
    ("name", "says"), [("no such", "not the name of an image"), ("../x", "no directory"), ("HOST/nothing:1", "404")]
)
def test_what_is_no_image_is_told_in_a_sentence(walls, registry, name, says):
    done = walls("run", name.replace("HOST", registry.host))
    assert done.returncode == 125 and says in done.stderr


def test_what_a_killed_pull_has_left_is_swept(walls, registry):
    walls("pull", f"{registry.host}/small:1")
    left = walls.images / "pull-999999999.1"
    Path(left, "blobs").mkdir(parents=True)
    walls("pull", f"{registry.host}/small:1")
    assert not left.exists()


def test_what_is_in_use_is_not_forgotten(walls, registry):
    walls("pull", f"{registry.host}/small:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(walls.images.parent.parent))
        with imagestore.in_use():
            done = walls("forget")
    assert done.returncode == 1 and "end that first" in done.stderr
    assert (walls.images / "names").is_dir() and list((walls.images / "names").iterdir())


def test_the_pid_of_a_pull_that_goes_on_is_no_reason_to_sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with Keeper() as keeper, imagestore._staging("pull", keeper) as ours, imagestore._staging("unpack", keeper):
        assert ours.is_dir()
