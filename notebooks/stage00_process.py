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
# # Stage 0: a process
#
# Suppose you want to run a program apart from everything else on your computer: its own files, its own
# network, its own idea of who is running beside it. There are two ways to get there, and they begin at
# opposite ends.
#
# The first is to build it a computer. A virtual machine is a computer made of software: a processor, memory
# and a disk, all simulated, on which a second operating system starts as if it had been switched on. It is
# empty, and things are put into it.
#
# The second is to start the program on the computer you have, and to take things away from it: other people's
# files, other people's processes, the network. Nothing is simulated. That is a container. Virtual machines
# add, containers subtract, and this course is about the subtraction. You will write it, in Python, one wall
# at a time.
#
# So what is a container beside a virtual machine, and what does each of them cost? And is there a case in which
# the container is the dearer one? Two figures below are a beginning of an answer. The lesson
# `containers_and_machines` has the rest, with the container that you will have built.
#
# Before the first wall there has to be something to put it around. This stage is about that something: how
# Linux starts a program, what a program is given at its birth, and how the one who started it learns what
# became of it.
#
# (Some two hours and forty minutes, with the tasks. At the end you can say how one program becomes two and one of
# them another, what comes along that nobody has passed on, and by what a launcher knows that a start has
# succeeded. And you have a launcher, which runs everything in this course.)

# %%
import os
import pickle
import signal
import time
from pathlib import Path

from thinwalls import linux
from thinwalls.bench import start_times, table
from thinwalls.measure.shown import Shown
from thinwalls.notebook import check, demo, look
from thinwalls.wall import Program, Wall

# %% [markdown]
# **How to read these pages.** A function under `@demo` is run at once, and what it prints appears below it.
# It does not run on your machine but in a *throwaway host*, which is made for it in about a hundredth of a
# second and is gone when it ends. Change whatever you like and run the cell again: nothing in there can reach
# you. Before you run a cell, stop and say what you think it will print. Being wrong is the useful part.
#
# What you build goes into the files in `stages/`, in any editor. This stage's is
# [stages/stage00_process.py](../stages/stage00_process.py); in JupyterLab, a click on its name opens it in a tab of
# its own. And `./walls check 0 --watch` in a terminal (there too: *File*, *New*, *Terminal*) tells you at every
# save how far you have come.
#
# It works without Jupyter as well: this page is a text, `notebooks/stage00_process.py`, and
# `.venv/bin/python notebooks/stage00_process.py` prints what its cells print.

# %% [markdown]
# ## One kernel for everybody
#
# The throwaway host is itself a container. So we can ask at once what the difference looks like from within.
# The next cell asks three questions twice, here and in there: what is the kernel's version, when was this
# computer switched on, and what is it called? In a virtual machine all three answers would be its own.
#
# *Predict: which of them will differ?*


# %%
def three_questions():
    boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    print("kernel ", os.uname().release)
    print("started", time.strftime("%Y-%m-%d %H:%M", time.gmtime(int(boot.split()[1]))))
    print("name   ", os.uname().nodename)


# %%
# NBVAL_IGNORE_OUTPUT
print("-- here")
three_questions()
print("-- in the throwaway host")


@demo
def in_there():
    three_questions()


# %%
kernel, started, name = (line.split(maxsplit=1)[1] for line in in_there.splitlines())
assert kernel == os.uname().release
assert name == "machine"
print("one kernel, which was started once; only the name is the host's own")

# %% [markdown]
# There is one kernel, and it was started once. A container does not boot. It has a name of its own because
# the name is one of the things the kernel has learned to keep several of; we come back to that in a moment.
#
# ## What that costs
#
# If nothing boots, starting a container should cost about as much as starting a program. Let us see. The next
# cell takes the smallest program there is, `true`, which does nothing and ends, and starts it three times
# over: as a plain process, as a container (with a root directory and five walls of its own, by the code you
# are going to write), and as the only task of a virtual machine. If none can be started here, or none in a few
# seconds, the last figure is one we stored, and the table says so and why.
#
# *Predict: how many times longer does a container take than a process? And a virtual machine than a
# container?*

