"""``./walls pull``: an image by its name into the store, by the learner's code, with a bar for each layer."""

import argparse
import contextlib
import getpass
import os
import sys
from collections.abc import Iterator

from thinwalls import imagestore
from thinwalls.host import Keeper


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of the command line."""
    parser.add_argument("--impl", default="stages", metavar="stages|solutions|DIR", help="whose stage 6 pulls")
    parser.add_argument(
        "--user", metavar="NAME", help="log in; the password is asked for, or taken from THINWALLS_PASSWORD"
    )
    parser.add_argument("image", metavar="IMAGE", help="such as debian:12, or localhost:5000/name@sha256:…")


def pull(name: str, files: dict[str, str], keeper: Keeper, login: tuple[str, str] | None = None) -> str:
    """Pull an image with the stages in ``files``, showing how far it is; gives its digest. Raises imagestore.Unusable."""
    with _bars() as show:
        return imagestore.pull(name, files, keeper, show, login)


def login(user: str | None) -> tuple[str, str] | None:
    """A name and its password; None for no name."""
    if not user:
        return None
    return user, os.environ.get("THINWALLS_PASSWORD") or getpass.getpass(f"password of {user}: ")


@contextlib.contextmanager
def _bars() -> Iterator[imagestore.Show]:
    """Something to be told of progress: bars on a terminal, and elsewhere a line for each blob that is here."""
    if not sys.stderr.isatty():

        def line(what: str, done: int, total: int | None) -> None:
            if done == total:
                print(f"{_short(what)}  {done} bytes", file=sys.stderr)

        yield line
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    bars: dict[str, int] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def bar(what: str, done: int, total: int | None) -> None:
            if what not in bars and len(bars) < 200:
                bars[what] = progress.add_task(escape(_short(what)), total=total)
            if what in bars:
                progress.update(bars[what], completed=done, total=total)  # type: ignore[arg-type]

        yield bar


def _short(what: str) -> str:
    """The name of a blob, as much of it as people compare, and nothing that a terminal would obey."""
    return "".join(c for c in what.removeprefix("sha256:") if c.isprintable())[:12]
