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
# # Stage 5: the network namespace
#
# One line of the table at the end of stage 4 still said `of the machine`. The container has its own processes,
# files and limits, and when it opens a socket it stands in the middle of the machine.
#
# (Some four hours, with the tasks. At the end you can say of what a network is made that has no wires, how a packet
# finds its way into it and out of it, and whose address it has on the way. And your containers talk to each other and
# to the world, and answer your browser. Without Jupyter: read `notebooks/stage05_networking.py`, build in any editor,
# and `./walls check 5` in a terminal. The cells' outputs come from
# `.venv/bin/python notebooks/stage05_networking.py`.)
#
# *Predict: the machine has a web server at port 80, and the container below would like to have one too. And which
# network devices does it see?*

# %%
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import time
from pathlib import Path

from thinwalls import linux
from thinwalls.host import BEYOND, HOST
from thinwalls.iproute import ip, nft
from thinwalls.notebook import check, demo, look, visit
from thinwalls.standing import namespaces, started
from thinwalls.wall import Program, Wall

PATH = {"PATH": "/bin:/usr/bin"}


def devices():
    """The network devices that the calling process has."""
    return [name for _, name in socket.if_nameindex()]


def ask(address, port=80):
    """Connect to a TCP port, and give what is said there, or why nothing is."""
    with socket.socket() as connection:
        connection.settimeout(2.5)  # a new cable may take a second until it carries anything
        try:
            connection.connect((address, port))
            return connection.recv(100).decode().strip()
        except TimeoutError:
            return "no answer"
        except OSError as error:
            return os.strerror(error.errno)


def answer(text, port=80):
    """Fork a web server that is as small as can be: it tells everybody this text, and who they are."""
    listener = socket.create_server(("", port))
    if os.fork() == 0:
        while True:
            connection, (address, _) = listener.accept()
            with connection:
                connection.sendall(f"{text}; you are {address}".encode())
    listener.close()


# %%
@demo(rootfs=True, network=True)
def one_port_80():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem

    class Shop(Wall):
        def inside(self):
            print("the container has:", *devices())
            try:
                answer("the container's server")
            except OSError as error:
                print("its web server:", os.strerror(error.errno))

    answer("the machine's server")
    launch(Program(["true"], PATH), [Uts("box"), Pids(), Filesystem("/srv/rootfs"), Caps(), Shop(), Init()])


# %% [markdown]
# Taken. And if it came first, the machine's own server would have to go without. The devices are the machine's,
# with their addresses (`uplink` is the card of this throwaway host), and 65 535 ports are there for everybody
# together. To write down for ten
# containers which may have which would be work for a clerk. A *network namespace* is ten machines' worth of
# network instead: devices, addresses, ports, routes and filters, and all of it can be had again.
#
# Before we take that apart, this is where it leads. Below, two processes each get a network of their own, by
# a dozen lines for `ip`, the tool with which Linux networks are set up. *Predict: will they find each
# other?*


# %%
def a_network():
    """Start a process that has a network of its own and does nothing with it; gives its number."""
    pid = linux.clone(linux.CLONE_NEWNET)
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return pid


def within(pid, function, *arguments):
    """Do something in the network of another process: fork, go there, and come back when it is done."""
    child = os.fork()
    if child == 0:
        try:
            linux.setns(os.pidfd_open(pid), linux.CLONE_NEWNET)
            function(*arguments)
        except Exception as error:
            print(error)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


# %%
@demo(network=True)
def hello():
    ann, bob = a_network(), a_network()
    ip(
        "link add switch type bridge",
        "link set switch up",
        f"link add to-ann type veth peer name eth0 netns {ann}",
        f"link add to-bob type veth peer name eth0 netns {bob}",
        "link set to-ann master switch up",
        "link set to-bob master switch up",
    )
    within(ann, ip, "address add 10.0.0.2/24 dev eth0", "link set eth0 up")
    within(bob, ip, "address add 10.0.0.3/24 dev eth0", "link set eth0 up")
    within(ann, answer, "this is Ann")
    within(bob, answer, "this is Bob")
    within(bob, lambda: print("Bob asks:", ask("10.0.0.2")))
    within(ann, lambda: print("Ann asks:", ask("10.0.0.3")))


# %% [markdown]
# They do, and both have a server at port 80. There is no card in this, no cable, no switch. It is all in the
# kernel's memory, and the rest of this stage is about what each of those lines has made. (The `/24` after an address
# says how many of its 32 bits are the same for all in this network: the first 24, which are three of the four numbers.
# So whatever begins with 10.0.0 is to be had directly, at this device.)
#
# (If the cells say that this machine has no `ip` or no `nft`, you can read on with the outputs that are stored
# here. `./walls doctor` tells what to install.)
#
# ## Task 5.1: A network of its own, with nothing in it
#
# First there has to be less. The namespace is a flag of clone, as the others are. *Predict: what is in a new
# one? And can a process in it talk at least to itself?*


