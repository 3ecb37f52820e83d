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
# # Containers and machines, measured
#
# *45 minutes. Nothing to build. It reads best after stage 6, and can be read at any time.*
#
# When you have read this you can say what a virtual machine is and what a container is without a slogan; say
# what each costs, in time, memory and system calls, and how you know; name what a container lets through that
# a machine does not; and say when the container is the dearer of the two.
#
# **The question.** Stage 0 began with it. There are two ways to run a program apart from everything else on a
# computer. One adds a whole computer made of software, the other subtracts from the one that is there. People
# say a good deal about the two. Below are eleven things they say. Each became an experiment, with a bare
# process, the container that you have built, and a virtual machine. Some of the eleven turned out to be half
# true, and the text says which half.
#
# **Where the figures come from.** One command makes all of them in one run, of four minutes or of ten:
#
#     ./walls bench vm
#
# It wants QEMU and a kernel to boot; without them it measures the rest, and says what to install. What it
# measures on your machine goes to your cache, and from then on this page shows your figures in place of ours.
# Ours lie raw in `docs/measured/machines.json`. The next cell says whose you are looking at. What your run has not
# measured is ours all the same, and then says "the course's". "In our run", in the text, always means the course's.

# %%
import os

from thinwalls.measure import figures
from thinwalls.measure.shown import Shown
from thinwalls.notebook import demo, look
from thinwalls.wall import Program, Wall

# %%
# NBVAL_IGNORE_OUTPUT
shown = Shown()
print(shown.sentence)
if missing := figures.lack():
    print("For virtual machines of your own,", missing)

# %%
assert shown.find("many", "machine")[0]
print("there is a figure for everything on this page")

# %% [markdown]
# Read the ratios, not the digits. And read the label. *Emulated* means that QEMU reads each instruction of
# the guest and does with its own what that one would have done. *KVM* means that the processor runs the
# guest's instructions itself, and QEMU plays the devices only. Emulation made a guest five times slower here
# where that is easiest (claim 3). It changes nothing about what a machine is. Its memory is somewhat more, for
# QEMU keeps what it has translated.
#
# ## 1. A virtual machine is software that pretends to be a computer
#
# A script asks thirteen questions about the computer under it: which kernel, when was it switched on, what
# time is it, how much memory. It was run as a process of a throwaway host, in a container there, and as the
# first program of a machine whose clock had been set to the first day of 2001.
#
# *Predict: which lines are the same in all three columns? And in which ones does the container differ from
# the process?* (The container was asked a moment after the process.)

# %%
print(shown.answers())

# %%
kinds = ("process", "container", "machine")
process, container, machine = (shown.find("computer", "answers", name)[0] for name in kinds)
same = [name for name in process if process[name] == container[name]]
assert {"kernel", "boot id", "switched on", "clock", "memory"} <= set(same)
assert machine["clock"] == "2001" and machine["boot id"] != process["boot id"]
print("the kernel, its start, its clock and its memory: the container's are the process's, the machine's are its own")

# %% [markdown]
# Nothing in the third column is on loan. That kernel was started a moment before it was asked, by firmware,
# in memory that QEMU had taken from this machine and calls a computer's. Its clock is a device, and a device
# can be made to say anything. This is what the word *virtual* is for.
#
# It goes further down than the kernel. A computer needs none: a kernel is what usually comes first on one.
# For these figures a disk was made with a single sector on it, 512 bytes, of which some 80 are instructions.
# The simulated firmware found the sector and jumped to it, as that of a PC of 1981 would have. You can read
# it in `thinwalls/measure/bare.py`.
#
# Look at the second column once more, for it comes back in the tenth claim. Whatever its cgroup allows it,
# `/proc/meminfo` tells the container of the memory of the whole machine. It sees two processes, its own, and is
# shown the load of all. Nor are the open files its own: it is one count for everybody, and had grown between the
# two questions. The walls of a container stand where somebody put one.
#
# ## 2. It can even be another kind of computer
#
# The processor of a machine is software too. So it need not be like the one you have.
#
# *Predict: what does this machine's kernel say when it is asked to run a program for an ARM processor (or, on
# an ARM, for a PC)? And a container on it?*

# %%
other, label = shown.find("architecture")
where = "the course's machine" if label.endswith("the course's") else "this machine"
print(f"{where}, of a program for the other kind:".ljust(46), other["its program here"])
print("an emulated ARM computer without a kernel:    ", other["says"])
print("the same with a kernel, asked uname -srm:     ", other.get("uname", "not measured: see below"))

