"""How long a class takes, and whether it gets what it deserves: submissions whose verdicts are known beforehand.

``python -m thinwalls.batch.measure [COUNT [JOBS]]`` prints what it found, as JSON.
"""

import io
import itertools
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from thinwalls import course
from thinwalls.batch.store import Store

BANKS = course.ROOT / "tests"
HONEST, HOSTILE, BROKEN = "honest", "hostile", "broken"
_HANGS = {
    "bomb": "while True:\n        os.fork()",
    "loop": "while True:\n        pass",
    "leaves": "os._exit(0)",
    "eats": "waste = [bytearray(2**20) for _ in range(2**20)]",
}


@dataclass(frozen=True)
class Known:
    """One of the class. fails: tasks that must not pass; all others must, but for those in ``may``."""

    kind: str
    files: dict[str, str] = field(default_factory=dict)
    fails: frozenset[str] = frozenset()
    may: frozenset[str] = frozenset()


def _ids(stages: list[course.Stage]) -> frozenset[str]:
    return frozenset(task.id for stage in stages for task in stage.tasks)


def _kinds() -> Iterator[Known]:
    """Honest ones without end, by turns: solutions, stubs, wrong ones from the bank."""
    stages = list(course.stages())
    solutions = {f"{stage.stem}.py": course.reference(stage) for stage in stages}
    stubs = {name: course.stub(text) for name, text in solutions.items()}
    wrong = []
    for stage in stages:
        path = BANKS / "wrong" / f"{stage.stem}.toml"
        for known in tomllib.loads(path.read_text())["wrong"]:
            pieces, instead = ([each] if isinstance(each, str) else each for each in (known["replace"], known["with"]))
            text = course.reference(stage)
            for piece, other in zip(pieces, instead, strict=True):
                text = text.replace(piece, other)
            fails = frozenset([known["fails"]] if isinstance(known["fails"], str) else known["fails"])
            wrong.append(Known(HONEST, {**solutions, f"{stage.stem}.py": text}, fails))
    several = itertools.cycle(wrong[::7] + wrong[3::7])
    while True:
        yield Known(HONEST, solutions)
        yield next(several)
        yield Known(HONEST, stubs, _ids(stages))
        yield next(several)


def _hostile() -> Iterator[Known]:
    """Hostile and broken ones without end: bombs, loops, cheats from the bank, archives that are none."""
    stages = list(course.stages())
    first = stages[0]
    solutions = {f"{stage.stem}.py": course.reference(stage) for stage in stages}
    cheats = []
    for stage in stages:
        for path in sorted((BANKS / "cheats" / stage.stem).glob("*.py")):
            head = dict(
                line[1:].split(":", 1)
                for line in path.read_text().splitlines()[:5]
                if line.startswith("#") and ":" in line
            )
            header = {key.strip(): frozenset(words.split()) for key, words in head.items()}
            files = {**solutions, path.with_stem(stage.stem).name: path.read_text()}
            cheats.append(Known(HOSTILE, files, header["fails"], header.get("may pass", frozenset())))
    several = itertools.cycle(cheats[::5] + cheats[2::5])
    while True:
        for code in _HANGS.values():
            text = course.reference(first)
            at = text.index('"""', text.index('"""', text.index("def run(")) + 3) + 3
            begins = f"{text[:at]}\n    {code}{text[at:]}"
            yield Known(HOSTILE, {**solutions, f"{first.stem}.py": begins}, frozenset(["0.1"]), _ids([first]))
            yield next(several)
        yield Known(BROKEN, {}, _ids(stages))


def a_class(folder: Path, count: int) -> dict[str, Known]:
    """Make a class of so many in an empty folder, a fifth of them hostile or broken; gives what each deserves."""
    honest, others = _kinds(), _hostile()
    made = {}
    for number in range(count):
        known = next(others) if number % 5 == 4 else next(honest)
        name = f"s{number:03}"
        made[name] = known
        if known.kind == BROKEN:
            (folder / f"{name}.zip").write_bytes(b"PK\3\4 and no more of it")
        elif number % 3 == 0:
            with zipfile.ZipFile(folder / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
                for file, text in known.files.items():
                    zipped.writestr(f"work/stages/{file}", text)
        elif number % 3 == 1:
            with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as tarred:
                for file, text in known.files.items():
                    entry = tarfile.TarInfo(f"stages/{file}")
                    entry.size = len(text.encode())
                    tarred.addfile(entry, io.BytesIO(text.encode()))
        else:
            (folder / name / "stages").mkdir(parents=True)
            for file, text in known.files.items():
                (folder / name / "stages" / file).write_text(text)
    return made


def misjudged(out: Path, made: dict[str, Known]) -> list[str]:
    """Verdicts in a store that are not what was deserved, in sentences. What is not gradable here does not count."""
    found = []
    with Store(out) as results:
        for name, known in made.items():
            result = results.read(name)
            if result is None:
                found.append(f"{name}: there is no result")
                continue
            for task in (task for stage in result["stages"] for task in stage["tasks"]):
                passed, id = task["status"] == "passed", task["id"]
                if task["status"] == "not_gradable" or id in known.may - known.fails:
                    continue
                if task["status"] == "infra_error" or passed == (id in known.fails):
                    found.append(f"{name} ({known.kind}): {id} is {task['status']}: {task['message']} {task['yours']}")
    return found


@dataclass(frozen=True)
class Measured:
    """What a class took. seconds: in all; honest, hostile: seconds of each submission; a_submission: in all, by their number."""

    count: int
    jobs: int
    seconds: float
    a_submission: float
    honest: list[float]
    hostile: list[float]
    memory_mib: int  # the most that the process took which grades the class
    misjudged: list[str]


def measure(count: int = 60, jobs: int = 2, dask: str = "") -> Measured:
    """Grade a class of so many. Raises subprocess.CalledProcessError where that cannot be done."""
    with tempfile.TemporaryDirectory(prefix="thinwalls-class-") as top:
        folder, out = Path(top, "class"), Path(top, "out")
        folder.mkdir()
        made = a_class(folder, count)
        words = [str(folder), "--out", str(out), "--jobs", str(jobs), *(["--dask", dask] if dask else [])]
        command = [sys.executable, "-m", "thinwalls.cli", "grade", *words]
        began = time.monotonic()
        said = subprocess.run(command, cwd=course.ROOT, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - began
        if said.returncode not in (0, 1):
            raise subprocess.CalledProcessError(said.returncode, command, said.stdout)
        took: dict[str, list[float]] = {HONEST: [], HOSTILE: [], BROKEN: []}
        wrong = misjudged(out, made)
        with Store(out) as results:
            for name, known in made.items():
                took[known.kind].append((results.read(name) or {"duration_s": 0.0})["duration_s"])
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    a_submission = round(seconds / count, 2)
    return Measured(count, jobs, round(seconds, 1), a_submission, took[HONEST], took[HOSTILE], memory, wrong)


if __name__ == "__main__":
    words = dict(zip(("count", "jobs"), map(int, sys.argv[1:]), strict=False))
    print(json.dumps(asdict(measure(**words)), indent=1))  # type: ignore[arg-type]