# %%
# NBVAL_IGNORE_OUTPUT
times = start_times()
print(table(times))

# %%
process, container, machine = (row.median for row in times)
assert process < container < machine
print("a process is lighter than a container, a container is far lighter than a machine:", machine > 5 * container)

# %% [markdown]
# The numbers are this computer's, on this day, and they jump about: read the ratios. The container is dearer than
# the process by some thousandths of a second, in which the kernel fills in some structures it would otherwise
# have shared. The machine has to go through firmware, the unpacking of a kernel, and that kernel's search for
# hardware. Where its figure says *emulated*, most of it is the price of a processor made of software: with KVM,
# where the real one does the work, it takes a small part of that. People have trimmed virtual machines until they
# start in about a tenth of a second. It took them years, and what they took out is exactly what a container never
# had.
#
# A start is paid once. What is paid all the time is memory. Start one of each, then two, four and eight at a time,
# and see how much memory all of them take together: what one more takes is how steeply the line rises. Machines
# are slow to start where they are emulated, so this second figure is not measured on the spot. It is the
# course's, or yours once you have run `./walls bench vm`.
#
# *Predict: how many containers fit where one machine does?*

# %%
shown = Shown()
print(shown.sentence)
for name, more in shown.each().items():
    print(f"one more of the {name}: {more:.1f} MB")
shown.memory(logarithmic=True)

# %%
processes, containers, machines = shown.each().values()
assert processes < containers < machines
print(f"where one machine fits, there is room for {machines / containers:.0f} containers")

# %% [markdown]
# (The axis is logarithmic, or the two lower curves would lie on its zero.)
#
# There is a price, and it is in the name of this course. A virtual machine's wall is the simulated hardware.
# A container's wall is a check in a kernel that everybody shares, one at every door. Each stage puts up a
# wall, and each stage ends by trying to get through it.
#
# ## A process with walls
#
# The Linux kernel has no object called "container". Look for one in its source and you will not find it. What
# it has is *processes*: programs that are running. Each of them has a number, a program, some open files, and
# a handful of pointers to what it can see: this list of processes, that set of network cards, this host name.
# A thing to point to is called a *namespace*. Usually all processes point to the same ones.
#
# Below, two children are made by the same call. The second one asks for namespaces of its own. `look()` then
# asks the kernel about them, from outside; neither child is consulted.


# %%
@demo
def two_children():
    plain = linux.clone()
    if plain == 0:
        time.sleep(60)
    walled = linux.clone(linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWUTS)
    if walled == 0:
        time.sleep(60)
    look(plain, "program", "namespaces")
    look(walled, "program", "namespaces")


# %% [markdown]
# Two processes, alike in everything but three pointers. (The short names are the kinds of namespaces there are:
# `pid` is the list of processes, `net` the network, `uts` the host name, and the others come up in their turn.)
# The second is a small container already. That is the
# plain fact this course stands on: **a container is a process with walls**. So first, the process.
#
# ## Task 0.1: Run a program and return its exit status
#
# How does a program come to run? On most systems there is one call for it: start this program. Unix splits it
# in two, and everything we are going to do happens in the gap between the halves.
#
# The first half is called *clone* (its older name is fork). It makes a second process that is a copy of the
# first: the same program, at the same line, with the same variables. Both return from the same call.
#
# *Predict: what does the parent print for `word`?*


# %%
@demo
def a_copy():
    word = "as it was"
    pid = linux.clone()
    if pid == 0:
        word = "changed by the child"
        print("child:  clone gave me 0, and my word is", word)
        os._exit(0)
    os.waitpid(pid, 0)
    print("parent: clone gave me a number above 0:", pid > 0, "and my word is", word)


