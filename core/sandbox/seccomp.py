"""The system calls that confined programs may not make, as a seccomp filter.

What no honest program needs (other processes, other programs, mounts, tracing) kills the process, so
that trying it is never a pass. What libraries merely probe for (sockets, shared memory) fails as on a
system that lacks it.

The filter is classic BPF; the layout is linux/filter.h's and linux/seccomp.h's.
"""

from __future__ import annotations

import errno
import os
import struct

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# name: (number on x86_64, on aarch64); None where the architecture has no such call.
_KILLED: dict[str, tuple[int | None, int | None]] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "bpf": (321, 280),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "acct": (163, 89),
    "open_by_handle_at": (304, 265),
}
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "setpriority": (141, 140),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "ioprio_set": (251, 30),
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_PRLIMIT = {"x86_64": 302, "aarch64": 261}
_SIGNALS_BY_DESCRIPTOR = {
    "fcntl": ((72, 25), (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": ((16, 29), (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP
}
"""Calls whose second argument may make a descriptor send signals to any process of the same user."""
_CLONE3 = 435
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24  # offsets in seccomp_data
_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERROR = 0x00050000


def supported() -> bool:
    """Whether this processor's calls are known here."""
    return os.uname().machine in _ARCHITECTURES


def filter_program() -> bytes:
    """The filter, for `linux.install_filter`."""
    machine = os.uname().machine
    column = 0 if machine == "x86_64" else 1
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, _ARCHITECTURES[machine], 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        code += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _KILL_PROCESS)]
    # glibc falls back to clone, whose flags a filter can read, where clone3 doesn't exist.
    code += _answer(_CLONE3, _ERROR | errno.ENOSYS)
    for calls, verdict in ((_KILLED, _KILL_PROCESS), (_REFUSED, _ERROR | errno.EPERM)):
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                code += _answer(number, verdict)
    for call_numbers, commands in _SIGNALS_BY_DESCRIPTOR.values():
        code += _answer_if_second_is(call_numbers[column], commands)
    code += [
        # A process may lower its own limits (that is pid 0), and no other's.
        _instruction(_EQUAL, _PRLIMIT[machine], 0, 4),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_EQUAL, 0, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_RETURN, _ALLOW),
        _instruction(_EQUAL, _CLONE[machine], 0, 3),
        _instruction(_LOAD, _FIRST_ARGUMENT),
        _instruction(_ANY_BIT, _CLONE_THREAD, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def _answer(number: int, verdict: int) -> list[bytes]:
    return [_instruction(_EQUAL, number, 0, 1), _instruction(_RETURN, verdict)]


def _answer_if_second_is(number: int, values: tuple[int, ...]) -> list[bytes]:
    """Kill where the call's second argument is one of `values`; allow it with any other."""
    compared = [instruction for value in values for instruction in _answer(value, _KILL_PROCESS)]
    inside = [_instruction(_LOAD, _SECOND_ARGUMENT), *compared, _instruction(_RETURN, _ALLOW)]
    return [_instruction(_EQUAL, number, 0, len(inside)), *inside]


def _instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
