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
# # Stage 4: cgroups
#
# A container of stage 3 made forty processes, and nobody stopped it. It could have been forty thousand. All
# walls so far are about names: what has no name cannot be asked for. But a process needs no name for memory,
# nor for a turn on the processor. It takes them. Against that it is no use to show somebody another list.
# Somebody has to keep an account.
#
# (Some three hours, with the tasks. At the end you can say what is counted, on whose account and from which moment
# on, why a limit of memory kills and a limit of time lets wait, and what a limit does not promise. And your containers
# have limits, and say which of them they met. Without Jupyter: read `notebooks/stage04_cgroups.py`, build in any
# editor, and `./walls check 4` in a terminal. The cells' outputs come from
# `.venv/bin/python notebooks/stage04_cgroups.py`.)
#
# The kernel keeps one. A *control group*, or *cgroup*, is a set of processes with an account for what they take
# together. You open one like this. *Predict: what is in a directory that has just been made? And when may it be
# removed?*

# %%
import ctypes
import mmap
import os
import signal
import statistics
import struct
import time
from pathlib import Path

from thinwalls import cgroupfs, linux
from thinwalls.notebook import check, demo
from thinwalls.standing import namespaces, started
from thinwalls.wall import Program, Wall

PATH = {"PATH": "/bin:/usr/bin"}
MIB = 1 << 20


def members(group):
    """The processes in a cgroup, as the kernel lists them at this moment."""
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def removed(group):
    """Try to remove a cgroup, and say how that went."""
    try:
        os.rmdir(group)
        return "removed"
    except OSError as error:
        return os.strerror(error.errno)


# %%
@demo(cgroup=True)
def a_directory_that_counts():
    group = cgroupfs.directory(cgroupfs.TOP, "memory", "mine")
    os.mkdir(group)
    print("there is a file cgroup.procs in it:", "cgroup.procs" in os.listdir(group))
    print("processes in the group:", len(members(group)))
    reads, writes = os.pipe()
    pid = linux.clone()
    if pid == 0:
        os.read(reads, 1)
        os.fork()
        time.sleep(60)
    (group / "cgroup.procs").write_text(str(pid))
    print("a child's number is written to that file:", len(members(group)))
    os.write(writes, b"1")
    time.sleep(0.5)
    print("the child has forked:", len(members(group)))
    print("rmdir:", removed(group))
    for each in members(group):
        os.kill(each, signal.SIGKILL)
    while members(group):
        time.sleep(0.01)
    print("there are still files in it:", bool(os.listdir(group)))
    print("rmdir:", removed(group))


# %% [markdown]
# The directory is the group. Its files are not on any disk. To read one is to ask the kernel, to write one is
# to tell it something, and they come and go with the directory. A process is put in by writing its number to
# `cgroup.procs`, and it has no say in the matter. What it forks is born where it is. That is all there is to
# being in a cgroup, and it is more than it seems: you have met processes that leave their parent, their session
# and their terminal. Nobody leaves a cgroup by forking.
#
# (If the cell above says that this machine lets you make no cgroup, the others will say it too, and you can
# read on with the outputs that are stored in this notebook. `./walls doctor` tells how to mend it.)
#
# Accounts are kept by *controllers*, one for each sort of thing: memory, processes, processor time. And there
# are two versions of the whole. In the first, of 2008, each controller was written by different people and has
# a tree of directories of its own. A container there is one directory in each. It turned out that hardly
# anybody wanted different trees, and that controllers which do not know of each other cannot work together. So
# in 2016 came a second version, with one tree for all. You will meet both for some time. Here they are side by
# side:

# %%
for what, old in cgroupfs.FILES["v1"].items():
    new = cgroupfs.FILES["v2"][what]
    print(f"{what:<16}{f'{old.controller}/NAME/{old.name} {old.key}':<46}NAME/{new.name} {new.key}".rstrip())

# %% [markdown]
# The names differ, the ideas do not. (Mind `swap`, though: the old file counts memory and swap together, the
# new one swap alone.) The table is `FILES` in `thinwalls/cgroupfs.py`. Each file in it has a `text`, which says what
# to write, by `text.format(amount)`; a `key`, the first word of the line to read, or nothing where the file is one
# number; and a `unit`, by which that number becomes bytes or seconds:

# %%
for version in ("v1", "v2"):
    quota, time_held = cgroupfs.FILES[version]["quota"], cgroupfs.FILES[version]["throttled time"]
    print(f"{version}: half a processor is", repr(quota.text.format(50_000)), "in", quota.name)
    print("    time held back is the number behind", time_held.key, "in", time_held.name, "times", time_held.unit)