# %%
@demo(network=True)
def new_and_empty():
    pid = linux.clone(linux.CLONE_NEWNET)
    if pid == 0:
        look(None, "namespaces")
        print("devices:", *devices())
        answer("it is me")
        print("    it asks the world: ", ask(BEYOND))
        print("    it asks itself:    ", ask("127.0.0.1"))
        linux.set_link_up("lo")
        print("lo is switched on")
        print("    it asks the world: ", ask(BEYOND))
        print("    it asks itself:    ", ask("127.0.0.1"))
        os._exit(0)
    os.waitpid(pid, 0)
    print("the machine asks itself:", ask("127.0.0.1"))


# %% [markdown]
# There is one device in a new network, `lo`, the *loopback*. It leads back to where one is, so it exists
# wherever anybody can be. And it is *down*. Every device of Linux is born switched off, so that whoever makes it
# can set it up before the first packet comes by. On the machine some program switches `lo` on when it starts,
# and one forgets that it ever was otherwise. In a container, that program is you.
#
# Also look at the last line. A server listens at port 80 of 127.0.0.1, and the machine cannot reach it at 127.0.0.1.
# The number is the same. It is another list of ports.
#
# **Build** the `flags` of `Isolated` in [stages/stage05_networking.py](../stages/stage05_networking.py), and
# its `inside`. Then `./walls check 5.1`, or:

# %%
check("5.1")

# %% [markdown]
# (As a wall this is finished already, and the best there is. A program that has nothing to do with the outside,
# a compiler say, is run like this. All that follows makes holes in it, on purpose and one at a time.)
#
# ## Task 5.2: A cable to the machine
#
# A device is in one namespace at a time. How, then, does anything get from one to the other? With a device that
# has two ends. It is called *veth*, a virtual Ethernet cable, and it is always made as a pair. What is put into
# one end comes out of the other, and each end may lie in another namespace. *Predict: what becomes of the one
# end if the other is deleted? And if the namespace in which the other lies comes to its end?*


# %%
def gone(device):
    """Wait until a device is not there any more; whether that happened within five seconds."""
    deadline = time.monotonic() + 5
    while device in devices() and time.monotonic() < deadline:
        time.sleep(0.01)
    return device not in devices()


def came_out(device):
    """How many packets have come out of this end of a cable, proc_pid_net(5)."""
    line = next(line for line in Path("/proc/self/net/dev").read_text().splitlines() if f" {device}:" in f" {line}")
    return int(line.split(":")[1].split()[1])


# %%
@demo(network=True)
def two_ends():
    box = a_network()
    ip(f"link add here type veth peer name there netns {box}")
    print("the machine has:", *devices())
    within(box, lambda: print("the box has:    ", *devices()))

    ip("address add 10.0.0.1/24 dev here", "link set here up")
    within(box, ip, "address add 10.0.0.2/24 dev there", "link set there up")
    within(box, answer, "you have reached the box")
    before = came_out("here")
    print("the machine asks:", ask("10.0.0.2"))
    print("packets have come out here: ", came_out("here") - before >= 3)

    ip("link delete here")
    within(box, lambda: print("one end is deleted, the box has:", *devices()))

    other = a_network()
    ip(f"link add here type veth peer name there netns {other}")
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    print("another box is killed, and a moment later this end is gone:", gone("here"))


# %% [markdown]
# One end takes the other with it, as there is no such thing as a cable with one end. And a namespace that ends
# takes its devices along. That is pleasant for whoever has to tidy up, with one catch: *a moment later*. When
# the last process of a network has gone (the last: a server that was left in there would keep it), the kernel puts
# the network on a list of things to be dismantled, and gets round to it. So what you saw when you looked may be gone
# when you reach for it.
#
# (Of a packet nothing is copied on its way, by the way. It lies in the kernel's memory, and one end passes the
# note of where it lies to the other. One should not call it sending.)
#
# The child waits at the gate while its network is set up, from both sides. The parent's part is done in `outside`, and
# it says into whose namespace the other end is born, by the number of a process. (It also gives that end its *hardware
# address*, `self.lease.mac`, by which the ends of cables know each other; the next task is about those. In the line
# for `ip` above it would stand behind the name: `peer name there address 02:00:00:00:00:02 netns ...`.) The child's
# part is done in `inside`, because an IP address belongs to the network of whoever gives it.
#
# There is a detail to `inside`. The one who sets addresses is a program, `ip`, and it is a file of the
# machine's. So `Network` comes before `Filesystem`: afterwards there may be no such program, or one that
# somebody else has put there.
#
# Is it not cheating, to call a program? It does what you could do, by *netlink*, a socket on which the kernel
# is sent messages. The messages are long and binary, and for the packet filter there would be a hundred lines of
# them in your file and no idea. There is a package that can do it, pyroute2; to import it took a quarter of
# a second on the machine on which this was written. What `ip` costs is measured here, for ten commands, first in
# ten processes and then in one:


# %%
# NBVAL_IGNORE_OUTPUT
@demo(network=True)
def ten_commands():
    commands = [f"address add 10.0.0.{number}/32 dev lo" for number in range(1, 11)]
    ways = {"ten processes": [[command] for command in commands], "one process": [commands]}
    for name, calls in ways.items():
        began = time.monotonic()
        for call in calls:
            ip(*call)
        print(f"{name:<16}{(time.monotonic() - began) * 1000:6.1f} ms")
        ip("address flush dev lo")


