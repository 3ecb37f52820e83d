"""The report in a real browser: what can be done in it, what it must not do, how it is on a phone and on paper."""

import contextlib
import socket
from pathlib import Path

import pytest
from a_class import everybody
from browser import SIZES, running

from thinwalls.batch import report

pytestmark = [pytest.mark.slow, pytest.mark.once]

CLASS = everybody()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report.write(out, CLASS, "Thin Walls")
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as browser:
        yield browser


class Tab:
    """A page that is open, and everything that went wrong or went out in it."""

    def __init__(self, browser, site, size="desktop", **options):
        width, height = SIZES[size]
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.trouble, self.requests = [], []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.site = site
        self.open("index.html")

    def open(self, name):
        self.page.goto((self.site / name).resolve().as_uri())

    def names(self):
        """Whom the table shows, from the top."""
        rows = self.page.locator("table.class tbody tr:visible th")
        return [text.strip() for text in rows.all_inner_texts()]

    def points(self):
        cells = self.page.locator("table.class tbody tr td.n").all_inner_texts()
        return [-1.0 if text == "–" else float(text.split("/")[0]) for text in cells]


@pytest.fixture
def tab(browser, site):
    made = []

    def open_tab(**options):
        made.append(Tab(browser, site, **options))
        return made[-1]

    yield open_tab
    for each in made:
        assert each.trouble == []
        assert [url for url in each.requests if not url.startswith("file://")] == []
        each.context.close()


def test_every_page_opens_and_asks_nobody_for_anything(tab, site):
    opened = tab()
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site)
        opened.page.goto(path.resolve().as_uri())
        assert "Thin Walls" in opened.page.title(), name
        assert opened.page.locator("h1").count() == 1
        assert opened.page.evaluate("document.querySelectorAll('img, iframe, object, embed').length") == 0
    assert len(opened.requests) == 1 + len(list(site.rglob("*.html")))


