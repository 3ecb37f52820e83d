"""How Sphinx makes the book, from what thinwalls.book has laid out for it. Nothing is executed: outputs are stored ones."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # autodoc imports the toolkit that the book is about
WIDE = 600  # pixels: wider drawings than that scroll on a phone, or their letters could not be read

project = "Thin Walls"
author = "the authors of Thin Walls"
copyright = ""
html_title = project
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_use_index = False
html_domain_indices = False

extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["README.md"]  # the first page includes it

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # no lesson has a widget, and these would be fetched from elsewhere
nb_merge_streams = True
myst_heading_anchors = 4  # links to headings, as GitHub names them

smartquotes = False  # two hyphens begin an option, and stay two
highlight_language = "none"  # a block without a language is a command, or what a program said
default_role = "code"  # a docstring's `word` is code, as in Markdown
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_favicon = "favicon.svg"
html_static_path = ["book.css", "book.js"]
html_css_files = ["book.css"]
html_js_files = ["book.js"]
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def set_off(_app: Any, _what: str, _name: str, _it: Any, _options: Any, lines: list[str]) -> None:
    """Make what a docstring has set off by four columns a literal block, as its writer meant it."""
    for number in range(len(lines) - 1, 0, -1):
        starts = lines[number].startswith("    ") and not lines[number - 1].strip()
        before = next((line for line in reversed(lines[:number]) if line.strip()), "")
        if starts and before and not before.startswith(" "):
            lines[number:number] = ["::", ""]


def shorten(*event: Any) -> tuple[str, str] | None:
    """Leave out what a signature has in a long tuple: the value of a constant, which has a name in the source."""
    *_, signature, returns = event
    return signature and (re.sub(r"= \((?:'[^']*', ){4,}'[^']*'\)", "= (...)", signature), returns)


def describe(app: Any, doctree: nodes.document) -> None:
    """Let each picture open by itself; give one without words those that it carries, the title of the SVG."""
    for image in doctree.findall(nodes.image):
        image["width"] = "100%"  # Sphinx makes a link of a picture that is scaled; how wide it is says book.css
        path = Path(app.srcdir, image["uri"])
        if path.suffix != ".svg" or not path.is_file():  # one that is missing, Sphinx has complained of
            continue
        drawn = path.read_text(encoding="utf-8")
        if not image.get("alt"):
            image["alt"] = re.findall(r"<title[^>]*>([^<]+)</title>", drawn)[0]
        if int(re.findall(r'viewBox="0 0 (\d+)', drawn)[0]) > WIDE:
            image["classes"].append("wide")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_lexer("csv", TextLexer)  # GitHub knows it, Pygments does not
    app.connect("autodoc-process-docstring", set_off)
    app.connect("autodoc-process-signature", shorten)
    app.connect("doctree-read", describe)
