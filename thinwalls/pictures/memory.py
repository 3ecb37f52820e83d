"""A cgroup's memory while a container of ours rises to its limit: measured once, stored raw, and drawn (stage 4)."""

import datetime
import json
import os
import platform
from pathlib import Path
from typing import Any

from thinwalls import course
from thinwalls.host import Host, HostError, Keeper, Late
from thinwalls.pictures.paper import EDGE, WIDTH, Paper

STORED = course.ROOT / "notebooks" / "pictures" / "stage04_memory.json"
LIMIT, ASKED = "64m", 256  # the container's limit; MiB that its program asks for
MIB = 1 << 20
_PATIENCE = 30  # seconds
# In a throwaway host: a container by the reference's stages, and its account, read every few milliseconds.
_GUEST = """\
import json, os, time
from thinwalls.wall import Program
from stages.stage00_process import launch
from stages.stage02_pid_namespace import Init, Pids
from stages.stage04_cgroups import Cgroup

HOG = '''
import mmap, os, sys, time
def tell(what):
    os.write(1, f"{what} {time.monotonic()}\\\\n".encode())
size = int(sys.argv[1]) << 20
time.sleep(0.3)
tell("asks")
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
time.sleep(0.4)
tell("touches")
for page in range(0, size, mmap.PAGESIZE):
    memory[page] = 1
    if page % (1 << 20) == 0:
        time.sleep(0.02)
'''

def measure(limit, asked):
    box = Cgroup(memory=limit)
    file = box.directory("memory") / {"v1": "memory.usage_in_bytes", "v2": "memory.current"}[box.version]
    reads, writes = os.pipe()
    began, samples = time.monotonic(), []
    pid = os.fork()
    if pid == 0:
        program = Program([os.readlink("/proc/self/exe"), "-c", HOG, str(asked)], {}, stdout=writes)
        status = launch(program, [box, Pids(), Init()])
        os.write(writes, f"ended {time.monotonic()} {status} {int(box.out_of_memory)}\\n".encode())
        os._exit(0)
    os.close(writes)
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        try:
            samples.append([round(time.monotonic() - began, 4), int(file.read_text())])
        except OSError:  # it is not there yet, or not any more
            pass
        time.sleep(0.01)
    with open(reads) as pipe:
        told = {line.split()[0]: line.split()[1:] for line in pipe}
    at = {what: round(float(rest[0]) - began, 4) for what, rest in told.items()}
    _, status, kills = told["ended"]
    print(json.dumps({"cgroup": box.version, "file": file.name, "at": at, "status": int(status),
                      "out_of_memory": bool(int(kills)), "samples": samples}))
"""


class Unmeasurable(Exception):
    """It cannot be measured here; the text says why."""


def measure(path: Path = STORED) -> None:
    """Measure on this machine, and store raw samples: seconds and bytes. Raises Unmeasurable."""
    files = {"/course/stages/__init__.py": "", "/course/guest.py": _GUEST}
    for stage in course.stages():
        if stage.id in ("00", "02", "04"):
            files[f"/course/stages/{stage.stem}.py"] = course.reference(stage)
    printed = ""
    try:
        with Keeper() as keeper:
            if keeper.cgroup is None:
                raise Unmeasurable("this machine lets you make no cgroup (./walls doctor says more)")
            with Host(keeper, files, delegate=True) as host:
                host.request({"module": "guest", "function": "measure", "args": [LIMIT, ASKED]})
                while not printed.startswith("{"):
                    event = host.next(_PATIENCE)
                    if event.kind == "line":
                        printed = event.body["text"]
                    elif "returned" not in event.body:  # otherwise its line is on its way
                        raise Unmeasurable(f"the container could not be measured: {event.body}")
    except (HostError, Late) as error:
        raise Unmeasurable(f"no container can be measured here: {error or 'it took too long'}") from None
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"kernel": platform.release(), "arch": platform.machine(), "cpus": os.cpu_count()},
        "limit": LIMIT,
        "asked_mib": ASKED,
        **json.loads(printed),
    }
    samples = found.pop("samples")
    head = json.dumps(found, indent=1)[:-2]
    rows = ",\n".join(f"  {json.dumps(sample)}" for sample in samples)
    path.write_text(f'{head},\n "samples": [\n{rows}\n ]\n}}\n')


