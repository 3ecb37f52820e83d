"""Containers and virtual machines measured: every experiment runs with small numbers, and what it gives is well-formed."""

import itertools
import json
import os
import platform
import re
import struct
import subprocess
import sys
import time
import xml.dom.minidom
from pathlib import Path

import machine_state
import pytest

from thinwalls import cli, course, doctor, machine, notebook
from thinwalls.host import Keeper
from thinwalls.machine import Machine, Unmeasurable
from thinwalls.measure import bare, claims, figures, guest, memory
from thinwalls.measure.shown import Shown, slope
from thinwalls.plot import Plot, short

HAS_QEMU = figures.machine_is_there()
needs_qemu = pytest.mark.skipif(not HAS_QEMU, reason="there is no QEMU, or no kernel to boot")
once = pytest.mark.skipif(
    bool(os.environ.get("CI") and os.geteuid()), reason="in CI machines are booted in root's lane"
)
WHERE = ("process", "container", "machine")


@pytest.fixture(scope="module")
def place():
    with pytest.MonkeyPatch.context() as patch, Keeper() as keeper:
        patch.setenv("THINWALLS_IMPL", "solutions")
        yield claims.Place(keeper, notebook.stages([]), False, claims.SMALL)


def no_qemu(monkeypatch):
    def missing(*_):
        raise Unmeasurable("there is no qemu-system-x86_64")

    monkeypatch.setattr(machine, "qemu", missing)


# Experiments in a throwaway host


def test_a_containers_namespaces_are_its_own_and_some_are_shared(place):
    found = claims.share(place)
    assert set(found["own"]) == {"ipc", "mnt", "net", "pid", "uts"}
    assert set(found["shared"]) == {"cgroup", "time", "user"}
    assert ("limits" in found) == bool(place.keeper.cgroup)
    if "limits" in found:
        assert (found["limits"]["memory"], found["limits"]["pids"]) == (str(64 * 2**20), "32")
        assert found["limits"]["quota"].split()[0] == "50000"


def test_what_a_process_reaches_of_another_a_container_does_not(place):
    found = claims.isolation(place)
    assert set(found["process"]) == set(found["container"])
    assert len(found["process"]) == 5
    assert all(answer.startswith("yes") for answer in found["process"].values())
    assert all(answer.startswith("no") for answer in found["container"].values())


def test_containers_talk_by_the_network_by_a_volume_and_by_what_the_kernel_counts(place):
    found = claims.communication(place)
    assert found["apart"]["a file in a volume of both"] == "a word"
    assert found["apart"]["TCP"].startswith("nothing")
    assert found["apart"]["counting the machine's open files"].startswith("the letter ")
    for way in ("a file in /tmp", "an abstract Unix socket", "System V shared memory"):
        assert found["apart"][way].startswith("nothing")
    if found["on one bridge"]:
        assert found["on one bridge"]["TCP"] == "a word"


def test_a_container_of_the_same_image_begins_as_the_first_did(place, monkeypatch):
    no_qemu(monkeypatch)
    found = claims.disposable(place)["container"]
    assert found["first"] == found["third"] != found["second, changed"]
    assert found["without a layer, changed"] == found["without a layer, next"] != found["first"]


def test_many_at_once_give_a_row_for_each_number(place, monkeypatch):
    no_qemu(monkeypatch)
    found = claims.many(place)
    assert found.pop("no machine") == "of 1 at once: there is no qemu-system-x86_64"
    assert set(found) == {"process", "container"}
    for rows in found.values():
        assert [row["n"] for row in rows] == list(claims.SMALL.processes)
        assert all(row["up"] > 0 and row["down"] > 0 and row["pss"] > 2**18 for row in rows)
        assert all((row["cgroup"] or 0) > 2**12 or not place.keeper.cgroup for row in rows)


def test_why_there_are_no_machines_at_once_is_kept_also_where_some_are(place, monkeypatch):
    monkeypatch.setattr(place, "host", lambda *_: [])
    monkeypatch.setattr(claims, "_affordable", lambda _: [1, 2])
    monkeypatch.setattr(claims, "_machines", lambda _, count: {"n": 1} if count == 1 else no_second())

    def no_second():
        raise Unmeasurable("it hung")

    found = claims.many(place)
    assert (found["machine"], found["no machine"]) == ([{"n": 1}], "of 2 at once: it hung")
    assert figures.missing(found) == ["  machine: not measured, because of 2 at once: it hung"]
    monkeypatch.setattr(claims, "_affordable", lambda _: [])
    found = claims.many(place)
    assert "machine" not in found and found["no machine"] == "less than 400 MiB of memory are free"