# %%
assert [line.split()[0] for line in ten_commands.splitlines()] in (["ten", "one"], ["not"])

# %% [markdown]
# It is the starting that costs. That is why the `ip` that you are given, in
# `thinwalls/iproute.py`, takes many commands at a time.
#
# Which address a container gets nobody should have to think about. There are some 250 of them, in a network that
# leads nowhere else, and `thinwalls/addresses.py` gives them out. *Predict: a container has one and is killed,
# together with its launcher. Who gives the address back?*


# %%
@demo(network=True)
def an_address_that_comes_back():
    from thinwalls import addresses

    ready, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        mine = addresses.lease()
        print("one has  ", mine.address)
        os.write(tells, b"1")
        time.sleep(60)
    os.read(ready, 1)
    print("two has  ", (second := addresses.lease()).address)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    print("three has", (third := addresses.lease()).address)
    second.give_back()
    third.give_back()


# %% [markdown]
# The kernel does. An address is a lock on a file, and locks of the dead are dropped, however they died. What a
# container needs on the machine is named after its address, so whoever holds the address may remove what has
# the name: it is their own, or somebody's who is no more.
#
# **Build** `plug_in`, `greet`, `configure` and `remove` of `Network`, and call them where its hooks say. Then
# `./walls check 5.2`.

# %%
check("5.2")

# %% [markdown]
# ## Task 5.3: A bridge where containers meet
#
# Now a second container, with a second cable. The machine has the address 10.0.0.1 at the end of each, and the
# containers are 10.0.0.2 and 10.0.0.3, all of one network. *Predict: whom does the machine reach?*


# %%
def two_boxes():
    """Two networks, each at the end of a cable from the machine, and a server in each; gives their processes."""
    boxes = {}
    for number in (2, 3):
        boxes[number] = box = a_network()
        mac = f"02:00:00:00:00:0{number}"
        ip(
            f"link add cable{number} type veth peer name eth0 address {mac} netns {box}",
            f"link set cable{number} up",
        )
        within(box, ip, f"address add 10.0.0.{number}/24 dev eth0", "link set eth0 up")
        within(box, answer, f"this is box {number}")
    return boxes


# %%
@demo(network=True)
def two_cables():
    boxes = two_boxes()
    for number in boxes:
        ip(f"address add 10.0.0.1/24 dev cable{number}")
    for number in boxes:
        print(f"the machine asks box {number}:", ask(f"10.0.0.{number}"))

    print("with a bridge")
    for number in boxes:
        ip(f"address delete 10.0.0.1/24 dev cable{number}")
    ip("link add switch type bridge", "link set switch up", "address add 10.0.0.1/24 dev switch")
    for number in boxes:
        ip(f"link set cable{number} master switch")
    for number in boxes:
        print(f"the machine asks box {number}:", ask(f"10.0.0.{number}"))
    within(boxes[2], lambda: print("box 2 asks box 3:      ", ask("10.0.0.3")))

    learnt = subprocess.run(["bridge", "fdb", "show", "br", "switch"], capture_output=True, text=True).stdout
    for line in sorted(learnt.splitlines()):
        mac, _, port, *rest = line.split()
        if mac.startswith("02:00:") and "permanent" not in rest:
            print("the bridge has learnt:", mac, "is behind", port)


# %% [markdown]
# With two cables, the machine knows that 10.0.0.something is to be had at the first, and there it asks for
# everybody. To the kernel two cables are two networks, even if you number them alike.
#
# A *bridge* makes one of them. It is a switch, the box into which the cables of an office lead, in software.
# It does not look at IP addresses at all. It looks at *hardware addresses*, which every end has and every packet
# carries, that of the sender and that of the receiver. From the sender's it learns who is behind which cable.
# For a receiver of whom it does not know that yet, it sends the packet into all cables but the one it came from.
#
# How does box 2 know the hardware address of box 3? It calls out into the network, "who has 10.0.0.3?", and
# believes whoever answers. (This is called ARP, and we come back to it.) What it has learnt it keeps for a
# while. *Predict: what is the hardware address of the bridge itself, to which the machine's own IP address
# belongs?*


# %%
@demo(network=True)
def a_face_that_changes():
    ip("link add switch type bridge")
    for number in (9, 5, 7):
        cable = f"cable{number}"
        ip(f"link add {cable} address 02:00:00:00:00:0{number} type veth", f"link set {cable} master switch")
        print(f"with cable {number}:", Path("/sys/class/net/switch/address").read_text().strip())


# %% [markdown]
# (A veth of which nothing is said of the other end has that here as well, under a name that the kernel makes up.)
#
# If you do not choose one, it takes the lowest of those at its ports. Then a new container may change it, and the
# others go on for a while to send to an address that nobody has. So the address is chosen, once.
#
# The bridge belongs to all containers and to none. The first makes it, the last removes it, and two that start
# at the same moment must not both be the first. `addresses.alone()` lets one at a time look and act, and
# `addresses.in_use()` tells who is left.
#
# **Build** `attach` and `dismantle`. Then `./walls check 5.3`.