def test_it_is_sorted_by_points_and_back(tab):
    opened = tab()
    before = opened.points()
    head = opened.page.locator("thead th", has_text="Points")
    head.get_by_role("button").click()
    assert opened.points() == sorted(before) != before
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert opened.points() == sorted(before, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"


def test_it_is_sorted_by_a_task_and_by_name(tab):
    opened = tab()
    opened.page.get_by_role("button", name="0.5", exact=True).click()
    assert set(opened.names()[-5:]).isdisjoint({"@Cleo", "-Dan"})
    assert set(opened.names()[:2]) == {"@Cleo", "-Dan"}, "who has no verdict at all"
    opened.page.get_by_role("button", name="Learner").click()
    assert [name for name in opened.names() if name.startswith(("Müller", "Åse", "Jo"))] == [
        "Müller, Anna",
        'Jo "JJ" O\'Neil',
        "Åse Øye",
    ]
    assert opened.page.locator("th[aria-sort]").count() == 1


def test_it_is_filtered_by_name_id_and_kind(tab):
    opened = tab()
    told = opened.page.get_by_role("status")
    assert told.inner_text() == f"{len(CLASS)} of {len(CLASS)} shown"
    find = opened.page.get_by_label("Name or id")
    find.fill("ANNA müller")
    assert opened.names() == ["Müller, Anna"]
    assert told.inner_text() == f"1 of {len(CLASS)} shown"
    find.fill("s06")
    assert opened.names() == ["山田 太郎"]
    find.fill("<script>")
    assert len(opened.names()) == 2
    find.fill("")
    show = opened.page.get_by_label("Show")
    for value, expected in {
        "missing": {"@Cleo", "-Dan"},
        "late": {"Müller, Anna"},
        "whole": {"Müller, Anna"},
    }.items():
        show.select_option(value)
        assert set(opened.names()) == expected
    show.select_option("look")
    assert len(opened.names()) == 5
    show.select_option("")
    assert len(opened.names()) == len(CLASS)


def test_a_learner_is_opened_and_the_class_again(tab):
    opened = tab()
    opened.page.locator("table.class").get_by_role("link", name="Åse Øye").click()
    assert opened.page.locator("h1").inner_text() == "Åse Øye"
    assert opened.page.get_by_text("no answer within 1.0 seconds").count() == 2
    assert opened.page.get_by_text("./walls hint 6.1").is_visible()
    opened.page.get_by_role("link", name="The class").click()
    assert opened.page.get_by_role("heading", name="The class, task by task").is_visible()


def test_the_one_whose_name_means_harm_is_opened_too(tab):
    opened = tab()
    opened.page.locator("table.class").get_by_role("link", name="Bobby").click()
    assert opened.page.locator("h1").inner_text().startswith("Bobby <script>document.title='owned'")
    assert opened.page.title().startswith("Bobby <script>")
    opened.page.go_back()
    opened.page.locator("table.class").get_by_role("link", name="../").click()
    assert opened.page.locator("h1").inner_text().startswith("../<script>")


def test_what_got_into_the_page_could_not_act(browser, site):
    """Were there a hole in the escaping, the policy would still hold."""
    opened = Tab(browser, site)
    listener = socket.create_server(("127.0.0.1", 0))
    opened.page.evaluate(
        """there => {
            window.broken = [];
            document.addEventListener("securitypolicyviolation", event => window.broken.push(event.effectiveDirective));
            document.body.insertAdjacentHTML("beforeend", `<img src='${there}x' onerror=document.title='owned'>`
                + `<p style='color: red'>x</p><iframe src='${there}'></iframe>`);
            const script = document.createElement("script");
            script.textContent = "document.title = 'owned'";
            document.body.append(script);
        }""",
        f"http://127.0.0.1:{listener.getsockname()[1]}/",
    )
    opened.page.wait_for_function("window.broken.length >= 4")
    broken = {name.removesuffix("-elem").removesuffix("-attr") for name in opened.page.evaluate("window.broken")}
    assert {"img-src", "style-src", "frame-src", "script-src"} <= broken
    assert opened.page.title() == "Thin Walls: the class"
    opened.context.close()
    # Chromium opens a connection ahead of a frame that it then refuses to load; nothing may be said on it.
    with listener, contextlib.suppress(TimeoutError):
        listener.settimeout(0.5)
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(2)
            assert connection.recv(1) == b""


def test_the_keyboard_is_enough(tab):
    opened = tab()
    press = opened.page.keyboard.press
    press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "To the table of the class"
    press("Enter")
    reached = []
    for _ in range(6):
        press("Tab")
        reached.append(opened.page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        if reached[-1] == "Points":
            break
    assert reached[:2] == ["find", "show"]
    press("Enter")
    assert opened.points() == sorted(opened.points())
    outline = opened.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "where the focus is can be seen"


def test_without_scripts_the_table_is_whole(tab):
    opened = tab(java_script_enabled=False)
    assert len(opened.names()) == len(CLASS)
    assert not opened.page.get_by_label("Name or id").is_visible()
    assert opened.page.locator("thead button").count() == 0
    opened.page.locator("table.class").get_by_role("link", name="Åse Øye").click()
    assert opened.page.locator("h1").inner_text() == "Åse Øye"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_a_checker_of_accessibility_finds_nothing(tab, size, scheme):
    from axe_playwright_python.sync_playwright import Axe

    opened = tab(size=size, color_scheme=scheme)
    for name in ("index.html", "learners/s05.html", "learners/s06.html"):
        opened.open(name)
        found = Axe().run(opened.page)
        assert found.violations_count == 0, found.generate_report()
        assert len(found.response["passes"]) > 10


def test_a_phone_shows_it_without_scrolling_the_page_sideways(tab):
    opened = tab(size="phone")
    for name in ("index.html", "learners/s05.html", "learners/s06.html"):
        opened.open(name)
        wide, width = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= width
    opened.open("index.html")
    first = opened.page.locator("table.class tbody th").first
    before = first.bounding_box()
    opened.page.locator(".heat").evaluate("each => each.scrollLeft = 400")
    assert first.bounding_box()["x"] == before["x"], "the name stays where it can be read"


def test_no_verdict_is_told_by_colour_alone(tab):
    opened = tab()
    signs = {}
    for status in report.SIGNS:
        for text in opened.page.locator(f"table.class td.{status} [aria-hidden]").all_inner_texts():
            signs.setdefault(status, set()).add(text.rstrip("*"))
    assert signs == {name: {report.SIGNS[name]} for name in signs}
    assert len(signs) >= 5
    assert len(set(report.SIGNS.values())) == len(report.SIGNS)


def test_on_paper_there_is_the_whole_table_and_no_control(tab, tmp_path):
    opened = tab()
    opened.page.emulate_media(media="print")
    assert not opened.page.get_by_label("Name or id").is_visible()
    wide = "each => [each.scrollWidth, each.clientWidth, each.scrollHeight, each.clientHeight]"
    # An A4 page on its side, less its margins, has 273 mm: 1031 px.
    opened.page.set_viewport_size({"width": 1031, "height": 700})
    scroll_width, width, scroll_height, height = opened.page.locator(".heat").evaluate(wide)
    assert scroll_width <= width and scroll_height <= height
    for name in ("index.html", "learners/s05.html"):
        opened.open(name)
        opened.page.pdf(path=tmp_path / "page.pdf", prefer_css_page_size=True)
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    assert Path(tmp_path / "page.pdf").stat().st_size > 10_000
