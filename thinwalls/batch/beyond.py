"""A class graded on other machines, by a Dask cluster (``--dask ADDRESS``).

Every worker needs this checkout at the same place, with its .venv, as on a file system that all of them see. The
doctor is asked on each before it is given anything. One submission at a time is given to each thread of a worker; a
worker that is gone has lost what it was at, which is then given to another one.

Needs the package ``distributed``. Without an address nothing of this is imported.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from thinwalls.batch import elsewhere
from thinwalls.batch.engine import Show
from thinwalls.batch.one import Grading
from thinwalls.host import SLOWER

_CONNECT = 10  # seconds to reach the scheduler
_ALONE = 60 * SLOWER  # seconds without any worker that can grade, after which it is given up
_TICK = 0.1  # seconds between two looks
_ATTEMPTS = 6  # so often a submission is begun that its worker never finished; then that is what is said of it


class Missing(Exception):
    """There is no such cluster, or none that can grade; the text says why."""


class Cluster:
    """The scheduler at an address, and the workers that the doctor found able. A context manager. Raises Missing."""

    def __init__(self, address: str):
        try:
            import distributed
        except ImportError:
            raise Missing("--dask needs one package more: .venv/bin/python -m pip install distributed") from None
        try:
            client: Any = distributed.Client
            self._client = client(address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise Missing(f"there is no Dask scheduler at {address!r}: {error}") from None
        self.able: dict[str, dict[str, Any]] = {}  # by worker: the facts of its machine
        self.why: dict[str, str] = {}  # of those that are not
        self._threads: dict[str, int] = {}

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def look(self) -> None:
        """See which workers there are now; ask the doctor on those that are new."""
        self._threads = dict(self._client.nthreads())
        for worker in [each for each in self.able if each not in self._threads]:
            del self.able[worker]
        new = [each for each in self._threads if each not in self.able and each not in self.why]
        if not new:
            return
        for worker, said in self._client.run(elsewhere.examined, workers=new, on_error="return").items():
            if isinstance(said, dict) and "facts" in said:
                self.able[worker] = said["facts"]
            elif isinstance(said, dict):
                self.why[worker] = said["unable"]
            elif worker in self._client.nthreads():  # it is there, and could not answer
                self.why[worker] = f"{type(said).__name__}: {said}"

    def free(self, busy: Sequence[str]) -> list[str]:
        """The workers that can take a submission, as often as they can. busy: those that are at one."""
        return [worker for worker in self.able for _ in range(self._threads[worker] - busy.count(worker))]

    def give(self, worker: str, grading: Grading) -> Any:
        """Have a worker begin an attempt; gives what Dask calls a future."""
        order = elsewhere.order(grading)
        return self._client.submit(elsewhere.attempt, order, workers=[worker], pure=False)


def machines(address: str) -> list[dict[str, Any]]:
    """The facts of the cluster's machines that can grade, each once. Raises Missing."""
    with Cluster(address) as cluster:
        cluster.look()
        if not cluster.able:
            why = "; ".join(dict.fromkeys(cluster.why.values())) or "it has none"
            raise Missing(f"no worker of the cluster at {address!r} can grade: {why}")
        found: list[dict[str, Any]] = []
        for facts in cluster.able.values():
            if facts not in found:
                found.append(facts)
        return found


def run(address: str, gradings: Sequence[Grading], show: Show, keep: Callable[[Grading], dict[str, Any]]) -> None:
    """Grade all these on the cluster. keep: called with each that is finished, gives its result. Raises Missing."""
    waiting = list(gradings)
    lost: dict[str, int] = {}
    running: dict[Any, tuple[Grading, str, float]] = {}  # by future: at what, who, since when
    with Cluster(address) as cluster:
        seen = time.monotonic()
        while waiting or running:
            cluster.look()
            if cluster.able:
                seen = time.monotonic()
            elif time.monotonic() - seen > _ALONE:
                raise Missing(f"no worker of the cluster at {address!r} is left that can grade")
            for worker in cluster.free([each for _, each, _ in running.values()])[: len(waiting)]:
                grading = waiting.pop(0)
                show.started(grading.submission.id)
                running[cluster.give(worker, grading)] = (grading, worker, time.monotonic())
            for future, (grading, worker, began) in list(running.items()):
                gone = worker not in cluster.able
                if not gone and not future.done():
                    continue
                del running[future]
                name = grading.submission.id
                if gone and not future.done():
                    future.cancel()
                for line in _said(future, gone):
                    grading.hear(line)
                grading.seconds += time.monotonic() - began
                if grading.trouble == _LOST and lost.get(name, 0) < _ATTEMPTS:
                    lost[name] = lost.get(name, 0) + 1
                    grading.attempts -= 1  # no fault of its
                show.heard(grading)
                if grading.finished:
                    show.finished(grading, keep(grading))
                else:
                    waiting.append(grading)
            show.tick()
            time.sleep(_TICK)


_LOST = "its worker was lost"


def _said(future: Any, gone: bool) -> list[dict[str, Any]]:
    if not future.done() or future.status != "finished":
        if gone or future.status in ("lost", "cancelled"):
            return [{"broke": _LOST}]
        error = future.exception()
        return [{"broke": f"{type(error).__name__}: {error}"}]
    lines: list[dict[str, Any]] = future.result()
    return lines
