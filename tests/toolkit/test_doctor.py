"""The doctor: tries everything, hangs on nothing, leaves nothing, and names the cause and the mend in its rows.

What can be made to happen on any machine is made to happen; the rest is put in its way. Why no host can be made is in
test_causes.py.
"""

import errno
import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from thinwalls import causes, cli, course, distribution, doctor, report
from thinwalls.doctor import LIMITED, MISSING, OK, Capability


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_every_capability_has_a_row_and_every_lack_a_mend(tmp_path):
    rows = doctor.examine()
    names = [row.name for row in rows]
    assert names == [
        "Python", "packages", "kernel", "architecture", "throwaway host", "user ids", "memory bound", "small rootfs",
        "disk: cache", "disk: checkout", "overlayfs", "upper layer", "ip", "nft", "QEMU",
    ]  # fmt: skip
    for row in rows:
        assert row.state in (OK, LIMITED, MISSING)
        assert row.found
        assert bool(row.mend) == (row.state != OK), row
        assert set(row.stages) <= set(doctor.EVERY)
        assert "check broke" not in row.found
    assert doctor.able(rows), "the tests themselves need what the stages need"
    text = doctor.as_text(rows)
    for line in text.splitlines():
        assert len(line) <= report.width() or len(line.split()) == 1, (
            "only a word that cannot be broken, a path, is longer"
        )
    assert list(tmp_path.iterdir()) == [], "it leaves nothing behind"
    body = json.loads(doctor.as_json(rows))
    assert body["able"] is True
    assert [row["name"] for row in body["capabilities"]] == names


@pytest.mark.parametrize(
    ("row", "status"),
    [
        (Capability("x", OK, "found", doctor.EVERY), 0),
        (Capability("x", LIMITED, "found", doctor.EVERY, "mend"), 0),
        (Capability("x", MISSING, "found", (), "mend"), 0),
        (Capability("x", MISSING, "found", ("06",), "mend"), 0 if len(course.stages()) < 7 else 3),
        (Capability("x", MISSING, "found", ("01",), "mend"), 3),
    ],
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_exit_status_counts_what_existing_stages_need(monkeypatch, capsys, row, status, options):
    monkeypatch.setattr(doctor, "examine", lambda: [row])
    assert cli.main(["doctor", *options]) == status
    out = capsys.readouterr().out
    assert "found" in out
    assert ("mend" in out) == (options == ["--json"] or row.state != OK)


def test_a_check_that_hangs_is_ended_with_all_it_started(monkeypatch, tmp_path):
    def _hangs(scratch):
        (tmp_path / "pid").write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    def _breaks(scratch):
        raise RuntimeError("by chance")

    monkeypatch.setattr(doctor, "_CHECKS", (_hangs, _breaks))
    monkeypatch.setattr(doctor, "_PATIENCE", 0.5)
    began = time.monotonic()
    hung, broken = doctor.examine()
    assert time.monotonic() - began < 20, "it waited for what hangs"
    assert (hung.name, hung.state) == ("hangs", MISSING)
    assert "no answer" in hung.found
    assert "RuntimeError: by chance" in broken.found
    left = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    for _ in range(100):
        if not left.exists() or left.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("what the check had started still runs")


def test_no_place_for_temporary_files_is_a_row(monkeypatch):
    def refuse(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)
    (row,) = doctor.examine()
    assert (row.name, row.state) == ("temporary files", MISSING)


def test_a_full_or_forbidden_disk_is_seen(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 10**6})())
    assert [row.state for row in doctor._disk(tmp_path)] == [MISSING, MISSING]
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert doctor._disk(tmp_path)[0].mend.endswith("set XDG_CACHE_HOME to a directory that is yours.")


def test_a_file_system_without_modes_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    for row in doctor._disk(tmp_path):
        assert row.state == LIMITED
        assert f"({causes.file_system(course.ROOT)}) that does not keep the modes" in row.found or "cache" in row.name
        assert "/mnt/c" in row.mend


# Rows of a process in which it is so: in a mount namespace of its own, or behind a filter.

