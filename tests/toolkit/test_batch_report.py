"""The report: what it says of a class, and that nothing a submission wrote is more than text in it."""

import base64
import hashlib
import html.parser
import re
import time
import urllib.parse

import pytest
from a_class import HOSTILE, SCRIPT, everybody, result

from thinwalls import course
from thinwalls.batch import Graded, lessons, marks, report

CLASS = everybody()


class Page(html.parser.HTMLParser):
    """A page as a browser would take it apart: its tags, its attributes, its text by the tag that holds it."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.attributes, self.texts, self._open = [], [], [], []
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in ("meta", "link", "input", "rect", "line"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    @property
    def text(self):
        return " ".join(" ".join(text for tag, text in self.texts if tag not in ("style", "script")).split())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert report.write(out, CLASS, "Thin Walls") == out / "index.html"
    return out


def pages(site):
    return [Page(path) for path in sorted(site.rglob("*.html"))]


def test_there_is_a_page_for_everybody_who_handed_in(site):
    assert len(list((site / "learners").iterdir())) == 9
    linked = {value for tag, name, value in Page(site / "index.html").attributes if (tag, name) == ("a", "href")}
    for target in linked - {"#class"}:
        assert (site / urllib.parse.unquote(target)).is_file(), target
    assert {urllib.parse.unquote(target) for target in linked - {"#class"}} == {
        str(path.relative_to(site)) for path in (site / "learners").iterdir()
    }


def test_no_tag_or_attribute_comes_from_a_submission(site):
    harmless = report.write(site / "harmless", [each for each in CLASS if each.id not in ("s05",)]).parent
    allowed = {(tag, name) for page in pages(harmless) for tag, name, _ in page.attributes}
    tags = {tag for page in pages(harmless) for tag in page.tags}
    for page in pages(site):
        assert set(page.tags) <= tags
        assert {(tag, name) for tag, name, _ in page.attributes} <= allowed
        assert not [name for _, name, _ in page.attributes if name.startswith("on") or name in ("style", "src")]
        assert page.tags.count("script") <= 1
        assert "img" not in page.tags


def test_nothing_that_turns_or_hides_text_is_left(site):
    for page in pages(site):
        assert not re.search(
            r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", page.source
        )
    shown = Page(site / "learners" / "s05.html").text
    assert "<script>document.title='owned'" in shown
    assert r"\x1b[31;2J\u202edetrever\u2066<img src=x onerror=alert(1)>]]>&amp;\x00\udcff" in shown
    assert SCRIPT in HOSTILE


def test_the_policy_names_what_stands_in_the_page_and_nothing_else(site):
    for page in pages(site):
        (policy,) = [v for tag, n, v in page.attributes if tag == "meta" and n == "content" and v.startswith("default")]
        rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
        assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert "unsafe" not in policy and "*" not in policy
        assert page.source.index("Content-Security-Policy") < page.source.index("<style>")
        for tag in ("style", "script"):
            for text in re.findall(f"<{tag}>(.*?)</{tag}>", page.source, re.DOTALL):
                digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
                assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_no_page_asks_anybody_for_anything(site):
    for page in pages(site):
        for tag, name, value in page.attributes:
            if name in ("href", "src", "action", "data", "srcset"):
                assert tag in ("a", "link") and not re.match(r"[a-z]+:(?!,$)|//", value), (tag, name, value)
        (style,) = re.findall("<style>(.*?)</style>", page.source, re.DOTALL)
        assert "url(" not in style and "@import" not in style


def test_the_index_says_what_has_to_be_looked_at(site):
    text = Page(site / "index.html").text
    assert "9 graded; 2 handed nothing in" in text
    assert "stage00_process.py is the same program as the published solution" in text
    assert "is a flag and no verdict" in text
    assert "trouble of the course or the machine in 3.1: grade it again" in text
    assert "nobody in the roster has this name" in text
    assert "@Cleo : nothing handed in" in text
    assert "Task 6.10 : could not be graded for 8, and is outside their score: a host has one user id here" in text


def test_the_table_has_every_verdict_in_words(site):
    page = Page(site / "index.html")
    words = [text for tag, text in page.texts if tag == "span" and "×" not in text]
    tasks = [task for each in CLASS for task in marks.tasks(each.result)]
    for name, status in [("passed", "passed"), ("timeout", "timeout"), ("not gradable on the machine that graded", "")]:
        statuses = [task["status"] for task in tasks]
        expected = statuses.count(status or "not_gradable")
        assert sum(text.partition(",")[0] == name for text in words) == expected, name
    unbuilt = sum(lessons.unbuilt(task) for task in tasks)
    assert words.count("not built yet") == unbuilt == 2 * len(course.stage("5").tasks)
    assert words.count("failed") == sum(task["status"] == "failed" for task in tasks) - unbuilt
    assert "passed, 0.5 points given by hand" in words


def test_a_learners_page_has_what_they_would_see_at_home(site):
    text = Page(site / "learners" / "s02.html").text
    assert "0.5 Failure comes back to the caller failed, 0 / 3" in text
    assert "did started `s02` expected it is 7 yours it is 3 maybe look at clone next ./walls hint 0.5" in text
    assert "published solution" not in text, "a flag is for the instructor"
    text = Page(site / "learners" / "s01.html").text
    assert "2 h late: 10 % taken off" in text and "6.10 Other owners, another user" in text
    assert "outside the score" in text
    text = Page(site / "learners" / "s08.html").text
    assert "task 1.1: 0.5 instead of 1 points: half of it" in text and "given by hand: shown, in <b>class</b>" in text
    assert "No points yet: trouble of the course" in Page(site / "learners" / "s07.html").text


def test_the_lessons_are_those_most_failed_and_what_was_said_most_often():
    found = {lesson.id: lesson for lesson in lessons.most_failed(CLASS)}
    assert list(found)[0] == "0.5"
    assert (found["0.5"].failed, found["0.5"].tried, found["0.5"].unbuilt) == (5, 9, 0)
    assert [len(group.who) for group in found["0.5"].groups] == [4, 1]
    assert found["0.5"].groups[0].text == "yours: it is 3\nmaybe: look at clone"
    assert "5.1" not in found, "nobody tried it"
    assert found["6.1"].groups[0].status == "timeout"


def test_a_submission_that_cannot_be_read_teaches_nothing_about_a_task():
    broken = result("x", ["0.5"])
    for task in marks.tasks(broken):
        task |= {"status": "error", "message": "the submission cannot be graded: it is no archive"}
    assert lessons.most_failed([Graded("x", None, broken, 0, 1)]) == []


def test_messages_that_differ_in_what_was_made_up_are_one_group():
    made = [Graded(str(n), None, result("x", ["0.5"]), 0, 1) for n in range(3)]
    for n, each in enumerate(made):
        (task,) = [task for task in marks.tasks(each.result) if task["id"] == "0.5"]
        task["message"], task["yours"] = "", f"it returned {n * 37}, for the host name 'h{n:x}e'"
    (lesson,) = lessons.most_failed(made)
    assert [len(group.who) for group in lesson.groups] == [3]
    (task,) = [task for task in marks.tasks(made[2].result) if task["id"] == "0.5"]
    task["yours"] = "it raised an error"
    assert [len(group.who) for group in lessons.most_failed(made)[0].groups] == [2, 1]


def test_a_class_of_200_is_written_in_seconds(tmp_path):
    import copy

    whole = CLASS[1]
    many = [Graded(f"n{n}", None, copy.deepcopy(whole.result), whole.score, whole.max_score) for n in range(200)]
    began = time.monotonic()
    index = report.write(tmp_path, many)
    assert time.monotonic() - began < 20
    assert index.stat().st_size < 4_000_000
    assert len(list((tmp_path / "learners").iterdir())) == 200


def test_an_empty_class_has_a_page(tmp_path):
    text = Page(report.write(tmp_path, [])).text
    assert "0 graded" in text and "There are no scores yet" in text
