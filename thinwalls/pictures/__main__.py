"""The pictures of the lessons, from the command line.

A picture is drawn by a function, and what is in the repository is what it draws.

    python -m thinwalls.pictures build      draw them all, into notebooks/pictures/
    python -m thinwalls.pictures check      say which of them is not as it would be drawn
    python -m thinwalls.pictures lines      print the line of markdown that shows each, with its text alternative
    python -m thinwalls.pictures measure    measure a container's memory anew on this machine; then build
"""

import sys

from thinwalls import pictures
from thinwalls.pictures import memory


def main(words: list[str]) -> int:
    """The command line at the top of this file; gives the exit status."""
    match words:
        case ["build"]:
            pictures.build()
            return 0
        case ["check"]:
            wrong = pictures.differences()
            print("\n".join(wrong) or f"{len(pictures.PICTURES)} pictures are as they are drawn")
            if wrong:
                print("to make them anew: python -m thinwalls.pictures build")
            return 1 if wrong else 0
        case ["lines"]:
            print("\n\n".join(map(pictures.markdown, pictures.PICTURES)))
            return 0
        case ["measure"]:
            try:
                memory.measure()
            except memory.Unmeasurable as error:
                print(error, file=sys.stderr)
                return 3
            pictures.build()
            return 0
    print((__doc__ or "").partition("\n\n    ")[2], file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