# %% [markdown]
# The child has a copy, not a share: what it changes is changed for it alone. The only thing that tells the
# two apart is the value that clone gave them.
#
# The second half is *exec*. It does not make a process. It replaces the program that runs in this one.
#
# *Predict: how many lines will the next cell print, and is it the same number or two?*


# %%
@demo
def another_program():
    before = os.getpid()
    print("I am Python, in process", before)
    os.execve("/bin/sh", ["sh", "-c", f"echo I am a shell, in process $$, which was process {before}"], {})
    print("and this is Python again")


# %% [markdown]
# Two lines. When exec succeeds it does not return, for there is nothing left to return to: the Python program
# that called it is gone, and the same process, with the same number, is now a shell. (The number is so low because a
# throwaway host counts its processes from 1. Stage 2 shows how.)
#
# So the parent cannot exec, or it would be gone. It clones itself, and the child, which is expendable,
# becomes the program. What is left for the parent is to wait, and to be told how it went. The kernel keeps
# that message for as long as nobody has asked for it:


# %%
@demo
def an_end():
    pid = linux.clone()
    if pid == 0:
        os._exit(3)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # wait for the end, but leave the message where it is
    look(pid)
    _, status = os.waitpid(pid, 0)
    print(f"the message: {status}, which is {status:#06x} in hexadecimal")
    look(pid)


# %% [markdown]
# A process that has ended and was not asked about is a *zombie*. Its memory is gone, its files are closed.
# What is left is a line in the kernel's table, holding one number for a parent that may still come and ask.
# Whoever makes children and does not wait for them fills that table. And the number is not 3 but 768: the 3
# is in its upper byte. What the lower one is for is the next task's business.
#
# One more thing before you build. People write `ls`, not `/bin/ls`. Who looks that up?


# %%
@demo
def who_searches():
    for name in ("sh", "/bin/sh"):
        try:
            os.execve(name, ["sh", "-c", f"echo {name}: here I am"], {"PATH": "/bin"})
        except FileNotFoundError:
            print(f"{name}: the kernel finds no such file")


# %% [markdown]
# The kernel knows nothing of PATH. It takes a path as it stands. To search the directories is the business of
# whoever starts a program: of every shell, of the C library, and now of yours. The list to search is that of
# the environment which the *program* is given. It may well differ from your own.
#
# **Build** `run`, `become` and `exit_status` in [stages/stage00_process.py](../stages/stage00_process.py).
# Their docstrings say what they take and give; what is to run reaches them as a `Program`, from
# `thinwalls/wall.py`. The tools are `linux.clone`, `os.execve` and `os.waitpid`, which you have just seen, each
# alone. Python's `subprocess` would do it all in a line, which is why a rule of this course forbids it here.
# What the docstrings say of later tasks (`become` is going to call `furnish`, for one) can wait for those.
#
# Then, in a terminal: `./walls check 0.1`. Or here:

# %%
check("0.1")

# %% [markdown]
# ## Task 0.2: Exit statuses as a shell counts them
#
# There are more ways to end than `exit`. A signal may put an end to a program; and a program may never have
# started. Whoever called `run` wants one number for all of it.
#
# Here are four ends, as the kernel reports them. *Predict: where in the number is the signal's?*


# %%
@demo
def four_ends():
    for how in ("exit 0", "exit 3", "kill -HUP $$", "kill -KILL $$"):
        pid = os.posix_spawn("/bin/sh", ["sh", "-c", how], {})
        _, status = os.waitpid(pid, 0)
        print(f"{how:<14} {status:#06x}")


# %% [markdown]
# The upper byte is for those who ended by themselves; the lower seven bits name the signal that ended the
# others (1 is SIGHUP, 9 is SIGKILL). They are never both set, for nobody dies twice. Python has functions
# that take the number apart, `os.WIFEXITED` and its family, and the manual page wait(2) says what each means.
#
# A shell has to squeeze both into one number that fits into `$?`. This was settled long ago: a program's own
# status as it is, 128 plus the number for a signal. Two more values are for programs that did not start.


