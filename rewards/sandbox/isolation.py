"""Isolation of a process on Linux, through ctypes: namespaces, Landlock for files, seccomp for system calls.

Landlock (files) and seccomp (sockets) are required. They need no privileges. Namespaces are used if the system allows
them: a PID namespace ends with all processes in it, and a mount namespace has a small file system in memory in place of
the program's folder and everything else read-only. Without a PID namespace the program can start threads only, and
without a mount namespace it cannot change modes, owners and attributes of files.

The file imports only the standard library, since a new interpreter runs it in milliseconds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass


class UnavailableError(Exception):
    """A protection that this system does not have. The message names it and the cause."""


# ---- namespaces ----

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_NAMESPACES = 0x7E020000  # CLONE_NEW* of all kinds
_MS_NOSUID_NODEV = 2 | 4
_MS_REC_PRIVATE = 0x4000 | 0x40000
_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_SYS_MOUNT_SETATTR = 442
_NOBODY = 65534


@dataclass(frozen=True)
class Namespaces:
    """Namespaces of a process.

    Attributes:
        pids: its next child is the first process of a PID namespace, and all others die with that child.
        mounts: it has a mount namespace of its own.
    """

    pids: bool
    mounts: bool


def enter_namespaces() -> Namespaces:
    """Move this process, which has one thread, into namespaces of its own, as far as the system allows it."""
    user, group = os.geteuid(), os.getegid()
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if user == 0:  # the limit of processes binds every real user but root; files are opened as the effective one
            os.setresuid(_NOBODY, 0, 0)
    except OSError:  # a container that may not change the user
        return Namespaces(pids=False, mounts=False)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS):
        return Namespaces(pids=False, mounts=False)
    try:
        # The file system in memory refuses files of a user that the namespace does not know.
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return Namespaces(pids=True, mounts=False)
    return Namespaces(pids=True, mounts=not libc.mount(None, b"/", None, _MS_REC_PRIVATE, None))


def mount_folder(folder: str, size_mb: int) -> bool:
    """Mount a file system in memory on a folder, and make all others read-only; return whether that succeeded.

    Args:
        folder: of the program.
        size_mb: capacity of the file system in MiB.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    read_only = struct.pack("=QQQQ", _MOUNT_ATTR_RDONLY, 0, 0, 0)
    if libc.syscall(_SYS_MOUNT_SETATTR, -1, b"/", _AT_RECURSIVE, read_only, len(read_only)):
        return False
    places = [folder, "/dev/shm"] if os.path.isdir("/dev/shm") else [folder]  # semaphores lie in /dev/shm
    options = f"size={size_mb}m,nr_inodes=10k,mode=700".encode()
    return not any(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", _MS_NOSUID_NODEV, options) for place in places)


# ---- files ----

_SYS_LANDLOCK_CREATE_RULESET, _SYS_LANDLOCK_ADD_RULE, _SYS_LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION = 1
_LANDLOCK_PATH_BENEATH = 1
_WRITE_FILE = 1 << 1
_TRUNCATE = 1 << 14  # from version 3 of Landlock on
# write a file; remove and create files and folders of each kind (bits 4 to 12)
_WRITE = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
_REFER = 1 << 13  # rename into another folder, from version 2 on
_IOCTL_DEVICE = 1 << 15  # from version 5 on
_SCOPES = 3  # abstract Unix sockets and signals of other processes, from version 6 on


def restrict_files(writable: list[str], *, read_only_mounts: bool) -> None:
    """Refuse this process every change of a file outside of the writable folders. It cannot trace others, either.

    Args:
        writable: folders.
        read_only_mounts: everything else is read-only already, so that an old Landlock suffices.

    Raises:
        UnavailableError: the system has no Landlock, or one that lets files be truncated.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 0:
        raise UnavailableError(f"Landlock: {os.strerror(ctypes.get_errno())}")
    if version < 3 and not read_only_mounts:
        raise UnavailableError(f"Landlock: version {version}, which lets files be truncated")
    allowed = _WRITE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled = allowed | (_IOCTL_DEVICE if version >= 5 else 0)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 8
    ruleset = _checked(libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, attributes, size, 0), "Landlock")
    file_rights = _WRITE_FILE | (allowed & _TRUNCATE)
    for path, rights in [*((folder, allowed) for folder in writable), (os.devnull, file_rights)]:
        descriptor = os.open(path, os.O_PATH)
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(libc.syscall(_SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_PATH_BENEATH, rule, 0), "Landlock")
        os.close(descriptor)
    forbid_new_privileges()
    _checked(libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


# ---- system calls ----

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # instructions of a BPF program
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16  # struct seccomp_data; an argument has 8 bytes
_X32 = 0x40000000  # system calls of the x32 interface, which have other numbers
_CLONE_THREAD = 0x00010000
_SOCK_TYPE, _SOCK_STREAM = 0xF, 1
_INTERNET_FAMILIES = (2, 10, 16)  # AF_INET, AF_INET6, and AF_NETLINK, which resolves names

# name -> number on x86_64 and on aarch64 (None: the architecture does not have it)
_SYSTEM_CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "io_uring_setup": (425, 425),
    "clone": (56, 220), "clone3": (435, 435), "fork": (57, None), "vfork": (58, None),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "prctl": (157, 167),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "prlimit64": (302, 261),
    "setpriority": (141, 140), "sched_setaffinity": (203, 122),
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "lchown": (94, None), "fchown": (93, 55), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "setuid": (105, 146), "setreuid": (113, 145), "setresuid": (117, 147), "setfsuid": (122, 151),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH value

# reach other processes, kernels' tables, or what outlives the process
_NEVER = (
    "io_uring_setup", "ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "unshare", "setns", "mount",
    "umount2", "pivot_root", "chroot", "open_tree", "move_mount", "fsopen", "mount_setattr", "keyctl", "add_key",
    "request_key", "bpf", "perf_event_open", "userfaultfd", "shmget", "msgget", "semget", "mq_open", "setuid",
    "setreuid", "setresuid", "setfsuid",
)  # fmt: skip
_SIGNALS = ("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
_ATTRIBUTES = (
    "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat", "setxattr", "lsetxattr",
    "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat", "utime", "utimes",
    "futimesat", "utimensat",
)  # fmt: skip

Instruction = tuple[int, int, int, int]
"""A BPF instruction: operation, jump if true, jump if false, constant."""


def restrict_system_calls(*, network: bool, processes: bool, attributes: bool) -> None:
    """Refuse this process sockets, other processes and what outlives it, for good.

    A refused call raises PermissionError in Python. Connected pairs of stream sockets stay allowed, which event loops
    use.

    Args:
        network: allow internet sockets. Unix sockets stay refused.
        processes: allow new processes and signals to them, inside a PID namespace.
        attributes: allow changes of the modes, owners and times of files.

    Raises:
        UnavailableError: the system has no seccomp, or the processor another architecture.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    code = system_call_filter(network=network, processes=processes, attributes=attributes)
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in code))
    # struct sock_fprog: number of instructions, padding, pointer
    header = ctypes.create_string_buffer(struct.pack("=H6xQ", len(code), ctypes.addressof(program)))
    forbid_new_privileges()
    _checked(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


def system_call_filter(*, network: bool, processes: bool, attributes: bool) -> list[Instruction]:
    """Return the BPF program of `restrict_system_calls`."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnavailableError(f"seccomp: rules for {machine or 'this processor'}")
    column, architecture = _ARCHITECTURES[machine]
    numbers = {name: pair[column] for name, pair in _SYSTEM_CALLS.items()}
    code: list[Instruction] = [
        (_LOAD, 0, 0, _OFFSET_ARCH),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
        (_AT_LEAST, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]

    def refuse(names: tuple[str, ...], error: int = errno.EPERM) -> None:
        for name in names:
            if (number := numbers[name]) is not None:
                code.extend([(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | error)])

    def allow_if(name: str, argument: int, mask: int, values: tuple[int, ...]) -> None:
        """Allow a call if the masked argument has one of the values."""
        number = numbers[name]
        assert number is not None
        body: list[Instruction] = [(_LOAD, 0, 0, _OFFSET_ARGS + 8 * argument), (_AND, 0, 0, mask)]
        for value in values:
            body += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
        body.append((_RETURN, 0, 0, _ERRNO | errno.EPERM))
        code.append((_EQUAL, 0, len(body), number))
        code.extend(body)

    refuse(_NEVER)
    refuse(("clone3",), errno.ENOSYS)  # its flags lie in memory; the C library then uses clone
    every_bit = 0xFFFFFFFF
    allow_if("socket", 0, every_bit, _INTERNET_FAMILIES if network else ())
    allow_if("socketpair", 1, _SOCK_TYPE, (_SOCK_STREAM,))  # a pair of datagram sockets sends to any path
    # PR_SET_PDEATHSIG would keep the program alive after its parent
    code.extend([(_EQUAL, 0, 3, numbers["prctl"] or 0), (_LOAD, 0, 0, _OFFSET_ARGS), (_EQUAL, 0, 1, _PR_SET_PDEATHSIG)])
    code.extend([(_RETURN, 0, 0, _ERRNO | errno.EPERM), (_LOAD, 0, 0, _OFFSET_NUMBER)])
    if processes:
        allow_if("clone", 0, _NAMESPACES, (0,))
    else:
        allow_if("clone", 0, _NAMESPACES | _CLONE_THREAD, (_CLONE_THREAD,))
        refuse(("fork", "vfork", *_SIGNALS))
        own = os.getpid()
        allow_if("kill", 0, every_bit, (own,))
        allow_if("tgkill", 0, every_bit, (own,))
        for name in ("prlimit64", "sched_setaffinity"):
            allow_if(name, 0, every_bit, (0, own))
        refuse(("setpriority",))
    if not attributes:
        refuse(_ATTRIBUTES)
    code.append((_RETURN, 0, 0, _ALLOW))
    return code


# ---- privileges ----


def forbid_new_privileges() -> None:
    """Keep programs with set-user-id from gaining privileges. Landlock and seccomp require it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up all capabilities of this process, also those inside of its user namespace."""
    header = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    ctypes.CDLL(None, use_errno=True).capset(header, bytes(24))


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent ends.

    Args:
        parent: process id of the parent, which may have ended before.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if parent and os.getppid() != parent:
        os._exit(0)


def _checked(result: int, name: str) -> int:
    if result < 0:
        raise UnavailableError(f"{name}: {os.strerror(ctypes.get_errno())}")
    return result