# %%
check("5.3")

# %% [markdown]
# With yours, or ours where yours is not built yet, the greeting from the beginning:


# %%
def service(text, port=80):
    """A wall: the container becomes a server that tells this text, and never gets to its program."""

    class Service(Wall):
        def __init__(self):
            self.ready, self.tells = os.pipe()

        def inside(self):
            answer(text, port)
            os.write(self.tells, b"1")
            time.sleep(60)

    return Service()


def start(*walls):
    """Launch a container in the background; the last wall is a service, and this waits until it is there."""
    from stages.stage00_process import launch

    if os.fork() == 0:
        launch(Program(["true"], PATH), walls)
        os._exit(0)
    os.close(walls[-1].tells)
    os.read(walls[-1].ready, 1)


def caller(*addresses):
    """A wall: the container asks at each address, and prints what it hears."""

    class Caller(Wall):
        def inside(self):
            for address in addresses:
                print(f"    {address}: {ask(address)}")

    return Caller()


# %%
@demo(network=True)
def two_containers():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Pids
    from stages.stage05_networking import Network

    ann = Network()
    start(Pids(), ann, service("this is Ann"))
    print("Bob asks")
    launch(Program(["true"], PATH), [Pids(), Network(), caller(ann.lease.address)])


# %% [markdown]
# ## Task 5.4: A way out
#
# The containers have each other, and the machine. Beyond the machine is the world, which here consists of one
# server at 198.51.100.7. It tells everybody by which address it sees them. Three things are missing between it
# and a container, and the cell puts them there one after the other. *Predict what the container is told at each step: a
# refusal, nothing at all, or an answer?*
#
# (One line of the cell is for the *packet filter*, through which all packets go, in the language of `nft`. A *table*
# holds *chains*, and a chain holds rules. `hook` says where on a packet's way the chain is asked: `postrouting` is the
# last place, after it has been decided by which device the packet leaves. `type nat` says that its rules may change
# addresses, and `priority` which of several chains at one hook is asked first; nft(8) has a usual number for each
# kind. What follows the semicolon is the rule: of what leaves by the device `uplink`, its `oifname`, do what the last
# word says, which we come to.)


