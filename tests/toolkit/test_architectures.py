"""Nothing here is made for one kind of machine: x86-64 and arm64 are both known, by the numbers of the kernel's headers."""

import os
import platform
import re
from pathlib import Path

import pytest

from thinwalls import course, linux
from thinwalls.host import inner

# asm-generic/unistd.h is the table of arm64, and of every architecture that came later. Debian's linux-libc-dev has
# both, and the table of the machine that it is installed on.
HEADERS = {
    "aarch64": [Path("/usr/include/asm-generic/unistd.h")],
    "x86_64": [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")],
}
REFUSED = "keyctl add_key request_key bpf userfaultfd io_uring_setup io_uring_enter io_uring_register perf_event_open"
NEWER = {"open_tree": 428, "move_mount": 429, "close_range": 436, "openat2": 437, "mount_setattr": 442}


def numbers(machine):
    """name -> number of each system call, as the kernel's header has them."""
    header = next((path for path in HEADERS[machine] if path.exists()), None)
    if header is None:
        lack = f"the kernel's headers for {machine} are not here (Debian: linux-libc-dev)"
        # Ubuntu's package on arm64 has no table of x86-64; all else that CI runs on has both.
        assert not os.environ.get("CI") or (machine, platform.machine()) == ("x86_64", "aarch64"), lack
        pytest.skip(lack)
    return {name: int(number) for name, number in re.findall(r"#define __NR_(\w+)\s+(\d+)", header.read_text())}


def test_both_machines_are_known_everywhere():
    assert set(linux._NUMBERS) == set(inner._REFUSED) == set(HEADERS)


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_system_calls_are_the_kernels(machine):
    table = numbers(machine)
    assert linux._NUMBERS[machine] == {name: table[name] for name in linux._NUMBERS[machine]}
    _, refused, socket_call = inner._REFUSED[machine]
    assert list(refused) == [table[name] for name in REFUSED.split()]
    assert socket_call == table["socket"]
    assert {name: table[name] for name in NEWER} == NEWER
    assert (NEWER["open_tree"], NEWER["move_mount"]) == (linux._OPEN_TREE, linux._MOVE_MOUNT)
    assert (NEWER["close_range"], NEWER["openat2"]) == (linux._CLOSE_RANGE, linux._OPENAT2)
    assert NEWER["mount_setattr"] == linux._MOUNT_SETATTR


@pytest.mark.parametrize(("machine", "elf"), [("x86_64", 62), ("aarch64", 183)])
def test_the_filter_names_the_architecture_as_the_kernel_does(machine, elf, monkeypatch):
    """AUDIT_ARCH_ of linux/audit.h: the ELF's number for the machine, 64 bits, little endian."""
    arch, refused, socket_call = inner._REFUSED[machine]
    assert arch == 0x8000_0000 | 0x4000_0000 | elf
    monkeypatch.setattr("platform.machine", lambda: machine)
    words = inner._filter()
    for number in (arch, *refused, socket_call):
        assert number.to_bytes(4, "little") in [words[at + 4 : at + 8] for at in range(0, len(words), 8)]


ONE_ALONE = {  # files that name x86-64 and not arm64, and why that is right
    "tests/toolkit/test_host_hostile.py": "its other numbers are arm64's",
    "tests/toolkit/test_registry.py": "a platform of an image, and no machine",
    ".ci/second-kernel": "its virtual machine is for x86-64 alone, and it says so",
    ".ci/run": "leaves that lane out elsewhere",
}


def sources():
    # Not stages/: they are the learner's, and what they are to begin with is the solutions' anyway.
    for folder in ("thinwalls", "solutions", "notebooks", "tests", ".ci", ".devcontainer", ".github"):
        for path in sorted((course.ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".toml", ".yml", "") and path.is_file() and "__pycache__" not in path.parts:
                yield path


def test_a_file_that_names_one_kind_of_machine_names_the_other():
    lacking = []
    for path in sources():
        text = path.read_text(errors="replace")
        one, other = (re.search(words, text) for words in (r"x86[-_]64|amd64", r"aarch64|arm64|\bARM\b"))
        if one and not other:
            lacking.append(str(path.relative_to(course.ROOT)))
    assert sorted(lacking) == sorted(ONE_ALONE)
