"""The command ``./walls bench PART``: measure, show, and keep what was measured where that is asked for."""

import sys
from collections.abc import Callable
from pathlib import Path

from thinwalls.bench import classes, figures, grading, neighbour, page, pulling, starting

PARTS: dict[str, Callable[..., figures.Measurement]] = {
    "start": starting.measure,
    "pull": pulling.measure,
    "grade": grading.measure,
    "class": classes.measure,
    "limits": neighbour.measure,
}
_UNABLE = 3  # the exit status


def main(
    what: str, target: Path | None, samples: int | None = None, docs: bool = False, image: Path | None = None
) -> int:
    """Measure a part, or "all" of them. target: a file for the JSON, or for several parts, a list of them.

    samples: how often, instead of as often as usual. docs: keep it beside docs/measured.md, and write that anew.
    image: a tar archive to pull, instead of a Debian image that is made for it. Gives the exit status: 3 if a part
    cannot be measured here.
    """
    found: list[figures.Measurement] = []
    status = 0
    for part in PARTS if what == "all" else (what,):
        before = figures.load()
        try:
            measured = PARTS[part](samples, **({"archive": image} if part == "pull" else {}))
        except figures.Unmeasurable as error:
            print(f"walls bench: {part}: {error}", file=sys.stderr)
            status = _UNABLE
            continue
        measured.machine["load"] = before
        print(f"{measured.text()}\n", flush=True)
        found.append(measured)
        if docs:
            page.store(measured)
    if target and found:
        figures.write(target, found)
    return status