# %%
def a_box_with_a_cable():
    """A network, and a cable to it: the machine is 10.0.0.1, the box 10.0.0.2. The machine passes no packets on."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    box = a_network()
    ip(
        f"link add cable type veth peer name eth0 netns {box}",
        "address add 10.0.0.1/24 dev cable",
        "link set cable up",
    )
    within(box, ip, "address add 10.0.0.2/24 dev eth0", "link set eth0 up")
    return box


# %%
@demo(network=True)
def three_things():
    box = a_box_with_a_cable()
    print("the machine itself:          ", ask(BEYOND))
    within(box, lambda: print("the box:                     ", ask(BEYOND)))

    within(box, ip, "route add default via 10.0.0.1")
    within(box, lambda: print("with a route:                ", ask(BEYOND)))

    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    within(box, lambda: print("and a machine that passes on:", ask(BEYOND)))

    nft("table ip lends { chain leaves { type nat hook postrouting priority 100; oifname uplink masquerade; }; }")
    within(box, lambda: print("and lends its address:       ", ask(BEYOND)))


# %% [markdown]
# The first answer comes at once, and from the box's own kernel. A *route* says for some addresses at which
# device they are to be had, and through whom. The box has a route for its own network and for nothing else. The
# *default route* is the one for all that is left.
#
# Then it gets quiet. Packets go up the cable now, and the machine throws them away. They are not for it, and a
# computer that passes on what is not for it is called a *router*, which not everybody wants to be. It is a
# setting, and a setting of the whole machine: what else arrives for somebody else is passed on from then on, too.
#
# Then it is still quiet, and this is the silence that costs an evening. The packet *arrives*. The server sees
# a caller at 10.0.0.2 and answers. And the answer finds no way, because 10.0.0.2 is not an address of the
# world. Thousands have one like it at home, and no router out there knows which of them is meant.
#
# What helps is to let the packet leave with an address that the world knows: the machine's own. This is called
# *NAT*, for network address translation, and this sort of it *masquerade*. The server never learns that there
# is a container. The way of a packet there and back, with what is written on it, and with
# the addresses that your own wall gives:
#
# ![A packet's way out, and the answer back. From top to bottom: the container, the machine, the world. The container's
# eth0 has 10.57.0.2. A packet from 10.57.0.2 to 198.51.100.7 goes by the cable to walls2, which is plugged into the
# bridge walls0; that has 10.57.0.1, the container's default route. The machine forwards it, and at postrouting
# masquerade gives it the machine's own address for its sender. It leaves by uplink, from 192.0.2.2 to 198.51.100.7.
# The answer comes back from 198.51.100.7 to 192.0.2.2. The kernel's table of connections puts 10.57.0.2 in place of
# 192.0.2.2, and the answer goes by walls0 and walls2 into the container.](pictures/stage05_way_out.svg)
#
# (In words: the container sends from its own address. The packet goes by the cable and the bridge to the machine,
# which is the container's gateway, and is forwarded. At the last moment, *after* it has been decided where it
# leaves, it gets the machine's address for its sender. The answer is addressed to the machine, and there it gets
# the container's address for its receiver before anything is decided.)
#
# Who turned the answer round? No rule speaks of answers. *Predict: the rule below counts how often it was asked,
# and another one counts all packets that are passed on. A connection has at least six. How often is the first
# rule asked?*


# %%
@demo(network=True)
def asked_once():
    box = a_box_with_a_cable()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    within(box, ip, "route add default via 10.0.0.1")
    nft("""
        table ip lends {
            chain passes { type filter hook forward priority 0; counter; }
            chain leaves { type nat hook postrouting priority 100; oifname uplink counter masquerade; }
        }
    """)
    within(box, lambda: print(ask(BEYOND)))
    time.sleep(0.5)  # until the connection has been closed from both sides
    listed = subprocess.run(["nft", "list", "table", "ip", "lends"], capture_output=True, text=True).stdout
    passed, asked = (int(count) for count in re.findall(r"counter packets (\d+)", listed))
    print("packets passed on, six or more:", passed >= 6)
    print("the rule was asked:", asked)


# %% [markdown]
# Once, at the first packet. The kernel keeps a table of connections, *conntrack*, and writes down there what it
# did. All that follows, in both directions, is done from that table. So it also knows which answers belong to
# something that was asked, and for whom. What nobody has asked for is not in the table, and ends at the machine.
# (But do not take NAT for a filter. A neighbour of the machine who sends it a packet *for 10.0.0.2* finds a router
# that passes it on. Whoever does not want that says so with a rule in the chain that only counts above.)
#
# In your rule it says `oifname != "walls0"`, by any device but the bridge, and that is for two reasons. What the card
# is called differs from machine to machine. And what leaves by the bridge goes to a neighbour, who knows the way back
# and may know who calls. Mostly this makes no difference, as neighbours reach each other over the bridge alone, and a
# packet that only goes from one of its ports to another is not routed and does not come by here. But a container may
# have a route by which it sends even those to the machine first.
#
# The rules stand in tables, and the tables of `nft` have names. So each container has a table of its own, named
# after its address, and removing it takes all rules along, without looking through those of others. A ruleset is
# loaded as a whole or not at all.
#
# **Build** `route`, `translate` and `forget`. Then `./walls check 5.4`.

# %%
check("5.4")

# %% [markdown]
# ## Task 5.5: A way in: a published port
#
# A container can call, and cannot be called, as its address means nothing outside. So one *publishes* a port: what
# arrives at the machine's port 8080, say, is sent on to the container. It is translation again, of the other
# address and on the way in. It is called *DNAT*, for destination. In the next cell, `visit` comes from beyond.
# *Predict: the machine has a server at port 8080 already. What does the visitor get before there is a rule, and
# what afterwards? And does the machine's server notice?*


# %%
@demo(network=True)
def who_is_asked_first():
    box = a_box_with_a_cable()
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    within(box, ip, "route add default via 10.0.0.1")
    within(box, answer, "this is the box")
    answer("this is the machine", 8080)
    visit(8080)
    nft("table ip door { chain in { type nat hook prerouting priority -100; tcp dport 8080 dnat to 10.0.0.2:80; }; }")
    print("there is a rule")
    visit(8080)
    print("the machine asks itself:", ask("127.0.0.1", 8080))


# %% [markdown]
# The rule is asked first, as soon as a packet comes in (*prerouting*: before it is decided where it goes). Whether
# somebody listens at 8080 would be asked much later, and for this packet never is. The machine's server still listens,
# sees nobody come, and is told nothing. No call failed. That is how somebody takes over a port by mistake, or on
# purpose.
#
# The kernel has a way to say that a port is taken: a socket that is bound to it. So before a rule is made, the
# launcher binds the port itself and keeps the socket, without ever listening. If somebody was there before, the
# bind fails, and so does the start, in time and with a reason. If somebody comes later, it fails for them.
#
# (The visitor is seen in the box with its own address, which is nice for whoever keeps a log.)
#
# *Predict: who gets through to a published port? Here are a visitor, the machine by its outer address, and the
# machine by its loopback.*


# %%
@demo(network=True)
def published():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Pids
    from stages.stage05_networking import Network

    start(Pids(), Network(ports=[(8080, 80)]), service("this is the container"))
    visit(8080)
    print("the machine, by its address: ", ask(HOST, 8080))
    print("the machine, by its loopback:", ask("127.0.0.1", 8080))
    try:
        launch(Program(["true"], PATH), [Pids(), Network(ports=[(8080, 80)])])
    except OSError as error:
        print("a second container:", error.strerror)


# %% [markdown]
# What the machine itself sends does not come in, so it does not meet the rules at *prerouting*. There is another
# hook for it, *output*. At both come by packets that are not for the machine at all: a rule for `tcp dport 8080`
# alone takes every packet for that port, also one for somebody else's server. So a rule first asks whether the
# receiver is an address of the machine, `fib daddr type local`. And what is sent to 127.0.0.1 would leave with the
# sender 127.0.0.1, which means "myself" wherever it arrives, so the kernel does not let it out, and whoever asked would
# wait. So the rule leaves 127.0.0.0/8 out. Then such a packet gets to the socket that holds the port, nobody listens on
# it, and the kernel says so at once: refused. (Engines that want `localhost` to work, too, have a little program sit on
# the port and carry the bytes over. You have a socket there that could.)
#
# ![A packet's way in to a published port. From top to bottom: the container, the machine, the world; the visitor's
# packet goes up. It is from 192.0.2.1 to port 8080 of 192.0.2.2, and comes in by uplink. At prerouting, dnat gives it
# the container for its receiver: 10.57.0.2, port 80. The sender stays. Then the machine forwards it, by walls0 and
# walls2, to the server in the container. The answer from 10.57.0.2, port 80, goes down; the kernel's table of
# connections gives it 192.0.2.2, port 8080, for its sender. The machine's own packets to that address meet the same
# rule at the hook output. Packets to 127.0.0.1 are left as they are, and refused.](pictures/stage05_way_in.svg)
#
# **Build** `hold_ports`, `release_ports` and `publish`. Then `./walls check 5.5`.

# %%
check("5.5")

# %% [markdown]
# Now your own browser. In a terminal, behind the walls that you have built so far, with the small root file system of
# stage 3, and this machine's `/usr` in it so that there is a Python:
#
#     DIR=$(.venv/bin/python -c "from thinwalls import rootfs; print(rootfs.cached())")
#     ./walls run -p 8080:80 -v /usr:/usr:ro $DIR /usr/bin/python3 -m http.server 80
#
# Then open http://127.0.0.1:8080, and end it with Ctrl-C. Has the loopback not just refused? That was the throwaway
# host's. Your own machine's is another one, and there `./walls run` has such a little program on the port, which
# carries the bytes over to the address of the host, where your rule takes them. So the container's log says 192.0.2.1,
# as for the visitor in the picture, and not who you are.
#
# ## Task 5.6: Names
#
# The container can reach any number that you give it, but people use names. Names are no matter of the kernel. A
# library in the program reads two files: `/etc/hosts`, a list of names and addresses, and `/etc/resolv.conf`,
# which says whom to ask about all others, a *nameserver*. Both come with the image, whose author knows nothing of
# your network. It seems that one has to copy the machine's. *Predict: below the machine's file is as on many
# desktops. The container asks whom it says. What happens?*


# %%
@demo(network=True)
def the_machines_own_ear():
    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    nameserver = Path("/etc/resolv.conf").read_text().split()[1]
    linux.set_link_up("lo")
    answer("I resolve names", 53)
    print("the machine asks: ", ask(nameserver, 53))
    pid = linux.clone(linux.CLONE_NEWNET)
    if pid == 0:
        linux.set_link_up("lo")
        print("a container asks: ", ask(nameserver, 53))
        os._exit(0)
    os.waitpid(pid, 0)


# %% [markdown]
# A loopback address means something else to everybody. Such a file belongs to a little program on the machine,
# systemd-resolved, that listens there and passes the question on; and whom it asks itself, it says in another
# file.
#
# Then there is the writing. The files go into an image of somebody else, and `/etc/hosts` in it may be a link. It
# can lead no further than the container's root, but a *volume* may be in there, with the machine's files in it.
# So what has the name is replaced, not written to. And where the user has put a volume at the very name, on
# purpose, it is left alone.
#
# **Build** `nameservers` and `Names.inside`. Then `./walls check 5.6`.

# %%
check("5.6")


# %%
@demo(rootfs=True, network=True)
def what_it_is_told():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Filesystem
    from stages.stage05_networking import Names, Network

    Path("/etc/resolv.conf").write_text("nameserver 127.0.0.53\n")
    os.makedirs("/run/systemd/resolve")
    Path("/run/systemd/resolve/resolv.conf").write_text(f"nameserver {BEYOND}\n")
    walls = [Uts("box"), Pids(), Network(), Filesystem("/srv/rootfs"), Names("box"), Init()]
    launch(Program(["cat", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"], PATH), walls)


# %% [markdown]
# (Its neighbours it knows by number only. Engines run a nameserver of their own to which containers are known by
# name.)
#
# ## Task 5.7: Attack: knock on an abstract socket
#
# Now to the holes that were there before this stage. In stage 3 a container heard a password on the machine's
# loopback. That one is closed: the loopback is another one. Here is a stranger one.
#
# Programs on one machine often talk through *Unix sockets*, which have no address but a path, like a file. A
# container behind a mount namespace does not see that path. But Linux has some whose name begins
# with a zero byte and is in no directory. They are called *abstract*. The next cell has a service with both,
# and it does as it is told by whoever gets through. The one who tries is the attack of this task, ours until you have
# built it. *Predict: which does a container of stage 4 get through to?*


# %%
def told(name):
    """Fork a service of the machine that listens at a Unix socket, and does as it is told."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    if os.fork() == 0:
        while True:
            connection, _ = listener.accept()
            print("    the machine's service was told:", connection.recv(100).decode())
            connection.close()
    listener.close()


