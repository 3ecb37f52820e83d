"""Several jobs at once, of which the first that fails ends the others: also those that wait for a network."""

import contextlib
import contextvars
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

_Result = TypeVar("_Result")


class Stopped(OSError):
    """Another job of parallel() has failed, and this one is not wanted any more."""


class Stop:
    """What ends the jobs of one parallel()."""

    def __init__(self) -> None:
        self._event, self._lock = threading.Event(), threading.Lock()
        self._sockets: set[socket.socket] = set()
        self.reason: BaseException | None = None

    def now(self, reason: BaseException) -> None:
        """End them all."""
        with self._lock:
            self.reason = self.reason or reason
            self._event.set()
            for sock in self._sockets:
                with contextlib.suppress(OSError):
                    # Wakes the thread that reads. Not TLS's own method, which would have it read on in cipher text.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def check(self) -> None:
        """Raise Stopped if they are to end."""
        if self._event.is_set():
            raise Stopped("another job has failed")

    def wait(self, seconds: float) -> None:
        """Sleep; raise Stopped at once when they are to end."""
        self._event.wait(seconds)
        self.check()

    @contextlib.contextmanager
    def watching(self, sock: socket.socket) -> Iterator[None]:
        """While in here, the socket is shut down when they are to end."""
        with self._lock:
            self.check()
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)


STOP = contextvars.ContextVar("STOP", default=Stop())  # noqa: B039  (outside parallel(): never stops)


def parallel(jobs: Sequence[Callable[[], _Result]], at_once: int = 3) -> list[_Result]:
    """Call all of them, so many at once, each in a thread; their results, in the order of the jobs.

    The first that raises ends the others: what they fetch breaks off with Stopped, those that wait never start. When
    all threads have ended, that first exception is raised.
    """
    stop = Stop()

    def run(job: Callable[[], _Result]) -> _Result:
        STOP.set(stop)
        try:
            stop.check()
            return job()
        except BaseException as error:
            stop.now(error)
            raise

    with ThreadPoolExecutor(max_workers=max(1, at_once)) as threads:
        futures = [threads.submit(run, job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException as error:  # Ctrl-C
            stop.now(error)
            raise
        finally:
            if stop.reason:
                threads.shutdown(wait=True, cancel_futures=True)
    if stop.reason:
        raise stop.reason
    return [future.result() for future in futures]