def test_a_start_is_timed_and_its_system_calls_are_counted_where_strace_is(place, monkeypatch):
    no_qemu(monkeypatch)
    found = claims.lightness(place)
    assert [len(found["starts"][name]) for name in ("process", "container")] == [2, 2]
    assert "machine" not in found["starts"] and found["no machine"] == "there is no qemu-system-x86_64"
    assert found["disk"]["container"] > 2**20
    if "calls" in found:
        assert 20 < found["calls"]["process"] < found["calls"]["container"]
    else:
        assert found["no calls"] == "there is no strace"


def test_an_image_takes_time_and_files(place):
    found = claims.setting_up(place)
    assert len(found["seconds"]) == 3
    assert found["files"] >= found["programs"]


def test_without_qemu_every_experiment_says_what_is_missing_or_gives_what_it_can(place, monkeypatch):
    no_qemu(monkeypatch)
    found = claims.measure(place, "computer")
    assert set(found["answers"]) == {"process", "container"}
    assert found["answers"]["process"]["kernel"] == found["answers"]["container"]["kernel"] == os.uname().release
    for name in ("architecture", "in a machine", "nesting"):
        assert "there is no qemu" in claims.measure(place, name)["not measured"]


# The programs that were written by hand


def test_the_programs_are_what_their_formats_ask_for():
    sector = bare.counting_computer(5)
    assert (len(sector), sector[-2:]) == (512, b"\x55\xaa")
    program = bare.counting_program(5)
    assert program[:4] == b"\x7fELF"
    assert struct.unpack_from("<Q", program, 24)[0] == 0x400000 + 120
    assert len(bare.arm()) % 4 == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is for x86-64")
def test_the_counting_program_counts():
    bare.run_program(bare.counting_program(1000))
    assert bare.run_program(bare.counting_program(200_000_000)) > bare.run_program(bare.counting_program(1000))


def test_a_program_for_another_processor_does_not_run_here():
    assert bare.not_for_this_machine() in (
        "Exec format error",
        "it runs: this machine has an emulator registered (binfmt_misc)",
    )


def test_the_initramfs_holds_an_init_a_shell_and_a_console():
    archive = machine.small()
    names, at = {}, 0
    while not names.get("TRAILER!!!"):
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        assert name not in names, "a member twice"
        names[name] = fields[1] or 1
        at += 110 + fields[11]
        at += -at % 4 + fields[6]
        at += -at % 4
    assert names["init"] == 0o100755
    assert names["dev/console"] == 0o020600
    assert names["bin/sh"] & 0o111
    assert at == len(archive)
    for name in names:
        parent = name.rpartition("/")[0]
        assert not parent or parent in names, f"{name} has no directory to be in"


def test_a_guest_has_the_python_and_the_stages_that_it_runs(place):
    archive = guest.with_containers(place.files, "print(1)")
    for name in ("course/measured/inside.pyc", "course/stages/stage04_cgroups.pyc", "course/thinwalls/linux.pyc"):
        assert f"{name}\0".encode() in archive
    assert b"srv/rootfs/bin/sh\0" in archive


# Machines


@needs_qemu
@once
@pytest.mark.slow
def test_a_machine_learns_another_kernel_clock_and_memory_than_a_container(place):
    before = machine_state.snapshot()
    found = claims.computer(place)["answers"]
    assert set(found) == set(WHERE)
    asked = set(re.findall(r"^ask '?([a-z ]+?)'? [a-z]+ ", claims.ASK, re.MULTILINE))
    assert all(asked <= set(answers) for answers in found.values()), asked
    assert found["machine"]["clock"] == "2001"
    for what in ("boot id", "switched on", "memory"):
        assert found["process"][what] == found["container"][what] != found["machine"][what]
    assert machine_state.difference(before, machine_state.settled(before)) == []


@needs_qemu
@once
@pytest.mark.slow
def test_containers_run_in_a_machine_and_are_counted(place):
    found = claims.in_a_machine(place)
    assert [row["n"] for row in found["containers"]] == [1]
    assert found["containers"][0]["up"] > found["machine up"] > 0
    assert found["containers"][0]["pss"] > 2**20
    assert len(found["starts in it"]["container"]) == 1