# %%
@demo(rootfs=True, network=True)
def no_file_no_wall():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem
    from stages.stage05_networking import knock

    class Tries(Wall):
        def inside(self):
            print("a path")
            print("    such a file:", "is there" if os.path.exists("/run/service") else "is not there")
            print("an abstract name")
            knock("service", "shut down")
            time.sleep(0.2)

    told("/run/service")
    told("\0service")
    launch(Program(["true"], PATH), [Uts("box"), Pids(), Filesystem("/srv/rootfs"), Caps(), Tries(), Init()])


# %% [markdown]
# All the walls of stages 2 to 4 are about something else, and the limits do not mind a word or two. This is
# CVE-2020-15257. The service was containerd's, the one that starts containers, its socket was abstract, and
# containers that had been given the machine's network could tell it to start more of them. It checked that the
# caller was uid 0. The caller was.
#
# Where such names belong had to be decided when network namespaces were made. They are names of sockets, and that
# is why the list of them is part of the network.
#
# **Build** `knock`, which is the attack. Then `./walls check 5.7`.

# %%
check("5.7")

# %% [markdown]
# Yours or ours, against both kinds of wall. *Predict: does the cable make a difference?*


# %%
@demo(network=True)
def behind_the_new_wall():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Pids
    from stages.stage05_networking import Isolated, Network, knock

    class Attack(Wall):
        def inside(self):
            try:
                knock("service", "shut down")
                time.sleep(0.2)
            except OSError as error:
                print("    refused:", os.strerror(error.errno))

    told("\0service")
    for wall in (Pids, Isolated, Network):
        print("behind", wall.__name__)
        launch(Program(["true"], PATH), [wall(), Attack()])


