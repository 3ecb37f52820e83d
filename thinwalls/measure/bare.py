"""Programs without any operating system under them, and one with, written down as machine code.

A computer needs no kernel to run; a kernel is what comes first. These few instructions are put where a processor looks
when it is switched on, so that what is measured is the computer and nothing else.
"""

import os
import platform
import struct
import subprocess
import time

from thinwalls.machine import Machine, Unmeasurable

# Written with Arm's reference manual (A64) at hand; the virt machine of QEMU has a PL011 at 0x09000000 and PSCI by hvc.
# The ARM code is written by Arm's reference manual (A64). The virt machine of QEMU has a PL011 at 0x09000000.
_EXIT, _PORT = 0x501, 0x3F8  # isa-debug-exit, which ends QEMU; the first serial port
_OFF = f"isa-debug-exit,iobase={_EXIT:#x},iosize=1"
COUNT = 100_000_000  # how far a computer, or a process, is to count


def arm() -> bytes:
    """A program for an ARM processor (aarch64): a text, the processor's own number in hexadecimal, power off."""
    text = b"an ARM processor, number \0\0\0"
    before = [
        0xD2A12000,  # movz x0, #0x900, lsl #16   the serial port
        0x38401422,  # ldrb w2, [x1], #1          the next letter of the text
        0x34000062,  # cbz  w2, +12               it ends with a 0
        0xB9000002,  # str  w2, [x0]              out it goes
        0x17FFFFFD,  # b    -12
        0xD5380003,  # mrs  x3, midr_el1          who are you, processor?
        0x52800104,  # movz w4, #8                in eight digits,
        0x13837063,  # ror  w3, w3, #28           the highest first
        0x12000C62,  # and  w2, w3, #15
        0x7100245F,  # cmp  w2, #9
        0x1100C042,  # add  w2, w2, #'0'
        0x5400004D,  # b.le +8
        0x11009C42,  # add  w2, w2, #39           from ':' to 'a'
        0xB9000002,  # str  w2, [x0]
        0x71000484,  # subs w4, w4, #1
        0x54FFFF01,  # b.ne -32
        0x52800142,  # movz w2, #10               the end of the line
        0xB9000002,  # str  w2, [x0]
        0xD2B08000,  # movz x0, #0x8400, lsl #16  PSCI SYSTEM_OFF is 0x84000008
        0xF2800100,  # movk x0, #8
        0xD4000002,  # hvc  #0                    to the firmware
    ]
    distance = 4 * (len(before) + 1)  # from the first instruction to the text behind the last
    address = 0x10000001 | (distance & 3) << 29 | (distance >> 2) << 5  # adr x1, text
    return struct.pack(f"<{len(before) + 1}I", address, *before) + text


def counting_computer(count: int = COUNT) -> bytes:
    """A boot sector for a PC: print "from here", count down from ``count`` to 0, print "to here", switch off."""

    def say(text: str) -> bytes:
        port = b"\xba" + struct.pack("<H", _PORT)  # mov dx, port
        return port + b"".join(b"\xb0" + bytes([letter]) + b"\xee" for letter in text.encode())  # mov al, letter; out

    code = b"\xfa" + say("from here\n")  # cli
    code += b"\x66\xb9" + struct.pack("<I", count)  # mov ecx, count
    code += b"\x66\x49" + b"\x75\xfc"  # dec ecx; jnz back to it
    code += say("to here\n") + b"\xba" + struct.pack("<H", _EXIT) + b"\xee" + b"\xf4"  # out dx, al; hlt
    return code.ljust(510, b"\0") + b"\x55\xaa"  # by which the firmware knows a boot sector


def counting_program(count: int = COUNT) -> bytes:
    """The same count as a program for Linux on x86-64: an ELF file of 138 bytes, see elf(5)."""
    code = b"\xb9" + struct.pack("<I", count) + b"\xff\xc9" + b"\x75\xfc"  # mov ecx; dec ecx; jnz
    code += b"\x31\xff" + b"\xb8\x3c\x00\x00\x00" + b"\x0f\x05"  # exit(0): xor edi, edi; mov eax, 60; syscall
    base, start, size = 0x400000, 120, 120 + len(code)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


def run_program(program: bytes) -> float:
    """Run an ELF file from memory; gives the seconds. Raises Unmeasurable if it does not end with status 0."""
    with os.fdopen(os.memfd_create("program"), "wb") as file:
        file.write(program)
        file.flush()
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        began = time.perf_counter()
        try:
            ended = subprocess.run([path], executable=path, pass_fds=[], timeout=60)
        except OSError as error:
            raise Unmeasurable(f"this machine does not run it: {error.strerror}") from None
        took = time.perf_counter() - began
    if ended.returncode:
        raise Unmeasurable(f"the program ended with {ended.returncode}")
    return took


def run_computer(sector: bytes, accelerated: bool, patience: float) -> dict[str, float]:
    """Start a PC from a boot sector of ``counting_computer``: seconds to its first word, of counting, and to the end."""
    if platform.machine() != "x86_64":
        raise Unmeasurable("the boot sector is for a PC, and this machine is none")
    drive = "file={image},format=raw,if=floppy,readonly=on"
    disk = sector.ljust(1440 * 1024, b"\0")
    with Machine(disk, "-drive", drive, "-device", _OFF, accelerated=accelerated, memory=16) as machine:
        first = machine.line("from here", patience)[1]
        last = machine.line("to here", patience)[1]
        return {"first word": first, "counting": last - first, "whole": machine.end(patience)}


def run_arm(patience: float = 20) -> str:
    """Switch on an emulated ARM computer with ``arm`` as its firmware; gives what it prints. Raises Unmeasurable."""
    with Machine(arm(), "-bios", "{image}", arch="aarch64", memory=64) as machine:
        said = machine.line("an ARM", patience)[0]
        machine.end(patience)
    return f"an ARM {said}"


def not_for_this_machine() -> str:
    """What this machine's kernel says when it is to run another processor's program (a header of ELF is enough)."""
    program = bytearray(counting_program())
    program[18:20] = struct.pack("<H", 62 if platform.machine() == "aarch64" else 183)  # EM_X86_64, EM_AARCH64
    try:
        run_program(bytes(program))
    except Unmeasurable as error:
        return str(error).rpartition(": ")[2]
    return "it runs: this machine has an emulator registered (binfmt_misc)"