# %% [markdown]
# So you can write everything once, and yours is graded by what your machine has, which is:


# %%
# NBVAL_IGNORE_OUTPUT
@demo(cgroup=True)
def this_machine():
    print("cgroup", cgroupfs.version())


# %%
assert this_machine.startswith(("cgroup v1", "cgroup v2", "not shown"))

# %% [markdown]
# The lines that you write for the other version are not tried here, and nobody would notice a mistake in them.
# When you have passed the stage, compare them with `./walls solution 4`.
#
# ## Task 4.1: A cgroup, and in it from the first instruction
#
# Someone has to write the number into the file, and it matters when. Two children below fork five times each.
# One is put in before it has done anything, the other half a second later. *Predict: how many of the six are in
# the group, each time?*


# %%
@demo(cgroup=True)
def half_a_second():
    for name in ("before", "after"):
        group = cgroupfs.directory(cgroupfs.TOP, "memory", name)
        os.mkdir(group)
        reads, writes = os.pipe()
        pid = linux.clone()
        if pid == 0:
            os.read(reads, 1)
            for _ in range(5):
                if os.fork() == 0:
                    break
            time.sleep(60)
        if name == "after":
            os.write(writes, b"1")
            time.sleep(0.5)
        (group / "cgroup.procs").write_text(str(pid))
        os.write(writes, b"1")
        time.sleep(0.5)
        print(f"put in {name} it forks: {len(members(group))} of 6")


# %% [markdown]
# Who is moved is moved alone. Children that are there already stay where they were born, and so does the memory
# that was taken before. There is no hurry for a runtime that has read stage 0: between clone and exec the child
# waits at the gate, has done nothing, and will do nothing until every wall's `outside` has been called. That is
# the moment. (The child could put itself in, in its `inside`, as long as it still sees the files. But then it
# needs the right to write there, which is not what one wants to give to a prisoner. And on the second version
# clone3(2) can have a child born in a group, from Linux 5.7 on.)
#
# On the first version this is to be done in the tree of each controller. On the second there is one directory,
# but it is born without the files for limits: which controllers there are in a group, its *parent* decides, in
# a file `cgroup.subtree_control`. There is a rule with that. A group that hands out controllers may have no
# processes of its own, else they would have to share with the groups below by a measure that nobody has
# defined. Only the uppermost group of all may do both.
#
# **Build** `create` and `enter` of `Cgroup` in [stages/stage04_cgroups.py](../stages/stage04_cgroups.py), and
# call them in `outside`. Then `./walls check 4.1`, or:

# %%
check("4.1")

# %% [markdown]
# ## Task 4.2: A limit of memory, and who met it
#
# A limit is a number in another file. Below, a group may have 32 MiB, and a process in it asks for 1024.
# *Predict: what is refused, and how?*