def memory() -> str:
    """The stored measurement, drawn."""
    found = json.loads(STORED.read_text())
    samples: list[tuple[float, int]] = [(seconds, size) for seconds, size in found["samples"]]
    limit, end = int(found["limit"].removesuffix("m")), found["at"]["ended"]
    at, most = found["at"], max(size for _, size in samples) / MIB
    before = max(size for seconds, size in samples if at["asks"] < seconds < at["touches"]) / MIB
    kernel = found["machine"]["kernel"].split("-")[0]
    paper = Paper(
        "stage04_memory",
        "A cgroup's memory rises to its limit",
        f"""A measured curve: the memory of a container's cgroup, against time, with a limit of {limit} MiB. At
        {at["asks"]:.1f} s its program asks for {found["asked_mib"]} MiB and gets them, and the curve stays flat, below
        {before + 1:.0f} MiB. From {at["touches"]:.1f} s on it touches them, page by page, and the curve rises
        evenly. It ends at the limit: the highest sample is {most:.1f} MiB. There the kernel kills the program, at about
        {end:.1f} s: the exit status is {found["status"]}, and the group's own counter says that it was for memory. Measured
        once, in {len(samples)} samples, under Linux {kernel} with cgroup {found["cgroup"]}.""",
    )
    left, right, bottom, top = 62, WIDTH - 22, 366, 82
    last = end * 1.12
    high = limit * 1.15

    def point(seconds: float, mib: float) -> tuple[float, float]:
        return left + (right - left) * seconds / last, bottom - (bottom - top) * mib / high

    paper.head("Memory rises to its limit")
    paper.text(EDGE, 60, "MiB in the container's cgroup", 300)
    for mib in range(0, limit + 1, 16):
        x, y = point(0, mib)
        paper.text(x - 10, y + 5, str(mib), 44, anchor="end")
        paper.line((x - 5, y), (x, y))
    paper.line((left, top), (left, bottom), (right, bottom))
    for tenths in range(0, int(last * 10) + 1, 5):
        x, y = point(tenths / 10, 0)
        paper.line((x, y), (x, y + 5))
        paper.text(x, y + 22, f"{tenths / 10:g}", 40, anchor="middle")
    paper.text(right, bottom + 42, "seconds", 80, anchor="end")
    paper.line(point(0, limit), point(last, limit), kind="shared")
    x, y = point(0, limit)
    paper.text(x + 10, y - 8, f"*the limit: {limit} MiB", 220)
    x, y = point(at["asks"], 30)
    paper.line((x, y), (x, bottom), kind="off")
    paper.text(x - 8, y + 12, "asks", 90, anchor="end")
    paper.text(x - 8, y + 31, f"for {found['asked_mib']}", 90, anchor="end")
    x, y = point(at["touches"], 50)
    paper.line((x, y), (x, bottom), kind="off")
    paper.text(x + 8, y + 12, "touches", 90)
    paper.text(x + 8, y + 31, "them", 90)
    paper.line(*(point(seconds, size / MIB) for seconds, size in samples), kind="own")
    x, y = point(samples[-1][0], samples[-1][1] / MIB)
    paper.line((x, y), (x, bottom), kind="off")
    paper.text(x - 10, bottom - 98, "*killed:", 150, anchor="end")
    paper.text(x - 10, bottom - 79, f"status {found['status']}", 150, anchor="end")
    paper.text(EDGE, bottom + 72, f"Measured once: {len(samples)} samples, cgroup {found['cgroup']},", 480)
    paper.text(EDGE, bottom + 91, f"Linux {kernel}. The program asks for {found['asked_mib']} MiB and gets", 480)
    paper.text(EDGE, bottom + 110, "them; what is counted are the pages it touches.", 480)
    return paper.svg(bottom + 124)