# %%
@demo
def a_shell_counts():
    script = """
        exec 2> /dev/null
        sh -c 'exit 3';        echo "exit 3                 $?"
        sh -c 'kill -KILL $$'; echo "killed by signal 9     $?"
        no-such-program;       echo "no such program        $?"
        /etc;                  echo "not to be executed     $?"
    """
    os.execve("/bin/sh", ["sh", "-c", script], {"PATH": "/bin:/usr/bin"})


# %% [markdown]
# Docker and podman keep to this convention, and so shall we. (Shells differ in one case. Of a name that is found in
# PATH and may not be executed bash says 126, and dash, which is `/bin/sh` on Debian, says 127. We side with bash.)
#
# There is a trap in the last two. Clone has made a copy of your program, and exec was to replace it. What if
# exec fails? *Predict: how many lines?*


# %%
@demo
def and_if_exec_fails():
    pid = linux.clone()
    if pid == 0:
        try:
            os.execve("/no/such/program", ["program"], {})
        except FileNotFoundError:
            print("there is no such program; never mind")
    else:
        os.waitpid(pid, 0)
    print("now I delete the files of the", "child" if pid == 0 else "parent")
    if pid == 0:
        os._exit(0)  # not in the story: it keeps this page tidy


# %% [markdown]
# The child did not go away. It is a second copy of the caller, and it carries on with the caller's plans: it
# writes the same file again, charges the same card again. Whatever happens in the child, it must not get past
# the place where the program should have begun. `os._exit` ends a process there and then, without a return
# and without an exception that somebody further up might catch.
#
# **Build** `refusal`, the status for a program that could not be executed, and have the child in `run` end
# with it when its exec has failed. And let `exit_status` know about signals. Then `./walls check 0.2`.

# %%
check("0.2")

# %% [markdown]
# ## Task 0.3: Exactly what it was given
#
# A child is a copy, and exec replaces the program in it, but not all of the process. A good deal stays, and
# most of it was never meant for the newcomer. Walls are put up with care, and then something is carried in
# under the coat.
#
# Take open files. A process knows its open files by small numbers, *descriptors*: 0 is where it reads, 1
# where it writes, 2 where it complains. Any other number may be open too, and stays open through exec unless
# it is marked *close-on-exec*. Python marks those it opens. It cannot speak for those it was itself given,
# nor for what a library written in C has opened. In the next cell a program is started with a command line
# that names no file, and an environment that has nothing in it but PATH. The file has even been deleted.


# %%
@demo
def under_the_coat():
    Path("/tmp/key").write_text("the key is under the mat\n")
    key = os.open("/tmp/key", os.O_RDONLY)
    os.set_inheritable(key, True)
    os.unlink("/tmp/key")
    os.execve("/bin/sh", ["sh", "-c", f"cat <&{key}"], {"PATH": "/bin:/usr/bin"})


# %% [markdown]
# A name can be taken away; a descriptor is the thing itself. In January 2024 this was CVE-2024-21626, in
# runc, the program under Docker and most of its relatives: one descriptor of one directory of the host was
# left open, and a container could walk out through it. Every wall stood.
#
# Signals are the quieter case. What a signal does to a program that has made no arrangements is its *default
# action*; for most of them it is the end. A process may ignore a signal instead, and here is something few
# people expect: being ignored is inherited, through clone and through exec. Python ignores two. *Predict:
# what happens to a shell that sends itself SIGPIPE, the signal by which the end of a pipeline tells its
# beginning that nobody is reading any more?*


# %%
@demo
def started_by_python():
    pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    look(pid, "program", "descriptors", "signals")
    os.execve("/bin/sh", ["sh", "-c", "kill -PIPE $$; echo I was sent SIGPIPE, and did not notice"], {})