# %%
@demo(cgroup=True)
def asked_and_touched():
    from stages.stage04_cgroups import Cgroup

    box = Cgroup(memory="32m")
    box.create()
    box.limit_memory()
    pid = linux.clone()
    if pid == 0:
        box.enter(os.getpid())
        memory = mmap.mmap(-1, 1024 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        print("asked for 1024 MiB, and got them")
        for page in range(0, 1024 * MIB, mmap.PAGESIZE):
            memory[page] = 1
            if page == 16 * MIB:
                print("touched 16 MiB")
        print("touched all of it")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    print("and then:", signal.Signals(os.WTERMSIG(status)).name)
    box.remove()


# %% [markdown]
# Nothing is refused. To ask for memory costs nothing, as the kernel only makes a note. The account is charged
# when a page is *touched* for the first time, and at that moment it is too late for a polite answer: there is
# no call that could fail, there is an instruction that stores a byte. So the kernel first tries to take
# something back from the group, copies of files that can be read again for instance. When there is nothing more
# to take, it picks a process of the group and kills it. This is called the *OOM killer*, for *out of memory*.
#
# ![A cgroup's memory rises to its limit. A measured curve: the memory of a container's cgroup, against time, with a
# limit of 64 MiB. At 0.6 s its program asks for 256 MiB and gets them, and the curve stays flat, below 8 MiB. From 1.0
# s on it touches them, page by page, and the curve rises evenly. It ends at the limit: the highest sample is 64.0 MiB.
# There the kernel kills the program, at about 2.4 s: the exit status is 137, and the group's own counter says that it
# was for memory. Measured once, in 200 samples, under Linux 6.18.44 with cgroup v1.](pictures/stage04_memory.svg)
#
# The caller of `launch` will get 137 for that, which is 128 and the 9 of SIGKILL. *Predict: does the status
# tell which of these two met its limit?*


# %%
@demo(cgroup=True)
def the_same_number():
    from stages.stage04_cgroups import Cgroup

    for story in ("takes too much", "is killed by somebody"):
        box = Cgroup(memory="32m")
        box.create()
        box.limit_memory()
        pid = linux.clone()
        if pid == 0:
            box.enter(os.getpid())
            if story == "takes too much":
                bytearray(64 * MIB)
            os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        file = cgroupfs.FILES[box.version]["memory kills"]
        line = next(line for line in box.file("memory kills").read_text().splitlines() if f"{file.key} " in line)
        print(f"one that {story}: {128 + os.WTERMSIG(status)}, and in its group: {line}")
        box.remove()


# %% [markdown]
# The status is the same. The kernel's counter is not. Many an evening has been spent on containers that ended
# with 137, by people who were sure that they had been out of memory, or that they had not. The counter lies in
# the group and goes with it, so your `close` has to read it first. (The first version has another one,
# `failcnt`, and it looks right. It counts how often the limit was *met*, and mostly the kernel then finds
# something to take back and nobody dies.)
#
# A process at its limit can also be moved out to the disk, a page at a time, if the machine has swap space.
# Then it is not killed: it crawls, and keeps the disk busy for everybody. So the limit has to hold for memory
# and swap together.
#
# **Build** `parse_size`, `limit_memory` and `killed_for_memory`, with their lines in `outside` and `close`.
# People write sizes as `64m`, and what makes no sense is refused before anything has started. Then
# `./walls check 4.2`.

# %%
check("4.2")

# %% [markdown]
# With yours, or ours where yours is not built yet. The shell doubles a text until it ends.


# %%
@demo(cgroup=True)
def it_says_why():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage04_cgroups import Cgroup

    box = Cgroup(memory="32m")
    hog = "x=0123456789abcdef; while true; do x=$x$x; done"
    print(launch(Program(["sh", "-c", hog], PATH), [box, Pids(), Init()]), "out of memory:", box.out_of_memory)


# %% [markdown]
# (`./walls run` takes the same limits, and says beside its 137 that it was for memory.)
#
# ## Task 4.3: A limit of processes
#
# Now the forty processes. *Predict: the group may have 8. How many children can the first one have, and what is
# it told then? And what of the machine outside?*


# %%
@demo(cgroup=True)
def one_too_many():
    from stages.stage04_cgroups import Cgroup

    box = Cgroup(pids="8")
    box.create()
    box.limit_pids()
    pid = linux.clone()
    if pid == 0:
        box.enter(os.getpid())
        for children in range(40):
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except BlockingIOError as error:
                print(f"{children} children, and then: {error.strerror}")
                os._exit(0)
    os.waitpid(pid, 0)
    if os.fork() == 0:
        print("the machine forks as before")
        os._exit(0)
    os.wait()
    box.remove()


# %% [markdown]
# Here the kernel can be polite. A fork is a call, and a call can fail: with `EAGAIN`, as it does on a machine
# whose table is full. Threads count as well, for to the kernel they are processes too. And mind that this limit
# is only met by forking. Who is put into a full group from outside is let in.
#
# A *fork bomb* is a program of one line in which everybody starts two of the same. A limit of memory is slow to
# help against it. Each of its processes is small, and what they use up is places in a table.
#
# **Build** `parse_count` and `limit_pids`. Then `./walls check 4.3`.

# %%
check("4.3")


# %%
@demo(cgroup=True)
def the_bomb():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage04_cgroups import Cgroup

    class Watch(Wall):
        def close(self):
            count = int(box.file("refused forks").read_text().split()[-1])
            print("forks were refused:", count > 0)

    box = Cgroup(pids="16")
    bomb = "exec 2> /dev/null; bomb() { bomb & bomb & wait; }; bomb"
    launch(Program(["sh", "-c", bomb], PATH), [box, Watch(), Pids(), Init()])
    print("it is over")


# %% [markdown]
# The shells give up when they cannot fork, and then the container ends as any other does: with its init. The
# limit alone would not have ended it. It kept the bomb inside; a bomb that tries again for ever goes off for
# ever, in its 16 places.
#
# ## Task 4.4: A share of the processor
#
# What is left is time. It cannot be used up like memory, as there is always more. So the limit is a *rate*: so
# many microseconds of running in each period of 100 000. *Predict: a loop with a quarter of a processor is
# timed for two seconds by the wall clock. How much does it run? And does it run slowly, or now and then?* The
# loop looks at the clock all the time, and remembers the longest time for which it saw nothing.


# %%
# NBVAL_IGNORE_OUTPUT
@demo(cgroup=True)
def a_quarter():
    from stages.stage04_cgroups import Cgroup

    for cpus in ("", "0.25"):
        box = Cgroup(cpus=cpus)
        box.create()
        box.limit_cpu()
        pid = linux.clone()
        if pid == 0:
            box.enter(os.getpid())
            began = last = time.monotonic()
            longest = gaps = turns = 0
            while last < began + 2:
                now = time.monotonic()
                longest, gaps = max(longest, now - last), gaps + (now - last > 0.05)
                last, turns = now, turns + 1
            rate = turns / time.process_time() / 1e6
            print(f"saw nothing for 50 ms or more: {gaps} times, at most for {longest * 1000:.0f} ms")
            print(f"turns for each second in which it ran: {rate:.1f} million")
            os._exit(0)
        os.waitpid(pid, 0)
        usage = box.measure()
        print(f"limit {cpus or 'none'}: ran for {usage.cpu:.2f} s, was held back for {usage.throttled:.2f} s")
        box.remove()


# %%
ran = [float(line.split()[4]) for line in a_quarter.splitlines() if line.startswith("limit 0.25")]
assert a_quarter.startswith("not shown") or ran[0] < 0.7, "about a quarter of two seconds, or less"

# %% [markdown]
# Measured here, so the numbers are this machine's. (Where the two times of a line make less than two seconds,
# other programs had the processor for the rest.) But the picture is the same everywhere: while it runs, it runs
# at full speed. It uses up its 25 milliseconds, and then it stands still until the period is over: for 75, when
# nobody else wants the processor.
# This is called *throttling*, and it explains a complaint that one hears of containers: *it uses only a quarter
# of its processor, on average, and yet some answers take a tenth of a second*. Those are the requests that came
# in when the account was empty. Several threads empty it together, so much the sooner.
#
# (The other way to share is by *weight*. That says who goes first when two want the same processor, and holds
# nobody back when nobody else wants it. Container engines offer both.)
#
# **Build** `parse_cpus` and `limit_cpu`. Then `./walls check 4.4`.

# %%
check("4.4")

# %% [markdown]
# ## Task 4.5: Nothing is left of it
#
# At the beginning `rmdir` said *Device or resource busy*. A group with processes cannot be removed, so they
# have to go. One would read the list, and kill everybody on it. *Predict: who is left?*


# %%
@demo(cgroup=True)
def an_old_list():
    group = cgroupfs.directory(cgroupfs.TOP, "memory", "mine")
    os.mkdir(group)
    asks, asked = os.pipe()
    done, tells = os.pipe()
    pid = linux.clone()
    if pid == 0:
        os.read(asks, 1)
        if os.fork() == 0:
            os.write(tells, b"1")
            time.sleep(60)
        time.sleep(60)
    (group / "cgroup.procs").write_text(str(pid))
    listed = members(group)
    os.write(asked, b"1")  # what it does at this moment is up to the process
    os.read(done, 1)
    for each in listed:
        os.kill(each, signal.SIGKILL)
    os.waitpid(pid, 0)
    print("killed:", len(listed), "and left:", len(members(group)))


# %% [markdown]
# The list was true when it was read. A process may fork between the reading and the killing. To read and to kill
# again and again mostly ends it, for to kill is quicker than to fork, but nothing says after how many rounds.
# There is a way that needs no luck, and it is in this stage already: somebody who cannot fork cannot run away.
# *Predict: the group below has two processes, and the limit is set to 0. Is that allowed?*


# %%
@demo(cgroup=True)
def no_more_children():
    from stages.stage04_cgroups import Cgroup

    box = Cgroup()
    box.create()
    asks, asked = os.pipe()
    for _ in range(2):
        pid = linux.clone()
        if pid == 0:
            os.read(asks, 1)
            try:
                os.fork()
            except BlockingIOError as error:
                print("a fork:", error.strerror)
            os._exit(0)
        box.enter(pid)
    box.file("pids").write_text("0")
    print("limit 0, and in it are", len(members(box.directory("pids"))))
    os.write(asked, b"11")
    os.wait()
    os.wait()
    print("rmdir:", removed(box.directory("pids")))


# %% [markdown]
# Allowed, and nobody dies of it. A limit says what may be *added*. (Your `remove` will pass without it too, if it is
# quick enough: both ways leave nothing behind, and that is all that can be seen.)
#
# There is more that can be in the way. A process that has been killed takes a moment to die, and a group with
# somebody dying is busy too, so it takes patience, but not without end. A container that may write there can
# have made groups of its own below, and then the deepest has to go first. And a group can be *frozen*: its
# processes get no turn until somebody thaws them. A stopped process dies of SIGKILL like any other. So does one
# that is frozen on the second version. On the first it would have to be thawed first, and there the freezer is
# a controller with a tree of its own, which we hand to nobody. (From Linux 5.14 on the second version has a
# file `cgroup.kill`, which does all of this at once. It came thirteen years after the first cgroup.)
#
# And `close` is called after every start, also after one that failed before there was a group. Then there is
# nothing to do, which is not an error.
#
# **Build** `remove`. Then `./walls check 4.5`.

# %%
check("4.5")

# %% [markdown]
# ## Task 4.6: Bonus: what it has taken
#
# A limit can only be kept by somebody who counts, so the counts are there for the reading: no program has to be
# changed, slowed down or asked. *Predict: which of the two shells below has taken more memory at its peak? One
# makes a text of 16 MiB and forgets it. The other holds one of 4 MiB to the end.*


# %%
@demo(cgroup=True)
def counted():
    from stages.stage00_process import launch
    from stages.stage04_cgroups import Cgroup

    box = {}
    for name, doublings, after in (("forgets", 20, "x="), ("holds", 18, "sleep 0.1")):
        box[name] = Cgroup()
        script = f"x=0123456789abcdef; {'x=$x$x; ' * doublings} {after}"
        launch(Program(["sh", "-c", script], PATH), [box[name]])
    forgets, holds = box["forgets"].usage, box["holds"].usage
    print("the one that forgets had 16 MiB at least:", forgets.memory >= 16 * MIB)
    print("and more than the other:", forgets.memory > holds.memory)
    print("both have run:", forgets.cpu > 0 and holds.cpu > 0)
    print("seconds for which they were held back, without a limit:", forgets.throttled + holds.throttled)
    print("left at the end:", forgets.processes + holds.processes)


# %% [markdown]
# A peak stays, whatever is given back later. It is the number to choose a limit by.
#
# **Build** `measure`. Mind the units, which the table knows. Then `./walls check 4.6`.

# %%
check("4.6")

# %% [markdown]
# ## Task 4.7: Attack: raise your own limit
#
# A limit is a number in a file. The container's `/sys` does not have that file, because the mounts of stage 3
# left it out. You know what to think of files that merely cannot be seen. And the file system of the cgroups can be
# mounted, like `/proc`, by whoever may mount. *Predict: what does the container know of the place it is in?*


# %%
def attacked(way, *defences):
    """Start a container that may have 32 MiB, have it raise its limit in this way, and look at it from outside."""
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage04_cgroups import Cgroup

    class Attack(Wall):
        def inside(self):
            try:
                way()
            except OSError as error:
                print("    refused:", os.strerror(error.errno))

        def close(self):
            print("    its limit:", int(box.file("memory").read_text()) // MIB, "MiB")

    box = Cgroup(memory="32m")
    launch(Program(["true"], PATH), [box, *defences, Pids(), Filesystem("/srv/rootfs"), Attack(), Init()])


def where():
    """Where a process says that it is: the path of its cgroup for memory, with the made-up name left out."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    path = next(path for _, controllers, path in lines if controllers == "" or "memory" in controllers.split(","))
    return "/ and nothing below" if path == "/" else "below others, by the name of " + path.split("/")[-1][:10]


# %%
@demo(rootfs=True, cgroup=True)
def where_am_i():
    def look_around():
        print("    cgroups in its /sys:", os.listdir("/sys/fs/cgroup") or "none")
        print("    it is", where())

    attacked(look_around)


# %% [markdown]
# The path is in `/proc/self/cgroup`, for everybody to read. That, a mount and a write are the attack. It runs
# inside, before exec, as uid 0. If you write `raise_limit` now, the cells below run yours; it is checked at the end of
# this section, together with the wall against it.
#
# First without any defence. Then with a *cgroup namespace*, for there is one of those too. What it does is to
# have paths begin at the group in which the process is when the namespace is made: so it is made by the child,
# in `inside`, when the parent has put it where it belongs. Asked for by clone it would begin one level too
# high. *Predict: what is different?*


# %%
def insist():
    """Raise the limit to 256 MiB; where that is refused, try once more from a group below."""
    from stages.stage04_cgroups import raise_limit

    try:
        raise_limit(256 * MIB)
    except PermissionError:
        os.makedirs("/tmp/again", exist_ok=True)
        linux.mount("cgroup", "/tmp/again", "cgroup2")
        os.mkdir("/tmp/again/below")
        Path("/tmp/again/below/cgroup.procs").write_text(str(os.getpid()))
        linux.unshare(linux.CLONE_NEWCGROUP)
        Path("/tmp/again", cgroupfs.FILES["v2"]["memory"].name).write_text(str(256 * MIB))


# %%
@demo(rootfs=True, cgroup=True)
def a_number_in_a_file():
    def plainly():
        insist()

    def behind_another_name():
        linux.unshare(linux.CLONE_NEWCGROUP)
        print("    it is", where())
        insist()

    for way in (plainly, behind_another_name):
        print(way.__name__.replace("_", " "))
        attacked(way)


# %% [markdown]
# The names have changed, and nothing else. The group that is now called `/` has the same files, and the number
# is raised as before; it only became easier to find. A cgroup namespace is courtesy: the container does not
# learn what its neighbours are called, and can be moved to another machine without noticing.
#
# (On the second version a machine may take such namespaces for boundaries, by a mount option called
# `nsdelegate`, which systemd sets. Then the group that is called `/` cannot be written to from behind the name,
# and `raise_limit` is refused. `insist` is for such machines: it moves into a group below, makes another
# namespace there, in which the refused group is no longer the one called `/`, and writes by the mount that it
# has already. We have seen that work with Linux 6.1. It is a boundary for those who cannot mount.)
#
# What is needed is what was needed in stage 3: a container that cannot mount. `Caps` takes `CAP_SYS_ADMIN` out
# of the bounding set, and the next exec takes it from the process. The attacks here are made before exec, and
# so the next cell does to itself what exec would do. Then it tries again. And then it makes use of something
# that stage 3 has in brackets: anybody may make a user namespace, and whoever makes one has every capability in
# it. *Predict: do they count for something that was made outside?*


# %%
def as_after_exec():
    """Lose, as at an exec, the capabilities that are no longer in the bounding set. See capset(2)."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kept = int(status["CapPrm"], 16) & int(status["CapBnd"], 16)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header, sets = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", low, low, 0, high, high, 0)
    if ctypes.CDLL(None).capset(header, sets):
        raise OSError("capset")


def with_every_capability():
    """Make a user namespace, be uid 0 in it, and have mounts and names of one's own to use that on."""
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS | linux.CLONE_NEWCGROUP)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text("0 0 1")
    Path("/proc/self/gid_map").write_text("0 0 1")


