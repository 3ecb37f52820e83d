"""A website as files: what is on each page, and what in it leads nowhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ABROAD = re.compile(r"(https?|mailto):|//")


class Page(HTMLParser):
    """One page: its text, the names in it that a link may have, and what it refers to."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.names: set[str] = set()
        self.links: list[str] = []  # where a reader can go
        self.parts: list[str] = []  # what the browser fetches by itself
        self._text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Called by the parser."""
        for name, value in attributes:
            if name == "id" or (tag == "a" and name == "name"):
                self.names.add(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")
            elif (name == "href" and tag == "link") or name == "src":
                self.parts.append(value or "")

    def handle_data(self, data: str) -> None:
        """Called by the parser."""
        self._text.append(data)


def read(site: Path) -> dict[str, Page]:
    """All pages of a website, by their paths below it."""
    return {str(path.relative_to(site)): Page(path) for path in sorted(site.rglob("*.html"))}


def broken(site: Path, pages: dict[str, Page]) -> list[str]:
    """The links, anchors, pictures, scripts and styles that lead nowhere, or, of the last three, away from the site."""
    found = []
    for name, page in pages.items():
        found += [f"{name} fetches {part}" for part in page.parts if ABROAD.match(part)]
        for target in (*page.links, *page.parts):
            if ABROAD.match(target) or target.startswith("data:"):
                continue
            there = urlsplit(target)
            path = (page.path.parent / unquote(there.path)).resolve() if there.path else page.path
            if not path.is_file() or not path.is_relative_to(site.resolve()):
                found.append(f"{name} leads to {target}")
            elif there.fragment and unquote(there.fragment) not in pages[str(path.relative_to(site.resolve()))].names:
                found.append(f"{name} leads to {target}, and there is no such place on that page")
    return found
