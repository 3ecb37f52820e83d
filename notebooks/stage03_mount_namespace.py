# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Stage 3: the mount namespace
#
# Three things were left open. A program behind chroot walks out, as it did in stage 1. What it sees of
# processes is what the machine's `/proc` shows, though it can touch none of them. And an attacker has mounted
# a file system from within a container, and left it on the machine. Behind all three is the same list.
#
# The tree of files that begins at `/` is not one file system. It is many, each hung up somewhere in another:
# the disk, `/proc`, `/dev`, the stick that you have just plugged in. To hang one up is called to *mount* it,
# and where it hangs is its *mount point*. Which hangs where is in a table. For each process the file
# `/proc/PID/mountinfo` shows it, and usually it is the same for all.
#
# (Some three and a half hours, with the tasks. At the end you can say why throwing the machine's files away holds,
# where hiding them did not, when a copy of a table tells tales, and how a link in a stranger's image leads a mount
# astray. And your containers have a file system of their own, with volumes, and no power to undo it. Without
# Jupyter: read `notebooks/stage03_mount_namespace.py`, build in any editor, and `./walls check 3` in a terminal. The
# cells' outputs come from `.venv/bin/python notebooks/stage03_mount_namespace.py`.)
#
# *Predict: the two children below each mount an empty file system that lies in memory, a tmpfs, on a directory of
# the machine. Which of them does the machine notice?*

# %%
import os
import signal
import socket
import stat
from pathlib import Path

from thinwalls import linux
from thinwalls.notebook import check, demo, look
from thinwalls.standing import namespaces, started
from thinwalls.wall import Program, Wall

PATH = {"PATH": "/bin:/usr/bin"}