# %% [markdown]
# The first answer is the kernel's, and a container has no other kernel to ask. It does not matter how its
# files look: the instructions in them go to the one processor there is. The second came from twenty
# instructions of ARM machine code, put where such a processor begins when it is switched on. They print a
# text through the serial port, then the number by which that processor names its maker and model, then they
# switch it off. The number begins with 00, which Arm's manual reserves for processors made of software.
#
# The third is a whole Debian kernel for ARM. If you want to see it on your machine: a kernel and a static
# busybox for arm64, under the names `vmlinuz` and `busybox` in the folder `aarch64` of the course's cache
# (`~/.cache/thinwalls`), are found there by `./walls bench vm`.
#
# **Half true.** People do run ARM images on a PC, with podman or Docker, and it looks like a container. There
# the kernel has been told (by binfmt_misc) to hand programs of that kind to an emulator, `qemu-user`. It
# translates one process and passes its system calls to the one kernel. So it is a container after all, and no
# virtual machine: `uname -m` says aarch64 in it, and the kernel below is the PC's.
#
# ## 3. Machines nest, and each level costs
#
# Software that pretends to be a computer is software, and so runs on a computer, and so on that one.
#
# The same loop, which counts down to zero and does nothing else, was timed three times: as a program of this
# machine (138 bytes, no library), as the boot sector of a machine, and as the boot sector of a machine inside
# a machine. *Predict: how many times longer does the machine take than the process? And the machine in it?*

# %%
print(shown.levels())
nested = shown.find("nesting")[0]["nested KVM"]
print("nested KVM, as the modules of that machine's kernel say:", nested or "there is no such module")

# %%
counting = [level["counting"] for level in shown.find("nesting", "levels")[0]]
assert counting[1] < counting[2]
print("each level costs:", counting == sorted(counting))

# %% [markdown]
# The costs multiply, roughly (in our run by five, and then by eight): whoever emulates an emulator emulates
# every one of its instructions. This tight loop is emulation's best case, because the translation is made
# once and used again; look at the time to the first word for the worse one. Whole systems suffer more.
#
# **Half true**, too: nesting without end holds for emulation only, and only in patience. With KVM the inner
# machine wants the processor's help, which the outer one already uses. The outer kernel has to play along
# (that is the parameter `nested`), and each level's exits go through all levels below. We have not measured
# nested KVM: the machine these figures come from could not run a guest with KVM at all.
#
# Containers nest as well, and there it costs next to nothing: you have done it throughout, for every
# throwaway host is one, of two levels, and yours were the third. What limits them is not time but what the
# kernel allows inside a user namespace.
#
# ## 4. A container is a walled-off share of the machine
#
# Enough of machines. Here is the other side, live. *Predict: which namespaces are the container's own?*


# %%
@demo(rootfs=True)
def a_share():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Pids, Uts
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage05_networking import Isolated

    class Look(Wall):
        def inside(self):
            print("kernel as outside:", os.uname().release == release, "| name:", os.uname().nodename)
            print("switched on as outside:", switched_on() == boot)

    def switched_on():
        with open("/proc/stat") as file:
            return next(line for line in file if line.startswith("btime"))

    class Xray(Wall):
        def outside(self, pid):
            look(pid, "namespaces")

    release, boot = os.uname().release, switched_on()
    walls = [Pids(), Isolated(), Uts("share"), Filesystem("/srv/rootfs"), Look(), Xray()]
    launch(Program(["/bin/true"], {"PATH": "/bin"}, "/"), walls)


# %% [markdown]
# Processes, files, network, name and System V objects are its own. Memory, processor and number of processes
# are not a matter of namespaces: the cgroup of stage 4 gives it a share of those by counting. And the kernel
# is one, switched on once. To see it of any container on your machine, whoever made it: `./walls xray PID`.
#
# **Half true: the disk.** A share of the disk is what people expect and what most containers have not got.
# Yours writes into a layer in memory (stage 6), which the memory cgroup counts. A container whose layer lies
# on the machine's disk, as with Docker and podman by default, can fill it up for everybody; `df` in there
# shows the free space of the whole file system. A share of the disk takes quotas, which are set up apart.
#
# ## 5. It cannot see the rest
#
# The rest being: other people's files, processes, and the memory of those processes. This was not believed
# but tried. A victim has a secret in a file and another one in its memory. Five tries are made by a process
# that runs beside it as the same user, and the same five, knowing the victim's number and the address of the
# secret, out of a container.
#
# *Predict: how many of the five succeed for the process beside it?*

