# fails: 0.1 0.2 0.3 0.4 0.5
# says: there is none of that name
# never prints: it worked
"""Looks for channels that no namespace closes: keyrings, vsock, pushing letters into a terminal, io_uring, bpf."""

import ctypes
import fcntl
import os
import socket

_libc = ctypes.CDLL(None, use_errno=True)
_add_key, _keyctl, _bpf = {"x86_64": (248, 250, 321), "aarch64": (217, 219, 280)}[os.uname().machine]

if _libc.syscall(_add_key, b"user", b"thinwalls", b"passed", 6, -4) >= 0:  # to the keyring of the user
    print("it worked: a key was added")
if _libc.syscall(_keyctl, 0, -4, 0) >= 0:  # KEYCTL_GET_KEYRING_ID
    print("it worked: the keyring of the user has a number")
if _libc.syscall(425, 1, ctypes.create_string_buffer(256)) >= 0:
    print("it worked: io_uring")
if _libc.syscall(_bpf, 0, ctypes.create_string_buffer(256), 72) >= 0:
    print("it worked: bpf")
try:
    socket.socket(40, socket.SOCK_STREAM)  # AF_VSOCK
    print("it worked: vsock")
except OSError:
    pass
for _name in (0, 1, 2, "/dev/tty", "/dev/console", "/dev/tty1"):
    try:
        _fd = os.open(_name, os.O_RDWR) if isinstance(_name, str) else _name
        fcntl.ioctl(_fd, 0x5412, b"x")  # TIOCSTI
        print("it worked: a letter was typed at", _name)
    except OSError:
        pass
