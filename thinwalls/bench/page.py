"""The page of results: what was measured is stored beside it as JSON, and its tables are made from that, nothing else.

In the page, what stands between ``<!-- bench PART -->`` and ``<!-- end -->`` is made; the rest is written by hand.
"""

import re
from pathlib import Path

from thinwalls import course
from thinwalls.bench import figures

PAGE = course.ROOT / "docs" / "measured.md"
STORED = course.ROOT / "docs" / "measured"
_MADE = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def store(found: figures.Measurement, stored: Path = STORED, page: Path = PAGE) -> None:
    """Keep a measurement, with every sample, and write the page anew. Raises OSError, and Malformed."""
    figures.write(stored / f"bench-{found.part}.json", [found])
    page.write_text(made(page.read_text(), stored))


def made(text: str, stored: Path = STORED) -> str:
    """The page with its tables made from what is stored, as far as it is. Raises OSError, and Malformed."""

    def table(match: re.Match[str]) -> str:
        path = stored / f"bench-{match[2]}.json"
        found = [each.markdown() for each in figures.read(path)] if path.exists() else ["Not measured yet."]
        return "\n".join([match[1], *found, "", match[3]])

    return _MADE.sub(table, text)


if __name__ == "__main__":  # the page anew, from what is stored
    PAGE.write_text(made(PAGE.read_text()))
