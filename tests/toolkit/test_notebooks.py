"""The lessons and what they are written with: notebooks, demonstrations, the first table."""

import ast
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from thinwalls import cgroupfs, course, lab, linux, notebook
from thinwalls.bench import lesson
from thinwalls.grading import plugin
from thinwalls.host import BEYOND, Keeper
from thinwalls.image import Limits
from thinwalls.layers import Unpacking
from thinwalls.notebook import check, demo, look, visit
from thinwalls.registry import Registry
from thinwalls.transport import Transport

LESSONS = sorted((course.ROOT / "notebooks").glob("*.py"))
MADE = sorted((course.ROOT / "notebooks").glob("*.ipynb"))
OURS = [made for made in MADE if os.environ.get("CI") or not lab.saved(made)]  # the others are a learner's by now
NOT_COMPARED = {
    "containers_and_machines": 1,
    "stage00_process": 2,
    "stage04_cgroups": 3,
    "stage05_networking": 2,
    "stage06_image_pull": 3,
}  # the others have none: cells with NBVAL_IGNORE_OUTPUT
GREETING = "hello"


def twice(word):
    return f"{word} {word}"


# The notebooks


@pytest.mark.parametrize("stage", course.stages(), ids=lambda stage: stage.stem)
def test_every_stage_has_a_notebook_with_a_heading_and_a_check_for_every_task(stage):
    cells = notebook.cells((course.ROOT / "notebooks" / f"{stage.stem}.py").read_text())
    text = "\n".join(cell.source for cell in cells if cell.kind == "markdown").splitlines()
    code = [cell.source for cell in cells if cell.kind == "code"]
    headings = [line for line in text if line.startswith("## Task ")]
    assert headings == [f"## Task {task.id}: {task.title}" for task in stage.tasks]
    for task in stage.tasks:
        assert any(f"`./walls check {task.id}`" in line for line in text), task.id
        assert f'check("{task.id}")' in code


@pytest.mark.parametrize("made", OURS, ids=lambda path: path.stem)
def test_a_notebook_is_what_its_source_makes(made):
    assert notebook.differences(made.with_suffix(".py")) == ""


def test_a_notebook_that_differs_from_its_source_is_found(tmp_path):
    lesson, made = tmp_path / "stage.py", tmp_path / "stage.ipynb"
    lesson.write_text("# ---\n# jupyter:\n# ---\n\n# %% [markdown]\n# # Title\n#\n# Text\n\n# %%\nprint(1)\n")
    assert notebook.cells(lesson.read_text()) == [("markdown", "# Title\n\nText"), ("code", "print(1)")]
    assert "is missing" in notebook.differences(lesson)
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Text"]},
        {"cell_type": "code", "source": "print(1)"},
    ]
    made.write_text(json.dumps({"cells": cells}))
    assert notebook.differences(lesson) == ""
    made.write_text(json.dumps({"cells": [cells[0], {"cell_type": "code", "source": "print(2)"}]}))
    assert "differ in cell 2" in notebook.differences(lesson)
    made.write_text(json.dumps({"cells": cells[:1]}))
    assert "1 cells" in notebook.differences(lesson)


def test_every_notebook_has_a_source():
    assert [path.stem for path in MADE] == [path.stem for path in LESSONS]