ROWS = """
import sys
from pathlib import Path
from thinwalls import doctor
for row in getattr(doctor, sys.argv[1])(Path(sys.argv[2])):
    print(row.state, row.name, "|", row.found, "|", row.mend)
"""
MOUNTS = ["unshare", "-Um", "--map-root-user", "sh", "-euc"]


def rows_in(script: str, check: str, scratch: Path, *words: str) -> list[str]:
    """The rows of a check, one a line, where a shell has made mounts with this script first; words: its $1, $2 ..."""
    python = [sys.executable, "-B", "-c", ROWS, check, str(scratch)]
    command = [*MOUNTS, script + f'\nshift {len(words)}; exec "$@"', "sh", *words, *python]
    done = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_checkout_that_is_mounted_noexec_is_seen(tmp_path):
    remount = 'mount --rbind "$1" "$1"; mount -o remount,bind,noexec "$1"'
    cache, checkout = rows_in(remount, "_disk", tmp_path, str(course.ROOT))
    assert cache.startswith("ok")
    assert checkout.startswith("limited disk: checkout")
    assert f"{course.ROOT} is on a file system that is mounted noexec" in checkout


def test_packages_that_are_there_and_cannot_be_loaded_are_seen(tmp_path):
    import zmq

    folder = str(Path(zmq.__file__).parent)
    _, packages = rows_in('mount --bind "$1" "$1"; mount -o remount,bind,noexec "$1"', "_python", tmp_path, folder)
    assert packages.startswith("missing packages | zmq cannot be loaded: failed to map segment")


def test_an_overlay_cannot_hold_an_upper_layer_and_its_type_is_named(tmp_path):
    nested = 'mount -t tmpfs t "$1"; cd "$1"; mkdir l u w m; '
    nested += "mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m; mkdir m/tmp"
    lower, upper = rows_in(nested, "_overlay", tmp_path / "m/tmp/scratch/check", str(tmp_path))
    assert lower.startswith("ok")
    assert upper.startswith("limited upper layer")
    assert f"{tmp_path}/m/tmp cannot hold an overlay's upper layer: its file system is overlay (Invalid arg" in upper
    assert "set TMPDIR to a directory on ext4" in upper


def test_a_cache_on_an_overlay_of_an_overlay_is_seen(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "two"))
    nested = 'mount -t tmpfs t "$1"; cd "$1"; mkdir l u w one u2 w2 two tmp; '
    nested += "mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w one; "
    nested += "mount -t overlay o -o lowerdir=one,upperdir=u2,workdir=w2 two"
    lower, upper = rows_in(nested, "_overlay", tmp_path / "tmp/scratch/check", str(tmp_path))
    assert lower.startswith("limited overlayfs")
    assert f"no overlay can be mounted with a lower layer in {tmp_path}/two (overlay): Invalid argument" in lower
    assert upper.startswith("ok")


FILTER = """
import runpy, struct, sys
from thinwalls import linux
code = [(0x20, 0, 0, 0), (0x15, 0, 1, int(sys.argv[1])), (0x06, 0, 0, 0x00050000 | int(sys.argv[2])), (0x06, 0, 0, 0x7FFF0000)]
linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
linux.set_seccomp_filter(b"".join(struct.pack("HBBI", *each) for each in code))
"""