# %% [markdown]
# It survives. In a container started like this, `yes | head -n 1` does not end the way it does everywhere
# else, and a program that relies on it, as most do without knowing, runs on and complains, or just runs on.
# The same goes for the set of signals that are *blocked*, which are kept waiting at the door.
#
# **Build** `furnish`, and have `become` call it just before exec. It gives the process its three streams, its
# working directory, no other descriptor, no blocked and no ignored signal; the environment is the third
# argument of `execve`. A word about the streams: `dup2(a, b)` makes `b` one more name for what `a` is open
# on, and whatever `b` was before is lost. The caller may ask for its own 1 as the program's 0 and for its 0
# as the program's 1. Think of two full glasses whose contents are to change places.
#
# Descriptors that you did not open yourself cannot be listed by heart; `linux.close_range` deals with all of
# them at once. Mark them close-on-exec rather than close them: until exec has succeeded somebody may still
# need one, and in task 0.5 somebody will. Then `./walls check 0.3`.

# %%
check("0.3")

# %% [markdown]
# ## Task 0.4: A gate, and walls on both sides of it
#
# Now to the gap between clone and exec. In it the child exists and is not yet the program. That is where
# walls go up, and they go up from two sides. Some can be built only from within: a process can change its own
# root directory, and nobody else's. Others can be built only from outside: a process cannot plug a network
# cable into itself, or choose which users of the machine it may be.
#
# That last one makes a good experiment. A child that is born into a new *user namespace* has no identity
# until a file of its own, `uid_map`, says who it is, and somebody outside has to write that. (Only that it is who it
# was before it may write there itself.) Until then the kernel calls it user 65534, "nobody". The parent
# in the next cell has something else to see to first. *Predict: who will the child say it is?*


# %%
@demo
def too_late():
    pid = linux.clone(linux.CLONE_NEWUSER)
    if pid == 0:
        print("child:  I am user", os.getuid())
        os._exit(0)
    os.waitpid(pid, 0)
    print("parent: now, as to who you are ... hello?")


# %% [markdown]
# Two processes run at once, and neither waits for the other unless it is told to. A program that begins
# before its walls stand is outside of them for a moment, and a moment is enough. So the child has to
# wait, as at a gate.
# Here it stops itself with a signal, and the parent wakes it when all is ready:


# %%
@demo
def in_time():
    pid = linux.clone(linux.CLONE_NEWUSER)
    if pid == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        print("child:  I am user", os.getuid())
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    look(pid, "program", "namespaces")
    Path(f"/proc/{pid}/uid_map").write_text("0 0 1")  # who is 0 inside is 0 outside, and that for 1 id
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)


# %% [markdown]
# It works, and nobody does it like this. Anyone who may send a signal can open such a gate, by mistake as
# well. And if the parent dies, the child stands there for ever. A *pipe* does better: a read from it waits
# until somebody has written or until nobody is left who could. The second half deserves a look, because it is
# where everyone gets stuck once. *Predict: which of the two reads comes back?*


# %%
@demo
def the_end_of_a_pipe():
    reads, writes = os.pipe()
    os.close(writes)
    print("nobody can write any more: the read gives", os.read(reads, 1))
    reads, writes = os.pipe()
    os.set_blocking(reads, False)  # where a read would wait, raise instead
    try:
        os.read(reads, 1)
    except BlockingIOError:
        print("I could write myself, so I would wait for myself, for ever")


# %% [markdown]
# Clone copies descriptors too, so a child holds the writing end as well. As long as it does, it keeps its own
# gate shut: should the parent die, it waits for itself. And a read that gives `b''` is no sign to go on. Nobody is
# left who could put up the other side of the walls, so the child gives up.
#
# Now the shape that all later stages share. A wall is an object with a number and three hooks, in
# `thinwalls/wall.py`: `flags`, the namespaces it wants the child to be born into; `outside`, called in the
# parent while the child waits; `inside`, called in the child before exec; and `close`, called in the parent
# when all is over. `launch` takes a program and any number of walls. This is what a launch of two walls that
# only talk looks like, with your `launch` if you have built it, and with ours until then. The second one also asks for
# a host name of its own:


