"""System calls by number and by machine code, for attempts that go around every library.

Numbers are of the kernel's tables for x86-64 and for the generic table (aarch64, riscv64).
Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct

IO_URING_SETUP = 425
X32_BIT = 0x40000000
SOCKET = {"x86_64": 41, "aarch64": 198, "riscv64": 198}
IO_URING_PARAMS_BYTES = 120
X32_SENDTO = X32_BIT | 44
MAP_32BIT = 0x40  # the 32-bit gate takes 32-bit addresses
# socket(AF_INET, SOCK_DGRAM, 0), then sendto() on it: numbers 359 and 369 of the i386 table.
I386_SEND = (
    "5355"  # push rbx; push rbp
    "b867010000 bb02000000 b902000000 31d2 cd80"  # eax, ebx, ecx, edx; int 0x80
    "85c0 781f"  # on an error, to the end
    "89c3 b871010000 b9{data} ba{length} 31f6 bf{address} bd10000000 cd80"
    "5d5bc3"  # pop rbp; pop rbx; ret
)
# struct __res_state of glibc on 64 bits: retrans, retry, options, nscount, nsaddr_list[0]
_RESOLVER_COUNT_AT, _RESOLVER_SERVER_AT = 16, 20


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    """Return the result of a call. Raises OSError if it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _by_number(number: int, *arguments: int) -> int:
    return _checked(_libc().syscall(*(ctypes.c_long(value) for value in (number, *arguments))))


def open_datagram_socket() -> int:
    """Return the descriptor of a UDP socket, opened by system call number."""
    number = SOCKET.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "the number of socket is not known for this machine")
    return _by_number(number, socket.AF_INET, socket.SOCK_DGRAM, 0)


def send_by_x32(data: bytes, host: str, port: int) -> None:
    """Send a datagram through x86-64's x32 interface."""
    handle = _by_number(X32_BIT | SOCKET["x86_64"], socket.AF_INET, socket.SOCK_DGRAM, 0)
    content, address = (ctypes.create_string_buffer(b, len(b)) for b in (data, _ipv4(host, port)))
    places = (ctypes.addressof(content), len(content), 0, ctypes.addressof(address), len(address))
    try:
        _by_number(X32_SENDTO, handle, *places)
    finally:
        os.close(handle)


def send_by_i386(data: bytes, host: str, port: int) -> None:
    """Send a datagram through the 32-bit gate, int 0x80.

    A kernel without that gate ends the process with SIGSEGV: call it in a child.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_32BIT
    prot = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=flags, prot=prot)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    address = _ipv4(host, port)
    page[256 : 256 + len(address)] = address
    page[512 : 512 + len(data)] = data
    numbers = {"data": start + 512, "length": len(data), "address": start + 256}
    code = I386_SEND.format(**{k: struct.pack("<I", v).hex() for k, v in numbers.items()})
    page[: len(bytes.fromhex(code))] = bytes.fromhex(code)
    result = int(ctypes.CFUNCTYPE(ctypes.c_int)(start)())
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def make_io_uring() -> None:
    """Set up a ring of two entries and close it."""
    params = ctypes.create_string_buffer(IO_URING_PARAMS_BYTES)
    os.close(_by_number(IO_URING_SETUP, 2, ctypes.addressof(params)))


def send(handle: int, data: bytes) -> None:
    """send(2) on a descriptor that may no longer be a socket."""
    _checked(_libc().send(handle, data, len(data), 0))


def send_and_close(handle: int, data: bytes, host: str, port: int) -> None:
    """sendto(2) an IPv4 address on a datagram socket, and close it; no Python socket is made."""
    address = _ipv4(host, port)
    try:
        _checked(_libc().sendto(handle, data, len(data), 0, address, len(address)))
    finally:
        os.close(handle)


def connect(handle: int, host: str, port: int) -> None:
    """connect(2) to an IPv4 address."""
    address = _ipv4(host, port)
    _checked(_libc().connect(handle, address, len(address)))


def dissolve(handle: int) -> None:
    """connect(2) with AF_UNSPEC: a socket forgets what it was bound or connected to."""
    _checked(_libc().connect(handle, bytes(16), 16))


def use_name_server(host: str, port: int) -> bool:
    """Turn this thread's glibc resolver to one name server; return whether that is possible."""
    if struct.calcsize("P") != 8 or platform.libc_ver()[0] != "glibc":
        return False
    libc = _libc()
    libc.__res_init()
    libc.__res_state.restype = ctypes.c_void_p
    state = libc.__res_state()
    address = _ipv4(host, port)
    ctypes.memmove(state, struct.pack("=ii", 1, 1), 8)  # wait one second, try once
    ctypes.memmove(state + _RESOLVER_COUNT_AT, struct.pack("=i", 1), 4)
    ctypes.memmove(state + _RESOLVER_SERVER_AT, address, len(address))
    return True


def _ipv4(host: str, port: int) -> bytes:
    """Return a sockaddr_in."""
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, socket.inet_aton(host))
