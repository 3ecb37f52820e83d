"""Stage 3, the mount namespace: what is asked of it. How to read these tests: see the top of test_stage00_process.py."""

import errno
import os
import stat

import pytest

from thinwalls import facts

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@pytest.mark.task("3.1")
def test_a_mount_made_inside_never_shows_outside(machine):
    volume = f"/srv/{machine.word()}"
    for place in ("/disk", f"{machine.rootfs}/disk", volume, f"{volume}/below"):
        machine.mount(place)
    machine.share_mounts()
    before, namespaces = machine.runner.mounts(), machine.runner.namespaces()
    machine.did(
        "mounted a disk at /disk, of the machine and of the rootfs, made all mounts shared, as systemd does, launched a "
        "shell behind Filesystem() with another disk as its volume /data, and mounted a ramfs on the /disk that it has, "
        "and one on /data/below (before task 3.5 there is no such volume, and that mount fails, which does no harm)"
    )
    volumes = [machine.made("stage03_mount_namespace.Volume", volume, "/data")]
    walls = [
        machine.made("stage03_mount_namespace.Filesystem", machine.rootfs, volumes),
        machine.beacon("mounts", calls=("inside", "thinwalls.linux.mount", "ramfs", "/disk", "ramfs")),
        machine.beacon("again", calls=("inside", "thinwalls.linux.mount", "ramfs", "/data/below", "ramfs")),
    ]
    machine.call("stage00_process.launch", machine.probe(), walls)
    private = (
        "a new namespace starts as a copy, and shared mounts tell their copies, so pivot_root refuses them: MS_PRIVATE on /, "
        "and with MS_REC on every mount below it"
    )
    probe = machine.meet(maybe=private)
    own = probe.process.namespaces()
    new = sorted(name for name in own if own[name] != namespaces[name])
    machine.expect(
        "it has a mount namespace of its own, and shares the others", new == ["mnt"], ", ".join(new) or "none"
    )
    there = any(mount.point == "/disk" and mount.fstype == "ramfs" for mount in probe.process.mounts())
    machine.expect("the ramfs is there, inside", there, "it is" if there else "it is not")
    added = [mount.point for mount in machine.runner.mounts() if mount not in before]
    machine.expect("nothing was added to the machine's mounts", not added, ", ".join(added) or "nothing", private)
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("3.2")
def test_the_old_root_is_gone_and_the_chroot_escape_with_it(machine):
    machine.mount(f"{machine.rootfs}/disk")
    machine.did(
        "launched a shell behind Filesystem(), where a disk is mounted at /disk of the rootfs, with the escape of task 1.4 "
        "tried before exec"
    )
    walls = [
        machine.made("stage03_mount_namespace.Filesystem", machine.rootfs),
        machine.beacon("stands"),
        machine.beacon("escapes", calls=("inside", "stage01_chroot.escape")),
    ]
    machine.call("stage00_process.launch", machine.probe(), walls)
    jail, root = machine.file(machine.rootfs), machine.runner.root()
    while (step := machine.step()) and (step.wall, step.hook) != ("stands", "inside"):
        pass
    outcome = None if step else machine.outcome()
    machine.expect("the wall goes up", step is not None, outcome or "it does", _refused_by_pivot_root(outcome))
    machine.expect(
        "the machine's own root is what it was",
        machine.runner.root() == root,
        "it is" if machine.runner.root() == root else "it is another directory",
        "without a mount namespace of its own the child changes the machine's",
    )
    child = facts.Process(step.pid)
    yours = "it is" if child.root() == jail else "it is another directory"
    machine.expect("its root is the rootfs", yours == "it is", yours, "inside() calls enter_root(), last of all")
    yours = "it is" if child.cwd() == jail else "it is another directory"
    machine.expect(
        "its working directory is the rootfs too",
        yours == "it is",
        yours,
        "a working directory that stayed in the old root still leads there: chdir",
    )
    mounts = child.mounts()
    known = ("/proc", "/sys", "/dev", "/disk")
    foreign = [mount.point for mount in mounts if mount.point != "/" and not mount.point.startswith(known)]
    machine.expect(
        "its mount table has its root, /disk, /proc, /sys and /dev, and nothing of the machine's",
        not foreign,
        f"{len(foreign)} more: {', '.join(foreign[:3])} ..." if foreign else "nothing else",
        "after pivot_root the old root is still mounted, with all below it: umount it with MNT_DETACH",
    )
    roots = [mount.root for mount in mounts if mount.point == "/"]
    machine.expect(
        "one mount is at /, the rootfs",
        len(roots) == 1 and roots[0].endswith(machine.rootfs),
        ", ".join(roots) or "none",
        "with chroot alone the root of the namespace stays what it was: pivot_root",
    )
    machine.expect(
        "the disk is at /disk",
        "/disk" in [mount.point for mount in mounts],
        "it is" if "/disk" in [mount.point for mount in mounts] else "it is not",
        "without MS_REC a bind mount brings one mount, and nothing of what is mounted below it",
    )
    secret, path = machine.word(), f"/var/{machine.word()}"
    machine.plant(path, f"{secret}\n")
    probe = machine.meet()
    yours = "it is" if probe.process.root() == jail else "it is another directory"
    machine.expect(
        "its root is the rootfs after the escape too",
        yours == "it is",
        yours,
        "chroot changes where one process begins to look, pivot_root what there is to be found",
    )
    answer = probe.ask(f"read -r line <{path} && echo $line || echo hidden")
    machine.expect("a secret outside cannot be read", answer == "hidden", answer)
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("3.3")
def test_proc_and_sys_are_its_own(machine):
    machine.did("launched a shell behind Pids(), Filesystem() and Init()")
    machine.call("stage00_process.launch", machine.probe(), _walls(machine))
    probe = machine.meet(
        maybe="a new proc or sysfs is allowed only while the old ones can be seen (before enter_root), and with the flags "
        "that these have: the machine's /sys is read-only"
    )
    mounts = {mount.point: mount for mount in probe.process.mounts()}
    for point, fstype, options in (
        ("/proc", "proc", {"nosuid", "nodev", "noexec"}),
        ("/sys", "sysfs", {"nosuid", "nodev", "noexec", "ro"}),
    ):
        mount = mounts.get(point)
        machine.expect(
            f"{point} is a mount of type {fstype}",
            mount is not None and mount.fstype == fstype,
            mount.fstype if mount else "nothing is mounted there",
            "inside() calls mount_kernel_files(), after the rootfs is bound onto itself: what was mounted in it before stays "
            "on the other one",
        )
        machine.expect(
            f"its flags are {', '.join(sorted(options))}", options <= mount.options, ", ".join(sorted(mount.options))
        )
    seen = probe.ask("echo /proc/[0-9]*")
    first = _shown_by_proc(probe.process) == probe.process.namespace("pid")
    machine.expect(
        "in /proc it sees its init and itself, and nobody else",
        seen == "/proc/1 /proc/2" and first,
        seen,
        "a proc shows the PID namespace of the process that mounted it",
    )
    probe.tell("exit 0")
    machine.outcome()

    machine.did("made /proc and /sys of the rootfs links to /tmp and /run, and launched another")
    _replace_by_link(machine, "proc", "/tmp")
    _replace_by_link(machine, "sys", "/run")
    machine.call("stage00_process.launch", machine.probe(), _walls(machine))
    probe = machine.meet()
    for point, fstype in (("/tmp", "proc"), ("/run", "sysfs")):
        inside = any(mount.point == point and mount.fstype == fstype for mount in probe.process.mounts())
        machine.expect(
            f"the {fstype} is at the container's own {point}",
            inside,
            "it is" if inside else "it is not",
            "a path in the rootfs must be resolved as the container would: linux.mount_in_root",
        )
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("3.4")
def test_dev_is_its_own(machine):
    machine.did("launched a shell behind Pids(), Filesystem() and Init(), and looked at its /dev")
    machine.call("stage00_process.launch", machine.probe(), _walls(machine))
    probe = machine.meet(
        maybe="a container may make no devices (mknod): bind the machine's own, each onto an empty file"
    )
    own = any(mount.point == "/dev" for mount in probe.process.mounts())
    for name in DEVICES:
        found, real = probe.process.look(f"/dev/{name}"), os.stat(f"/dev/{name}")
        same = found is not None and stat.S_ISCHR(found.st_mode) and found.st_rdev == real.st_rdev
        machine.expect(
            f"/dev/{name} is the device that the machine has there",
            same,
            "it is" if same else "it is not",
            "MS_BIND of the machine's own file, onto a file in the new tmpfs"
            if own
            else "nothing is mounted at /dev: inside() calls mount_devices(), after mount_kernel_files()",
        )
    mode = _mode(probe, "/dev")
    machine.expect("only its owner may write to /dev (mode 755)", mode == "755", mode, "tmpfs has an option mode=755")
    for name, target in LINKS.items():
        found = probe.ask(f"ls -l /dev/{name} 2>&- || echo nothing").rpartition(" -> ")[2]
        machine.expect(f"/dev/{name} is a link to {target}", found == target, found)
    mounts = {mount.point: mount for mount in probe.process.mounts()}
    for point, fstype, options in (
        ("/dev", "tmpfs", {"nosuid"}),
        ("/dev/pts", "devpts", {"nosuid"}),
        ("/dev/shm", "tmpfs", {"nosuid", "nodev"}),
        ("/dev/mqueue", "mqueue", {"nosuid", "nodev"}),
    ):
        found = mounts[point].fstype if point in mounts else "nothing is mounted there"
        machine.expect(f"{point} is a mount of type {fstype}", found == fstype, found)
        missing = options - mounts[point].options
        machine.expect(
            f"{point} is {' and '.join(sorted(options))}",
            not missing,
            f"without {' and '.join(sorted(missing))}" if missing else "it is",
        )
    mode = _mode(probe, "/dev/shm")
    machine.expect("anybody may write to /dev/shm (mode 1777)", mode == "1777", mode)
    mode = _mode(probe, "/dev/pts/ptmx")
    machine.expect(
        "anybody may open a terminal (mode 666 of /dev/pts/ptmx)",
        mode == "666",
        mode,
        "devpts has an option ptmxmode; without it nobody may",
    )
    ptmx = probe.ask("(exec 9<>/dev/ptmx && echo opened) 2>&- || echo refused")
    machine.expect("a terminal can be opened", ptmx == "opened", ptmx)
    answer = probe.ask("(echo nothing >/dev/null && echo written) 2>&- || echo refused")
    machine.expect("what is written to /dev/null is gone", answer == "written", answer)
    probe.tell("exit 0")
    machine.outcome()

    machine.did("made /dev of the rootfs a link to /var, and launched another")
    _replace_by_link(machine, "dev", "/var")
    machine.call("stage00_process.launch", machine.probe(), _walls(machine))
    as_the_container = (
        "a path in the rootfs must be resolved as the container would: open_in_root, and dir_fd of os.symlink"
    )
    probe = machine.meet(maybe=as_the_container)
    inside = probe.ask("ls -l /var/fd 2>&- || echo nothing").rpartition(" -> ")[2] == LINKS["fd"]
    machine.expect(
        "its devices and links are in the container's own /var",
        inside and machine.runner.look("/var/fd") is None,
        "they are" if inside else "they are not",
        as_the_container,
    )