def table(pid="self"):
    """The mount table of a process: for each mount point its line, as in proc_pid_mountinfo(5)."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return {line.split()[4]: line for line in lines}


# %%
@demo
def one_table_or_two():
    for name, flags in (("/srv/a", 0), ("/srv/b", linux.CLONE_NEWNS)):
        os.mkdir(name)
        pid = linux.clone(flags)
        if pid == 0:
            linux.mount("nothing", name, "tmpfs")
            print("child:  ", name, "is a mount point:", name in table())
            os._exit(0)
        os.waitpid(pid, 0)
        print("machine:", name, "is a mount point:", name in table())


# %% [markdown]
# The table can be had twice. The flag is `CLONE_NEWNS`, "new namespace" and nothing more: it was the first
# kind, in 2002, and nobody expected others. The child gets a copy, and what it then does to the copy is its
# own affair. When the last process with that table ends, its mounts are gone with it.
#
# ## Task 3.1: Mounts that nobody else sees
#
# So it seems. The throwaway host in which this ran is unlike your own machine in one respect, and the next
# cell puts that right before it starts. *Predict, once more: what does the machine notice?*


# %%
@demo
def the_copy_that_tells():
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SHARED)  # as systemd does
    os.mkdir("/srv/b")
    pid = linux.clone(linux.CLONE_NEWNS)
    if pid == 0:
        linux.mount("nothing", "/srv/b", "tmpfs")
        print("child:   /srv/b is a mount point:", "/srv/b" in table())
        os._exit(0)
    os.waitpid(pid, 0)
    print("machine: /srv/b is a mount point:", "/srv/b" in table())
    print("and in its table /srv/b is marked as shared:", "shared:" in table()["/srv/b"])


# %% [markdown]
# A table of its own, and it leaks. Every mount in a table has a setting for what becomes of mounts that are made
# *below* it, its *propagation*. The first call of the cell mounts nothing: `mount` without a source, and with a
# flag of this kind, changes the setting of the mounts that are there. A `shared` mount and its copies, in
# whatever table, keep each other informed: what is hung up below one appears below all. There is a good reason.
# You plug in a stick, and the programs that were started long ago in tables of their own are to see it. So
# systemd, which is number 1 on most machines, makes everything shared, and a container on such a machine, unless
# it does something about it, hangs its `/proc` into yours. (Try `grep -c shared: /proc/self/mountinfo` in a
# terminal of your own.)
#
# A setting belongs to one mount, not to the tree below it. *Predict: what is missing here?*


# %%
@demo
def not_quite():
    linux.mount("nothing", "/srv", "tmpfs")
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_SHARED)
    for name in ("/tmp/a", "/srv/b"):
        os.mkdir(name)
        pid = linux.clone(linux.CLONE_NEWNS)
        if pid == 0:
            linux.mount(None, "/", None, linux.MS_PRIVATE)
            linux.mount("nothing", name, "tmpfs")
            os._exit(0)
        os.waitpid(pid, 0)
        print("machine:", name, "is a mount point:", name in table())


# %% [markdown]
# `/tmp` lies in the mount that is at `/`, and that one keeps silent now. `/srv` is a mount of its own, and
# still tells.
#
# **Build** the `flags` of `Filesystem` in
# [stages/stage03_mount_namespace.py](../stages/stage03_mount_namespace.py), and `keep_mounts_private`, and
# make that the first call of `Filesystem.inside`. Nothing else may be mounted before it. Then
# `./walls check 3.1`, or:

# %%
check("3.1")

# %% [markdown]
# ## Task 3.2: A new root, and the old one gone
#
# Our copy of the table begins with a copy of everything. A jail within it would be no better than the old
# one: the machine's root is still in the table, chroot only hides it, and you know the way. But it is *our*
# copy. We can throw out of it what we do not want, and nobody else will miss anything.
#
# The call is `pivot_root`. It does not touch a note of some process, as chroot does. It changes the table:
# another mount becomes the root of it, and the former root is hung up at a place that you name. It is known
# for its refusals. *Predict: what does the kernel say to the rootfs? It is an ordinary directory.*


# %%
@demo(rootfs=True)
def a_directory_is_not_enough():
    linux.unshare(linux.CLONE_NEWNS)
    os.mkdir("/srv/rootfs/old")
    for _ in range(2):
        print("the rootfs is a mount point:", "/srv/rootfs" in table())
        try:
            linux.pivot_root("/srv/rootfs", "/srv/rootfs/old")
            print("    done")
        except OSError as error:
            print("    refused:", os.strerror(error.errno))
            linux.mount("/srv/rootfs", "/srv/rootfs", None, linux.MS_BIND | linux.MS_REC)
    look(None, "root", "cwd")


# %% [markdown]
# The words of the refusal (*Device or resource busy* where the new root lies on the mount that is the root
# already) have puzzled many. What the kernel means is simple. A table of mounts can only have a mount for its
# root, and a directory is not one: there is no line for it. So one makes a line. A *bind mount* hangs up
# something that is there already, in a second place. The second place may be the same as the first. It looks like
# nonsense, and it is in every container runtime: the rootfs, bound onto itself, with whatever is mounted below it
# (`MS_REC`). The last line shows that the root moved, and the working directory stayed. One that was the old root
# itself moves along; any other stays, as here, and the way back is open until you `chdir`.
#
# (The same refusal awaits those who try it with shared mounts, as a new root that appears in other tables
# would be a strange thing. You have seen to that.)
#
# And where is the machine? *Predict: is the letter within reach?*


# %%
@demo(rootfs=True)
def what_hangs_in_the_hall():
    Path("/tmp/letter").write_text("Dear diary, nobody will ever read this.\n")
    linux.unshare(linux.CLONE_NEWNS)
    os.mkdir("/srv/rootfs/old")
    linux.mount("/srv/rootfs", "/srv/rootfs", None, linux.MS_BIND | linux.MS_REC)
    linux.pivot_root("/srv/rootfs", "/srv/rootfs/old")
    print(Path("/old/tmp/letter").read_text().strip())
    try:
        linux.umount("/old")
    except OSError as error:
        print(error.strerror)


# %% [markdown]
# The old root has to go, and it is *busy*: other mounts hang in it, `/proc` and `/dev` and more, and some of
# its files are in use, not least this very Python. A flag of `umount` takes a mount off the table at once
# with all that hangs in it, and lets those who are still using a file finish. From then on no path leads
# there, for there is nothing in the table that a path could lead through.
#
# The manual page of pivot_root has a passage on doing this without the directory `old`, which the image would
# have to contain. It is worth reading twice. And mind your working directory: you know from task 1.1 what
# becomes of those who forget theirs.
#
# **Build** `enter_root`, and in `Filesystem.inside` the bind mount that it needs. The latter comes before
# anything is mounted into the rootfs, the former is the last call of all. Then `./walls check 3.2`.

# %%
check("3.2")

# %% [markdown]
# ![A new root, and the old one gone. Four states of the container's own table of mounts. 1, after
# keep_mounts_private(): a copy of the machine's: its root, with /proc, /dev and more below it; the rootfs is a
# directory in it and no mount. 2, after the bind mount of the rootfs onto itself, and after proc, sys, dev and the
# volumes were mounted below it: the rootfs is a mount. 3, after pivot_root(".", "."): the rootfs is the root of the
# table, and the machine's root, with all below it, lies on top of it in the same place. 4, after umount(".",
# MNT_DETACH) and chdir("/"): the machine's root is off the table with all below it, and only the container's mounts
# are left.](pictures/stage03_pivot_root.svg)
#
# Here is the escape of stage 1, against your wall or ours. It does all it did before, and it arrives at the
# top. It is a different top.


# %%
@demo(rootfs=True)
def no_way_up():
    from stages.stage00_process import launch
    from stages.stage01_chroot import escape
    from stages.stage03_mount_namespace import Filesystem

    class Attack(Wall):
        def inside(self):
            look(None, "root", "cwd")
            escape()
            look(None, "root", "cwd")
            print("its table has mounts at", *sorted({"/" + point.split("/")[1] for point in table()}))

    launch(Program(["true"], PATH), [Filesystem("/srv/rootfs"), Attack()])


# %% [markdown]
# This is the hole of stage 1, closed. The difference is worth a sentence. chroot tells a process not to look
# at the machine's files; here the machine's files are not there.
#
# ## Task 3.3: Its own /proc and /sys
#
# Now the window in the wall of stage 2. `/proc` shows the processes of whoever mounted it, so let the
# container mount its own. Numbers 1 and 2 of the machine are its init and the process of this cell. *Predict: which
# numbers does the child see in each?*


# %%
@demo
def two_procs():
    os.mkdir("/srv/proc")
    pid = linux.clone(linux.CLONE_NEWPID | linux.CLONE_NEWNS)
    if pid == 0:
        linux.mount("proc", "/srv/proc", "proc")
        for path in ("/proc", "/srv/proc"):
            print(f"{path:<10}", *sorted(int(name) for name in os.listdir(path) if name.isdigit()))
        os._exit(0)
    os.waitpid(pid, 0)


# %% [markdown]
# `ps` is cured. Whoever mounts it must be in the new PID namespace; the child of `launch` is, from birth, in whatever
# order the walls stand.
#
# But it matters when it is mounted. One would furnish a house after moving in: pivot first, then mount `/proc` at
# `/proc`. *Predict: does the mount succeed both times, before the old root goes and after?*


# %%
@demo(rootfs=True)
def furnishing():
    from stages.stage03_mount_namespace import enter_root, keep_mounts_private

    for when in ("before", "after"):
        pid = linux.clone(linux.CLONE_NEWPID | linux.CLONE_NEWNS)
        if pid == 0:
            keep_mounts_private()
            linux.mount("/srv/rootfs", "/srv/rootfs", None, linux.MS_BIND | linux.MS_REC)
            try:
                if when == "before":
                    linux.mount("proc", "/srv/rootfs/proc", "proc")
                enter_root("/srv/rootfs")
                if when == "after":
                    linux.mount("proc", "/proc", "proc")
                print(when, "the old root goes: done, and it shows number 1:", os.path.exists("/proc/1"))
            except PermissionError as error:
                print(when, "the old root goes:", error.strerror)
            os._exit(0)
        os.waitpid(pid, 0)


# %% [markdown]
# A machine's real root would have been allowed. You are uid 0 in a *user namespace*, that is, by arrangement,
# and the kernel is careful with such a uid 0. A proc shows much of the kernel, and the machine's
# administrator may have covered parts of it. If anybody who has made himself uid 0 could mount a fresh one
# without covers, they would be worth nothing. So the rule is: you may have a new proc or sysfs as long as you
# can see a whole one in your table anyway. Once the old root is gone, you cannot. The same rule is the reason
# why this fails inside many containers, where the container engine (Docker, say) has put covers on.
#
# `/sys` shows devices, drivers and the kernel's other settings. There is no namespace for most of that, it is
# simply the machine's. So the container may read it and not write to it. Both mounts get three flags that
# nobody misses: no set-uid programs (those that have their owner's power, whoever starts them), no device files, no
# programs at all, since there ought to be none in either.
#
# One last thing. The rootfs comes from somebody else, and its `/proc` may not be a directory but a link to
# wherever its author likes. `linux.mount_in_root` knows; what it is about is shown in task 3.5.
#
# **Build** `mount_kernel_files`, and call it in its place in `Filesystem.inside`. Then `./walls check 3.3`.

# %%
check("3.3")

# %% [markdown]
# ## Task 3.4: Its own /dev
#
# `/dev` of our rootfs is empty. *Predict: what does `cat` print?*


# %%
@demo(rootfs=True)
def the_bin_that_fills():
    os.chroot("/srv/rootfs")
    os.chdir("/")
    os.execve("/bin/sh", ["sh", "-c", "echo some noise > /dev/null; cat /dev/null"], PATH)


# %% [markdown]
# There was no `/dev/null`, so the shell made one, as an ordinary file, and whatever a thousand programs throw
# away in it will be kept for ever. Programs take a handful of devices for granted. The machine's real root
# makes them with `mknod`, out of two numbers that tell the kernel which driver is meant. *Predict: may you?*


# %%
@demo
def two_numbers():
    for name, numbers in (("null", (1, 3)), ("the first disk", (8, 0))):
        try:
            os.mknod("/tmp/device", stat.S_IFCHR | 0o666, os.makedev(*numbers))
            print(name, "is made")
        except PermissionError as error:
            print(f"{name}: {error.strerror}")


# %% [markdown]
# Nobody in a user namespace may, for who could make the one could make the other. But the machine has a
# `/dev/null`, and what is there can be bound. A file can be a mount point as well as a directory can:


# %%
@demo
def bound():
    Path("/tmp/noise").touch()
    linux.mount("/dev/zero", "/tmp/noise", None, linux.MS_BIND)
    with open("/tmp/noise", "rb") as device:
        print(device.read(8), "is a device:", stat.S_ISCHR(os.fstat(device.fileno()).st_mode))


# %% [markdown]
# Terminals need a file system of their own. Each window, each ssh session has a device file in `/dev/pts`,
# and all of them come from one opening, `ptmx`: open that, and you have a new terminal. Whoever may open somebody
# else's writes on their screen, and reads what they type. So a container gets a *new instance*, in which the
# numbers start from 0. Here it is made with one option and with two.


# %%
@demo
def a_new_instance():
    for options in ("newinstance", "newinstance,ptmxmode=0666"):
        os.makedirs("/tmp/pts", exist_ok=True)
        linux.mount("devpts", "/tmp/pts", "devpts", 0, options)
        mode = stat.S_IMODE(os.stat("/tmp/pts/ptmx").st_mode)
        opened = os.open("/tmp/pts/ptmx", os.O_RDWR | os.O_NOCTTY)
        print(f"{options:<28}mode {mode:03o}; one terminal is open:", *sorted(os.listdir("/tmp/pts")))
        os.close(opened)
        linux.umount("/tmp/pts")


# %% [markdown]
# Without the second option nobody but uid 0 could open a terminal.
#
# The rest is quickly told. `shm` is where programs share memory by name, so anybody may write to it, with the
# *sticky* bit, as in `/tmp`, so that nobody removes what is another's. `mqueue` holds the message queues of
# the IPC namespace that the mounter is in. The links are for programs that say `/dev/stdin` and mean
# descriptor 0. In none of these mounts should a set-uid program have any power, those of terminals included;
# and only `/dev/pts` has to honour device files. (What is bound into `/dev` goes by the flags of its own mount.)
#
# **Build** `mount_devices`. The names are given, in `DEVICES` and `LINKS`. What you make in the new `/dev`
# with a call that takes a path, make it by a descriptor of the directory: you would not want the link to land
# in the machine's `/dev` because the image's is a link. Then `./walls check 3.4`.

# %%
check("3.4")

# %% [markdown]
# ## Task 3.5: Volumes
#
# A container that keeps nothing is of limited use. A *volume* is a directory of the machine that shows up in
# the container as well. After what you have seen it is no mystery: it is a bind mount. The interesting part
# is to make it read-only. *Predict: which of these does what it says?*


# %%
@demo
def read_only():
    bind, remount = linux.MS_BIND | linux.MS_REC, linux.MS_BIND | linux.MS_REMOUNT
    nosuid_nodev = linux.MS_NOSUID | linux.MS_NODEV
    os.makedirs("/srv/photos/2024")
    os.mkdir("/tmp/volume")
    linux.mount("nothing", "/srv/photos/2024", "tmpfs")
    for title, source, flags in (
        ("bind, read-only", "/srv/photos", bind),
        ("remount, read-only", None, remount),
        ("the same, and nosuid, nodev", None, remount | nosuid_nodev),
    ):
        try:
            linux.mount(source, "/tmp/volume", None, flags | linux.MS_RDONLY)
            print(f"{title}: done")
        except PermissionError:
            print(f"{title}: not permitted")
        for path in ("/tmp/volume", "/tmp/volume/2024"):
            print(f"    {path:<17} can be written to:", os.access(path, os.W_OK))


# %% [markdown]
# Every line of this has cost somebody a data set. The first call succeeds, and the flag is silently ignored:
# a bind mount is made with the flags of what it was made from, and no others. To change them takes a second
# call.
#
# That one was refused, because it *sets* the flags: the ones you do not mention are taken away. This
# directory is on a mount whose `nosuid` and `nodev` were set by somebody with more rights than you have, and
# such flags are locked. In the third call they are mentioned. On another machine other ones will be.
#
# And then the volume is read-only, and the mount below it is not. It has its own line in the table, and its
# own flags.
#
# Linux has had a better call since 2021: `mount_setattr` adds a flag, leaves the others alone, and does so
# for all mounts below, if asked.
#
# Now for the place where it is to appear. The rootfs is an image that somebody gave you, and in that image
# `/data` is a link. *Predict: where does the volume end up?*


# %%
@demo(rootfs=True)
def the_trap():
    for directory in ("/srv/photos/2024", "/srv/letters/unsent", "/srv/rootfs/srv/letters"):
        os.makedirs(directory)
    os.symlink("/srv/letters", "/srv/rootfs/data")
    print("the machine's /srv/letters:", os.listdir("/srv/letters"))
    linux.mount("/srv/photos", "/srv/rootfs/data", None, linux.MS_BIND)
    print("the machine's /srv/letters:", os.listdir("/srv/letters"))
    print("the rootfs's /srv/letters: ", os.listdir("/srv/rootfs/srv/letters"))


# %% [markdown]
# Over the machine's letters. The path has `/srv/rootfs` in front, and it does not help: the link says
# `/srv/letters`, and for the kernel a way that begins with `/` begins at the root of whoever is walking, which
# is still the machine's. Where a directory has to be made first, it is made out there as well, as uid 0.
# Checking the path beforehand is no remedy, since what is a directory now may be a link in a moment. It takes
# a call that *walks* differently:


# %%
@demo(rootfs=True)
def walking_as_the_container_would():
    for link in ("/tmp", "../../../../tmp"):
        os.symlink(link, "/srv/rootfs/data")
        found = linux.open_in_root("/srv/rootfs", "/data", os.O_PATH)
        print(f"a link to {link:<18} leads to {os.readlink(f'/proc/self/fd/{found}')}")
        os.unlink("/srv/rootfs/data")


# %% [markdown]
# For the length of this one walk the kernel takes the rootfs for the root, and `..` stops there. What comes
# back is a descriptor, the thing itself, and no name that could be turned into another under your hands.
# Where a system call wants a path, `/proc/self/fd/NUMBER` is one that leads to just this.
# `linux.mount_in_root` does both, and it makes what is missing.
#
# **Build** `mount_volumes`. Mind that a descriptor that was opened before something was mounted there still
# is what lies below. Then `./walls check 3.5`.

# %%
check("3.5")

# %% [markdown]
# A good place to stop for today: the container has files of its own and nobody else's. What follows is about a
# program that does not want to stay in it.
#
# ## Task 3.6: Walls that stay up
#
# A container with a read-only volume, and in it a program that is uid 0. *Predict: what stands in its way?*


# %%
@demo(rootfs=True)
def a_wall_with_a_handle():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem, Volume

    class Attack(Wall):
        def inside(self):
            print("may be written:", os.access("/photos", os.W_OK))
            linux.mount_setattr("/photos", attr_clr=linux.MOUNT_ATTR_RDONLY)
            Path("/photos/1.jpg").write_text("nothing but noise\n")

    os.mkdir("/srv/photos")
    system = Filesystem("/srv/rootfs", [Volume("/srv/photos", "/photos", readonly=True)])
    launch(Program(["cat", "/photos/1.jpg"], PATH), [Pids(), system, Attack(), Init()])


# %% [markdown]
# Nothing. We put the wall up, from within and as uid 0; so a uid 0 within can take it down. Walls need a
# program that has less power than the one who built them.
#
# The power of uid 0 has long been cut into pieces, called *capabilities*. There are some forty of them. To
# mount and remount, and much else, goes by the name of `CAP_SYS_ADMIN`. A process carries several sets of
# them. The one that counts in a given moment is the *effective* set. But a uid 0 gets a fresh effective set
# with every exec, and what limits it then is the *bounding* set. What has been dropped from that does not
# come back to this process and its descendants. (They may become uid 0 of a new user namespace, with every
# capability. But those are good for what is made in there, and the mounts they bring along are locked.)
#
# Here it is done with another capability, by which chroot is allowed. *Predict: what changes, and when?*


# %%
@demo
def a_piece_of_root():
    cap_sys_chroot = 18
    linux.prctl(linux.PR_CAPBSET_DROP, cap_sys_chroot)
    os.chroot("/")
    print("before exec: chroot is allowed")
    script = "chroot / true 2> /dev/null && is=allowed || is=refused; echo after exec: it is $is, to uid $(id -u)"
    os.execve("/bin/sh", ["sh", "-c", script], os.environ)


# %% [markdown]
# It is still uid 0, and it is refused. That nothing changes before exec is what we want: the walls behind
# this one may have things to do.
#
# That leaves the programs that give power to whoever starts them, *set-uid* programs like `su`. In the end
# they cannot get beyond the bounding set either, but there are other ways to gain by an exec, and one bit
# ends all of that. From then on exec gives nothing that the process did not have. *Predict: what does the
# last line say?*


# %%
@demo
def no_way_back():
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
    print(next(line for line in Path("/proc/self/status").read_text().splitlines() if "NoNewPrivs" in line))
    try:
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 0)
    except OSError as error:
        print("off again:", error.strerror)


# %% [markdown]
# The bit can be set by anybody, and it cannot be taken back. It is a promise to oneself that the kernel
# keeps.
#
# **Build** `Caps.inside`, then `./walls check 3.6`.

# %%
check("3.6")

# %% [markdown]
# The same attack as above, now by the program itself, with and without that wall:


# %%
@demo(rootfs=True)
def a_wall_without_a_handle():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Caps, Filesystem, Volume

    os.mkdir("/srv/photos")
    system = Filesystem("/srv/rootfs", [Volume("/srv/photos", "/photos", readonly=True)])
    script = """
        exec 2> /dev/null
        mount -o remount,bind,rw,nosuid,nodev /photos
        (echo noise > /photos/1.jpg) && echo the photo is written || echo the photo is not written
    """
    launch(Program(["sh", "-c", script], PATH), [Pids(), system, Init()])
    launch(Program(["sh", "-c", script], PATH), [Pids(), system, Caps(), Init()])


# %% [markdown]
# ## Task 3.7: Attack: out through a descriptor
#
# Every path begins at a root or at a working directory, and both are inside. So are the mounts. What could
# still lead out is something that was never looked up by a path at all.
#
# In stage 0 a descriptor was smuggled to a program, and `furnish` has marked all of them to be closed by exec
# since. But look closely at the order. Between the walls and exec there is a moment in which they are still
# open, and in this moment `furnish` does one more thing for the program: it changes to the working directory
# that was asked for. In a real engine that is a line in an image's description. *Predict: what can one write
# in there?*


# %%
@demo(rootfs=True)
def an_odd_working_directory():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem

    Path("/tmp/letter").write_text("Dear diary, nobody will ever read this.\n")
    kept = os.open("/", os.O_PATH | os.O_DIRECTORY)  # the runtime has it open, for reasons of its own
    program = Program(["cat", "tmp/letter"], PATH, cwd=f"/proc/self/fd/{kept}")
    launch(program, [Pids(), Filesystem("/srv/rootfs"), Init()])


# %% [markdown]
# All walls stand, and the program is outside. Its root is in the rootfs, its table has nothing of the
# machine's, and its working directory is the machine's root: by a descriptor that was open for a thousandth
# of a second too long. This is CVE-2024-21626, the one that was mentioned in stage 0. In runc the descriptor
# was one of a cgroup directory, number 7 or 8 as a rule, and an image had only to guess.
#
# First the attack. It runs inside, before exec. Somewhere among the descriptors of the process there is a
# directory of the machine, or there is none; the number is not known, and there may be directories that are
# harmless. A process that stands in a directory with no way down to it from its root can find that out: ask
# what it is called.
#
# Then the wall. Marking is not enough, so here descriptors are closed before their time; but only what can
# lead somewhere. Among the others is the one by which a failure is reported to the launcher.
#
# **Build** `escape_through_descriptor` and `Sealed.inside`. Then `./walls check 3.7`.

# %%
check("3.7")

# %% [markdown]
# With the new wall, yours or ours:


# %%
@demo(rootfs=True)
def sealed():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem, Sealed

    kept = os.open("/", os.O_PATH | os.O_DIRECTORY)
    program = Program(["cat", "tmp/letter"], PATH, cwd=f"/proc/self/fd/{kept}")
    try:
        launch(program, [Pids(), Filesystem("/srv/rootfs"), Sealed(), Init()])
    except FileNotFoundError as error:
        print("it does not start:", error.strerror)


# %% [markdown]
# ## Task 3.8: Bonus: masked and read-only paths
#
# The container's `/proc` is its own as far as processes go. Beside these it has files about the kernel, and
# there is one kernel. `/proc/kcore` is the whole memory of the machine, `/proc/sysrq-trigger` restarts it if
# you write a `b` into it, and below `/proc/sys` are a thousand settings. A user namespace protects the worst
# of them. For a container that is started by the machine's real root nothing does.
#
# Engines therefore lay covers over some of these files. With what you know by now it needs no new call. Here
# the file is a harmless one. *Predict: what is read from it at last?*


# %%
@demo
def a_cover():
    linux.unshare(linux.CLONE_NEWNS)
    print("/proc/uptime is empty:", not Path("/proc/uptime").read_text())
    linux.mount("/dev/null", "/proc/uptime", None, linux.MS_BIND)
    print("/proc/uptime is empty:", not Path("/proc/uptime").read_text())
    linux.umount("/proc/uptime")
    print("/proc/uptime is empty:", not Path("/proc/uptime").read_text())


# %% [markdown]
# A cover is a mount, and what can be mounted can be unmounted: without `Caps` this would be decoration. A
# directory is covered by an empty tmpfs, a read-only one. What may be read and not written gets a line of its
# own in the table, by being bound onto itself, and the line is made read-only.
#
# **Build** `mask_paths`. The lists are given, and they are the ones that Docker and podman use; your kernel
# will not have every file on them. Then `./walls check 3.8`.

# %%
check("3.8")

# %% [markdown]
# ## The walls as they now stand
#
# A program behind all the walls of stages 2 and 3, beside the machine's first process.


# %%
def standing(pid):
    """Print for each wall whether it stands around a process."""
    namespaces(pid, "uts", "ipc", "pid", "mnt", "net", width=16)
    ours = ("/proc", "/sys", "/dev")
    foreign = [point for point in table(pid) if point != "/" and not point.startswith(ours)]
    print("    mount table    ", "something of the machine's" if foreign else "nothing of the machine's")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    within_reach = int(status["CapBnd"], 16) >> linux.CAP_SYS_ADMIN & 1
    print("    CAP_SYS_ADMIN  ", "within reach" if within_reach else "out of reach")
    print("    no_new_privs   ", "set" if status["NoNewPrivs"] == "1" else "not set")


# %%
@demo(rootfs=True)
def the_walls():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem, Sealed

    standing(started(launch, Uts("box"), Pids(), Filesystem("/srv/rootfs"), Caps(), Sealed(), Init()))


# %% [markdown]
# ![The walls after stage 3: the mount namespace. Two columns, the machine and the process, with a wall between them.
# New in this stage: root directory (its own, no other left; Filesystem); mounts, /proc, /dev (its own; Filesystem);
# power to mount (taken away; Caps). Its own before: host name, IPC (its own; Uts); process numbers (its own, from PID
# 1; Pids, Init). Still shared with the machine: memory, CPU, forks; network; files of the rootfs; user ids; kernel,
# clock.](pictures/stage03_walls.svg)
#
# This is a container by any common definition. Give `./walls run` the path of a root file system and a
# command, and you are in it: another Linux, alone on its machine. (The small one of these pages will do, and
# `.venv/bin/python -c "from thinwalls import rootfs; print(rootfs.cached())"` says where it is.)
#
# ## What still does not stand
#
# One line of that table says `of the machine`. Below, the machine has a little service that listens on its
# own *loopback* address, where only programs on the same machine are supposed to reach it. *Predict: does the
# container?*


# %%
@demo(rootfs=True)
def for_local_ears_only():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Filesystem

    class Attack(Wall):
        def inside(self):
            with socket.socket() as connection:
                connection.connect(("127.0.0.1", port))
                print("the machine says:", connection.recv(100).decode())

    service = socket.create_server(("127.0.0.1", 0))
    port = service.getsockname()[1]
    if os.fork() == 0:
        with service.accept()[0] as connection:
            connection.sendall(b"the password is mellon")
        os._exit(0)
    launch(Program(["true"], PATH), [Uts("box"), Pids(), Filesystem("/srv/rootfs"), Attack(), Init()])


# %% [markdown]
# It does. Network cards, addresses and ports are not files, and have a namespace of their own, which is the
# matter of stage 5.
#
# And there is something that the table has no line for. All walls so far are about what a program can *name*.
# None is about how much it may *take*. *Predict: who stops this one?*


# %%
@demo(rootfs=True)
def as_many_as_it_likes():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem, Sealed

    class Greedy(Wall):
        def inside(self):
            for _ in range(40):
                if os.fork() == 0:
                    signal.pause()

    before = len([name for name in os.listdir("/proc") if name.isdigit()])
    started(launch, Uts("box"), Pids(), Filesystem("/srv/rootfs"), Caps(), Sealed(), Greedy(), Init())
    after = len([name for name in os.listdir("/proc") if name.isdigit()])
    print("forty processes more, at least:", after - before >= 40)


# %% [markdown]
# Nobody. A container can fill the table of processes, use all processors, and eat the memory of its
# neighbours, without a single forbidden word.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. A container has the machine's `/media` as a volume. One stick was plugged in before it was started, and
#    shows up at `/media/one`. Another is plugged in while it runs, at `/media/two`. Which of them does the
#    container have, and why?
# 2. Somebody leaves out the `umount` in `enter_root`. In the container `ls /` shows the rootfs and nothing
#    else, and it looks like your own. What is wrong with it?
# 3. A volume is read-only in the container. Now a program of the machine writes a file into that directory.
#    Does the write fail? Does the container see the file?
# 4. Three people change the order. One puts `Filesystem` before `Pids` in the list of walls. One puts `Caps`
#    before `Filesystem`. One calls `mount_volumes` after `enter_root`. Which of them breaks something, and
#    why do the others not?
# 5. Before mounting a volume, a runtime takes `os.path.realpath` of rootfs and target together, and refuses
#    what does not begin with the rootfs. Why is that not enough?
#
# <details><summary>Our answers</summary>
#
# 1. The first. A bind mount with `MS_REC` brings along what is mounted below at that moment. The second
#    appears in the machine's table, and the container's is not told: `keep_mounts_private` has ended that, in
#    both directions. That is the price of a table that keeps silent.
# 2. The machine's root is in the table still, with all that hangs in it, and lies on top of the new one. The
#    command `ls /` starts from the note of the process, which is below it. But `/..` leads out onto what lies
#    on top, and `cat /../etc/shadow` is the machine's. Nothing is safe because one path does not lead to it.
# 3. It does not fail, and the container sees the file. Read-only is a flag of one line in the container's
#    table, so it holds for those who come by that line. The machine comes by another line to the same files.
# 4. The third. After `enter_root` nothing of the machine is in the table, so the volume's source is looked
#    for in the rootfs. It is not there, or something else of that name is, and gets bound in its stead. The
#    first changes nothing: all flags go into one clone, and the child is in both namespaces before any
#    `inside` is called. Nor does the second: what `Caps` takes away is gone at the next exec, and all mounts
#    are made before that.
# 5. It walks as the machine would: a link to `/data` means the machine's, where the container means its own,
#    so good images are refused. And what was checked is a name. Until the mount follows it, somebody may have
#    put a link in the place of a directory. It takes one walk that stays inside, and a descriptor of where it
#    has ended.
#
# </details>
#
# Against a program that takes without end one does not need another view of the machine but somebody who counts.
# That is [stage 4](stage04_cgroups.ipynb).