# %%
@demo
def what_a_launch_does():
    from stages.stage00_process import launch

    class Talking(Wall):
        def __init__(self, name, flags=0):
            self.name, self.flags = name, flags

        def outside(self, pid):
            print(f"{self.name}.outside, in the parent: the child exists")
            look(pid, "program", "namespaces")

        def inside(self):
            print(f"{self.name}.inside, in the child")

        def close(self):
            print(f"{self.name}.close, in the parent")

    program = Program(["sh", "-c", "echo the program"], {"PATH": "/bin:/usr/bin"})
    print("exit status", launch(program, [Talking("a"), Talking("b", linux.CLONE_NEWUTS)]))


# %% [markdown]
# ![The launcher's two sides in time. Two columns, read from the top: the parent, which calls launch(), and the child.
# The parent makes two pipes, gate and report, and clones with the flags of all walls. The child reads from the gate,
# and so waits. The parent calls a.outside(pid) and b.outside(pid), then writes a byte to the gate and reads from
# report. Now the child calls a.inside() and b.inside(), and become(): furnish and exec. Exec closes the child's end of
# report, so the parent's read ends with nothing: the start succeeded. The program runs while the parent waits for it;
# then the parent calls b.close() and a.close(). Should a wall or exec fail in the child, the exception goes through
# report instead: the parent kills the child, waits for it, closes every wall and raises the
# exception.](pictures/stage00_launcher.svg)
#
# **Build** `launch`. A container runtime is hardly more than this function. It is going to run everything in
# this course. The next task teaches it how to fail; after that you will not have to touch it again. Then
# `./walls check 0.4`.

# %%
check("0.4")

# %% [markdown]
# ## Task 0.5: Failure comes back to the caller
#
# Between clone and exec a lot can go wrong: a directory is missing, a limit is reached, a permission is not
# there. It goes wrong in the child, and the one who must hear of it is the parent. All that a child can say
# with its exit status is a number up to 255, and those belong to the program. "Exit status 1" is what a poor
# runtime says here.
#
# So the child gets a second pipe to write its exception into. That leaves one question: when nothing goes
# wrong, how does the parent learn that there is nothing to hear? It cannot wait for the program's end; the
# program may run for a month. The answer is a small piece of beauty. *Predict: does this read wait for a
# minute?*


# %%
@demo
def silence_that_speaks():
    reads, writes = os.pipe()  # Python marks both close-on-exec
    pid = os.posix_spawnp("sleep", ["sleep", "60"], os.environ)
    os.close(writes)
    print("I have read", os.read(reads, 1))
    look(pid, "program", "descriptors")


# %% [markdown]
# It does not: the program is still asleep. The child held the only other writing end, marked close-on-exec.
# In the moment exec succeeded the kernel closed it, and the read came to its end with nothing. An exec that
# succeeds says so by silence; one that fails leaves the pipe open, and the child alive to write into it.
# Python's own `subprocess` does this, and so does systemd.
#
# What is written has to be turned into bytes and back. For Python's exceptions `pickle` does that:


# %%
there = FileNotFoundError(2, "No such file or directory", "/srv/rootfs")
here = pickle.loads(pickle.dumps(there))
print(repr(here), here.errno, here.filename)