# %% [markdown]
# None. A cable carries packets, and a Unix socket of whatever kind does not send any: it is a queue in the
# kernel's memory, and one has to find it by name.
#
# ## The walls as they now stand
#
# A program behind the walls of stages 2 to 5 (without the limits), beside the machine's first process.


# %%
def standing(pid):
    """Print for each wall whether it stands around a process, and what is on the other side of the last one."""
    namespaces(pid, "uts", "ipc", "pid", "mnt", "net", "user")
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    print("    devices            ", *(line.split(":")[0].strip() for line in lines))
    local = re.findall(r"-- ([0-9.]+)\n +/32 host LOCAL", Path(f"/proc/{pid}/net/fib_trie").read_text())
    print("    addresses          ", *sorted(set(local)))


# %%
@demo(rootfs=True, network=True)
def the_walls():
    from stages.stage00_process import launch
    from stages.stage02_pid_namespace import Init, Pids, Uts
    from stages.stage03_mount_namespace import Caps, Filesystem, Sealed
    from stages.stage05_networking import Names, Network

    system = Filesystem("/srv/rootfs")
    standing(started(launch, Uts("box"), Pids(), Network(), system, Names("box"), Caps(), Sealed(), Init()))


# %% [markdown]
# ![The walls after stage 5: the network namespace. Two columns, the machine and the process, with a wall between them.
# New in this stage: network (its own: lo, eth0; Network). Its own before: root directory (its own, no other left;
# Filesystem); host name, IPC (its own; Uts); process numbers (its own, from PID 1; Pids, Init); mounts, /proc, /dev
# (its own; Filesystem); power to mount (taken away; Caps). A part of it, before: memory, CPU, forks (up to a limit;
# Cgroup). Still shared with the machine: files of the rootfs; user ids; kernel, clock.](pictures/stage05_walls.svg)
#
# ## What it costs
#
# The smallest program again, ten times each without a network of its own, with an empty one, and with all of it,
# measured here:


# %%
# NBVAL_IGNORE_OUTPUT
@demo(network=True, seconds=30)
def the_price():
    from stages.stage00_process import launch
    from stages.stage05_networking import Isolated, Network

    for name, walls in (("without", list), ("empty", lambda: [Isolated()]), ("with", lambda: [Network([(8080, 80)])])):
        times = []
        for _ in range(10):
            began = time.monotonic()
            launch(Program(["true"], PATH), walls())
            times.append((time.monotonic() - began) * 1000)
        print(f"{name:<8}{statistics.median(times):6.1f} ms, the slowest {max(times):6.1f} ms")


# %%
assert [line.split()[0] for line in the_price.splitlines()] in (["without", "empty", "with"], ["not"])

# %% [markdown]
# This is the dearest wall so far, and hardly any of it is the wall. It is the programs that are called, and waiting
# for the kernel when a device goes.
#
# A virtual machine has much the same: there is a device of the host's, mostly on a bridge, and NAT. But the other
# end of its cable is a card that is played by a program, with a driver in the guest, and behind it another kernel
# that does routes and filters and ports over again. So every packet costs the more. And what arrives there is
# looked at by the guest's own kernel, whose mistakes are the guest's problem. Here there is one kernel for all of
# it. What a container's packets run into is code of the machine.
#
# ## What still does not stand
#
# The bridge believes what is written on a packet, and so does everybody in this network. In the cell below Ann has a
# server. Bob has the next address, takes hers in addition, and says so, with one packet that he writes byte by
# byte. *Predict: whom does the machine reach?*


