"""Why this machine cannot do a thing: the causes that one meets, each looked for where it can be seen.

Each function gives a Trouble, whose words are in thinwalls/troubles.py. Sources: user_namespaces(7),
mount_namespaces(7), cgroups(7), proc(5), and filesystems/overlayfs in the kernel's documentation.
"""

import contextlib
import functools
import getpass
import os
import platform
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from thinwalls import facts, linux, troubles
from thinwalls.distribution import install
from thinwalls.iproute import SEARCH
from thinwalls.trial import inside, tell
from thinwalls.troubles import Trouble

_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
_NO_ACCESS = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
_CGROUPS = "/sys/fs/cgroup"
_MODULES = Path("/lib/modules")


def wsl() -> int:
    """Which Windows Subsystem for Linux this is, 1 or 2; 0 for none. By the kernel's release, as WSL itself has no other.

    WSL1 calls itself 4.4.0-19041-Microsoft, WSL2 for instance 5.15.90.1-microsoft-standard-WSL2.
    """
    release = platform.release()
    if release.endswith("-Microsoft"):
        return 1
    return 2 if re.search("microsoft|WSL2", release) else 0


def no_host(said: str) -> Trouble:
    """Why no throwaway host can be made. said: the error that came of trying."""
    found = _known()
    if found is None and re.search("new[ug]idmap", said):
        return troubles.NOT_SETUID.here(said=said, install=install("newuidmap"))
    return found or troubles.UNKNOWN.here(said=said)


def _known() -> Trouble | None:
    """What keeps this process from the namespaces of a host; None if nothing known does."""
    root = os.geteuid() == 0
    if wsl() == 1:
        return troubles.WSL1
    if not Path("/proc/self/ns/user").exists():
        return troubles.NO_USER_NAMESPACES
    for kind in ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup"):
        if _setting(name := f"user.max_{kind}_namespaces") == "0":
            return troubles.NONE_ALLOWED.here(kind=kind, name=name)
    if not root and _setting(name := "kernel.unprivileged_userns_clone") == "0":
        return troubles.ROOT_ALONE.here(name=name)
    # AppArmor lets the namespace be made, and keeps back the capabilities that it is made for.
    denied = inside(linux.CLONE_NEWUSER, functools.partial(linux.unshare, linux.CLONE_NEWUTS))
    if not root and _setting(_APPARMOR) == "1" and denied:
        return troubles.APPARMOR.here(name=_APPARMOR)
    if said := inside(linux.CLONE_NEWUSER):
        if _in_chroot():
            return troubles.CHROOT
        if _seccomp():
            return troubles.SECCOMP.here(what="user namespaces", said=said)
        return troubles.NO_USER_NAMESPACE.here(said=said)
    if root and not _has_ids():
        return troubles.ROOTLESS
    if said := inside(linux.CLONE_NEWUSER, functools.partial(linux.unshare, linux.CLONE_NEWUSER)):
        return troubles.NOT_NESTED.here(said=said)
    proc = functools.partial(linux.mount, "proc", "/proc", "proc", _NO_ACCESS)
    if said := inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWPID, proc):
        if masked := _masked():
            return troubles.MASKED.here(parts=", ".join(masked))
        if _seccomp():
            return troubles.SECCOMP.here(what="mounts", said=said)
        return troubles.NO_PROC.here(said=said)
    # A filter may let namespaces be made, and refuse what they are for: podman's does so with their host name.
    named = functools.partial(socket.sethostname, "doctor")
    if (said := inside(linux.CLONE_NEWUSER | linux.CLONE_NEWUTS, named)) and _seccomp():
        return troubles.SECCOMP.here(what="host names", said=said)
    return None


def _setting(name: str) -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    return ""


def _mounts() -> list[facts.Mount]:
    return facts.mount_table(Path("/proc/self/mountinfo").read_text())


def _visible(mounts: list[facts.Mount]) -> list[facts.Mount]:
    """Those that no later one covers."""
    later: list[str] = []
    found = []
    for mount in reversed(mounts):
        if not any(f"{mount.point}/".startswith(f"{point.rstrip('/')}/") for point in later):
            found.append(mount)
        later.append(mount.point)
    return found[::-1]


def _in_chroot() -> bool:
    """Whether the root is no mount point of this mount namespace, as it is unless somebody called chroot."""
    return all(mount.point != "/" for mount in _mounts())


def _masked() -> list[str]:
    """What is mounted over parts of /proc."""
    points = [mount.point for mount in _mounts()]
    return [point for point in points if point.startswith("/proc/") and point != "/proc/sys/fs/binfmt_misc"]


def _seccomp() -> bool:
    return bool(re.search(r"^Seccomp:\s+2$", Path("/proc/self/status").read_text(), re.MULTILINE))


def _has_ids() -> bool:
    """Whether this user namespace has the high ids of which root gives each host its own (thinwalls.host.keeper)."""
    lines = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return any(int(first) <= 0x5A000000 < int(first) + int(count) for first, _, count in lines)


# What a host may lack: a second user id, and a cgroup.


def one_id() -> Trouble:
    """Why a host has no more than one user id, where that is so."""
    if any(not Path(f"/usr/bin/{tool}").exists() for tool in ("newuidmap", "newgidmap")):
        return troubles.NO_TOOL_FOR_IDS.here(install=install("newuidmap"))
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    return troubles.NO_RANGE.here(ranges=ranges, user=user())