@pytest.mark.task("3.5")
def test_volumes_are_shared_and_stay_where_they_belong(machine):
    data, frozen, word = f"/srv/{machine.word()}", f"/srv/{machine.word()}", machine.word()
    machine.plant(f"{data}/here", "")
    machine.plant(f"{frozen}/here", "")
    machine.mount(f"{frozen}/below")
    machine.link(f"{machine.rootfs}/trap", "/srv")
    machine.plant(f"{machine.rootfs}/srv/here", "")
    machine.did(
        "launched a shell with a volume at /data, a read-only one at /frozen with a mount below it, a file at /run/here, "
        "and a read-only one at /trap/WORD, where the rootfs has /trap as a link to /srv"
    )
    volumes = [
        machine.made("stage03_mount_namespace.Volume", data, "/data"),
        machine.made("stage03_mount_namespace.Volume", frozen, "/frozen", True),
        machine.made("stage03_mount_namespace.Volume", f"{data}/here", "/run/here"),
        machine.made("stage03_mount_namespace.Volume", data, f"/trap/{word}", True),
    ]
    machine.call("stage00_process.launch", machine.probe(), _walls(machine, volumes))
    probe = machine.meet()
    strayed = machine.runner.look(f"/srv/{word}") is not None
    machine.expect(
        "nothing was made outside, where /srv is no business of the container",
        not strayed,
        f"/srv/{word} was made" if strayed else "nothing was",
        "a path in the rootfs must be resolved as the container would: linux.mount_in_root",
    )
    points = [mount.point for mount in probe.process.mounts()]
    for place, source, maybe in (
        ("/data", data, ""),
        ("/frozen", frozen, ""),
        (
            "/frozen/below",
            f"{frozen}/below",
            "without MS_REC a bind mount brings one mount, and none of those below it",
        ),
        ("/run/here", f"{data}/here", ""),
    ):
        same = _same(probe, place, machine, source)
        if not maybe and place not in points:
            maybe = "nothing is mounted there: inside() calls mount_volumes(), before enter_root()"
        machine.expect(f"{place} is the machine's own", same, "it is" if same else "it is not", maybe)
    answer = _writes(probe, machine, "/data", data, word)
    machine.expect("/data can be written to", answer == "written", answer, "read-only is what asks for it: readonly")
    for place, source in (("/frozen", frozen), ("/frozen/below", f"{frozen}/below"), (f"/trap/{word}", data)):
        answer = _writes(probe, machine, place, source, machine.word())
        machine.expect(
            f"{'/trap/WORD' if word in place else place} cannot be written to",
            answer == "refused",
            answer,
            "a bind mount ignores MS_RDONLY when it is made: it takes a second call, recursive, that keeps the other flags",
        )
    inside = any(mount.point == f"/srv/{word}" for mount in probe.process.mounts())
    machine.expect(
        "the volume at /trap lies in the rootfs's own /srv",
        inside,
        "it does" if inside else "it does not",
        "a path in the rootfs must be resolved as the container would: linux.mount_in_root",
    )
    probe.tell("exit 0")
    machine.outcome()

    machine.did("asked for a volume of a directory that does not exist")
    volumes = [machine.made("stage03_mount_namespace.Volume", f"/srv/no-{word}", "/data")]
    machine.call("stage00_process.launch", machine.program(["true"]), _walls(machine, volumes))
    outcome = machine.outcome()
    machine.expect("launch() raises FileNotFoundError", outcome.raised == "FileNotFoundError", outcome)


