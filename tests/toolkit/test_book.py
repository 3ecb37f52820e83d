"""The book: everything is in it, nothing in it leads nowhere, and on a phone it can be read from first page to last."""

import ast
import functools
import http.server
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import threading

import pytest
import website
from browser import SIZES, running

from thinwalls import book, course

pytestmark = [pytest.mark.slow, pytest.mark.once]

ROOT = course.ROOT
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [str(path.relative_to(ROOT).with_suffix(".html")) for path in (*DOCUMENTS, *LESSONS)]
TOOLKIT = sorted(path.stem for path in (ROOT / "docs/book/reference").glob("*.md"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "thinwalls").rglob("*.py"))
    if path.name != "__main__.py" and path.read_text()
}
WORDS = {  # something that a reader of each chapter looks for
    "stage00_process": "pickle",
    "stage01_chroot": "chroot",
    "stage02_pid_namespace": "orphan",
    "stage03_mount_namespace": "pivot_root",
    "stage04_cgroups": "cgroup",
    "stage05_networking": "masquerade",
    "stage06_image_pull": "whiteout",
    "containers_and_machines": "firmware",
}
SCROLLED = """() => [...document.querySelectorAll("article *")].filter(each => {
    if (each.getBoundingClientRect().right <= innerWidth + 1 || each.closest("svg, .headerlink")) return false;
    for (let box = each; box && box.tagName != "ARTICLE"; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false;
    return true;
}).map(each => each.outerHTML.slice(0, 200))"""


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The book, made once as a contributor makes it."""
    out = tmp_path_factory.mktemp("book") / "site"
    command = [sys.executable, "-m", "thinwalls.book", "build", str(out), "https://example.org/walls"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in out.parent.iterdir()] == ["site"], "nothing is left beside it"
    return out


@pytest.fixture(scope="session")
def pages(site):
    return website.read(site)


# What is in it


def plain(text):
    """What a page shows of a paragraph of Markdown, in one line."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    parts = enumerate(text.split("`"))  # a star means something outside of code alone
    return line("".join(part if number % 2 else part.replace("*", "") for number, part in parts))


def line(text):
    return " ".join(text.split())


def test_there_is_a_page_for_every_document_every_lesson_and_every_part_of_the_toolkit(pages):
    expected = {"index.html", "search.html", *PAGES, *(f"reference/{stem}.html" for stem in TOOLKIT)}
    assert set(pages) == expected
    assert {f"{page}.html" for page in book.pages()} == expected - {"search.html"}
    assert [name for name, page in pages.items() if len(page.text) < 500 and name != "search.html"] == []


@pytest.mark.parametrize("document", [ROOT / "README.md", *DOCUMENTS], ids=lambda path: path.stem)
def test_a_page_has_the_text_of_its_document(pages, document):
    name = "index.html" if document.stem == "README" else str(document.relative_to(ROOT).with_suffix(".html"))
    shown = pages[name].text
    text = re.sub(r"^```.*?^```|<!--.*?-->", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    wanted = [plain(part.lstrip("# ")) for part in re.split(r"\n\s*\n", text) if part[:1].isalpha() or part[:1] == "#"]
    assert len(wanted) >= 5
    assert [part for part in wanted if part not in shown] == []


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_chapter_has_the_headings_the_code_and_the_stored_outputs_of_its_lesson(pages, site, lesson):
    page = pages[f"notebooks/{lesson.stem}.html"]
    shown, pictures = page.text, 0
    for cell in json.loads(lesson.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            wanted = [plain(title) for title in re.findall(r"^#+ (.+)$", source, flags=re.MULTILINE)]
        else:
            told = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
            pictures += sum("image/svg+xml" in output.get("data", {}) for output in cell["outputs"])
            wanted = [line(source.removeprefix("# NBVAL_IGNORE_OUTPUT\n")), *map(line, told)]
        assert [part for part in wanted if part not in shown] == []
    pictures += len(re.findall(r"\(pictures/", lesson.read_text()))
    assert len([part for part in page.parts if "_images/" in part]) == pictures
    assert "NBVAL" not in page.text


def test_every_public_name_of_the_toolkit_that_has_words_is_on_one_page(pages):
    told = [re.findall(r"automodule:: (\S+)", path.read_text()) for path in (ROOT / "docs/book/reference").glob("*.md")]
    assert sorted(sum(told, [])) == sorted(MODULES)
    names = [name for stem in TOOLKIT for name in pages[f"reference/{stem}.html"].names]
    for module, path in MODULES.items():
        body = ast.parse(path.read_text()).body
        # Of a function with overloads it is the last one that has the words.
        public = {each.name: each for each in body if isinstance(each, ast.FunctionDef | ast.ClassDef)}
        for name, each in public.items():
            if not name.startswith("_"):
                assert names.count(f"{module}.{name}") == bool(ast.get_docstring(each)), f"{module}.{name}"


def test_no_solution_is_in_it(pages):
    """Nowhere are four lines together of what a task asks for, as the reference has them."""
    everything = "\n".join(page.text for page in pages.values())
    looked_at = 0
    for stage in course.stages():
        reference = course.reference(stage)
        asked = {name.rpartition(".")[2] for task in stage.tasks for name in task.builds}
        for each in ast.walk(ast.parse(reference)):
            if isinstance(each, ast.FunctionDef) and each.name in asked:
                first = each.body[bool(ast.get_docstring(each))]
                lines = [line.partition("  #")[0].strip() for line in reference.splitlines()]
                lines = list(filter(None, lines[first.lineno - 1 : each.end_lineno]))
                for number in range(len(lines) - 3):
                    looked_at += 1
                    assert " ".join(" ".join(lines[number : number + 4]).split()) not in everything, each.name
    assert looked_at > 100


def test_nothing_in_it_leads_nowhere(site, pages):
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert website.broken(site, pages) == []


def test_what_leads_nowhere_is_found(site, tmp_path):
    (tmp_path / "index.html").write_text(
        '<a href="gone.html">a</a> <a href="#gone">b</a> <a href="index.html#here" id="here">c</a> <img src="gone.svg">'
        '<script src="https://example.org/x.js"></script> <a href="https://example.org">d</a> <a href="../out">e</a>'
    )
    assert website.broken(tmp_path, website.read(tmp_path)) == [
        "index.html fetches https://example.org/x.js",
        "index.html leads to gone.html",
        "index.html leads to #gone, and there is no such place on that page",
        "index.html leads to ../out",
        "index.html leads to gone.svg",
    ]


def test_the_first_page_names_the_repository(pages):
    assert "https://example.org/walls" in pages["index.html"].links


# How it is made


def test_what_is_no_book_is_not_replaced(tmp_path, capsys):
    (tmp_path / "precious").write_text("mine")
    assert book.main(["build", str(tmp_path)]) == 1
    assert "no book" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == "mine"


def test_without_the_generator_one_sentence_says_what_to_install(tmp_path, capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "furo" else there(name))
    assert book.main(["build", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "(furo)" in said and "-m pip install -r requirements-book.txt -c constraints.txt" in said
    assert not (tmp_path / "out").exists()


def test_a_page_that_leads_nowhere_makes_no_book(tmp_path, capsys, monkeypatch):
    """In a course that is one page; a book that is there stays as it is."""
    (tmp_path / "docs").mkdir()
    own = shutil.copytree(book._OWN, tmp_path / "docs/book", ignore=shutil.ignore_patterns("reference"))
    (own / "index.md").write_text("# A page\n\nSee [another](docs/gone.md).\n")
    earlier = tmp_path / "out"
    earlier.mkdir()
    (earlier / "searchindex.js").write_text("an earlier one")
    monkeypatch.setattr(course, "ROOT", tmp_path)
    monkeypatch.setattr(book, "_OWN", own)
    assert book.main(["build", str(earlier)]) == 1
    assert re.search(r"^index.md:3: WARNING: .*docs/gone.md", capsys.readouterr().err, re.MULTILINE)
    assert (earlier / "searchindex.js").read_text() == "an earlier one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["docs", "out"]


# How it is read


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as browser:
        yield browser


@pytest.fixture
def phone(browser, address):
    """Opens the book on a phone, and holds to the end that nothing went wrong and nobody else was asked."""
    trouble, contexts = [], []

    def open_page(name="index.html", size="phone", **options):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, base_url=address, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: said.type in ("error", "warning") and trouble.append(said.text))
        page.on("pageerror", lambda error: trouble.append(f"{page.url}: {error}"))
        page.on("request", lambda request: request.url.startswith(address) or trouble.append(request.url))
        page.goto(name)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert trouble == []


def name_of(page, address):
    return page.url.removeprefix(address).partition("#")[0].partition("?")[0]


def test_on_a_phone_it_is_read_from_the_first_page_to_the_last(phone, address, pages):
    page = phone()
    read, wrong = ["index.html"], []
    while True:
        width = page.evaluate("document.documentElement.scrollWidth")
        wrong += [f"{read[-1]} is {width} wide"] if width > SIZES["phone"][0] else []
        wrong += [f"{read[-1]}: cut off: {each}" for each in page.evaluate(SCROLLED)[:3]]
        wrong += [f"{read[-1]} has another number of titles"] if page.locator("h1").count() != 1 else []
        page.evaluate("document.querySelectorAll('img').forEach(each => each.loading = 'eager')")
        page.wait_for_function("[...document.images].every(each => each.complete)")
        empty = "[...document.images].filter(each => !each.naturalWidth || each.alt.length < 10).map(each => each.src)"
        wrong += [f"{read[-1]}: no picture, or none for the blind: {each}" for each in page.evaluate(empty)]
        if not page.locator(".related-pages .next-page").count():
            break
        page.locator(".related-pages .next-page").click()
        page.wait_for_load_state()
        read.append(name_of(page, address))
        assert page.locator(".related-pages .prev-page").count() == 1
    assert wrong == []
    assert sorted(read) == sorted(set(pages) - {"search.html"})
    stages = [f"notebooks/{stage.stem}.html" for stage in course.stages()]
    assert [name for name in read if name in stages] == stages


def test_the_menu_is_opened_by_a_finger(phone, address):
    page = phone("docs/learner.html")
    link = page.locator(".sidebar-tree").get_by_role("link", name="Stage 3: the mount namespace")
    assert not link.is_visible()
    page.locator("label.nav-overlay-icon").click()
    page.wait_for_function("document.querySelector('.sidebar-drawer').getBoundingClientRect().left == 0")
    link.click()
    page.wait_for_url("**/stage03_mount_namespace.html")
    page.locator("label.toc-header-icon").click()
    page.locator(".toc-tree").get_by_role("link", name="Task 3.3").click()
    assert page.url.endswith("#task-3-3-its-own-proc-and-sys")


def test_the_keyboard_is_enough_to_open_the_menu_to_search_and_to_go(phone):
    page = phone("docs/learner.html")
    press = page.keyboard.press
    press("Tab")
    assert page.evaluate("document.activeElement.id") == "__navigation"
    assert page.locator("label.nav-overlay-icon").evaluate("each => getComputedStyle(each).outlineStyle") == "solid"
    press("Space")
    for _ in range(8):
        press("Tab")
        if page.evaluate("document.activeElement.name") == "q":
            break
    page.keyboard.type("whiteout")
    press("Enter")
    page.locator("#search-results li a").first.wait_for()
    for _ in range(20):
        press("Tab")
        if page.evaluate("!!document.activeElement.closest('#search-results')"):
            break
    press("Enter")
    page.wait_for_url(lambda url: "search.html" not in url)
    assert "whiteout" in page.locator("article").inner_text().lower()


def test_a_word_of_each_chapter_is_found(phone):
    assert set(WORDS) == {lesson.stem for lesson in LESSONS}
    page = phone("search.html")
    for stem, word in WORDS.items():
        page.goto(f"search.html?q={word}")
        page.locator(f"#search-results li a[href*='notebooks/{stem}.html']").first.wait_for()


def test_answers_are_folded_until_they_are_asked_for(phone):
    page = phone("notebooks/stage01_chroot.html")
    folded = page.locator("article details")
    assert folded.locator("li").first.is_hidden()
    folded.locator("summary").click()
    assert folded.locator("li").first.is_visible()


def test_light_and_dark_are_the_readers_choice_and_the_pictures_follow(phone):
    page = phone("notebooks/stage01_chroot.html", color_scheme="dark")
    light = "() => getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).every(each => each > 200)"
    scheme = "() => getComputedStyle(document.querySelector('article img')).colorScheme"
    assert (page.evaluate(light), page.evaluate(scheme)) == (False, "dark")
    page.locator(".theme-toggle-header button").click()
    assert (page.evaluate(light), page.evaluate(scheme)) == (True, "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_checker_of_accessibility_finds_nothing_serious(phone, scheme):
    from axe_playwright_python.sync_playwright import Axe

    page = phone(color_scheme=scheme)
    for name in ("index.html", "notebooks/stage01_chroot.html", "docs/measured.html", "reference/kernel.html"):
        page.goto(name)
        found = Axe().run(page).response
        bad = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
        assert [f"{name}: {each['id']}: {each['nodes'][0]['html']}" for each in bad] == []
        assert len(found["passes"]) > 10