# %%
@demo(network=True)
def whoever_answers():
    from stages.stage02_pid_namespace import Pids
    from stages.stage05_networking import GATEWAY, GATEWAY_MAC, Network

    class Impostor(Wall):
        def __init__(self, me, whom):
            self.me, self.whom = bytes.fromhex(me.replace(":", "")), whom

        def inside(self):
            ask(GATEWAY)  # it has no server; but if it says so, this cable carries what is sent
            ip(f"address add {self.whom}/32 dev eth0")
            machine = bytes.fromhex(GATEWAY_MAC.replace(":", ""))
            says = self.me + socket.inet_aton(self.whom)  # "at my hardware address is her address"
            heard_by = machine + socket.inet_aton(GATEWAY)
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                arp_answer = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2)
                raw.send(machine + self.me + struct.pack("!H", 0x0806) + arp_answer + says + heard_by)

    ann, bob = Network(), Network()
    start(Pids(), ann, service("this is Ann"))
    print("the machine asks for Ann:", ask(ann.lease.address).split(";")[0])
    time.sleep(1.5)  # whatever has just been learnt is not unlearnt within a second
    start(Pids(), bob, Impostor(bob.lease.mac, ann.lease.address), service("this is Bob"))
    print("the machine asks for Ann:", ask(ann.lease.address).split(";")[0])


# %% [markdown]
# Bob. In an office that would take somebody who crawls under a desk. Here it takes a container. On one bridge all
# are in one room, and the wall of this stage stands between that room and the machine, not between neighbours.
#
# What does Bob need for it? To write a packet byte by byte, a capability, `CAP_NET_RAW`; to give himself an
# address, another one, `CAP_NET_ADMIN`. Uid 0 of our container has both, as `Caps` takes away one single
# capability, and that was another. With them he may do anything *in his own network*. (The machine's he cannot
# enter. To go there would take a descriptor of that namespace and `CAP_SYS_ADMIN`.) Engines leave a container
# without the second one, some take the first one too, and a bridge can be told to believe only some senders. With
# what you know about bounding sets you could add a line today.
#
# Also, nobody counts. A container may send as much as it likes, and the table of connections is one for all that
# passes through the machine; it can be filled. There are limits for that too, in yet another tool, and we leave
# them alone.
#
# And one line of the table above says `of the machine`, that of the users. Uid 0 in the container is uid 0 of the
# machine on which it runs. All that keeps it from behaving like that are the walls around it. A *user namespace* is
# the wall for this, and the throwaway hosts of this course have been behind one all along.
#
# ## Do you see why?
#
# No cell answers these. Each is a few sentences, best said to somebody who does not know yet. Our answers are
# folded up below them.
#
# 1. A container publishes port 80 at the machine's port 8080. A browser elsewhere connects. Which addresses are on
#    the packet when it leaves the browser, and which when it reaches the container? Who changes them back?
# 2. Two containers have a server at port 80 each, and neither is told that its port is taken. Why not? And why is the
#    second one told so that wants port 8080 of the machine?
# 3. The container's root is another directory, and its mount table is its own. Why could it still give orders to a
#    service of the machine through a Unix socket, and why not through one whose name is a path?
# 4. Two containers run, and the launcher of one is killed. The other goes on. What removes the dead one's cable, what
#    removes its rules, and what stays until somebody else starts?
# 5. Uid 0 of the container may write rules of its own into a packet filter. Why does that open no port of the
#    machine?
#
# <details><summary>Our answers</summary>
#
# 1. It leaves the browser from the browser's address to the machine's, port 8080. It reaches the container from the
#    same address, to the container's own, port 80: only where it goes has been changed, so the container knows who
#    asks. On the answers the kernel changes it back. It has noted the connection with its first packet, and needs no
#    rule for those that follow.
# 2. Which ports are taken is a list of the network namespace, and each of them has its own. Port 8080 is on the list
#    of the machine, of which there is one, and the first container's launcher holds it with a socket. (Without that
#    socket both would get their rules, nobody would be told anything, and only one of the two would be reached.)
# 3. An abstract name is looked up in a list of the network namespace, and that was the machine's: no directory and no
#    table of mounts is asked. A path is looked up like any file's, and in the container's tree there is none. If you
#    put it there, as a volume, it works, and no network namespace is in the way. That is what people do who give
#    a container the socket of the engine, and with it the machine.
# 4. The cable goes by itself. The container's init dies with its launcher, the last process takes the network with
#    it, and one end of a cable takes the other. The rules stay. They belong to the machine's namespace, and it lives:
#    until somebody leases the same address and replaces the table, whoever connects to the published port is sent to
#    an address where nobody is. The bridge is not the dead one's. It stays for the other, who removes it as the last.
# 5. It is his own network's filter. A packet meets the rules of those namespaces through which it comes, and what
#    arrives at the machine is decided by the machine's rules, before any of it gets into the cable. He may shut his
#    own door.
#
# </details>
#
# Every container so far stood in a root file system that was made here, out of this machine's programs. People get
# theirs from somewhere, by name, and now there is a way out through which one can fetch it. That is
# [stage 6](stage06_image_pull.ipynb).