def test_an_old_kernel_is_seen_by_what_it_does_not_know(tmp_path):
    python = [sys.executable, "-B", "-c", FILTER + ROWS.replace("argv[1]", "argv[3]").replace("argv[2]", "argv[4]")]
    command = [*python, "442", str(errno.ENOSYS), "_kernel", str(tmp_path)]  # 442: mount_setattr, on every machine
    done = subprocess.run(command, cwd=course.ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert f"missing kernel | Linux {platform.release()} has no mount_setattr |" in done.stdout


@pytest.mark.parametrize(
    ("release", "kind"),
    [
        ("4.4.0-19041-Microsoft", 1),
        ("5.15.90.1-microsoft-standard-WSL2", 2),
        ("6.6.1-custom-WSL2+", 2),
        ("6.8.0-45-generic", 0),
    ],
)
def test_wsl_is_known_by_its_release(monkeypatch, tmp_path, release, kind):
    monkeypatch.setattr(platform, "release", lambda: release)
    assert causes.wsl() == kind
    kernel = doctor._kernel(tmp_path)[0]
    assert (kernel.state == MISSING) == (kind == 1)
    if kind == 1:
        assert "has no namespaces at all" in kernel.found
        assert "wsl --set-version" in kernel.mend
        assert causes.no_host("x").cause == kernel.found

    def old(*_, **__):
        raise OSError(errno.ENOSYS, "no")

    monkeypatch.setattr("thinwalls.linux.openat2", old)
    assert ("wsl --update" in doctor._kernel(tmp_path)[0].mend) == (kind == 2)


# The programs of stage 5: others stand in their place.


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A function that puts a shell script in a folder in which programs are looked for: (folder's number, name, text)."""
    real = {name: shutil.which(name, path=causes.SEARCH) for name in ("ip", "nft")}
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    for module in (causes, doctor):
        monkeypatch.setattr(module, "SEARCH", ":".join(map(str, folders)))
    monkeypatch.setattr(causes, "_MODULES", tmp_path / "none")

    def put(number: int, name: str, text: str) -> str:
        path = folders[number] / name
        path.write_text(f"#!/bin/sh\nreal={real[name]}\n{text}\n")
        path.chmod(0o755)
        return str(path)

    return put


@pytest.mark.parametrize("name", ["ip", "nft"])
def test_a_program_that_is_nowhere_or_out_of_sight_is_missing(name, tools, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    (row,) = getattr(doctor, f"_{name}")(tmp_path)
    assert (row.state, row.found, row.mend) == (MISSING, f"there is no program {name}", distribution.install(name))
    there = tools(0, name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path / "first"))
    for module in (causes, doctor):
        monkeypatch.setattr(module, "SEARCH", str(tmp_path))
    (row,) = getattr(doctor, f"_{name}")(tmp_path)
    assert row.state == MISSING
    assert f"only {there}, which a host does not see" in row.found


BUSYBOX = "echo 'BusyBox v1.36.1 (2024-06-10) multi-call binary.' >&2; echo 'Usage: ip [OPTIONS]' >&2; exit 1"


def test_an_ip_of_busybox_is_recognised(tools, tmp_path):
    path = tools(0, "ip", BUSYBOX)
    (row,) = doctor._ip(tmp_path)
    assert (row.state, row.found) == (LIMITED, f"{path} is busybox's, which knows no -batch")
    assert row.mend == distribution.install("ip")


@pytest.mark.skipif(not shutil.which("busybox"), reason="no busybox here")
def test_busybox_itself_is_recognised(tools, tmp_path):
    os.symlink(shutil.which("busybox"), tmp_path / "first/ip")
    assert "is busybox's" in doctor._ip(tmp_path)[0].found


@pytest.mark.parametrize(("name", "text"), [("ip", BUSYBOX), ("nft", "echo broken >&2; exit 1")])
def test_a_program_that_stands_before_a_better_one_is_named(name, text, tools, tmp_path):
    worse, better = tools(0, name, text), tools(1, name, 'exec $real "$@"')
    (row,) = getattr(doctor, f"_{name}")(tmp_path)
    assert f"{worse} stands before {better}" in row.found
    assert row.mend == f"remove or rename {worse}."


@pytest.mark.parametrize("name", ["ip", "nft"])
def test_one_that_works_has_a_good_row(name, tools, tmp_path):
    tools(0, name, 'exec $real "$@"')
    assert getattr(doctor, f"_{name}")(tmp_path)[0].state == OK


REFUSES = "text=$(cat); case $text in *'{}'*) echo 'Error: Could not process rule: No such file or directory' >&2; exit 1;; esac\n"


@pytest.mark.parametrize(
    ("word", "what", "module"),
    [
        ("type nat", "nat chains", "nft_chain_nat"),
        ("masquerade", "masquerade", "nft_masq"),
        ("dnat", "dnat", "nft_nat"),
        ("fib", "fib", "nft_fib_ipv4"),
    ],
)
def test_what_the_packet_filter_lacks_is_named_with_its_module(word, what, module, tools, tmp_path, monkeypatch):
    tools(0, "nft", REFUSES.format(word) + 'echo "$text" | exec $real "$@"')
    (row,) = doctor._nft(tmp_path)
    assert row.state == LIMITED
    assert row.found.startswith(f"nft knows tables here, but not {what}:")
    assert "nft: Error: Could not process rule" in row.found
    assert f"sudo modprobe -a {module};" in row.mend
    monkeypatch.setattr(platform, "release", lambda: "5.10.102.1-microsoft-standard-WSL2")
    assert "wsl --update" in doctor._nft(tmp_path)[0].mend


def test_a_kernel_without_tables_or_whose_modules_are_gone_is_told(tools, tmp_path, monkeypatch):
    tools(0, "nft", "echo 'netlink: Error: Operation not supported' >&2; exit 1")
    assert "sudo modprobe nf_tables" in doctor._nft(tmp_path)[0].mend
    (tmp_path / "modules/5.0.0").mkdir(parents=True)
    monkeypatch.setattr(causes, "_MODULES", tmp_path / "modules")
    (row,) = doctor._nft(tmp_path)
    assert f"there is no {tmp_path}/modules/{platform.release()}" in row.found
    assert row.mend == "restart the machine."


# The virtual machine.


def test_kvm_is_no_promise(monkeypatch, tmp_path):
    qemu = tmp_path / f"qemu-system-{platform.machine()}"
    monkeypatch.setattr(doctor, "SEARCH", str(tmp_path))
    (row,) = doctor._virtual_machine(tmp_path)
    assert (row.state, row.mend) == (MISSING, f"only for comparing: {distribution.install('QEMU')}")
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 9\necho more\n")
    qemu.chmod(0o755)
    monkeypatch.setattr(doctor, "_KVM", tmp_path / "kvm")
    (row,) = doctor._virtual_machine(tmp_path)
    assert row.state == LIMITED
    assert "QEMU emulator version 9, without KVM" in row.found
    (tmp_path / "kvm").write_text("")
    monkeypatch.setattr(fcntl, "ioctl", lambda *_: os.open("/dev/null", os.O_RDONLY))
    (row,) = doctor._virtual_machine(tmp_path)
    assert row.state == OK
    assert "whether a machine boots with it is tried by ./walls bench vm" in row.found
    assert "with KVM" not in row.found


# The distribution's command.

RELEASES = [
    ("ID=debian\n", "apt install iproute2"),
    ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "apt install iproute2"),
    ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt install iproute2"),
    ("# a comment\nID=fedora\n", "dnf install iproute"),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install iproute"),
    ("ID=arch\n", "pacman -S iproute2"),
    ("ID=manjaro\nID_LIKE=arch\n", "pacman -S iproute2"),
    ("ID=alpine\n", "apk add iproute2"),
    ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "zypper install iproute2"),
    ('ID="sles"\nID_LIKE="suse"\n', "zypper install iproute2"),
]


@pytest.mark.parametrize(("text", "command"), RELEASES)
@pytest.mark.parametrize("euid", [0, 1000])
def test_the_mend_is_the_distributions_own_command(text, command, euid, monkeypatch, tmp_path):
    (tmp_path / "os-release").write_text(text)
    monkeypatch.setattr(distribution, "RELEASES", (tmp_path / "none", tmp_path / "os-release"))
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    assert distribution.install("ip") == ("sudo " if euid else "") + command
    for what in distribution.PACKAGES:
        assert distribution.install(what).startswith(("sudo " if euid else "") + command.rpartition(" ")[0])


def test_an_unknown_distribution_gets_words(monkeypatch, tmp_path):
    monkeypatch.setattr(distribution, "RELEASES", ())
    assert distribution.install("nft") == "install the package that has nft (on Debian: nftables)"
