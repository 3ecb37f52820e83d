"""A class graded by a Dask cluster: the same verdicts, and a worker that is lost loses nothing."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import machine_state
import pytest
from test_grade import NAME, REFERENCE, results, statuses, walls, with_code

from thinwalls import course, facts
from thinwalls.batch import beyond

SLOW = with_code("import time; time.sleep(0.3)")


@contextlib.contextmanager
def a_cluster(folder, count):
    """A scheduler and so many workers, each a process without anybody to start it anew: (address, the workers)."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": course.ROOT}
    quiet["env"] = {
        **os.environ,
        "DASK_TEMPORARY_DIRECTORY": str(folder),
    }  # a scheduler that is killed leaves something
    run = [sys.executable, "-m"]
    scheduler = [*run, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    words = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(folder)]
    worker = [*run, "distributed.cli.dask_worker", address, *words]
    with contextlib.ExitStack() as ends:
        processes = []
        for command in (scheduler, *[worker] * count):
            process = subprocess.Popen(command, **quiet)
            ends.callback(process.wait)
            ends.callback(process.kill)
            processes.append(process)
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(beyond.Missing), beyond.Cluster(address) as cluster:
                cluster.look()
                if len(cluster.able) == count:
                    break
            assert time.monotonic() < deadline, "the cluster did not come up"
        yield address, processes[1:]


@pytest.fixture
def a_small_class(tmp_path):
    texts = {"anna": REFERENCE, "ben": course.stub(REFERENCE), "cem": SLOW, "dora": SLOW, "eve": "def run(:\n"}
    texts["fin"] = with_code("while True: os.fork()")
    for name, text in texts.items():
        (tmp_path / "class" / name).mkdir(parents=True)
        (tmp_path / "class" / name / NAME).write_text(text)
    (tmp_path / "course.toml").write_text("stages = [0]\n")
    return tmp_path / "class"


def verdicts(out):
    """By submission, the statuses; of the fork bomb only what passed: it may come too late or fail, as it happens."""
    found = {name: statuses(each) for name, each in results(out).items()}
    return {**found, "fin": [status == "passed" for status in found["fin"]]}


@pytest.mark.slow
def test_a_cluster_finds_what_this_machine_finds_and_a_lost_worker_loses_nothing(a_small_class, tmp_path):
    before = machine_state.snapshot()
    with a_cluster(tmp_path / "dask", 2) as (address, workers):
        words = (a_small_class, tmp_path / "out", tmp_path / "course.toml", "--seed", "7")
        running = subprocess.Popen(walls(*words, "--dask", address), stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(results(tmp_path / "out")) < 2:
            assert time.monotonic() < deadline, "no worker has finished anything"
            time.sleep(0.02)
        lost = max(workers, key=lambda worker: len(facts.descendants(worker.pid)))
        os.kill(lost.pid, signal.SIGKILL)
        said, _ = running.communicate(timeout=200)
    assert machine_state.difference(before, machine_state.settled(before)) == []
    assert running.returncode == 0, said
    local = subprocess.run(walls(a_small_class, tmp_path / "local", *words[2:]), stdout=subprocess.PIPE, timeout=200)
    assert local.returncode == 0
    assert len(verdicts(tmp_path / "local")) == 6
    assert verdicts(tmp_path / "out") == verdicts(tmp_path / "local")


@pytest.mark.slow  # it needs the package, which whoever has what ./walls start installs has not
def test_where_there_is_no_cluster_that_is_said():
    with pytest.raises(beyond.Missing, match="there is no Dask scheduler"):
        beyond.machines("nonsense://x")


def test_a_worker_that_the_doctor_finds_unable_is_given_nothing(monkeypatch):
    cluster = beyond.Cluster.__new__(beyond.Cluster)
    cluster.able, cluster.why, cluster._threads = {}, {}, {}

    class Client:
        def nthreads(self):
            return {"tcp://a": 2, "tcp://b": 1, "tcp://c": 1}

        def run(self, function, workers, on_error):
            said = {"tcp://a": {"facts": {"uid": 0}}, "tcp://b": {"unable": "no nft"}, "tcp://c": OSError("gone")}
            return {worker: said[worker] for worker in workers}

    cluster._client = Client()
    cluster.look()
    assert cluster.free(["tcp://a"]) == ["tcp://a"]
    assert cluster.why == {"tcp://b": "no nft", "tcp://c": "OSError: gone"}
