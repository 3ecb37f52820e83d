"""The pictures of the lessons: drawn by functions, kept in notebooks/pictures/, and shown there with words for the blind.

A picture is a pure function that gives the text of an SVG file. What is in the folder is what these functions make:
a test says so. A lesson shows one by the line that markdown() gives.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from thinwalls import course
from thinwalls.pictures import images, memory, mounts, packets, standing, starting

FOLDER = course.ROOT / "notebooks" / "pictures"
PICTURES: dict[str, Callable[[], str]] = {
    "stage00_launcher": starting.launcher,
    **{f"stage{stage:02}_walls": functools.partial(standing.walls, stage) for stage in standing.STAGES},
    "stage02_init": starting.init,
    "stage03_pivot_root": mounts.pivot_root,
    "stage04_memory": memory.memory,
    "stage05_way_out": packets.way_out,
    "stage05_way_in": packets.way_in,
    "stage06_image": images.documents,
    "stage06_layers": images.layers,
    "stage06_overlay": images.overlay,
}
_SVG = "{http://www.w3.org/2000/svg}"


def build(folder: Path = FOLDER) -> None:
    """Make all pictures anew."""
    folder.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (folder / f"{name}.svg").write_text(draw())


def differences(folder: Path = FOLDER) -> list[str]:
    """What in the folder is not as the functions make it: a sentence for each file."""
    found = []
    for name, draw in PICTURES.items():
        path = folder / f"{name}.svg"
        if not path.is_file():
            found.append(f"{path.name} is missing")
        elif path.read_text() != draw():
            found.append(f"{path.name} is not what would be drawn")
    strangers = sorted(path.name for path in folder.glob("*.svg") if path.stem not in PICTURES)
    return found + [f"{name} is drawn by nothing" for name in strangers]


def markdown(name: str) -> str:
    """The line of a lesson that shows a picture, with its text alternative."""
    drawn = ElementTree.fromstring(PICTURES[name]())
    title, told = (drawn.findtext(f"{_SVG}{tag}") for tag in ("title", "desc"))
    return f"![{title}. {told}](pictures/{name}.svg)"


def misplaced(lesson: str) -> list[str]:
    """What is wrong with the pictures that the text of a lesson shows: a sentence for each."""
    found = []
    for shown, name in re.findall(r"(!\[[^\]]*\]\(pictures/([^)]*)\.svg\))", lesson):
        if name not in PICTURES:
            found.append(f"there is no picture {name}")
        elif " ".join(re.sub(r"^# ?", "", shown, flags=re.MULTILINE).split()) != markdown(name):
            found.append(f"the text alternative of {name} is not the one that it has")
    return found