@pytest.mark.task("3.6")
def test_the_program_cannot_take_the_walls_down(machine):
    frozen, word = f"/srv/{machine.word()}", machine.word()
    machine.plant(f"{frozen}/here", "")
    machine.did("launched a shell behind all walls with a read-only volume, and had it remount that read-write")
    volumes = [machine.made("stage03_mount_namespace.Volume", frozen, "/frozen", True)]
    walls = _walls(machine, volumes)
    walls.insert(-1, machine.made("stage03_mount_namespace.Caps"))
    machine.call("stage00_process.launch", machine.probe(), walls)
    probe = machine.meet()
    status = probe.process.status()
    for name, title in (("CapBnd", "bounding"), ("CapEff", "effective")):
        has = bool(int(status[name], 16) >> 21 & 1)
        machine.expect(
            f"CAP_SYS_ADMIN is not in its {title} set",
            not has,
            "it is in it" if has else "it is not",
            "uid 0 gets at exec whatever its bounding set still has",
        )
    machine.expect(
        "no_new_privs is set",
        status["NoNewPrivs"] == "1",
        status["NoNewPrivs"],
        "a set-uid program would still change what the program may do: PR_SET_NO_NEW_PRIVS",
    )
    probe.ask("mount -o remount,bind,rw /frozen 2>&-; echo tried")
    answer = _writes(probe, machine, "/frozen", frozen, word)
    machine.expect("the volume is still read-only", answer == "refused", answer)
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("3.7")
def test_no_descriptor_leads_out(machine):
    attack = machine.intruder("stage03_mount_namespace.escape_through_descriptor")
    # This leaves a directory of the container's own open.
    inside = machine.beacon(
        "opens", calls=("inside", "thinwalls.linux.open_in_root", "/", "/tmp", os.O_PATH | os.O_DIRECTORY)
    )
    machine.did(
        "put up the reference's Pids(), Filesystem() and Init(), opened a directory of the container, and called "
        "escape_through_descriptor()"
    )
    walls = [
        machine.made("reference.stage02_pid_namespace.Pids"),
        machine.made("reference.stage03_mount_namespace.Filesystem", machine.rootfs),
        inside,
        attack,
        machine.beacon("after"),
        machine.made("reference.stage02_pid_namespace.Init"),
    ]
    machine.call("reference.stage00_process.launch", machine.program(["true"]), walls)
    outcome = machine.outcome()
    returned = "after.inside" in machine.steps
    machine.expect(
        "it raises FileNotFoundError: no descriptor leads out",
        outcome.raised == "FileNotFoundError" and not returned,
        "it returned" if returned else outcome,
        "in a directory below the root, os.getcwd() succeeds",
    )
    number = machine.random.randint(20, 60)
    machine.leak(number)
    machine.did(
        "left the machine's root directory open in the launcher, put up the same walls; once they stood, wrote a "
        "secret outside, loaded your file inside and called escape_through_descriptor()"
    )
    machine.call("reference.stage00_process.launch", machine.probe(), walls)
    while (step := machine.step()) and step.hook != "inside":
        pass
    secret, path = machine.word(), f"/var/{machine.word()}"
    machine.plant(path, f"{secret}\n")
    probe = machine.meet()
    read = probe.ask(f"read -r line <{path} && echo $line || echo hidden")
    machine.expect("it can read the secret", read == secret, "it can" if read == secret else read)
    for what, found in (("root", probe.process.root()), ("working", probe.process.cwd())):
        yours = "the machine's" if found == machine.runner.root() else "another directory"
        machine.expect(f"its {what} directory is the machine's root", yours == "the machine's", yours)
    probe.tell("exit 0")
    machine.outcome()

    machine.did(
        f"launched a program with the working directory /proc/self/fd/{number} behind your Filesystem() and Sealed()"
    )
    walls = [
        machine.made("stage03_mount_namespace.Filesystem", machine.rootfs),
        machine.made("stage03_mount_namespace.Sealed"),
    ]
    machine.call("reference.stage00_process.launch", machine.program(["true"], cwd=f"/proc/self/fd/{number}"), walls)
    outcome = machine.outcome()
    maybe = (
        "what is marked close-on-exec is open until exec: close it; but only directories, for launch() hears of errors "
        "through a descriptor"
    )
    if outcome.error("errno") == errno.EBADF:
        maybe = "the list has the descriptor by which it was read itself, and that one is closed by now"
    machine.expect(
        "it does not start: launch() raises FileNotFoundError", outcome.raised == "FileNotFoundError", outcome, maybe
    )
    machine.did("launched another with the working directory /tmp behind the same walls")
    machine.call("reference.stage00_process.launch", machine.probe(cwd="/tmp"), walls)
    probe = machine.meet()
    yours = "it is" if probe.process.cwd() == machine.file(f"{machine.rootfs}/tmp") else "it is another directory"
    machine.expect("its working directory is its own /tmp", yours == "it is", yours)
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("3.8")
def test_dangerous_paths_are_masked_or_read_only(machine):
    machine.did("launched a shell behind Pids(), Filesystem() and Init(), and looked at the paths that engines mask")
    machine.call("stage00_process.launch", machine.probe(), _walls(machine))
    probe = machine.meet(
        maybe="a path may be missing on this kernel; and a descriptor that was opened before a mount is what lies below it: "
        "open the path again"
    )
    mounts = {mount.point: mount for mount in probe.process.mounts()}
    null = os.stat("/dev/null").st_rdev
    masked = any(path in mounts for path in MASKED)
    uncalled = "" if masked else "nothing is mounted over any of them: inside() calls mask_paths(), before enter_root()"
    for path in MASKED:
        if not os.path.exists(path):
            continue
        found = probe.process.look(path)
        if os.path.isdir(path):
            if path not in mounts:
                yours = "nothing is mounted over it"
            elif "ro" not in mounts[path].options:
                yours = "it can be written to"
            else:
                yours = "it is" if probe.ask(f"echo {path}/*") == f"{path}/*" else "it is not empty"
            machine.expect(
                f"{path} is an empty read-only directory",
                yours == "it is",
                yours,
                uncalled or "a directory is hidden by a tmpfs, for /dev/null can only be bound over a file",
            )
        else:
            hidden = found is not None and found.st_rdev == null
            yours = "it is" if hidden else "it is the kernel's own file"
            maybe = uncalled or "a file is hidden by /dev/null, bound over it"
            machine.expect(f"{path} is /dev/null", hidden, yours, maybe)
    for path in READ_ONLY:
        if os.path.exists(path):
            readonly = path in mounts and "ro" in mounts[path].options
            machine.expect(
                f"{path} is a read-only mount",
                readonly,
                "it is" if readonly else "it is not",
                "bind it onto itself; the read-only flag is set at the new mount, opened anew",
            )
    known = probe.ask("read -r name </proc/sys/kernel/hostname; echo $name")
    machine.expect("a kernel setting can still be read", known == "machine", known or "nothing")
    answer = probe.ask("(echo x >/proc/sys/kernel/domainname) 2>&- && echo written || echo refused")
    machine.expect("a kernel setting cannot be written", answer == "refused", answer)
    probe.tell("exit 0")
    machine.outcome()


