"""The lock: what the child gives up before it reads the video. Numbers of system calls are of x86_64 and aarch64."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import resource
import select
import signal
import struct
import sys

ALLOWED = {
    "read": (0, 63), "write": (1, 64), "writev": (20, 66), "lseek": (8, 62), "fstat": (5, 80), "mmap": (9, 222),
    "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293), "gettid": (186, 178),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "membarrier": (324, 283), "getpid": (39, 172),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101),
    "restart_syscall": (219, 128), "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94)
}  # fmt: skip
CLONE, CLONE3, TGKILL, SECCOMP = (56, 220), (435, 435), (234, 131), (317, 277)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
CLONE_THREAD = 0x10000
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, ALL_THREADS = 38, 1, 1
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little endian
ALLOW, DENY = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO


def seccomp_filter(machine: str, pid: int) -> bytes:
    """Return the BPF program: calls of ALLOWED pass, threads may be made, no process; the rest fails with EPERM."""
    column, arch = ARCHITECTURES[machine]
    program: list[tuple[int, int, int, int]] = []

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> None:
        program.append((code, yes, no, value))

    def when_argument(number: int, test: int, value: int) -> None:
        step(JUMP_EQUAL, number, no=4)
        step(LOAD, FIRST_ARGUMENT_AT)
        step(test, value, no=1)
        step(RETURN, ALLOW)
        step(RETURN, DENY | errno.EPERM)

    step(LOAD, ARCH_AT)
    step(JUMP_EQUAL, arch, yes=1)
    step(RETURN, DENY | errno.EPERM)
    step(LOAD, NUMBER_AT)
    for numbers in ALLOWED.values():
        step(JUMP_EQUAL, numbers[column], no=1)
        step(RETURN, ALLOW)
    step(JUMP_EQUAL, CLONE3[column], no=1)
    step(RETURN, DENY | errno.ENOSYS)  # its flags are out of a filter's sight; the C library falls back to clone
    when_argument(CLONE[column], JUMP_SET, CLONE_THREAD)
    when_argument(TGKILL[column], JUMP_EQUAL, pid)  # for abort()
    step(RETURN, DENY | errno.EPERM)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _deny_system_calls() -> bool:
    """Put the filter in force for all threads; return whether it is."""
    machine = platform.machine()
    if sys.platform != "linux" or sys.byteorder != "little" or sys.maxsize < 2**32 or machine not in ARCHITECTURES:
        return False
    program = seccomp_filter(machine, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = ctypes.c_uint64(ctypes.addressof(buffer))
    sock_fprog = struct.pack("HxxxxxxQ", len(program) // 8, pointer.value)
    libc = ctypes.CDLL(None, use_errno=True)
    number = SECCOMP[ARCHITECTURES[machine][0]]
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return False
    libc.syscall.restype = ctypes.c_long
    arguments = (ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(ALL_THREADS), ctypes.c_char_p(sock_fprog))
    return bool(libc.syscall(ctypes.c_long(number), *arguments) == 0)


def lock_in(max_memory: int) -> bool:
    """Give up what decoding does not need; return whether system calls are filtered.

    Where they cannot be (another processor or system), what remains is: no new descriptor, so no file and no socket; no
    byte into a file; ``max_memory`` bytes of address space.
    """
    for limit, value in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, max_memory),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    return _deny_system_calls()


def end_with_parent(control: int) -> None:
    """Have the kernel end this process when the other end of the pipe closes, whatever the process is busy with.

    Unlike PR_SET_PDEATHSIG, this does not take the end of the thread that started the process for the parent's.
    """
    if not hasattr(fcntl, "F_SETOWN") or not hasattr(os, "O_ASYNC"):
        return
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends the process
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(control, 0)
    if poll.poll(0):  # it had closed before
        os._exit(1)