@pytest.mark.parametrize("made", OURS, ids=lambda path: path.stem)
def test_a_cell_whose_output_is_not_compared_is_followed_by_an_assertion(made):
    code = [cell for cell in json.loads(made.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code]
    loose = [n for n, source in enumerate(sources) if "NBVAL_IGNORE_OUTPUT" in source or "NBVAL_SKIP" in source]
    assert len(loose) == NOT_COMPARED.get(made.stem, 0)
    for n in loose:
        statements = ast.parse(sources[n + 1]).body
        assert any(isinstance(statement, ast.Assert) for statement in statements), sources[n]
    assert not any(cell["metadata"] for cell in code), "comments say how a cell is compared, not tags"


@pytest.mark.parametrize("made", OURS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs_and_nothing_of_the_machine_that_made_it(made):
    text = made.read_text()
    stored = json.loads(text)
    assert stored["metadata"] == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for path in {str(course.ROOT), sys.prefix, str(Path.home() / "."), "/home/", "site-packages"} - {"/root"}:
        assert path not in text
    ids = [cell["id"] for cell in stored["cells"]]
    assert len(set(ids)) == len(ids)
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":  # a plot, and the table that says the same
                assert set(output["data"]) == {"image/svg+xml", "text/plain"}
                assert len("".join(output["data"]["text/plain"]).splitlines()) > 2
            else:
                assert output["output_type"] == "stream" and output["name"] == "stdout"


# Demonstrations


def test_a_demonstration_prints_what_it_printed_in_order_and_its_name_becomes_the_text(capsys):
    @demo
    def shown():
        print("one", twice(GREETING))
        pid = linux.clone()
        if pid == 0:
            print("two, to stderr", file=sys.stderr)
            os._exit(0)
        os.waitpid(pid, 0)
        print("three", end="")

    assert shown == "one hello hello\ntwo, to stderr\nthree"
    assert capsys.readouterr().out == shown + "\n"


def test_a_demonstration_is_not_on_this_machine(tmp_path):
    (tmp_path / "here").touch()
    place = str(tmp_path)
    globals()["PLACE"] = place

    @demo
    def shown():
        print(os.path.exists(PLACE), os.uname().nodename)  # noqa: F821

    assert shown == "False machine"


def test_an_exception_is_one_line_with_the_line_it_came_from():
    @demo
    def shown():
        print("before")
        os.chroot("/nowhere")

    assert shown == (
        "before\nFileNotFoundError: [Errno 2] No such file or directory: '/nowhere' (in: os.chroot('/nowhere'))"
    )


def test_of_an_error_that_the_toolkit_raised_from_another_the_line_is_the_one_where_that_began():
    @demo
    def shown():
        class Mine(Unpacking):
            def take(self, entry, data):
                os.rmdir("/nowhere")

        os.mkdir("/srv/tree")
        with tarfile.open("/srv/layer", "w") as layer:
            layer.addfile(tarfile.TarInfo("a"))
        Mine("/srv/tree", Limits()).apply("/srv/layer", "application/vnd.oci.image.layer.v1.tar")

    why = "[Errno 2] No such file or directory: '/nowhere'"
    assert shown == f"BadImage: entry 'a': {why} (in: os.rmdir('/nowhere'))"


def test_endless_output_and_endless_running_are_cut():
    began = time.monotonic()

    @demo(seconds=1)
    def shown():
        while True:
            print("x" * 1000)

    assert time.monotonic() - began < 5
    lines = shown.splitlines()
    assert lines[-2:] == ["... and more", "(stopped: it had not ended after 1 seconds)"]
    assert len(lines) < 100
    assert max(map(len, lines)) < 300


def test_a_demonstration_may_become_another_program_and_what_that_prints_is_shown():
    @demo
    def shown():
        print("first")
        os.execve("/bin/sh", ["sh", "-c", "sleep 0.2; echo second"], {"PATH": "/bin:/usr/bin"})

    assert shown == "first\nsecond"


def test_a_child_that_runs_on_does_not_end_the_demonstration():
    @demo
    def shown():
        if linux.clone():
            time.sleep(0.3)
            print("the parent")

    assert shown == "the parent"


def test_look_speaks_of_processes_and_places_by_name(capsys):
    @demo(rootfs=True)
    def shown():
        pid = linux.clone(linux.CLONE_NEWUTS)
        if pid == 0:
            os.chdir("/srv")
            os.chroot("/srv/rootfs")
            look(None, "root")
            os.kill(os.getpid(), signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        other = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
        look(pid)
        look(other, "program", "descriptors", "signals", "cwd")
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        look(pid)
        os.waitpid(pid, 0)
        look(pid)
        look(other, "weight")

    assert shown.splitlines() == [
        "process A, seen from outside:",
        "    root        /srv/rootfs of the machine",
        "process A, seen from outside:",
        "    program     Python, a copy of this cell's",
        "    root        /srv/rootfs of the machine",
        "    namespaces  own: uts; shared: cgroup ipc mnt net pid user",
        "process B, seen from outside:",
        "    program     sleep 60",
        "    descriptors 0 1 2",
        "    signals     ignored: SIGPIPE SIGXFSZ; blocked: none",
        "    cwd         /root of the machine",
        "process A, seen from outside:",
        "    a zombie: it has ended, and nobody has waited for it",
        "that process, seen from outside:",
        "    gone",
        "process B, seen from outside:",
        "    look() knows no 'weight'; it knows program, root, cwd, namespaces, descriptors, signals",
    ]


def test_stages_are_the_learners_and_the_references_where_nothing_is_built_yet(tmp_path, monkeypatch):
    source = course.stub(course.reference(course.stage("0")))
    mine = '    raise NotImplementedError("task 0.2 is not built yet")'
    (tmp_path / "stage00_process.py").write_text(source.replace(mine, "    return 42", 1))
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo
    def shown():
        from stages.stage00_process import refusal, run
        from thinwalls.wall import Program

        print(refusal(OSError()), run(Program(["/bin/true"])))

    *notes, printed = shown.splitlines()
    assert notes[0].startswith("(the reference stands in for stage01_chroot.py, which cannot be read: ")
    assert printed == "42 0"


def test_flags_and_methods_that_a_stub_leaves_empty_are_the_references_too(tmp_path, monkeypatch):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo
    def shown():
        from stages.stage02_pid_namespace import Pids
        from stages.stage03_mount_namespace import Filesystem

        names = Filesystem.inside.__code__.co_names
        print(Pids.flags == linux.CLONE_NEWPID, Filesystem.flags == linux.CLONE_NEWNS, "enter_root" in names)

    assert shown == "True True True"


def test_private_methods_that_the_references_methods_call_come_with_them(tmp_path, monkeypatch):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo
    def shown():
        from stages.stage04_cgroups import Cgroup

        print(Cgroup(memory="1m").killed_for_memory(), hasattr(Cgroup, "_read"))

    assert shown == "False True"


def test_hooks_that_a_stub_leaves_without_their_calls_are_the_references_and_super_in_them_is_the_stubs(
    tmp_path, monkeypatch
):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo(network=True)
    def shown():
        from stages.stage00_process import launch
        from stages.stage05_networking import Network
        from thinwalls.wall import Program, Wall

        class Look(Wall):
            def inside(self):
                print([name for _, name in socket.if_nameindex()])
                with socket.create_connection((BEYOND, 80), 5) as connection:
                    print(connection.recv(100).decode().strip())

        launch(Program(["true"], {"PATH": "/bin:/usr/bin"}), [Network(), Look()])

    assert shown == "['lo', 'eth0']\nyou are 192.0.2.2"


def test_a_stub_behind_a_decorator_is_the_references_as_that_has_it(tmp_path, monkeypatch):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo
    def shown():
        from stages.stage06_image_pull import Tree

        os.mkdir("/srv/tree")
        with Tree("/srv/tree").locate("a/b") as (_, name):  # a generator that contextlib.contextmanager wraps
            print(name, os.listdir("/srv/tree"))

    assert shown == "b ['a']"


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_can_be_run_to_its_end_on_empty_exercises(lesson, tmp_path):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    environment = {**os.environ, "THINWALLS_IMPL": str(tmp_path), "PYTHONPATH": str(course.ROOT)}
    done = subprocess.run([sys.executable, lesson], cwd=course.ROOT, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.findall(r"^.* \(_?stage\d\d_\w+\.py:\d+\)$", done.stdout, re.MULTILINE)  # raised in a stage's file


def test_a_hook_that_the_learner_has_begun_is_the_learners(tmp_path, monkeypatch):
    for stage in course.stages():
        (tmp_path / f"{stage.stem}.py").write_text(course.stub(course.reference(stage)))
    begun = tmp_path / "stage05_networking.py"
    source = begun.read_text()
    begun.write_text(
        source.replace("        super().inside()\n", "        super().inside()\n        print('mine')\n", 1)
    )
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))

    @demo(network=True)
    def shown():
        from stages.stage05_networking import Isolated, Network

        print(Network.inside.__module__, Isolated.inside.__module__, Network.outside.__module__)

    reference = "stages._stage05_networking"
    assert shown == f"stages.stage05_networking {reference} {reference}"


def test_a_demonstration_is_handed_a_cgroup_or_one_sentence_says_why_not():
    @demo(cgroup=True)
    def shown():
        made = cgroupfs.directory(cgroupfs.TOP, "memory", "made")
        os.mkdir(made)
        print("cgroup.procs" in os.listdir(made))

    with Keeper() as keeper:
        there = keeper.cgroup
    assert shown == ("True" if there else f"not shown: {notebook.NO_CGROUP} (./walls doctor says more)")


def test_where_no_cgroup_can_be_made_a_demonstration_says_so_in_the_words_of_the_verdicts(monkeypatch):
    monkeypatch.setattr(Keeper, "cgroup", None)

    @demo(cgroup=True)
    def shown():
        print("shown")

    assert shown == f"not shown: {notebook.NO_CGROUP} (./walls doctor says more)"
    assert plugin._NO_CGROUP.startswith(notebook.NO_CGROUP)
    assert plugin._ONE_ID.startswith(notebook.ONE_ID)


def test_a_demonstration_may_have_a_registry_in_its_own_host():
    @demo
    def shown():
        with Registry() as registry, Transport() as transport:
            print(transport.get(f"{registry.url}/v2/").status, len(registry.requests))

    assert shown == "200 1"


def test_a_demonstration_with_a_network_has_somebody_beyond_it_and_is_visited_from_there():
    @demo(network=True)
    def shown():
        with socket.create_connection((BEYOND, 80), 5) as connection:
            print("out:", connection.recv(100).decode().strip())
        server = socket.create_server(("", 8080))
        if os.fork() == 0:
            peer, (address, _) = server.accept()
            peer.sendall(f"you came from {address}".encode())
            os._exit(0)
        print("before")
        visit(8080)
        visit(8081)
        print("after")

    assert shown.splitlines() == [
        "out: you are 192.0.2.2",
        "before",
        "from beyond, port 8080: you came from 192.0.2.1",
        "from beyond, port 8081: Connection refused",
        "after",
    ]


def test_without_a_network_there_is_no_way_out():
    @demo
    def shown():
        with socket.socket() as connection:
            print(os.strerror(connection.connect_ex((BEYOND, 80))))

    assert shown == "Network is unreachable"


def test_where_the_tools_for_a_network_are_missing_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(notebook, "_SEARCH", str(tmp_path))

    @demo(network=True)
    def shown():
        print("shown")

    assert shown == "not shown: this machine has no ip and no nft (./walls doctor says more)"


def test_look_and_visit_are_for_demonstrations():
    for call in (look, lambda: visit(80)):
        with pytest.raises(RuntimeError, match="@demo"):
            call()


# Your turn


def test_check_says_what_is_not_built_what_passed_and_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("THINWALLS_IMPL", str(tmp_path))
    source = course.stub(course.reference(course.stage("1")))
    (tmp_path / "stage01_chroot.py").write_text(source)
    check("1.1")
    said = capsys.readouterr().out
    assert said == "task 1.1 is not built yet: Root.inside() in stages/stage01_chroot.py; then ./walls check 1.1\n"

    call = '    raise NotImplementedError("task 1.1 is not built yet")'
    (tmp_path / "stage01_chroot.py").write_text(source.replace(call.strip(), "os.chroot(self.rootfs)"))
    check("1.1")
    said = capsys.readouterr().out
    assert "0 / 1" in said
    assert "its working directory is the rootfs too" in said
    assert "Traceback" not in said

    monkeypatch.setenv("THINWALLS_IMPL", "solutions")
    check("1.1")
    assert capsys.readouterr().out.split() == ["1.1", "Another", "directory", "for", "/", "1", "/", "1"]


@pytest.mark.parametrize("task", ["9.9", "", "one"])
def test_check_never_raises(task, capsys):
    check(task)
    assert "cannot be checked here: there is no task" in capsys.readouterr().out


# The first table


def test_start_times_compares_process_container_and_a_machine_from_here_or_labelled_as_stored():
    rows = lesson.start_times(repetitions=5, machines=0)
    assert [row.what for row in rows] == ["process", "container", "virtual machine"]
    assert [len(row.samples) for row in rows[:2]] == [5, 5]
    stored, _, why = rows[2].where.partition(" (")
    assert stored == "stored: measured on another machine, QEMU without KVM: emulated"
    assert why == "here: no virtual machine was asked for)"
    lines = lesson.table(rows).splitlines()
    assert len(lines) == 4
    assert " ms " in lines[1]
    assert "1.0x" in lines[1]


def test_the_stored_figures_say_where_they_are_from():
    stored = json.loads(lesson.STORED.read_text())
    assert set(stored["machine"]) == {"kernel", "arch", "cpus"}
    assert stored["date"]
    assert stored["qemu"].startswith("QEMU")
    assert all(len(start["samples"]) >= 5 for start in stored["starts"])
