"""How this machine's distribution installs what the course asks for: the command, to be read by a person.

See os-release(5) on ID and ID_LIKE.
"""

import contextlib
import os
import platform
import shlex
from pathlib import Path

RELEASES = (Path("/etc/os-release"), Path("/usr/lib/os-release"))  # the first that is there counts
INSTALL = {
    "debian": "apt install",  # Ubuntu, Mint, Raspberry Pi OS ... are ID_LIKE it
    "fedora": "dnf install",  # RHEL, CentOS Stream, Rocky ...
    "arch": "pacman -S",
    "alpine": "apk add",
    "suse": "zypper install",
}
_FAMILIES = {"ubuntu": "debian", "rhel": "fedora", "centos": "fedora", "archlinux": "arch", "opensuse": "suse"}
_ARM = platform.machine() == "aarch64"
PACKAGES = {  # what is wanted -> which packages it is in, in the order of INSTALL
    "ip": ("iproute2", "iproute", "iproute2", "iproute2", "iproute2"),
    "nft": ("nftables",) * 5,
    "newuidmap": ("uidmap", "shadow-utils", "shadow", "shadow-uidmap", "shadow"),
    "rootfs": (
        "dash coreutils mount libc-bin",
        "bash coreutils util-linux glibc-common",
        "bash coreutils util-linux glibc",
        "coreutils mount musl-utils",
        "bash coreutils util-linux glibc",
    ),
    "QEMU": (
        ("qemu-system-arm", "qemu-system-aarch64", "qemu-system-aarch64", "qemu-system-aarch64", "qemu-arm")
        if _ARM
        else ("qemu-system-x86", "qemu-system-x86", "qemu-system-x86", "qemu-system-x86_64", "qemu-x86")
    ),
    "kernel": (
        "linux-image-arm64" if _ARM else "linux-image-amd64",
        "kernel-core",
        "linux",
        "linux-lts",
        "kernel-default",
    ),
}


def family() -> str:
    """The key of INSTALL that this machine's distribution goes by; "" for one that is not known here."""
    text = ""
    for path in RELEASES:
        with contextlib.suppress(OSError):
            text = path.read_text(errors="replace")
            break
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    said = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    for word in (said.get("ID", ""), *said.get("ID_LIKE", "").split()):
        word = _FAMILIES.get(word, word).partition("-")[0]  # opensuse-leap, opensuse-tumbleweed
        word = _FAMILIES.get(word, word)
        if word in INSTALL:
            return word
    return ""


def install(what: str) -> str:
    """The command that installs what a key of PACKAGES stands for, or, where it is not known, words on what to install."""
    known = family()
    if not known:
        return f"install the package that has {what} (on Debian: {PACKAGES[what][0]})"
    packages = PACKAGES[what][list(INSTALL).index(known)]
    return shlex.join([*([] if os.geteuid() == 0 else ["sudo"]), *INSTALL[known].split(), *packages.split()])