# %%
@demo(rootfs=True, cgroup=True)
def power_of_ones_own_making():
    from stages.stage03_mount_namespace import Caps
    from stages.stage04_cgroups import OneUserNamespace

    def without_the_capability():
        as_after_exec()
        insist()

    def with_a_new_user_namespace():
        as_after_exec()
        with_every_capability()
        insist()

    for way in (without_the_capability, with_a_new_user_namespace):
        print(way.__name__.replace("_", " "))
        attacked(way, Caps())
    print("the same, where none can be made")
    attacked(with_a_new_user_namespace, Caps(), OneUserNamespace())


# %% [markdown]
# They count for enough. (*No space left on device*, in the last attempt, is the kernel's word for a limit on
# namespaces that is met; there is no device in it.) The mount is made in the new namespace, so its maker may make
# it. And the file behind it is written to by the one who owns it, which has nothing to do with capabilities at
# all: the group was made by uid 0, and here is uid 0.
#
# So it takes both: no `CAP_SYS_ADMIN`, and no new user namespaces. The kernel counts them, and the count has a
# limit, `user.max_user_namespaces`. It belongs to the user namespace in which it is set and holds for everybody
# in there, which makes it a coarse wall. Browsers and container tools of ordinary users want user namespaces
# and would go without for as long. A container that has a user namespace of its own has a limit of its own as
# well. There is a finer tool, which refuses single calls to single processes. It is called seccomp. This course
# builds no such filter; the end of stage 6 says what one would do for you.
#
# **Build** `raise_limit`, and the two hooks of `OneUserNamespace`. Then `./walls check 4.7`.