def _walls(machine, volumes=()):
    """The container of stages 2 and 3."""
    return [
        machine.made("stage02_pid_namespace.Pids"),
        machine.made("stage03_mount_namespace.Filesystem", machine.rootfs, list(volumes)),
        machine.made("stage02_pid_namespace.Init"),
    ]


def _refused_by_pivot_root(outcome):
    """Which of its conditions was not met, if it was that which failed. The kernel has one word for them all."""
    if outcome is None or "pivot_root" not in str(outcome):
        return ""
    bound = "pivot_root wants a mount point, so the rootfs is bound onto itself first"
    return f"{bound}; and '.' is the rootfs only after a chdir to it" if "(.," in str(outcome) else bound


def _replace_by_link(machine, name, target):
    """Make a directory of the rootfs a link, as a hostile image may have it."""
    script = 'rmdir "$1" && ln -s "$2" "$1"'
    machine.call("stage00_process.run", machine.program(["sh", "-c", script, "sh", f"{machine.rootfs}/{name}", target]))
    machine.outcome()


def _writes(probe, machine, place, source, name):
    """Have the container write a file at ``place``, and look for it on the machine, where the same directory is ``source``."""
    if not _same(probe, place, machine, source):
        return "it is not there"
    probe.ask(f"(echo x >{place}/{name}) 2>&-; echo tried")
    return "written" if machine.runner.look(f"{source}/{name}") else "refused"


def _same(probe, place, machine, source):
    """Whether what the container has at ``place`` is what the machine has at ``source``."""
    ours, theirs = machine.runner.look(source), probe.process.look(place)
    return ours is not None and theirs is not None and os.path.samestat(ours, theirs)


def _mode(probe, path):
    """The permissions of a file in the container, as chmod(1) counts them."""
    found = probe.process.look(path)
    return f"{stat.S_IMODE(found.st_mode):o}" if found else "it is not there"


def _shown_by_proc(process):
    """The PID namespace whose processes are in the /proc that a process has; None if there is no telling."""
    try:
        return process.sees("/proc/1/ns/pid").inode
    except OSError:
        return None