@needs_qemu
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the boot sector is for a PC")
def test_a_computer_without_a_kernel_counts_and_switches_itself_off():
    before = machine_state.snapshot()
    found = bare.run_computer(bare.counting_computer(1000), False, 30)
    assert found["whole"] > found["first word"] > 0
    assert machine_state.difference(before, machine_state.settled(before)) == []


@pytest.mark.skipif(not machine.shutil.which("qemu-system-aarch64"), reason="there is no qemu-system-aarch64")
def test_an_emulated_arm_says_who_it_is():
    assert re.fullmatch("an ARM processor, number [0-9a-f]{8}", bare.run_arm())


def test_a_machine_that_cannot_boot_is_a_reason_not_a_figure(monkeypatch):
    monkeypatch.setattr(machine, "qemu", lambda *_: "/bin/false")
    monkeypatch.setattr(machine, "kernel", lambda: "/dev/null")
    with pytest.raises(Unmeasurable, match="the machine ended"):
        machine.boot(False, 5)


def test_a_machine_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(machine, "qemu", lambda *_: "/bin/false")
    with Machine(b"", wrapper=("/bin/sh", "-c", "exec sleep 100")) as hanging:
        with pytest.raises(Unmeasurable, match="did not get so far in time"):
            hanging.line("up", 0.1)
    assert not os.path.exists(f"/proc/{hanging.pid}")