# %%
check("4.7")

# %% [markdown]
# ## The walls as they now stand
#
# A program behind the walls of stages 2 to 4, beside the machine's first process.


# %%
def standing(pid, box):
    """Print for each wall whether it stands around a process, and for each limit how high it is."""
    namespaces(pid, "uts", "ipc", "pid", "mnt", "net")
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    within_reach = int(status["CapBnd"], 16) >> linux.CAP_SYS_ADMIN & 1
    print("    CAP_SYS_ADMIN      ", "within reach" if within_reach else "out of reach")
    print("    user namespaces    ", Path("/proc/sys/user/max_user_namespaces").read_text().strip(), "may be made")
    for what in ("memory", "pids", "quota"):
        limit = box.file(what).read_text().split()[0]
        inside = pid in members(box.file(what).parent)
        print(f"    limit: {what:<13}{limit if inside else 'none'}")


# %%
@demo(rootfs=True, cgroup=True)
def the_walls():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem, Sealed
    from stages.stage04_cgroups import Cgroup, OneUserNamespace

    box = Cgroup(memory="64m", pids="32", cpus="0.5")
    walls = [Uts("box"), Pids(), Filesystem("/srv/rootfs"), Caps(), Sealed(), OneUserNamespace(), Init()]
    standing(started(launch, box, *walls), box)


