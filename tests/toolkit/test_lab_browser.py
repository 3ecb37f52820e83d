"""The lab as a newcomer meets it: ./walls start, a browser, a lesson that is run, a stage that is built in the editor."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import machine_state
import pytest
from browser import running

from thinwalls import course, lab

pytestmark = pytest.mark.slow

PATIENCE = 90.0  # seconds for any one thing that is waited for: two processors, and much else to do for them
SHOTS = os.environ.get("THINWALLS_SHOTS")  # a folder for pictures of every step, for whoever wants to look
STUB = 'raise NotImplementedError("task 1.1 is not built yet")'
CHECK = 'check("1.1")'
DEVELOPERS = re.compile("jupytext|nbgrader|@jupyter$")  # what requirements-dev.txt adds to a lab
ERRORS = "[data-mime-type='application/vnd.jupyter.error'], [data-mime-type='application/vnd.jupyter.stderr']"
# Of a slow machine the lab tells, and Chromium of a screen that is computed, without a graphics card.
NOT_OURS = re.compile(r"taking too long to activate|took [\d.]+ms to activate|WebGL|task queue exceeded")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A copy of the course with stubs and a .venv of its own, in which ./walls finds nothing to do; and a home."""
    top = tmp_path
    copy = top / "course"
    for room in ("thinwalls", "stages", "solutions", "tests/stages", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(course.ROOT / room, copy / room, ignore=ignored)
    for name in ("walls", "course.toml", "pyproject.toml", "conftest.py", "requirements.txt", "constraints.txt"):
        shutil.copy(course.ROOT / name, copy / name)
    for stage in course.stages():
        (copy / "stages" / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    _environment(copy)
    for name in ("HOME", "TMPDIR"):
        (top / name.lower()).mkdir()
        monkeypatch.setenv(name, str(top / name.lower()))
    for name in list(os.environ):
        if name.startswith(("JUPYTER", "XDG_", "SSH_", "PYTHON", "THINWALLS_")) or name in lab.SCREEN:
            monkeypatch.delenv(name)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return copy


def _environment(copy):
    """A .venv as ./walls makes it, with the packages of this Python in place of copies of them.

    Of what packages add to Jupyter a learner's has only what requirements.txt brings.
    """
    made, ours = copy / ".venv", Path(sys.prefix)
    venv.create(made, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(made)}))
    (site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (site / "thinwalls.pth").write_text(f"{os.path.relpath(copy, site)}\n")
    for folder in ("etc/jupyter/jupyter_server_config.d", "share/jupyter/labextensions", "share/jupyter"):
        (made / folder).mkdir(parents=True, exist_ok=True)
        for entry in (ours / folder).iterdir():
            if not DEVELOPERS.search(entry.name) and entry.name != "labextensions":
                (made / folder / entry.name).symlink_to(entry)
    stamp = (copy / "requirements.txt").read_text() + (copy / "constraints.txt").read_text()
    (made / ".installed-1").write_text(stamp)


class Lab:
    """``./walls start`` in a terminal: what it says, and a person's Ctrl-C."""

    def __init__(self, place):
        self.said = ""
        self._terminal, other = os.openpty()
        # A session of its own, whose terminal it is: Ctrl-C reaches all that a shell would have in its foreground.
        command = ["setsid", "--ctty", "--wait", "./walls", "start"]
        self.process = subprocess.Popen(command, cwd=place, stdin=other, stdout=other, stderr=other)
        os.close(other)

    def hear(self, pattern):
        """Wait until it has said something like that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.said)):
            assert self._read(deadline), f"{pattern} was never said, but:\n{self.said}"
        return found

    def press(self, key):
        os.write(self._terminal, key)

    def end(self):
        """Its exit status; all it said is in ``said``."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return self.process.wait(10)

    def close(self):
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
        os.close(self._terminal)  # whoever is left is hung up on

    def _read(self, deadline):
        if not select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            return False
        try:
            heard = os.read(self._terminal, 65536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.said += heard.decode(errors="replace").replace("\r\n", "\n")
        return bool(heard)


class Window:
    """The lab in a browser, and everything that went wrong in it."""

    def __init__(self, browser):
        self.page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.trouble = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))

    def _console(self, message):
        if message.type in ("error", "warning") and not NOT_OURS.search(message.text):
            self.trouble.append(message.text)

    def picture(self, name):
        """Keep what is to be seen, for whoever looks at it."""
        if SHOTS:
            self.page.screenshot(path=Path(SHOTS, f"{name}.png"))

    def menu(self, *names):
        for name in names:
            label = self.page.locator(".lm-MenuBar-itemLabel, .lm-Menu-itemLabel")
            label.filter(has_text=re.compile(f"^{name}$"), visible=True).click()

    def file(self, name):
        """Open a file that the list at the left shows."""
        text = self.page.get_by_text(name, exact=True)
        self.page.locator(".jp-DirListing-item").filter(has=text).dblclick()

    def notebook(self, title):
        """The notebook that is open and has this heading."""
        found = self.page.locator(".jp-NotebookPanel:visible").filter(has=self.page.get_by_role("heading", name=title))
        found.wait_for()
        return found

    def run(self, cell):
        """Put the cursor into a cell, and run it."""
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def save(self, file, done):
        """Ctrl+S, and wait until the file is as ``done`` wants it."""
        self.page.keyboard.press("Control+s")
        return self.until(lambda: done(file.read_text()))

    def until(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < deadline, "never came true"
            self.page.wait_for_timeout(50)  # its events are heard meanwhile
        return found


def code_cells(text):
    """The code cells of a notebook's file; none while it is being written."""
    with contextlib.suppress(ValueError):
        return [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return []


def printed(cell):
    return "".join(text for output in cell["outputs"] for text in output.get("text", []))


def test_a_newcomer_builds_the_first_wall_in_the_lab(place, tmp_path):
    solved = (course.ROOT / "solutions" / "stage00_process.py").read_text()
    (place / "stages" / "stage00_process.py").write_text(solved)
    stage = place / "stages" / "stage01_chroot.py"
    lesson = place / "notebooks" / "stage01_chroot.ipynb"
    before = machine_state.snapshot(tmp_path / "tmpdir")
    started = Lab(place)
    try:
        address = started.hear(r"(http://localhost:(\d+)/lab/tree/notebooks/stage00_process\.ipynb\?token=\w+)\s")
        assert "There is no screen here" in started.said
        again = subprocess.run(["./walls", "start"], cwd=place, capture_output=True, text=True, timeout=PATIENCE)
        assert again.returncode == 0
        assert f"JupyterLab is open already (process {_server(tmp_path)['pid']})" in again.stdout
        assert address[1] in again.stdout
        with running(tmp_path) as browser:
            window = Window(browser)
            window.page.goto(address[1])
            _the_next_lesson_is_open_and_nothing_in_its_way(window)
            window.file("stage01_chroot.ipynb")
            notebook = window.notebook("Stage 1: chroot")
            _run_it_from_top_to_bottom(window, notebook, lesson)
            _build_the_wall(window, notebook, stage)
            assert _progress(place)["1.1"]["last"] == "passed", "a check in a lesson counts"
            _ask_in_a_terminal(window, place)
            assert window.trouble == []
        started.press(b"\x03")
        started.hear("Shut down this Jupyter server")
        started.press(b"\x03")
        assert started.end() == 0
    finally:
        started.close()
    assert "Traceback" not in started.said
    with socket.socket() as visitor:
        assert visitor.connect_ex(("127.0.0.1", int(address[2]))) != 0
    assert _left(before, tmp_path) == []
    assert not list((tmp_path / "home" / ".local/share/jupyter/runtime").glob("*.json"))
    kept = {entry.name for entry in (tmp_path / "home").iterdir()}
    assert kept <= {".cache", ".ipython", ".jupyter", ".local", ".bash_history"}, "the last: of the lab's terminal"


def _left(before, top):
    """What it left on the machine. A minute is long: what others mount and plug in meanwhile is not looked at."""
    found = machine_state.difference(before, machine_state.settled(before, top / "tmpdir"))
    return [line for line in found if str(top) in line or not re.match("[+-] (mounts|links):", line)]


def _progress(place):
    return json.loads((place / ".thinwalls/progress.json").read_text())["tasks"]


def _server(top):
    (file,) = (top / "home" / ".local/share/jupyter/runtime").glob("jpserver-*.json")
    return json.loads(file.read_text())


def _the_next_lesson_is_open_and_nothing_in_its_way(window):
    window.notebook("Stage 0: a process")
    window.page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    window.picture("1-the-next-lesson")
    assert window.page.locator(".jp-Dialog").count() == 0, "no kernel is asked for"
    assert window.page.locator(".Toastify__toast").count() == 0, "no news are offered"
    names = window.page.locator(".jp-DirListing-itemText").all_inner_texts()
    assert "stage01_chroot.ipynb" in [name.strip() for name in names]


def _run_it_from_top_to_bottom(window, notebook, lesson):
    window.menu("Edit", "Clear Outputs of All Cells")
    window.menu("Run", "Run All Cells")
    built = lesson.read_text()
    window.page.wait_for_function(
        """number => {
            const seen = [...document.querySelectorAll(
                ".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell .jp-InputArea-prompt")];
            return seen.length == number && seen.every(each => /\\[\\d+\\]/.test(each.textContent));
        }""",
        arg=len(code_cells(built)),
    )
    window.picture("2-run-to-the-end")
    assert notebook.locator(ERRORS).count() == 0
    cells = window.save(lesson, lambda text: text != built and all(_counts(text)) and code_cells(text))
    assert not [cell for cell in cells for output in cell["outputs"] if output["output_type"] == "error"]
    assert not [cell for cell in cells for output in cell["outputs"] if output.get("name") == "stderr"]
    said = {"".join(cell["source"]): printed(cell) for cell in cells}
    assert said[CHECK].startswith("task 1.1 is not built yet: Root.inside() in stages/stage01_chroot.py")
    (container,) = [text for source, text in said.items() if "def a_container" in source]
    assert container == "/\n/bin/cat\nexit status 7\nPATH=/bin\nGREETING=hello\nexit status 0\n", "the reference's"


def _counts(text):
    return [cell["execution_count"] for cell in code_cells(text)] or [None]


def _build_the_wall(window, notebook, stage):
    page, stub = window.page, stage.read_text()
    check = notebook.locator(".jp-CodeCell").filter(has_text=CHECK)
    verdict = check.locator(".jp-OutputArea-output")
    link = notebook.get_by_role("link", name="stages/stage01_chroot.py").first
    link.scroll_into_view_if_needed()
    window.picture("3-where-it-is-built")
    link.click()
    editor = page.locator(".jp-FileEditor:visible")
    editor.locator(".cm-line").filter(has_text=STUB).click()
    page.keyboard.press("Home")
    page.keyboard.press("Shift+End")
    page.keyboard.type("os.chroot(self.rootfs)")
    window.save(stage, lambda text: text == stub.replace(STUB, "os.chroot(self.rootfs)"))
    window.picture("4-half-a-wall")

    page.get_by_role("tab", name="stage01_chroot.ipynb").click()
    window.run(check)
    verdict.filter(has_text="0 / 1").wait_for()
    window.picture("5-failed")
    assert "./walls hint 1.1" in verdict.inner_text()

    page.get_by_role("tab", name="stage01_chroot.py").click()
    editor.locator(".cm-line").filter(has_text="os.chroot(self.rootfs)").click()
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.keyboard.type('os.chdir("/")')
    window.save(stage, lambda text: text == stub.replace(STUB, 'os.chroot(self.rootfs)\n        os.chdir("/")'))

    page.get_by_role("tab", name="stage01_chroot.ipynb").click()
    window.run(check)
    verdict.filter(has_text="1 / 1").wait_for()
    window.picture("6-passed")


def _ask_in_a_terminal(window, place):
    """The lab's terminal stands in the course's folder. It draws its text on a canvas, so a file has to tell."""
    result = place / "result.json"
    window.menu("File", "New", "Terminal")
    window.page.locator(".jp-Terminal:visible .xterm-screen").click()
    window.page.keyboard.type(f"./walls check 1.1 --json {result.name}\n")
    window.until(result.exists)  # it is written whole, or not at all
    assert '"passed"' in result.read_text()
    window.picture("7-the-terminal")
    window.page.keyboard.type("exit\n")