def user() -> str:
    """This user's name, for a command that is to be typed; USER where it has none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the first up to Python 3.12
        return "USER"


def no_cgroup(tried: str = "") -> Trouble:
    """Why no cgroup can be made, where that is so. tried: what systemd-run(1) said, in brackets."""
    return _why_no_cgroup().here(tried=tried)


def _why_no_cgroup() -> Trouble:
    mounts = [mount for mount in _visible(_mounts()) if f"{mount.point}/".startswith(f"{_CGROUPS}/")]
    second = [mount.point for mount in mounts if mount.fstype == "cgroup2"]
    first = any(mount.fstype == "cgroup" for mount in mounts)
    if not second and not first:
        return troubles.NO_CGROUPFS
    if any("ro" in mount.options for mount in mounts if mount.fstype in ("cgroup", "cgroup2")):
        return troubles.READONLY_CGROUP
    if first and second and not _controllers(second[0]):
        return (troubles.HYBRID_WSL if wsl() else troubles.HYBRID).here(mount=second[0], tried="{tried}")
    if not first and "memory" not in _controllers(second[0]):
        return troubles.NO_MEMORY_CONTROLLER
    if os.geteuid() == 0:
        return troubles.NO_ROOT_GROUP
    return troubles.NO_V1_GROUP if first else troubles.NO_DELEGATION


def _controllers(group: str) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(group, "cgroup.controllers").read_text().split()
    return []


# Files.


def file_system(path: Path) -> str:
    """The kind of file system on which something lies: "ext4", "overlay", "9p" ..."""
    there = os.path.realpath(path)
    above = [mount for mount in _visible(_mounts()) if f"{there}/".startswith(f"{mount.point.rstrip('/')}/")]
    return max(above, key=lambda mount: len(mount.point)).fstype if above else "unknown"


# The programs of stage 5.

LINKS = "link add tw0 type bridge\nlink add tw1 type veth peer name tw2\nlink set tw1 master tw0\n"
_NAT = (  # what a rule set has, in which module the kernel has that, and the rest of the chain
    ("nat chains", "nft_chain_nat", ""),
    ("masquerade", "nft_masq", "ip saddr 192.0.2.2 masquerade"),
    ("dnat", "nft_nat", "tcp dport 80 dnat to 192.0.2.2:80"),
    ("fib", "nft_fib_ipv4", "fib daddr type local accept"),
)


def no_tool(name: str, try_it: Callable[[str], Trouble | None]) -> Trouble | None:
    """Why a program, ip or nft, does not do what stage 5 needs of it; None: it does.

    try_it(path) does something with the one at a path, and gives what came in between.
    """
    paths = [path for folder in SEARCH.split(":") if (path := shutil.which(name, path=folder))]
    if not paths:
        elsewhere = shutil.which(name)
        found = troubles.TOOL_ELSEWHERE if elsewhere else troubles.NO_TOOL
        return found.here(tool=name, path=elsewhere, install=install(name))
    trouble = try_it(paths[0])
    if trouble is None:
        return None
    files = {os.path.realpath(path): path for path in reversed(paths)}
    for file, other in files.items():
        if file != os.path.realpath(paths[0]) and try_it(other) is None:
            return troubles.SHADOWED.here(path=paths[0], other=other, said=trouble.cause)
    return trouble


def no_ip(path: str) -> Trouble | None:
    """What keeps ip(8) at this path from making a bridge and a cable in a network namespace of its own."""
    said = _in_network(lambda: tell(path, "-batch", "-", text=LINKS))
    if said and "busybox" in f"{os.path.realpath(path)} {said}".lower():
        return troubles.BUSYBOX.here(path=path, install=install("ip"))
    return _modules(troubles.NO_LINKS.here(said=said)) if said else None


def no_nft(path: str) -> Trouble | None:
    """What keeps nft(8) at this path from loading the kinds of rules that stage 5 has."""
    if said := _in_network(lambda: tell(path, "-f", "-", text="table ip tw {\n}\n")):
        return _modules(troubles.NO_NFTABLES.here(said=said))
    whole = "\n".join(f"chain c{number} {{ {_hook(rule)}\n{rule}\n}}" for number, (_, _, rule) in enumerate(_NAT))
    if not _in_network(lambda: tell(path, "-f", "-", text=f"table ip tw {{\n{whole}\n}}\n")):
        return None
    for what, module, rule in _NAT:
        text = f"table ip tw {{\nchain c {{ {_hook(rule)}\n{rule}\n}}\n}}\n"
        if said := _in_network(functools.partial(tell, path, "-f", "-", text=text)):
            return _modules(troubles.NO_NAT.here(what=what, said=said, modules=module))
    return None


def _hook(rule: str) -> str:
    return f"type nat hook {'postrouting' if 'masquerade' in rule else 'prerouting'} priority 0"


def _in_network(try_it: Callable[[], object]) -> str:
    return inside(linux.CLONE_NEWUSER | linux.CLONE_NEWNET, try_it)


def _modules(trouble: Trouble) -> Trouble:
    """A trouble with the kernel's modules, told closer where we know more than that."""
    if wsl():
        return troubles.OLD_WSL.here(said=trouble.cause)
    running = _MODULES / platform.release()
    if _MODULES.is_dir() and any(_MODULES.iterdir()) and not running.exists():
        return troubles.MODULES_GONE.here(said=trouble.cause, modules=running)
    return trouble