# %% [markdown]
# ![The walls after stage 4: cgroups. Two columns, the machine and the process, with a wall between them. New in this
# stage: memory, CPU, forks (up to a limit; Cgroup). Its own before: root directory (its own, no other left;
# Filesystem); host name, IPC (its own; Uts); process numbers (its own, from PID 1; Pids, Init); mounts, /proc, /dev
# (its own; Filesystem); power to mount (taken away; Caps). Still shared with the machine: network; files of the
# rootfs; user ids; kernel, clock.](pictures/stage04_walls.svg)
#
# ## What it costs
#
# Being counted is nothing extra: every process of a machine is in some group, if only in the uppermost, and is
# counted there. But a group has to be made, entered and removed. The same smallest program as in stage 0,
# twenty times without a cgroup of its own and twenty times with one, by turns, measured here:


# %%
# NBVAL_IGNORE_OUTPUT
@demo(cgroup=True)
def the_price():
    from stages.stage00_process import launch
    from stages.stage04_cgroups import Cgroup

    times = {"without": [], "with": []}
    for _ in range(20):
        for name, walls in (("without", []), ("with", [Cgroup("64m", "32", "0.5")])):
            began = time.monotonic()
            launch(Program(["true"], PATH), walls)
            times[name].append((time.monotonic() - began) * 1000)
    for name, each in times.items():
        print(f"{name:<8}{statistics.median(each):6.1f} ms, the slowest {max(each):6.1f} ms")


