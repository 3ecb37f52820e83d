"""``./walls test``: the course proved on this machine, by its own gates, the quick ones first."""

import importlib
import importlib.util
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from thinwalls import course, lab, notebook
from thinwalls.grading import driver
from thinwalls.host import HostError

_DEVELOPERS = (
    *("ruff", "mypy", "jupytext", "nbclient", "nbgrader", "gradescope_utils", "junitparser"),
    *("playwright", "axe_playwright_python", "distributed", "sphinx", "myst_nb", "furo", "virtme"),
)
_SECOND_TRIES = 12  # so many failures may be the machine's; more are not
_SEEDS = {False: 1, True: 3}  # how many seeds the solutions are graded with: quick, full


class Proof:
    """The steps of one proof, and what came of them."""

    def __init__(self, full: bool):
        self.full = full
        self.passed = self.failed = 0
        self._temporary = tempfile.TemporaryDirectory(prefix="thinwalls-test-")

    def step(self, title: str, work: Callable[[], tuple[int, int]]) -> None:
        """Do one step and say what came of it. work: gives how many of its parts passed and failed."""
        print(f"== {title}", flush=True)
        started = time.monotonic()
        passed, failed = work()
        self.passed, self.failed = self.passed + passed, self.failed + failed
        print(f"   {title}: {passed} passed, {failed} failed, {time.monotonic() - started:.0f} s", flush=True)

    def command(self, *words: str) -> Callable[[], tuple[int, int]]:
        """A step that is one command of this Python; it passes or fails as a whole."""

        def run() -> tuple[int, int]:
            done = subprocess.run([sys.executable, "-m", *words], cwd=course.ROOT)
            return (1, 0) if done.returncode == 0 else (0, 1)

        return run

    def pytest(self, *words: str, results: Path | None = None) -> Callable[[], tuple[int, int]]:
        """A step that is a run of pytest; a run in which nothing was tested has failed.

        results: a folder in which each run leaves what became of every test, as 1.xml and, of a second one, 2.xml.

        Deadlines are part of what is tested, and on a busy machine one may pass for no fault of ours: what failed is
        run once more by itself, and named. What fails twice has failed.
        """
        cache = f"cache_dir={tempfile.mkdtemp(prefix='cache-', dir=self._temporary.name)}"

        def run() -> tuple[int, int]:
            first, second = ((f"--junitxml={results}/{n}.xml",) if results else () for n in (1, 2))
            passed, failed = self._pytest("-o", cache, *words, *first)
            if 0 < failed <= _SECOND_TRIES:
                print(f"   {failed} failed: once more, by themselves", flush=True)
                mended, failed = self._pytest(
                    "-o", cache, "--last-failed", "--last-failed-no-failures=none", "-rA", *words, *second
                )
                passed += mended
            return passed, failed

        return run

    def _pytest(self, *words: str) -> tuple[int, int]:
        """Run pytest, show what it says, and count what passed and failed."""
        base = Path(self._temporary.name, "pytest")
        command = [sys.executable, "-m", "pytest", "-q", f"--basetemp={base}", *words]
        last = ""
        with subprocess.Popen(command, cwd=course.ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            for line in process.stdout:
                print(line, end="", flush=True)
                last = line if re.search(r"\d+ (passed|failed|error)", line) else last
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", last)}
        failed = counts.get("failed", 0) + counts.get("error", 0)
        if (process.returncode and not failed) or not (counts.get("passed") or failed):
            failed += 1
        return counts.get("passed", 0), failed

    def solutions(self) -> tuple[int, int]:
        """Grade every reference, as a learner's file is graded, with several seeds; every task must pass."""
        passed = failed = 0
        tasks = driver.select([])
        for _ in range(_SEEDS[self.full]):
            found = driver.grade(tasks, "solutions", at_once=driver.several())
            good = found.counts().get("passed", 0)
            # Where nobody may make a cgroup, or has but one id, some tasks cannot be graded; that is said, and no failure.
            one = [task.id for _, task in tasks if task.ids and "one user id" in found.verdicts[task.id].message]
            excused = [*one, *(task.id for _, task in tasks if task.cgroup and not found.machine["bounded"])]
            excused = [name for name in excused if found.verdicts[name].status == "not_gradable"]
            passed, failed = passed + good, failed + len(tasks) - good - len(excused)
            bounds = f"cgroup {found.machine['cgroup']}" if found.machine["bounded"] else "memory not bounded"
            print(
                f"   lane uid={os.getuid()} kernel={found.machine['kernel']} {bounds}: {good} of {len(tasks)} tasks, seed {found.seed}"
            )
            for verdict in found.verdicts.values():
                if verdict.status != "passed":
                    print(f"   {verdict}")
        return passed, failed

    def notebooks(self) -> None:
        """Run the lessons on the references, and compare what they print with what is stored.

        A notebook that Jupyter saved since is a learner's; of its lesson the cells are run as its .py has them, and that
        no cell fails is all that is left to prove.
        """
        lessons = sorted((course.ROOT / "notebooks").glob("*.ipynb"))
        theirs = [made for made in lessons if lab.saved(made) and not os.environ.get("CI")]
        ours = [str(made) for made in lessons if made not in theirs]
        if ours:
            self.step("notebooks", self.pytest("--nbval", *ours))
        if theirs:
            print(
                f"   Jupyter has saved {', '.join(made.name for made in theirs)}: what the cells print is not compared"
            )
            (course.ROOT / ".thinwalls").mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="notebooks-", dir=course.ROOT / ".thinwalls") as folder:
                for made in theirs:
                    Path(folder, made.name).write_text(notebook.blank(made.with_suffix(".py")))
                self.step("notebooks without outputs", self.pytest("--nbval-lax", folder))

    def stubs_are_generated(self) -> tuple[int, int]:
        """In CI alone: stages/ is what the solutions imply. Anywhere else it is the learner's."""
        wrong = [
            stage.stem
            for stage in course.stages()
            if (course.ROOT / "stages" / f"{stage.stem}.py").read_text() != course.stub(course.reference(stage))
        ]
        for stem in wrong:
            print(f"   stages/{stem}.py is not what solutions/{stem}.py implies: ./walls reset {stem}")
        return len(course.stages()) - len(wrong), len(wrong)

    def end(self) -> int:
        """Close the books; gives the exit status."""
        try:
            self._temporary.cleanup()
        except OSError as error:
            self.failed += 1
            print(f"   a test left what cannot be removed: {error}")
        print(f"\nproved as uid {os.getuid()}:" if not self.failed else f"\nnot proved as uid {os.getuid()}:")
        print(f"{self.passed} passed, {self.failed} failed")
        return 1 if self.failed or not self.passed else 0


