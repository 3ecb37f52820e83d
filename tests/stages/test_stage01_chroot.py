"""Stage 1, chroot: what is asked of it. How to read these tests: see the top of test_stage00_process.py."""

import pytest

from thinwalls import facts


@pytest.mark.task("1.1")
def test_the_program_has_the_rootfs_as_its_root(machine):
    machine.did("launched a shell behind Root(rootfs)")
    root, cwd = machine.runner.root(), machine.runner.cwd()
    machine.call("stage00_process.launch", machine.probe(), [machine.made("stage01_chroot.Root", machine.rootfs)])
    probe = machine.meet()
    jail = machine.file(machine.rootfs)
    yours = "it is" if probe.process.root() == jail else "it is another directory"
    machine.expect("the program's / is the rootfs", yours == "it is", yours, "os.chroot, in the child")
    yours = "it is" if probe.process.cwd() == jail else "it is another directory"
    machine.expect(
        "its working directory is the rootfs too",
        yours == "it is",
        yours,
        "chroot(2) leaves the working directory where it was, and that is outside",
    )
    yours = "unchanged" if (machine.runner.root(), machine.runner.cwd()) == (root, cwd) else "changed"
    machine.expect(
        "the caller's own root and working directory are unchanged",
        yours == "unchanged",
        yours,
        "inside() is for the child; what __init__ or outside() does happens to the caller",
    )
    name = machine.word()
    machine.plant(f"{machine.rootfs}/tmp/{name}", "")
    machine.expect("it sees a file put there just now", probe.ask("echo /tmp/*") == f"/tmp/{name}", f"/tmp/{name}")
    probe.tell("exit 0")
    machine.outcome()


@pytest.mark.task("1.2")
def test_the_program_is_looked_up_among_the_containers_own_files(machine):
    name, one, two = machine.word(), f"/{machine.word()}", f"/{machine.word()}"
    machine.plant(f"{one}/{name}", "#!/bin/sh\nexit 99\n", mode=0o755)
    machine.plant(f"{machine.rootfs}{two}/{name}", machine.script(), mode=0o755)
    machine.did(
        "put a program in the rootfs, another of its name outside and earlier in PATH, and called run_in() with the name"
    )
    before = "look it up after chroot, not before (shutil.which looks outside), in PATH of the environment given"
    environment = {"PATH": f"{one}:{two}"}
    machine.call("stage01_chroot.run_in", machine.rootfs, [name], environment)
    probe = machine.meet("the one in the rootfs runs", before)
    yours = "it is" if probe.process.root() == machine.file(machine.rootfs) else "it is another directory"
    machine.expect("its / is the rootfs", yours == "it is", yours)
    found = probe.process.environ()
    machine.expect(
        "its environment is the one that was given", found == environment, ", ".join(sorted(found)) or "nothing"
    )
    probe.tell("exit 0")
    machine.outcome()

    machine.did("called run_in() with an environment that is empty")
    machine.call("stage01_chroot.run_in", machine.rootfs, machine.shell(), {})
    probe = machine.meet()
    found = probe.process.environ()
    probe.tell("exit 0")
    machine.expect(
        "the program's environment is empty too",
        not found,
        ", ".join(sorted(found)) or "it is",
        "only None stands for DEFAULT_ENV: an empty dictionary is an answer (and false, for `or`)",
    )
    machine.outcome()

    only = machine.word()
    machine.plant(f"/tmp/{only}", "#!/bin/sh\nexit 0\n", mode=0o755)
    machine.did("called run_in() with a program that is only outside")
    machine.call("stage01_chroot.run_in", machine.rootfs, [only], {"PATH": "/tmp"})
    outcome = machine.outcome()
    machine.expect("it is not found: a FileNotFoundError", outcome.raised == "FileNotFoundError", outcome, before)

    secret = machine.word()
    machine.setenv(secret.upper(), secret)
    machine.did("called run_in() without an environment, from a process whose own has a secret in it")
    machine.call("stage01_chroot.run_in", machine.rootfs, machine.shell("sh"))
    probe = machine.meet()
    found = probe.process.environ()
    machine.expect(
        "the program has DEFAULT_ENV, nothing of the caller's",
        set(found) == {"PATH", "HOME"},
        ", ".join(sorted(found)) or "nothing",
    )
    here = probe.process.cwd() == probe.process.root()
    machine.expect('it starts in "/"', here, "it does" if here else "it starts elsewhere")
    number = machine.random.randint(2, 120)
    probe.tell(f"exit {number}")
    outcome = machine.outcome()
    machine.expect(f"run_in() returns its exit status, {number}", outcome.returned == number, outcome)