# %%
print(shown.tries())

# %%
tried = shown.find("isolation")[0]
assert all(answer.startswith("yes") for answer in tried["process"].values())
assert all(answer.startswith("no") for answer in tried["container"].values())
print("five of five beside it, none of five out of a container")

# %% [markdown]
# All five. Between processes of one user there is no wall: any program you start may read the memory of your
# browser (some distributions soften that, see `ptrace_scope` in the manual page ptrace(2)).
#
# Mind how the container fails. Not one of its answers is "permission denied". It is "no such file" and "no
# such process": the names lead nowhere, and what has no name cannot be asked for. That is a stronger wall
# than a permission, for there is no check that might be got wrong; and it holds for uid 0.
#
# **Half true.** It cannot *name* the rest. It can still tell that it is there: see the load and the open
# files in the first table. And a wall of names leaks where a name is carried in, as descriptors were in stage
# 0. A machine's guest was not tried: it has no system call into this kernel through which to ask, only
# devices.
#
# ## 6. All it can talk through is its share of the network
#
# If that is so, two containers with a cable each to one bridge can talk, and two without cannot talk at all.
# Container A says a word in every way we could think of, and B listens for it.
#
# *Predict: what does B hear when each has a network of its own, without a cable?*

# %%
print(shown.ways())

# %%
apart = shown.find("communication", "apart")[0]
assert apart["TCP"].startswith("nothing") and apart["a file in a volume of both"] == "a word"
print("without a cable B hears nothing by TCP, and something by other ways")

# %% [markdown]
# **Too simple**, then, and in two places. A volume which both have is a way that somebody opened on purpose.
# The last line nobody opened. Containers without any network passed a letter, bit by bit: A opened six
# hundred files for a tenth of a second, or none, and B read in `/proc/sys/fs/file-nr` how many files are open
# on the whole machine. The clock that they kept time by they have in common as well. Such a way is called a
# *covert channel*. Any number which the kernel keeps for everybody is one.
#
# Between machines on one computer there are fewer, and not none: they share caches, memory buses and the
# disk's patience. Spectre and its relatives went that way, through both kinds of wall.
#
# ## 7. It is lighter
#
# Now the one that everybody says. Four measures: how long a start takes, how much memory, how much disk, how
# many system calls. *Predict, as powers of ten: how many processes could be started while one machine boots?
# How many containers?*

# %%
print(shown.starts())