def main(full: bool = False, trust: bool = False, write: bool = False) -> int:
    """Prove the course. full: what CI runs; trust: how well the graders grade; write: its table goes into docs/trust.md.

    Gives the exit status: 0 proved, 1 not, 3 this machine cannot.
    """
    if full:
        missing = [name for name in _DEVELOPERS if importlib.util.find_spec(name) is None]
        if missing:
            print(
                f"walls test --full needs {', '.join(missing)}: .venv/bin/python -m pip install -r requirements-dev.txt"
            )
            return 3
    proof = Proof(full)
    try:
        if trust:
            _trust(proof, write)
            return proof.end()
        if full:
            proof.step("format", proof.command("ruff", "format", "--check", "--quiet", "."))
            proof.step("lint", proof.command("ruff", "check", "--quiet", "."))
            proof.step("types", proof.command("mypy"))
        if os.environ.get("CI"):
            proof.step("stubs", proof.stubs_are_generated)
        state = _toolkit("machine_state")
        before = state.snapshot()
        proof.step("solutions", proof.solutions)
        proof.notebooks()
        proof.step("toolkit and course", proof.pytest(*([] if full else ["-m", "not slow"])))
        proof.step("the machine is as it was", lambda: _unchanged(state, before))
    except HostError as error:
        print(f"walls test: {error}; ./walls doctor says more")
        return 3
    return proof.end()


def _toolkit(name: str) -> Any:
    """A module of tests/toolkit."""
    sys.path.insert(0, str(course.ROOT / "tests" / "toolkit"))
    return importlib.import_module(name)


def _trust(proof: Proof, write: bool) -> None:
    """Judge the graders by the banks and by all mutants, those of changed stages first, and show a row for each stage."""
    trust, seed = _toolkit("trust"), random.SystemRandom().getrandbits(32)
    files = ("tests/toolkit/test_banks.py", "tests/toolkit/test_mutants.py")
    options = ("--mutants=all", f"--seed={seed}", f"--first={','.join(trust.changed())}")
    with tempfile.TemporaryDirectory(prefix="thinwalls-trust-") as results:
        proof.step("graders", proof.pytest(*options, *files, results=Path(results)))
        table = trust.rows(sorted(Path(results).glob("*.xml")))
    print(f"\n{trust.as_text(table)}\nseed {seed}")
    trust.remember(table)
    if write and not proof.failed:
        trust.write(table, seed)


def _unchanged(state: Any, before: Any) -> tuple[int, int]:
    """Mounts, links, cgroups, processes and temporary files are what they were before."""
    differences = state.difference(before, state.settled(before))
    for line in differences:
        print(f"   {line}")
    return (0, len(differences)) if differences else (1, 0)