# %%
assert [line.split()[0] for line in the_price.splitlines()] in (["without", "with"], ["not"])

# %% [markdown]
# Most of it is waiting: before the kernel moves a process into a group it waits until no processor is in the
# midst of a fork or an exit, on v1 once for each tree. On a quiet machine that takes a few milliseconds, on one
# that has other things to do it may be tens of them. A virtual machine pays nothing of the sort, for its limits
# are of another kind. It is told at its start how much memory there is, as a computer is, and what it does with
# that is the affair of its own kernel. From outside one sees pages that were touched, and does not know which of
# them it still needs, unless a driver in the guest tells (a *balloon*). A container's limit is a number in the
# *host's* kernel, which knows what every page is for.
#
# *Predict: may one promise to a hundred containers more than there is? And on whose account is memory that two
# of them use? Below, one writes 8 MiB to a file in memory, and another reads it. A third makes files with
# nothing in them.*


# %%
@demo(cgroup=True)
def a_count_and_no_more():
    from stages.stage04_cgroups import Cgroup

    for _ in range(100):
        box = Cgroup(memory="1024g")
        box.create()
        box.limit_memory()
    print("promised: 100 times", int(box.file("memory").read_text()) >> 30, "GiB")

    for what in ("write 8 MiB", "read them", "make 20000 empty files"):
        box = Cgroup()
        box.create()
        pid = linux.clone()
        if pid == 0:
            box.enter(os.getpid())
            if what == "write 8 MiB":
                Path("/tmp/file").write_bytes(bytes(MIB) * 8)
            elif what == "read them":
                with open("/tmp/file", "rb") as file:
                    while file.read(MIB):
                        pass
            else:
                for number in range(20000):
                    os.close(os.open(f"/tmp/{number}", os.O_CREAT))
            os._exit(0)
        os.waitpid(pid, 0)
        peak = box.measure().memory / MIB
        print(f"{what}: {'6 MiB or more' if peak >= 6 else 'less than 6 MiB'}")