@needs_qemu
@pytest.mark.skipif(not machine.shutil.which("setpriv"), reason="there is no setpriv")
def test_a_machine_ends_with_whoever_started_it():
    code = """if True:
        import os
        from thinwalls.machine import Machine
        pid = Machine(b"", memory=16).pid
        while b"qemu" not in open(f"/proc/{pid}/cmdline", "rb").read().partition(b"\\0")[0]:
            pass  # it is setpriv(1) still
        print(pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=course.ROOT)
    pid = int(ended.stdout)
    deadline = time.monotonic() + 10
    while (found := Path(f"/proc/{pid}/stat")).exists() and found.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "QEMU goes on"
        time.sleep(0.02)


# Figures, kept and shown


def written(path, **changes):
    found = {
        "schema": figures.SCHEMA,
        "date": "2026-01-02",
        "label": "KVM",
        "machine": figures.describe() | {"qemu": "QEMU 9"},
        "claims": {name: {"not measured": "in a test"} for name in claims.CLAIMS},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found | changes))


def test_ones_own_figures_take_the_place_of_the_stored_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("THINWALLS_IMPL", raising=False)
    assert "measured on another machine" in figures.load()[1]
    written(figures.own())
    found, sentence = figures.load()
    assert found["date"] == "2026-01-02"
    assert "yours, measured on this machine" in sentence and "with KVM" in sentence
    monkeypatch.setenv("THINWALLS_IMPL", "solutions")
    assert "measured on another machine" in figures.load()[1]


def test_what_ones_own_run_has_not_measured_is_shown_from_the_courses_and_labelled(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("THINWALLS_IMPL", raising=False)
    rows = [
        {"n": 1, "up": 1, "pss": 1e6, "cgroup": None, "down": 1},
        {"n": 2, "up": 2, "pss": 3e6, "cgroup": None, "down": 1},
    ]
    own = {name: {"not measured": "in a test"} for name in claims.CLAIMS} | {
        "many": {"process": rows, "container": rows}
    }
    written(figures.own(), claims=own)
    shown = Shown()
    assert shown.find("many", "process") == (rows, "KVM")
    theirs = json.loads(figures.STORED.read_text())
    assert shown.find("many", "machine") == (theirs["claims"]["many"]["machine"], f"{theirs['label']}, the course's")
    curves = shown.memory().curves
    assert curves["processes"] == [(1, 1.0), (2, 3.0)]
    assert f"machines, {theirs['label']}, the course's" in curves
    assert list(shown.in_a_machine("pss").curves) == [
        "containers here",
        f"machines, {theirs['label']}, the course's",
        f"containers in one, {theirs['label']}, the course's",
    ]
    for text in (shown.answers(), shown.tries(), shown.ways(), shown.levels(), shown.starts()):
        assert "the course's" in text
    assert shown.each()["containers"] == pytest.approx(2)
    with pytest.raises(LookupError):
        shown.find("many", "lorry")


def test_everything_the_lesson_shows_can_be_shown(monkeypatch):
    monkeypatch.setenv("THINWALLS_IMPL", "solutions")
    shown = Shown()
    for text in (shown.starts(), shown.answers(), shown.tries(), shown.ways(), shown.levels()):
        lines = text.splitlines()
        assert len(lines) >= 4
        assert max(map(len, lines)) <= 110, text
    for plot in (shown.memory(), shown.memory("cgroup"), shown.up(), shown.down()):
        assert len(plot.curves) == 3
        assert all(len(points) == 4 for points in plot.curves.values())
        xml.dom.minidom.parseString(plot.svg())
    for what in ("up", "pss"):
        assert len(shown.in_a_machine(what).curves) == 3


def test_a_slope_is_what_one_more_takes():
    assert slope([(1, 5), (2, 7), (4, 11)]) == pytest.approx(2)
    assert slope([(2, 8)]) == 4


@pytest.mark.parametrize("changes", [{"schema": "other/v9"}, {"claims": {}}, {"machine": {}}, {"claims": None}])
def test_figures_that_are_damaged_are_passed_over(tmp_path, monkeypatch, changes):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("THINWALLS_IMPL", raising=False)
    written(figures.own(), **changes)
    assert "the course's" in figures.load()[1]
    figures.own().write_text("{")
    assert "the course's" in figures.load()[1]


def test_the_stored_figures_are_whole_and_say_where_they_are_from():
    found = json.loads(figures.STORED.read_text())
    assert found["schema"] == figures.SCHEMA
    assert set(found["claims"]) == set(claims.CLAIMS)
    assert [name for name, each in found["claims"].items() if "not measured" in each] == []
    assert found["label"] in ("emulated", "KVM")
    assert (found["label"] == "KVM") == (found["why no KVM"] == "")
    assert all(found["machine"][what] for what in ("kernel", "arch", "processor", "cpus", "memory", "python", "qemu"))
    assert found["stages"] == "solutions"
    assert [row["n"] for row in found["claims"]["many"]["machine"]] == [1, 2, 4, 8]


def test_the_command_measures_keeps_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("THINWALLS_IMPL", "solutions")
    no_qemu(monkeypatch)
    monkeypatch.setattr(claims, "Sizes", lambda: claims.SMALL)
    target = tmp_path / "figures.json"
    assert cli.main(["bench", "vm", "--json", str(target)]) == 0
    said = capsys.readouterr().out
    for name in ("computer", "lightness", "many"):
        assert re.search(rf"^  {name} .* s  machine: not measured, because .*there is no qemu", said, re.MULTILINE)
    assert f"no virtual machines: there is no qemu-system-x86_64: {figures.install()}" in said
    assert target.read_text() == figures.own().read_text()
    monkeypatch.delenv("THINWALLS_IMPL")
    assert "yours" in figures.load()[1]
    assert json.loads(target.read_text())["claims"]["nesting"] == {"not measured": "there is no qemu-system-x86_64"}


def test_the_command_refuses_what_it_does_not_know(capsys):
    assert cli.main(["bench", "machines"]) == 2
    assert cli.main(["bench", "vm", "--json", "/no/such/folder/file"]) == 2
    assert "there is no folder" in capsys.readouterr().err
    for words in (["--samples", "3"], ["--docs"], ["--image", "file"]):
        assert cli.main(["bench", "vm", *words]) == 2


@pytest.mark.parametrize(
    ("release", "says"),
    [
        ({"ID": "debian"}, "apt install qemu-system-"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt install qemu-system-"),
        ({"ID": "fedora"}, "dnf install qemu-system-"),
        ({"ID": "opensuse-leap"}, "zypper install qemu-"),
        ({"ID": "unheard-of"}, "install the program qemu-system-"),
        ({}, "install the program qemu-system-"),
    ],
)
def test_what_to_install_is_said_for_this_distribution(release, says):
    assert figures.install(release).startswith(says)


def test_a_kernel_that_may_not_be_read_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "qemu", lambda *_: "/bin/false")
    monkeypatch.setattr(machine, "kernels", lambda: iter([]))
    monkeypatch.setattr(figures, "Path", lambda _: tmp_path)
    assert figures.lack() == f"there is no kernel image that we may read: {figures.install()}"
    (tmp_path / "vmlinuz-6").touch()
    assert figures.lack().endswith(f"sudo chmod a+r {tmp_path}/vmlinuz-6")
    monkeypatch.setattr(machine, "kernels", lambda: iter(["/boot/vmlinuz"]))
    assert figures.lack() == ""


def test_kvm_is_used_only_if_it_boots(monkeypatch):
    monkeypatch.setattr(machine, "kvm", lambda: "")

    def boot(*_, **__):
        raise Unmeasurable("it hung")

    monkeypatch.setattr(machine, "boot", boot)
    assert figures.accelerator() == (False, "/dev/kvm is there and does not boot a kernel: it hung")
    monkeypatch.setattr(machine, "boot", lambda *_, **__: 1.0)
    assert figures.accelerator() == (True, "")


def test_a_group_that_counts_is_gone_afterwards():
    before = machine_state.snapshot()
    with memory.Group() as group:
        assert group.bytes() is None or group.bytes() >= 0
    assert machine_state.difference(before, machine_state.settled(before)) == []


def test_memory_and_calls_are_read_as_the_kernel_and_strace_write_them():
    assert memory.pss(os.getpid()) > 2**20
    assert memory.pss(2**22 + 1) == 0
    table = "% time     seconds  usecs/call     calls    errors syscall\n100.00    0.000123           1       104         3 total\n"
    assert memory.calls(table) == 104


# Plots


def test_a_plot_is_a_picture_and_a_table_that_says_the_same():
    plot = Plot("Memory & more", "MB", "how many", {"a": [(1, 3.5), (2, 7)], "b": [(1, 900)]})
    assert str(plot).splitlines() == [
        "Memory & more (MB)",
        f"{'how many':<10}{1:>9}{2:>9}",
        f"{'a':<10}{3.5:>9}{7:>9}",
        f"{'b':<10}{900:>9}",
    ]
    drawn = xml.dom.minidom.parseString(plot.svg())
    assert drawn.getElementsByTagName("desc")[0].firstChild.data == str(plot)
    lines = drawn.getElementsByTagName("polyline")
    assert len({line.getAttribute("stroke-dasharray") for line in lines}) == 2
    assert {line.getAttribute("stroke") for line in lines} == {"currentColor"}
    labels = [each.firstChild.data for each in drawn.getElementsByTagName("text")]
    assert {"a", "b", "how many", "Memory & more (MB)"} <= set(labels)


def test_a_long_name_beside_a_curve_is_broken_and_none_covers_another():
    plot = Plot("t", "s", "n", {"machines, emulated, the course's": [(1, 9)], "b": [(1, 9)], "c": [(1, 8.9)]})
    drawn = xml.dom.minidom.parseString(plot.svg()).getElementsByTagName("text")
    names = {each.firstChild.data: each for each in drawn if each.getAttribute("x") == "544"}
    assert set(names) == {"machines, emulated,", "the course's", "b", "c"}
    heights = sorted(float(each.getAttribute("y")) for each in names.values())
    assert all(after - before >= 16 for before, after in itertools.pairwise(heights))


def test_one_kind_has_one_sign_in_all_plots(monkeypatch):
    monkeypatch.setenv("THINWALLS_IMPL", "solutions")
    shown, signs = Shown(), {}
    for plot in (shown.up(), shown.in_a_machine("up")):
        drawn = xml.dom.minidom.parseString(plot.svg())
        for name, line in zip(plot.curves, drawn.getElementsByTagName("polyline"), strict=True):
            dashes = signs.setdefault(name.removesuffix(" here"), line.getAttribute("stroke-dasharray"))
            assert dashes == line.getAttribute("stroke-dasharray"), name
    assert len(set(signs.values())) == len(signs) == 4


def test_in_a_plot_more_is_higher():
    for logarithmic in (False, True):
        plot = Plot("t", "s", "n", {"a": [(1, 1), (2, 10), (3, 100)]}, logarithmic)
        way = xml.dom.minidom.parseString(plot.svg()).getElementsByTagName("polyline")[0].getAttribute("points")
        heights = [float(point.split(",")[1]) for point in way.split()]
        assert heights == sorted(heights, reverse=True)


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [(1, 0)]}, dict.fromkeys("abcde", [(1, 1)])])
def test_what_cannot_be_drawn_is_refused(curves):
    with pytest.raises(ValueError, match="can be drawn"):
        Plot("t", "s", "n", curves, True).svg()


def test_numbers_are_shown_as_people_read_them():
    assert [short(number) for number in (0.012345, 3.5, 12.34, 1234.5)] == ["0.0123", "3.5", "12.3", "1,234"]


def test_doctor_and_this_lesson_look_for_the_same_qemu():
    row = next(row for row in doctor.examine() if row.name == "QEMU")
    assert (row.state != doctor.MISSING) == HAS_QEMU or not list(machine.kernels())