# %%
median = {name: sorted(shown.find("lightness", "starts", name)[0]) for name in kinds}
median = {name: samples[len(samples) // 2] for name, samples in median.items()}
assert median["process"] < median["container"] < median["machine"] / 5
print("a process, a container, a machine: in this order")

# %% [markdown]
# An x says how many times a process's it is. "Start" is from a running Python to the end of `true`, and for the
# machine until its first program says a word. "System calls" are all that this machine's kernel was asked, as
# strace(1) counted them: for the machine, what QEMU asked. In our run the machine started a thousand times as long
# as a process and asked only seventy times as often: nearly all of its work is computing. A container's calls are
# your walls, one by one.
#
# Memory is asked for N at a time, because the first of a kind pays for what the next ones share. The *slope*,
# what one more takes, is the honest number. It is counted in two ways: PSS, which divides a shared page by
# its sharers, as seen from the processes, and what the kernel charges to a cgroup, its own structures
# included.

# %%
shown.memory()

# %%
each, charged = shown.each(), shown.each("cgroup")
assert len(each) == 3
process_each, container_each, machine_each = each.values()
assert process_each < container_each < machine_each / 3
print("one more container takes more than one more process, and far less than one more machine")

# %%
for name, megabytes in each.items():
    print(f"{name:<28}{megabytes:>8.1f} MB each by PSS, {charged.get(name, float('nan')):>8.1f} charged")

# %% [markdown]
# **Half true**: lighter than a machine, yes, by a factor that depends on the machine's size: ours was given
# 256 MB and had soon touched most of it, while a process takes memory as it goes, and gives it back. But a
# container is not "just a process". Most of what yours takes is Python: its launcher and its PID 1 are copies
# of one interpreter. podman's `conmon` and Docker's `containerd-shim` stand in the same place, smaller
# because they are written in other languages. And people have trimmed machines to 125 ms and 5 MB of overhead
# (Firecracker, by its makers' figures; not measured here). The factor between the two has been shrinking for
# years.
#
# ## 8. It is disposable, and the same again each time
#
# Three containers of one image, live. The second one damages all it can. *Predict the three lines.*


# %%
@demo(rootfs=True)
def the_same_again():
    from stages.stage00_process import launch
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage06_image_pull import Disposable

    os.mkdir("/srv/root")
    for script in ("cat /etc/passwd", "echo nobody > /etc/passwd; cat /etc/passwd", "cat /etc/passwd"):
        program = Program(["/bin/sh", "-c", script], {"PATH": "/bin"}, "/")
        launch(program, [Disposable("/srv/rootfs", "/srv/root"), Filesystem("/srv/root")])


# %% [markdown]
# What the second one wrote went into a layer that ended with it. In the run of the figures, a hash over all
# files of the third was that of the first. It was also tried without the layer, with the image itself as the
# root: then the next container begins with what the last one left. So being disposable is no property of
# containers. It is the layer's. A machine that boots from a disk in memory is just as disposable, as the run
# of the figures showed, and one with a real disk is not.
#
# **Half true: "the same".** The files are the same. The run is not: the clock goes on, random numbers differ,
# the kernel below may be another one tomorrow, and whatever the program fetches from the network is what is
# there that day.
#
# ## 9. It goes up and down with demand
#
# N started at once, timed until the last one is up; then all ended. *Predict: on a logarithmic axis, are the
# curves flat, or do they rise?*

# %%
shown.up()

# %%
shown.down()

# %% [markdown]
# They rise, and the machines' rises most: in our run eight of them took seven times as long as one, for two
# processors can emulate two at a time. (Where a curve begins by falling, as that of our processes does, the first of
# its kind had to fetch what the next ones found in memory.) Eight containers took a little over three times as long
# as one, and were there in a tenth of a second. There is no magic in scaling. What containers bring is that the unit is
# small: eight more are there before anybody has noticed the need. The way down is quick for all. The kernel
# takes a container's network down on its own time, after it has told you that the process is gone. QEMU is
# one process, and all that the guest believes in goes with it at once.
#
# **What it does not say**: a program that needs a minute to fill its cache does not scale in a second, in a
# container or out of one.
#
# ## 10. What it costs: the setting up, and thinner walls
#
# An image has to be made before it can be repeated. Ours is small: the programs that the probes need, and
# their libraries.

# %%
made, label = shown.find("setting up")
took = min(made["seconds"]) * 1000
whose = ", the course's" if label.endswith("the course's") else ""
print(f"{made['programs']} programs: {made['files']} files, {made['bytes'] / 1e6:.1f} MB, {took:.0f} ms to make{whose}")

# %% [markdown]
# That is the machine's part of the price. The other part is yours, and no clock here can measure it: knowing
# what a program needs, writing it down, keeping the image up to date when a library in it has a hole. The
# same is asked for a machine's disk. A program on a plain system has none of it, and is patched when the
# system is.
#
# The walls are the dearer part. Go back to the first table and read the second column as an attacker. One
# kernel is under all of it: its version, the moment of its start, its boot id, the processor, the memory, the
# load, the open files show through. None of these is a break. Each of them tells which hole to try, and the
# holes are in the kernel that everybody shares. A container's program can make several hundred different
# system calls on it; a machine's guest can touch a few devices, and has a whole kernel of its own to break
# first. That is what is meant by *thin*.
#
# And one thing is not a matter of thickness. In a machine you can set the clock, load a kernel module, choose
# another kernel. In a container you cannot, for they are not shares of anything. (Linux has a time namespace.
# It shifts the clocks that count from the start of the machine. The date it leaves alone.)
#
# ## 11. When it is the dearer one
#
# On a Mac, or on Windows, there is no Linux kernel to take a share of. Docker Desktop, podman machine and
# WSL2 all do the same: they start a virtual machine with Linux in it, and put the containers there. Then a
# container is not set against a machine. It is a machine, and a container besides.
#
# For these figures a machine was started with Python and the walls of this course in it, and containers were
# started in there. It is a larger one than the others, of 512 MB where they have 256, as those machines on a
# Mac are. *Predict both curves. Where do "N containers in one machine" and "N machines" meet, and from where
# on do they part?*

# %%
shown.in_a_machine("up")

# %%
shown.in_a_machine("pss")

# %%
here, machines, inside = (dict(points) for points in shown.in_a_machine("pss").curves.values())
assert here[1] < machines[1] and here[1] < inside[1]
print("one container in a machine takes ten times the memory of one here, or more:", inside[1] > 10 * here[1])

# %%
shares = {number: inside[number] / machines[number] for number in inside if number in machines}
assert shares[max(shares)] < shares[1]
print("and the more there are, the less of it falls on each")

# %% [markdown]
# For one program, the container in a machine is the dearest of all: it waits for the boot, pays for the
# second kernel, and then for the container. Whoever starts one container on a Mac has started a machine, and
# its memory stays taken while it runs. With each further one the price of the machine is shared by more,
# while N machines pay it N times. In our run the curves crossed before the second one, in time and in memory. (If
# one of the curves says "the course's" and another does not, they are of two computers, and where they cross says
# nothing.) So the sentence "containers are lighter than virtual machines" is true of the second container.
#
# There are more cases where the container is dearer, and they have no curve here: a program that is already
# safe as a plain process under a user of its own; a program of which there is one, for years, on a machine
# bought for it; a team that has to run a registry, a scheduler and a network for three programs.
#
# ## What is still open
#
# None of the figures say anything about *work*: a container computes at the speed of a process, since it is
# one, and a machine with KVM very nearly so, but disk and network pass through simulated devices. We have not
# measured that. Nor nested KVM, as said, nor a real Mac, whose hypervisor boots a kernel that was trimmed for
# it. The emulated machine makes its *times* too long, five times and more; the ratios of memory depend less
# on how it is run, and are the ones to keep. And between the two kinds of wall there are others, gVisor with
# a kernel in a process, Kata with a machine for each container, of which each takes something from both
# columns.
#
# ## Check your understanding
#
# No cell of this page answers these. Try each in two sentences, on paper.
#
# 1. A colleague shows that `/proc/meminfo` in a container says 24 GB, and concludes that its limit of 64 MB
#    does not work. Where is the mistake, and by which file would you show it?
# 2. Your service must not run if the date is wrong. You want to test it with a wrong date. Why will a
#    container not do, and what is the least that will?
# 3. Of the five tries, the container's all failed with "no such ...". Name a sixth that would fail with
#    "Operation not permitted", and say which wall of the course answers it.
# 4. Two tenants who do not trust each other each rent a container on one machine, without any network. The
#    operator says they cannot communicate. Is he right? What would he have to give each of them instead, and
#    would he be right then?
# 5. On a Mac the machine takes 180 MB before anything runs in it, and 240 with one container. Someone says that a
#    container costs 60. Someone else says 240. For which question is each of them right?
# 6. Eight machines took seven times as long as one, on two processors. On a machine with sixteen processors,
#    which of the three curves would change most, and why?
#
# <details><summary>Our answers</summary>
#
# 1. `/proc/meminfo` tells of the machine, and no namespace makes another file of it. The limit is the cgroup's, and
#    stands in `memory.max` (v1: `memory.limit_in_bytes`) of the group that `/proc/PID/cgroup` names. Or ask for 65 MB
#    in there, and see who is killed.
# 2. The date is the kernel's, and there is one kernel: whoever sets it in a container has set it for all, if he may,
#    and the time namespace leaves the date alone. The least that will do is something with a clock of its own: a
#    virtual machine. (For a single program that asks its library for the date, a library that lies is enough, and
#    that is no wall at all.)
# 3. To mount something, say. The call has a name for all it needs, so it is a check that refuses, and the check is
#    for `CAP_SYS_ADMIN`, which `Caps` of stage 3 has taken away for good.
# 4. No: whatever the kernel counts for everybody is a way, as the open files were. With a machine for each there is
#    no common kernel that could count, and this way is closed. He would still not be right: caches, memory bus and
#    disk are the same. For that each of them needs a computer.
# 5. 60 is what one more container costs, where the machine is running anyway. 240 is what it costs to have one
#    container where there was nothing.
# 6. The machines'. Emulating is computing, and on sixteen processors eight machines boot side by side: about as
#    long as one. A process or a container waits for little but the kernel and the program that starts it, one after
#    the other, so they gain less.
#
# </details>