# %% [markdown]
# A limit reserves nothing. What a container does not use is the machine's, and what it gives back is there for
# the next one at once. That is one reason why a machine holds so many more containers than virtual machines. And
# there the container is the worse bargain: for whoever relies on the promise. When all take what they
# were promised, the machine is out of memory long before any of them is, and somebody is killed who has stayed
# within his limit.
#
# And look at who pays. Memory that several use, such as the machine's copy of a file, is on the account of
# whoever touched it *first*; the reader got it for nothing. So a hundred containers of one image have one copy
# of its files among them, where a hundred virtual machines have a hundred, unless somebody goes looking for
# pages that are equal. But what a container is charged with depends on who came before it. The third line is
# about memory that is in no program at all. Twenty thousand empty files cost the kernel a note or two each, and
# that is charged as well, to a container that has not stored a byte. A virtual machine has its notes in the
# memory that it was given.
#
# Lastly, what has no account. The processor's caches, the way to the memory and the locks inside the one kernel
# are shared, and these controllers do not count them. A neighbour who is within all limits can still be
# *noisy*. (Virtual machines on one computer share the first two as well, but each has kernel locks of its own.)
# The disk has a controller too, which we leave alone.
#
# ## What still does not stand
#
# One thing in this stage has no `close` that would help. *Predict: the launcher is killed. What is left?*


# %%
@demo(cgroup=True)
def nobody_to_tidy_up():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids
    from stages.stage04_cgroups import Cgroup

    box = Cgroup()
    launcher = linux.clone()
    if launcher == 0:
        launch(Program(["sleep", "60"], PATH), [box, Pids(), Init()])
    time.sleep(1)
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    time.sleep(1)
    print("processes:", len(members(box.directory("memory"))))
    print("the group is there:", box.directory("memory").exists())


# %% [markdown]
# The processes went with their init, as in stage 2. The group stays, empty, until somebody removes it or the
# machine is started anew. It is a directory, and there is no parent with which a directory dies. Where systemd
# is asked to make the group, it also removes it when the last process has gone. The throwaway hosts of this
# course are in a cgroup too, and what is left of one whose keeper was killed is swept away when the next keeper
# starts.
#
# And one line of the table above still says `of the machine`. The container of stage 3 heard a password on the
# machine's own loopback, and this one would hear it too, politely, and within its limits.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. A container may have 32 MiB. It reads a file of 200 MiB on the disk, from the beginning to the end,
#    through a small buffer. The kernel keeps copies of what was read. Is anybody killed?
# 2. A process has taken 20 MiB before it is put into a group that may have 32. Then it takes 20 MiB more, and
#    then once more as much. What happens, and when?
# 3. A limit of 0.5 processors, a machine with eight of them, and a program with eight threads that never
#    rest. How does it run, in each tenth of a second? What does the average say?
# 4. `Cgroup(pids="4")` with `Pids` and `Init`, and a program of one process. How many children can it have at once?
#    One of them has ended, and the program has not waited for it: may it have another?
# 5. All the processes of a container have been killed, and its launcher too, so that no `close` was called.
#    Which of the walls of stages 2 to 4 are gone, which are not, and what makes the difference?
#
# <details><summary>Our answers</summary>
#
# 1. Nobody. The copies are on the group's account, and it is at its limit soon. But they can be read again,
#    so the kernel takes them back before it thinks of killing. (`failcnt` of the first version counts each
#    time, and that is why it is no proof of anything.)
# 2. The first 20 MiB stay on the account of the group in which they were touched. So the new group has 20 of
#    them after the next step, and nobody is killed, though the process has 40. The step after that would make
#    40 in the group, and in the middle of it the process is killed. A launcher puts the child in before it
#    has touched anything.
# 3. Its 50 milliseconds are emptied by eight at once, so it runs for about six milliseconds, and then all
#    eight stand still for some ninety-four. On average that is half a processor, which looks as if one half
#    were free all the time. Who asks at the wrong moment waits a tenth of a second.
# 4. Two, for init and the program itself are counted too. And no: a zombie keeps its place, in the table of
#    processes and in the account, until somebody asks for its status. A program that never waits fills its group
#    with the dead.
# 5. The namespaces are gone: they last as long as somebody is in them or holds on to them, and the mounts go
#    with their table. The cgroup is a directory in a file system of the machine, and lasts until somebody
#    removes it. Nor does anybody put back what `OneUserNamespace` has set. It is a number of the user
#    namespace around the container, and nobody in there can make a new one until somebody writes the old
#    number again.
#
# </details>
#
# Cards, addresses and ports are the next list that can be had twice. That is [stage 5](stage05_networking.ipynb).