@pytest.mark.task("1.3")
def test_a_wrong_root_is_the_right_error_and_no_process(machine):
    missing, plain, dangling, linked = (f"/tmp/{machine.word()}" for _ in range(4))
    machine.plant(plain, "no directory\n")
    machine.link(dangling, missing)
    machine.link(linked, plain)
    scenes = [
        ("nothing", missing, "FileNotFoundError"),
        ("a plain file", plain, "NotADirectoryError"),
        ("a link to nothing", dangling, "FileNotFoundError"),
        ("a link to a plain file", linked, "NotADirectoryError"),
        ("the rootfs", machine.rootfs, ""),
        ("the rootfs with a dot", f"{machine.rootfs}/.", ""),
    ] * 2
    machine.random.shuffle(scenes)
    machine.did("made Root() of nothing, of a plain file, of links to them and of the rootfs, in some order")
    for what, path, kind in scenes:
        machine.call("stage01_chroot.Root", path)
        outcome = machine.outcome()
        machine.expect(
            f"of {what}: {kind or 'no error'} when Root is made, not later",
            outcome.raised == kind,
            outcome,
            "Root's __init__ should call check_rootfs(), which looks whether there is anything, and whether it is a directory",
        )
        if kind:
            named = outcome.error("filename")
            machine.expect(
                f"of {what}: its filename is the path that was given",
                named == path,
                "it is" if named == path else f"given was {path}, its filename is {named}",
                "the path as it was given, not as it was resolved (realpath with strict=True names the latter): the third "
                "argument of OSError(errno, text, filename)",
            )
    link = machine.word()
    machine.did("called check_rootfs() with a symbolic link to the rootfs")
    machine.link(f"/tmp/{link}", machine.rootfs)
    machine.call("stage01_chroot.check_rootfs", f"/tmp/{link}")
    outcome = machine.outcome()
    machine.expect("it returns the directory's own path", outcome.returned == machine.rootfs, outcome)

    name = machine.word()
    machine.did("called run_in() with a program that is nowhere")
    machine.call("stage01_chroot.run_in", machine.rootfs, [name])
    outcome = machine.outcome()
    yours = (outcome.raised, outcome.error("filename"))
    machine.expect("a FileNotFoundError with the program's name", yours == ("FileNotFoundError", name), outcome)
    left = machine.left()
    machine.expect("no process is left", not left, f"{len(left)} are left")


@pytest.mark.task("1.4")
def test_uid_0_walks_out_of_a_chroot(machine):
    machine.did(
        "put up the reference's Root; once it stood, wrote a secret outside; then loaded your file and called escape()"
    )
    secret, path = machine.word(), f"/tmp/{machine.word()}"
    walls = [
        machine.made("reference.stage01_chroot.Root", machine.rootfs),
        machine.beacon("jail"),
        machine.intruder("stage01_chroot.escape"),
        machine.beacon("out"),
    ]
    machine.call("reference.stage00_process.launch", machine.probe(), walls)
    while machine.steps[-1:] != ["jail.inside"]:
        machine.step()
    machine.plant(path, f"{secret}\n")
    step = machine.step()
    returned = step is not None and (step.wall, step.hook) == ("out", "inside")
    machine.expect("escape() returns", returned, "it does" if returned else machine.outcome())
    process, top = facts.Process(step.pid), machine.file("/")
    yours = "the machine's" if process.root() == top else "still the jail, or below it"
    machine.expect(
        "its root directory is the machine's own",
        yours == "the machine's",
        yours,
        'its working directory is out, and "/" still means the jail: make the one the other'
        if process.cwd() == top
        else 'with a working directory outside the root ".." leads up and up ("/" does not: it begins at the root)',
    )
    yours = "the machine's" if process.cwd() == top else "another directory"
    machine.expect("its working directory is the machine's root", yours == "the machine's", yours)
    probe = machine.meet()
    yours = "it is" if (probe.process.root(), probe.process.cwd()) == (top, top) else "it is another, still inside"
    machine.expect("the program that comes after it is out as well", yours == "it is", yours)
    read = probe.ask(f"cat {path}")
    machine.expect("it can read the secret", read == secret, "it can" if read == secret else read)
    probe.tell("exit 0")
    machine.outcome()