# %% [markdown]
# The exception is the same to the last detail, which is what a caller needs to say something helpful. One
# warning goes with it. A pickle can name any function there is and have it called, so it must never be read
# from somebody you do not trust. Here both ends are your own code: the program has not begun.
#
# The other half of this task is tidiness. When a hook has failed, no further `outside` or `inside` is called. No
# child may be left, neither running, nor waiting at the gate, nor as a zombie. Every wall is closed, the last one
# first, whether its `outside` was ever called or not, and also where clone itself has failed and there never was
# a child: it may have made something the machine has to get rid of. And the caller, who may go on to launch ten
# thousand others, has no descriptor more than before.
#
# **Build** `send_error` and `receive_error`, and use them in `launch`. Then `./walls check 0.5`, and after it
# `./walls check 0`, for you have changed what task 0.4 proved.

# %%
check("0.5")

# %% [markdown]
# ## What is a launcher without walls?
#
# You can start any program, with exactly what you mean to give it, and you are told how it ends. Let us play
# the attacker, as we shall at the end of every stage. Somebody hands you a program. You launch it with
# nothing but PATH in its environment, no descriptor but three, and no walls. On the same machine lies a
# letter that is none of its business.


# %%
@demo
def no_walls():
    from stages.stage00_process import launch

    Path("/root/letter").write_text("Dear diary, nobody will ever read this.\n")
    status = launch(Program(["/bin/sh", "-c", "cd /root; cat letter; rm letter"], {"PATH": "/bin:/usr/bin"}))
    print("exit status", status, "and the letter is still there:", os.path.exists("/root/letter"))


# %% [markdown]
# Nothing was smuggled in. The program said `/root/letter`, and the kernel went and looked, from the same `/`
# as for everyone else. As long as two programs agree on what `/` is, they share every file they may open.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. When exec has failed, the child in a colleague's `run` says `return 127`, where yours ends with
#    `os._exit`. She calls it with the name of a program that is not there, and prints what it returns.
#    What does she see, and why?
# 2. Another one's `furnish` closes the descriptors 3 to 1023 instead of marking all of them. Which two things
#    go wrong with that?
# 3. The launcher opens the gate before it calls the last wall's `outside`. A hundred tests in a row find
#    nothing. What is wrong, and what decides how often it goes wrong?
# 4. There are two pipes. In `launch`, the parent forgets to close its own writing end of the one that carries
#    exceptions. Or the child forgets to close its own writing end of the gate. Which of the two do you notice
#    at the first start, and when do you notice the other?
# 5. An exec that succeeds says so by silence. What else is silent, and what does the caller of `launch` get
#    to hear then?
#
# <details><summary>Our answers</summary>
#
# 1. Two lines. The child is a copy of the caller. It comes back from `run` with 127, prints that, and goes on
#    to the caller's end. Only then does the parent's wait come back, with the status that the copy has ended
#    with, 0 as a rule, and the parent prints 0. Whatever the caller does next was done twice.
# 2. A descriptor with a number above 1023 comes along, for how many there may be is a setting. And the pipe
#    by which a failing exec reports is closed before exec has succeeded. The launcher reads its end without a
#    byte and takes it for a success. Of a path where nothing is the caller gets an exit status: the one with which
#    the child gave up.
# 3. The program may begin before its last wall stands. What it does in that moment is done without it, and
#    may last: the wall is put around whatever the program has become by then. Who of two processes runs first
#    is up to the kernel, on how many processors there are and what else is to do. A test that never meets the
#    moment says nothing about it.
# 4. The parent's: it reads until nobody can write any more, and it could write itself, so the first start
#    waits for ever. With the child's nothing is wrong as long as the parent lives to open the gate. If it is
#    killed before, the child waits for a byte that only it could write, and stays.
# 5. A child that was killed before exec could not write anything, and its end of the pipe closes as well. So
#    the start is taken for a success, and then the wait says that it was ended by a signal: the caller gets
#    128 plus its number, as for a program that was killed at its first instruction.
#
# </details>
#
# Two programs share their files as long as they agree on what `/` is. What if they did not? Could a process
# have another directory for `/`? Since 1979 it can. That is
# [stage 1](stage01_chroot.ipynb).
