"""What can be wrong with a machine, in the words of ./walls doctor, and what to do about it.

All of its sentences are here, so that docs/troubleshooting.md can be held to have each of them: a test does that. Words
in braces are filled in where the trouble is found.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trouble:
    """A cause, and its mend: a sentence that begins small, for it stands after "mend:" too."""

    cause: str
    mend: str

    def here(self, **words: object) -> "Trouble":
        """The same, with its words in braces filled in."""
        filled = {name: str(word) for name, word in words.items()}
        return Trouble(self.cause.format_map(filled), self.mend.format_map(filled))


_OUTSIDE = "or run the course outside of the container."
_AGAIN = "call the course as ./walls; if you did, remove .venv and call it again."

# The course itself, and the check of a thing.

OLD_PYTHON = Trouble("{python}, and the course needs 3.11 or newer", _AGAIN)
NO_PACKAGES = Trouble("not installed: {names}", _AGAIN)
NO_LOADING = Trouble("{name} cannot be loaded: {said}", _AGAIN)
NO_TEMPORARY = Trouble(
    "There is no directory for temporary files: {said}", "free some disk, or set TMPDIR to a directory that is yours."
)
BROKE = Trouble("this check broke: {said}", "please report this line.")
SILENT = Trouble(
    "this check gave no answer within {seconds} seconds", "something hangs: try again, then report this line."
)

# The kernel.

WSL1 = Trouble(
    "This is WSL1, which imitates Linux and has no namespaces at all.",
    "in PowerShell: wsl --set-version NAME 2, with the NAME that wsl --list shows; it becomes WSL2.",
)
OLD_KERNEL = Trouble(
    "{release} has no {calls}",
    "the course needs Linux 5.12 or newer: update the system, or use a virtual machine with a newer one.",
)
OLD_KERNEL_WSL = Trouble(OLD_KERNEL.cause, "the course needs Linux 5.12 or newer. In PowerShell: wsl --update")
OTHER_MACHINE = Trouble("{said}", "use a machine of the kind x86_64 or aarch64.")

# Why no throwaway host can be made.

NO_USER_NAMESPACES = Trouble(
    "This kernel has no user namespaces (CONFIG_USER_NS).", "use the kernel of a distribution."
)
NONE_ALLOWED = Trouble("This machine allows no {kind} namespaces ({name} is 0).", "sudo sysctl -w {name}=10000")
ROOT_ALONE = Trouble("Only root may make user namespaces here ({name} is 0).", "sudo sysctl -w {name}=1")
APPARMOR = Trouble(
    "AppArmor keeps programs from using user namespaces ({name} is 1, as on Ubuntu since 24.04).",
    "sudo sysctl -w {name}=0 (to keep it, write that setting to a file in /etc/sysctl.d)",
)
CHROOT = Trouble("This process is in a chroot, where the kernel allows no user namespace.", "run it outside of that.")
SECCOMP = Trouble(
    "A seccomp filter, as container engines have one, refuses {what} ({said}).",
    f"start the container with --security-opt seccomp=unconfined, {_OUTSIDE}",
)
ROOTLESS = Trouble(
    "This root is root only in a user namespace, as in a rootless container, with no ids to give to a host.",
    f"run it as another user than root, {_OUTSIDE}",
)
MASKED = Trouble(
    "Parts of /proc are covered ({parts}), as container engines do it; then the kernel lets nobody mount a /proc of "
    "his own.",
    "start the container with --security-opt systempaths=unconfined (Docker) or --security-opt unmask=ALL (podman), "
    + _OUTSIDE,
)
_ASK = "show this line to whoever runs this machine."
NO_USER_NAMESPACE = Trouble("A user namespace cannot be made: {said}.", _ASK)
NOT_NESTED = Trouble("A user namespace within another cannot be made: {said}.", _ASK)
NO_PROC = Trouble("No /proc can be mounted in new namespaces: {said}.", _ASK)
NOT_SETUID = Trouble("{said}", "newuidmap and newgidmap must be setuid root: {install} (again, if it is there).")
UNKNOWN = Trouble("{said}", _ASK)

# What a host may lack.

NO_HOST = Trouble("not known, as no throwaway host can be made", "see the row throwaway host.")
_ONE_ID = "a host has one user id: tasks that need a second cannot be graded"
NO_TOOL_FOR_IDS = Trouble(_ONE_ID, "{install}")
NO_RANGE = Trouble(
    _ONE_ID, "get a range of ids that no line of /etc/subuid has yet: sudo usermod {ranges} {user}; then log in again."
)
_NO_CGROUP = "no cgroup can be made here{tried}, so the memory of graded code is not bounded"
NO_DELEGATION = Trouble(
    _NO_CGROUP,
    "log in where systemd runs a manager for you (loginctl user-status names user@.service): it is then asked for a "
    "group by itself; or call it as root.",
)
NO_V1_GROUP = Trouble(
    _NO_CGROUP,
    "call it as root, or have root hand you a cgroup of memory, pids, cpu and cpuacct; the other stages do without.",
)
NO_ROOT_GROUP = Trouble(
    _NO_CGROUP, "in a container: give it a cgroup namespace of its own and a writable /sys/fs/cgroup."
)
NO_CGROUPFS = Trouble(
    f"{_NO_CGROUP}: no cgroup file system is mounted at /sys/fs/cgroup", "sudo mount -t cgroup2 none /sys/fs/cgroup"
)
READONLY_CGROUP = Trouble(
    f"{_NO_CGROUP}: /sys/fs/cgroup is mounted read-only, as container engines do it",
    "start the container with --security-opt writable-cgroups=true (Docker 28 or newer) or "
    f"--security-opt unmask=/sys/fs/cgroup (podman, on cgroup v2), {_OUTSIDE}",
)
NO_MEMORY_CONTROLLER = Trouble(
    f"{_NO_CGROUP}: no cgroup here has the memory controller",
    "on a Raspberry Pi, add cgroup_enable=memory to the one line in /boot/firmware/cmdline.txt and restart; elsewhere, "
    "see that neither cgroup_disable=memory (/proc/cmdline) nor a container keeps it back.",
)
_HYBRID = f"{_NO_CGROUP}: the controllers are with cgroup v1, and the v2 mount {{mount}} has none of them (hybrid)"
HYBRID_WSL = Trouble(
    _HYBRID,
    "in Windows, write kernelCommandLine=cgroup_no_v1=all below [wsl2] in %UserProfile%\\.wslconfig; in Linux, "
    "systemd=true below [boot] in /etc/wsl.conf; then in PowerShell: wsl --shutdown. Or call it as root.",
)
HYBRID = Trouble(
    _HYBRID,
    "call it as root; or start the machine with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all on the kernel's "
    "command line.",
)

# Files.

UNBUILDABLE = Trouble("{said}", "it takes a shell, coreutils, mount and ldd, and some disk: {install}")
FOLDER_SHUT = Trouble("{folder}: {said}", "make it writable, or {instead}.")
LITTLE_DISK = Trouble("{free} MB free in {folder}", "free some space there.")
NOEXEC = Trouble(
    "{folder} is on a file system that is mounted noexec: ./walls and JupyterLab cannot be started from there",
    "clone the course into a directory from which programs may run; findmnt --target {folder} shows the mount.",
)
NO_MODES = Trouble(
    "{folder} is on a file system ({fstype}) that does not keep the modes of files",
    "{instead}; a folder of Windows, below /mnt/c, keeps none.",
)
NO_OVERLAY = Trouble(
    "no overlay can be mounted with a lower layer in {folder} ({fstype}): {said}",
    "set XDG_CACHE_HOME to a directory on ext4, xfs, btrfs or tmpfs. Where the kernel knows no overlay: "
    "sudo modprobe overlay",
)
NO_UPPER = Trouble(
    "{folder} cannot hold an overlay's upper layer: its file system is {fstype} ({said})",
    "set TMPDIR to a directory on ext4, xfs, btrfs or tmpfs; the course itself does without.",
)

# The network's programs.

NO_TOOL = Trouble("there is no program {tool}", "{install}")
TOOL_ELSEWHERE = Trouble(
    "there is no program {tool} in /usr/sbin, /usr/bin or beside them, only {path}, which a host does not see",
    "{install}",
)
BUSYBOX = Trouble("{path} is busybox's, which knows no -batch", "{install}")
SHADOWED = Trouble("{path} stands before {other}, and does not do what that does: {said}", "remove or rename {path}.")
NO_LINKS = Trouble(
    "{said}", "the kernel's modules may not be loaded: sudo modprobe -a bridge veth; or it has none of that kind."
)
NO_NFTABLES = Trouble(
    "{said}", "the kernel's module may not be loaded: sudo modprobe nf_tables; or it has none of that kind."
)
NO_NAT = Trouble(
    "nft knows tables here, but not {what}: {said}",
    "the kernel's module may not be loaded: sudo modprobe -a {modules}; or it has none of that kind.",
)
MODULES_GONE = Trouble(
    "{said} (and there is no {modules}: an update may have replaced the running kernel's modules)",
    "restart the machine.",
)
OLD_WSL = Trouble("{said}", "the kernel of WSL may be too old: in PowerShell, wsl --update, then wsl --shutdown.")

# The virtual machine, for comparing.

NO_QEMU = Trouble("not installed", "only for comparing: {install}")
NO_KVM = Trouble(
    "{version}, without KVM (/dev/kvm: {said}): it emulates, some twenty times slower",
    "if /dev/kvm is there: sudo usermod -aG kvm $USER, and log in again.",
)
