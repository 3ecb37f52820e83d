"""``./walls bench grade``: all stages graded with the solutions, as a whole command, and where its time goes."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from thinwalls import course
from thinwalls.bench.figures import Aim, Measurement, Table, Unmeasurable

_TIMES = 3  # how often, unless the caller says otherwise
_MOST = 6.0  # seconds, on two processors
_CHECK = "from thinwalls.cli import main; raise SystemExit(main())"


def measure(samples: int | None = None, words: Sequence[str] = ()) -> Measurement:
    """Grade so many times. words: stages or tasks; without: all, and then there is an aim.

    Raises Unmeasurable where a task does not pass: then its time says nothing.
    """
    whole = " ".join(["./walls check --impl solutions", *words])
    found: dict[str, list[float]] = {whole: []}
    with tempfile.TemporaryDirectory(prefix="thinwalls-bench-") as place:
        target = Path(place, "result.json")
        command = [sys.executable, "-c", _CHECK, "check", "--impl", "solutions", "--json", str(target), *words]
        environment = {**os.environ, "PYTHONPATH": str(course.ROOT)}
        for _ in range(samples or _TIMES):
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            found[whole].append(round(time.perf_counter() - began, 4))
            if not target.exists():
                raise Unmeasurable(f"nothing was graded: {(done.stderr or done.stdout).strip()[-500:]}")
            stages = json.loads(target.read_text())["stages"]
            tasks = [task for stage in stages for task in stage["tasks"]]
            if failed := [f"{task['id']} {task['status']}" for task in tasks if task["status"] != "passed"]:
                raise Unmeasurable(f"not every task passes here: {', '.join(failed)}")
            for stage in stages:
                row = f"of it stage {int(stage['id'])}, {len(stage['tasks'])} tasks"
                found.setdefault(row, []).append(round(sum(task["duration_s"] for task in stage["tasks"]), 4))
            target.unlink()
    title = f"{len(tasks)} tasks, each on the reference's side and on the other"
    notes = ["Tasks are graded side by side, so their times overlap."]
    return Measurement("grade", [Table(title, "s", found, [] if words else [Aim(whole, "", _MOST)])], notes=notes)
