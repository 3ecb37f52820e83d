"""Text that somebody else wrote, made harmless for where it goes: a line, a CSV cell, an XML document, a file's name."""

import hashlib
import urllib.parse
from typing import Any

from thinwalls.report import printable

# With one of these a spreadsheet takes a cell for a formula, with the wide ones in some languages.
_FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"


def lines(text: Any) -> str:
    """A text with its line breaks, every other character that is more than a visible sign written as its escape.

    Terminal escapes and the marks that turn the direction of writing are among those, so the result is also legal in XML.
    """
    return "\n".join(printable(str(text)))


def line(text: Any) -> str:
    """The same in one line."""
    return " ".join(lines(text).split())


def cell(text: Any) -> str:
    """The same for a cell of a CSV file: what a spreadsheet would compute gets an apostrophe before it.

    The apostrophe is what spreadsheets themselves use for "this is text" (OWASP, CSV Injection). Quotes and commas are
    for the CSV writer to see to.
    """
    said = line(text)
    return f"'{said}" if said[:1] and said[0] in _FORMULA else said


def number(value: float) -> str:
    """A number with a point, at most two digits after it and no needless zero: "7", "7.5"."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def file_name(text: str) -> str:
    """A name for a file about the thing of this name: no slash, no leading dot, not too long, and never that of another."""
    name = urllib.parse.quote(text, safe="", errors="surrogatepass").replace(
        ".", "%2E", 1 if text.startswith(".") else 0
    )
    if len(name) > 100:
        name = f"{name[:60]}~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"
    return name or "%"
