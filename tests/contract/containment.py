"""The containment probe: one program, run inside a sandbox, that tries to break everything the sandbox promises.

Each attempt runs in a child process of its own and says what it saw in a few words. The same module, imported outside,
is the list of attempts with what is expected of each. It uses nothing but the standard library.
"""

import contextlib
import ctypes
import errno
import functools
import getpass
import json
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

REFUSED = "refused"
"""Expected of what must not be possible, for whatever reason the kernel gives."""
NOT_TRIED = "not tried: the whole sandbox ends"
"""gVisor's own kernel lives under the limits of its container, and ends with it."""

NUMBERS = {
    "x86_64": {
        "acct": 163, "add_key": 248, "adjtimex": 159, "bpf": 321, "chroot": 161, "clock_settime": 227,
        "delete_module": 176, "fanotify_init": 300, "finit_module": 313, "fsopen": 430, "init_module": 175,
        "io_uring_setup": 425, "kcmp": 312, "kexec_load": 246, "keyctl": 250, "mount": 165, "name_to_handle_at": 303,
        "open_by_handle_at": 304, "open_tree": 428, "perf_event_open": 298, "pidfd_getfd": 438, "pidfd_open": 434,
        "pivot_root": 155, "process_vm_readv": 310, "ptrace": 101, "quotactl": 179, "reboot": 169, "request_key": 249,
        "setdomainname": 171, "sethostname": 170, "setns": 308, "swapon": 167, "syslog": 103, "umount2": 166,
        "unshare": 272, "userfaultfd": 323, "clone": 56, "clone3": 435, "capset": 126, "personality": 135,
    },
    "aarch64": {
        "acct": 89, "add_key": 217, "adjtimex": 171, "bpf": 280, "chroot": 51, "clock_settime": 112,
        "delete_module": 106, "fanotify_init": 262, "finit_module": 273, "fsopen": 430, "init_module": 105,
        "io_uring_setup": 425, "kcmp": 272, "kexec_load": 104, "keyctl": 219, "mount": 40, "name_to_handle_at": 264,
        "open_by_handle_at": 265, "open_tree": 428, "perf_event_open": 241, "pidfd_getfd": 438, "pidfd_open": 434,
        "pivot_root": 41, "process_vm_readv": 270, "ptrace": 117, "quotactl": 60, "reboot": 142, "request_key": 218,
        "setdomainname": 162, "sethostname": 161, "setns": 268, "swapon": 224, "syslog": 116, "umount2": 39,
        "unshare": 97, "userfaultfd": 282, "clone": 220, "clone3": 435, "capset": 91, "personality": 92,
    },
}[platform.machine()]  # fmt: skip
NAMESPACES = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
    "pid": 0x20000000, "network": 0x40000000,
}  # fmt: skip
WRITABLE = ("/tmp", "/dev/shm", "/dev/mqueue")
LIMITS: dict[str, int] = {}
"""What the test asked the sandbox for: bytes, processes, files; and whether it is gVisor (1 or 0)."""
ABSTRACT_NAME = "\0templar-containment"
"""A socket that the test listens on outside."""
SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One thing that is tried inside."""

    group: str
    what: str
    expected: str
    gvisor: str
    """What is expected where gVisor's own kernel answers instead of the host's."""
    run: Callable[[], object]


ATTEMPTS: list[Attempt] = []


def attempt(
    group: str, what: str, expected: str = REFUSED, *, gvisor: str | None = None
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Add a function to the list. What it returns is what was seen; an OSError is a refusal."""

    def add(run: Callable[[], object]) -> Callable[[], object]:
        ATTEMPTS.append(
            Attempt(group=group, what=what, expected=expected, gvisor=expected if gvisor is None else gvisor, run=run)
        )
        return run

    return add


def holds(expected: str, seen: str) -> bool:
    """Whether what was seen is what was expected."""
    return seen == expected or (expected == REFUSED and seen.startswith(REFUSED))


_libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """A system call by its number, whether or not the C library has a function for it.

    Raises:
        OSError: it was refused.
    """
    ctypes.set_errno(0)
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    answer = int(_libc.syscall(ctypes.c_long(NUMBERS[name]), *words))
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer


def system_call(group: str, what: str, name: str, *arguments: object, gvisor: str | None = None) -> None:
    """An attempt that is one system call and nothing more."""
    attempt(group, what, gvisor=gvisor)(lambda: f"done: {call(name, *arguments)}")


def _child_sees(run: Callable[[], object]) -> str:
    """The outcome of an attempt in a child process, which may die of it."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        os.setpgid(0, 0)
        signal.alarm(SECONDS)
        try:
            seen = str(run())
        except OSError as error:
            seen = f"{REFUSED}: {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
        except BaseException as error:
            seen = f"{type(error).__name__}: {error}"
        with contextlib.suppress(OSError):
            os.write(theirs, seen.encode()[:4000])
        os._exit(0)
    os.close(theirs)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    answer = os.read(ours, 4096)
    os.close(ours)
    if os.WIFSIGNALED(status):
        return f"{REFUSED}: {signal.Signals(os.WTERMSIG(status)).name}"
    return answer.decode()


# Network


def _reach(family: int, kind: int, address: object) -> str:
    with socket.socket(family, kind) as connection:
        connection.settimeout(5)
        connection.connect(address)  # type: ignore[arg-type]
        connection.sendall(b"?")
        return "reached"


for _what, _kind, _address in (
    ("a TCP connection", socket.SOCK_STREAM, ("1.1.1.1", 53)),
    ("a UDP packet", socket.SOCK_DGRAM, ("8.8.8.8", 53)),
    ("the cloud's metadata service", socket.SOCK_STREAM, ("169.254.169.254", 80)),
    ("the host at Docker's bridge", socket.SOCK_STREAM, ("172.17.0.1", 22)),
):
    attempt("network", _what)(functools.partial(_reach, socket.AF_INET, _kind, _address))
attempt("network", "IPv6")(lambda: _reach(socket.AF_INET6, socket.SOCK_STREAM, ("2001:4860:4860::8888", 53)))
attempt("network", "an abstract Unix socket of the host")(
    lambda: _reach(socket.AF_UNIX, socket.SOCK_STREAM, ABSTRACT_NAME)
)
attempt("network", "the channel a second time")(lambda: _reach(socket.AF_UNIX, socket.SOCK_STREAM, "/channel/s"))
attempt("network", "a name from DNS")(lambda: socket.getaddrinfo("example.org", 80))


@attempt("network", "families with a socket", "AF_INET AF_INET6 AF_UNIX", gvisor="AF_INET AF_INET6 AF_NETLINK AF_UNIX")
def _families() -> str:
    opened = set()
    for family in range(1, 64):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            with contextlib.suppress(OSError), socket.socket(family, kind) as made:
                opened.add(made.family.name if isinstance(made.family, socket.AddressFamily) else str(family))
    return " ".join(sorted(opened))


@attempt("network", "raw sockets")
def _raw() -> str:
    return str(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))


@attempt("network", "interfaces with an IPv4 address", "lo")
def _interfaces() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        import fcntl  # noqa: PLC0415

        buffer = ctypes.create_string_buffer(4096)
        request = struct.pack("iL", len(buffer), ctypes.addressof(buffer))
        length = struct.unpack("iL", fcntl.ioctl(asking, 0x8912, request))[0]  # SIOCGIFCONF
    return " ".join(
        sorted(buffer.raw[at : at + 16].rstrip(b"\0").split(b"\0")[0].decode() for at in range(0, length, 40))
    )


# Writing


def _walk() -> Iterator[tuple[str, list[str]]]:
    """Every folder outside /proc and /sys, with its files."""
    for root, folders, files in os.walk("/"):
        if root == "/":
            folders[:] = [name for name in folders if name not in ("proc", "sys")]
        yield root, files


@attempt("writing", "folders that can be written", " ".join(sorted(WRITABLE)), gvisor="/dev/shm /tmp")
def _folders() -> str:
    found = []
    for root, _ in _walk():
        with contextlib.suppress(OSError):
            name = os.path.join(root, "containment")
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL))
            os.unlink(name)
            found.append(root)
    return " ".join(sorted(found))


@attempt("writing", "files elsewhere that can be written", "none")
def _files() -> str:
    found = []
    for root, files in _walk():
        if not root.startswith(("/dev", "/tmp")):
            for name in files:
                with contextlib.suppress(OSError):
                    os.close(os.open(os.path.join(root, name), os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                    found.append(os.path.join(root, name))
    return " ".join(found) or "none"


@attempt("writing", "settings of the kernel that can be written", "none")
def _settings() -> str:
    found = []
    for top in ("/proc", "/sys"):
        for root, folders, files in os.walk(top):
            if root == "/proc":
                folders[:] = [name for name in folders if not name.isdigit()]
            for name in files:
                path = os.path.join(root, name)
                with contextlib.suppress(OSError):
                    if stat.S_ISCHR(os.stat(path).st_mode):
                        continue  # /dev/null over what is hidden
                    os.close(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
                    found.append(path)
    return " ".join(found[:20]) or "none"


# It is of the same user and has no other rights, so this is worth nothing.
attempt("writing", "the memory of the first process", "opened", gvisor=REFUSED)(
    lambda: "opened" if os.open("/proc/1/mem", os.O_WRONLY) else ""
)
for _path in ("/etc/passwd", "/app/sandbox/runner.py", "/venv/pyvenv.cfg", "/channel"):
    attempt("writing", f"a change of mode of {_path}")(functools.partial(os.chmod, _path, 0o777))


def _flags(point: str) -> str:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, _, options = line.split()[:4]
        if where == point:
            return " ".join(sorted({"nosuid", "nodev", "noexec"} & set(options.split(","))))
    return "no mount"


attempt("writing", "flags of /tmp", "nodev nosuid", gvisor="")(lambda: _flags("/tmp"))
attempt("writing", "flags of /dev/shm", "nodev noexec nosuid", gvisor="noexec")(lambda: _flags("/dev/shm"))
attempt("writing", "flags of /dev/mqueue", "nodev noexec nosuid", gvisor="no mount")(lambda: _flags("/dev/mqueue"))

# Privileges


def _status(name: str) -> str:
    status = dict(
        line.rstrip("\n").split(":\t", 1)
        for line in Path("/proc/self/status").read_text().splitlines()
        if ":\t" in line
    )
    return status.get(name, "not said")


attempt("privileges", "user and group", "10001:10001")(lambda: f"{os.getuid()}:{os.getgid()}")
attempt("privileges", "name and home", "sandbox /tmp")(lambda: f"{getpass.getuser()} {os.environ['HOME']}")
for _name in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
    attempt("privileges", f"capabilities ({_name})", "0" * 16)(functools.partial(_status, _name))
attempt("privileges", "no new privileges", "1")(lambda: int(_libc.prctl(39, 0, 0, 0, 0)))
attempt("privileges", "filter of system calls", "2", gvisor="0")(lambda: _status("Seccomp"))
attempt("privileges", "becoming root")(lambda: os.setuid(0))
attempt("privileges", "becoming root's group")(lambda: os.setgid(0))
attempt("privileges", "more groups")(lambda: os.setgroups([0]))
attempt("privileges", "a higher priority", gvisor="-1")(lambda: os.nice(-1))
attempt("privileges", "real-time scheduling")(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)))
attempt("privileges", "giving itself capabilities")(
    lambda: call("capset", struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0xFFFFFFFF] * 6))
)


@attempt("privileges", "files with setuid, setgid or capabilities", "none")
def _privileged_files() -> str:
    found = []
    for root, files in _walk():
        for name in files:
            path = os.path.join(root, name)
            with contextlib.suppress(OSError):
                if os.lstat(path).st_mode & 0o6000:
                    found.append(path)
                # One look at every file more is minutes under gVisor; what cannot be run has none.
                if os.lstat(path).st_mode & 0o111 and os.getxattr(path, "security.capability", follow_symlinks=False):
                    found.append(path)
    return " ".join(sorted(found)) or "none"


@attempt("privileges", "higher limits for itself")
def _higher_limits() -> str:
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (LIMITS["open_files"] * 2,) * 2)
    except ValueError as error:
        raise OSError(errno.EPERM, str(error)) from None
    return "raised"


# Namespaces and mounts

for _name, _flag in NAMESPACES.items():
    # gVisor's kernel has namespaces of its own, which are as much inside as everything else in it.
    _given = "done: 0" if _name in ("mount", "cgroup", "user") else REFUSED
    system_call("namespaces", f"a {_name} namespace of its own", "unshare", _flag, gvisor=_given)
system_call(
    "namespaces", "a user and a mount namespace", "unshare", NAMESPACES["user"] | NAMESPACES["mount"], gvisor="done: 0"
)


@attempt("namespaces", "a child in a user namespace", gvisor="done")
def _clone_user() -> str:
    pid = call("clone", NAMESPACES["user"] | signal.SIGCHLD, None, None, None, None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "done"


@attempt("namespaces", "the same by clone3")
def _clone3_user() -> str:
    arguments = struct.pack("11Q", NAMESPACES["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    pid = call("clone3", arguments, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "done"


attempt("namespaces", "entering the first process's")(
    lambda: call("setns", os.open("/proc/1/ns/net", os.O_RDONLY), NAMESPACES["network"])
)
system_call("namespaces", "a mount", "mount", b"none", b"/tmp", b"tmpfs", 0, None)
system_call("namespaces", "a writable root", "mount", b"none", b"/", None, 0x20 | 0x1000, None)
system_call("namespaces", "an unmount of the channel", "umount2", b"/channel", 2)
system_call("namespaces", "the newer mount calls", "fsopen", b"tmpfs", 0)
system_call("namespaces", "a copy of a mount", "open_tree", -100, b"/", 1)
system_call("namespaces", "another root", "chroot", b"/tmp")
system_call("namespaces", "another root (pivot_root)", "pivot_root", b"/tmp", b"/tmp")

# The kernel

system_call("kernel", "keyrings: keyctl", "keyctl", 0, -3, 0)
system_call("kernel", "keyrings: add_key", "add_key", b"user", b"containment", b"x", 1, -4)
system_call("kernel", "keyrings: request_key", "request_key", b"user", b"containment", None, -4)
system_call("kernel", "eBPF", "bpf", 0, struct.pack("8Q", 2, 4, 4, 1, 0, 0, 0, 0), 64)
system_call("kernel", "performance counters", "perf_event_open", struct.pack("II14Q", 1, 112, *[0] * 14), 0, -1, -1, 0)
system_call("kernel", "userfaultfd", "userfaultfd", 0)
system_call("kernel", "io_uring", "io_uring_setup", 4, b"\0" * 120, gvisor="done: 4")
system_call("kernel", "ptrace of the first process", "ptrace", 16, 1, 0, 0)
system_call("kernel", "kcmp", "kcmp", 1, os.getpid(), 0, 0, 0)
system_call("kernel", "another kernel", "kexec_load", 0, 0, None, 0)
system_call("kernel", "a reboot", "reboot", 0xFEE1DEAD, 672274793, 0, None)
system_call("kernel", "setting the clock", "clock_settime", 0, struct.pack("2q", 1, 0))
system_call("kernel", "slewing the clock", "adjtimex", struct.pack("I4xq", 1, 0).ljust(256, b"\0"))
system_call("kernel", "another host name", "sethostname", b"other", 5)
system_call("kernel", "another domain name", "setdomainname", b"other", 5)
system_call("kernel", "swap", "swapon", b"/tmp", 0)
system_call("kernel", "a module: init_module", "init_module", b"x", 1, b"")
system_call("kernel", "a module: finit_module", "finit_module", 0, b"", 0)
system_call("kernel", "unloading a module", "delete_module", b"ext4", 0)
system_call("kernel", "the kernel's log", "syslog", 3, b"\0" * 256, 256, gvisor="done: 256")
system_call("kernel", "accounting", "acct", b"/tmp/acct")
system_call("kernel", "quotas", "quotactl", 0x800001 << 8, b"/dev/vda", 0, None)
system_call("kernel", "watching all files", "fanotify_init", 0, 0)
system_call("kernel", "another personality", "personality", 0x0040000)


@attempt("kernel", "ptrace of a child", gvisor="done: 0")
def _ptrace_child() -> str:
    child = os.fork()
    if child == 0:
        time.sleep(SECONDS)
        os._exit(0)
    return f"done: {call('ptrace', 16, child, 0, 0)}"


@attempt("kernel", "the memory of another process")
def _read_memory() -> str:
    buffer = ctypes.create_string_buffer(8)
    vector = struct.pack("2Q", ctypes.addressof(buffer), 8)
    return f"done: {call('process_vm_readv', os.getppid(), vector, 1, vector, 1, 0)}"


@attempt("kernel", "a descriptor of another process")
def _get_descriptor() -> str:
    return f"done: {call('pidfd_getfd', call('pidfd_open', os.getppid(), 0), 0, 0)}"


@attempt("kernel", "files by handle")
def _handles() -> str:
    handle = struct.pack("Ii", 128, 0) + b"\0" * 128
    buffer = ctypes.create_string_buffer(handle)
    with contextlib.suppress(OSError):
        call("name_to_handle_at", -100, b"/channel", buffer, b"\0" * 8, 0)
    return f"done: {call('open_by_handle_at', os.open('/channel', os.O_RDONLY), buffer, 0)}"


@attempt("kernel", "32-bit system calls", gvisor="done: -9")
def _compat() -> str:
    if platform.machine() != "x86_64":
        raise OSError(errno.ENOSYS, "none here")
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, getpid; int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return f"done: {function()}"


# Limits


@attempt("limits", "processes", "held", gvisor=NOT_TRIED)
def _processes() -> str:
    made = 0
    try:
        while made < LIMITS["processes"] * 2:
            if os.fork() == 0:
                time.sleep(SECONDS)
                os._exit(0)
            made += 1
    except OSError:
        return "held" if made < LIMITS["processes"] else f"{made} processes"
    return f"{made} processes"


@attempt("limits", "twice the memory, swap or not", gvisor=NOT_TRIED)
def _memory() -> str:
    hog = mmap.mmap(-1, 2 * LIMITS["memory_bytes"])
    for at in range(0, len(hog), mmap.PAGESIZE):
        hog[at] = 1
    return "had"


def _fill(folder: str, limit: int) -> str:
    home = os.path.join(folder, "fill")
    os.mkdir(home)
    written = 0
    try:
        for number in range(1000):
            with open(os.path.join(home, str(number)), "wb", buffering=0) as file:
                written += file.write(bytes(1_000_000))
    except OSError:
        return "held" if 0 < written <= limit + mmap.PAGESIZE else f"{written} bytes"
    finally:
        shutil.rmtree(home)
    return f"{written} bytes"


attempt("limits", "bytes in /tmp", "held")(lambda: _fill("/tmp", LIMITS["tmp_bytes"]))
attempt("limits", "bytes in /dev/shm", "held")(lambda: _fill("/dev/shm", LIMITS["shm_bytes"]))


@attempt("limits", "files in /tmp", "held", gvisor="more, bounded by memory")
def _inodes() -> str:
    home, made = "/tmp/inodes", 0
    os.mkdir(home)
    try:
        for made in range(LIMITS["tmp_files"] + 1000):
            os.close(os.open(f"{home}/{made}", os.O_CREAT | os.O_WRONLY))
    except OSError:
        return "held" if made <= LIMITS["tmp_files"] else f"{made} files"
    finally:
        shutil.rmtree(home)
    return "more, bounded by memory"


@attempt("limits", "open files", "held")
def _open_files() -> str:
    opened = 0
    try:
        while opened < 2 * LIMITS["open_files"]:
            os.open("/dev/null", os.O_RDONLY)
            opened += 1
    except OSError:
        return "held" if opened < LIMITS["open_files"] else f"{opened} files"
    return f"{opened} files"


@attempt("limits", "one large file", "held")
def _file_size() -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        os.truncate(os.open("/tmp/large", os.O_CREAT | os.O_RDWR), LIMITS["tmp_bytes"] + LIMITS["shm_bytes"])
    except OSError:
        return "held"
    return "made"


@attempt("limits", "a core file", "none")
def _core() -> str:
    os.chdir("/tmp")
    if os.fork() == 0:
        os.abort()
    _, status = os.wait()
    return "dumped" if os.WCOREDUMP(status) or any("core" in name for name in os.listdir("/tmp")) else "none"


@attempt("limits", "CPUs", "[0]")
def _cpus() -> str:
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return str(sorted(os.sched_getaffinity(0)))


# Devices


@attempt(
    "devices",
    "entries of /dev",
    "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero",
    gvisor="fd full fuse net null ptmx pts random shm stderr stdin stdout tty urandom zero",
)
def _devices() -> str:
    return " ".join(sorted(name for name in os.listdir("/dev") if not name.startswith("nvidia")))


for _name in ("mem", "kmem", "kmsg", "port", "kvm", "vda", "sda", "vsock", "tty", "console"):
    attempt("devices", f"/dev/{_name}")(functools.partial(os.open, f"/dev/{_name}", os.O_RDWR))


OWN = "opened: its own kernel's"


def _open_own(path: str) -> str:
    os.close(os.open(path, os.O_RDWR))
    return OWN


for _name in ("fuse", "net/tun"):
    attempt("devices", f"/dev/{_name}", gvisor="opened: its own kernel's")(
        functools.partial(_open_own, f"/dev/{_name}")
    )


@attempt("devices", "a device file of its own", gvisor="made, without a device behind it")
def _mknod() -> str:
    os.mknod("/tmp/device", 0o20666, os.makedev(1, 1))
    try:
        os.close(os.open("/tmp/device", os.O_RDONLY))
    except OSError:
        return "made, without a device behind it"
    return "made"


# The host

attempt("host", "host name", "sandbox")(socket.gethostname)
attempt("host", "Docker's socket", "absent")(
    lambda: "there" if any(map(os.path.exists, ("/var/run/docker.sock", "/run/containerd"))) else "absent"
)


@attempt("host", "mounts of real file systems", "/channel /etc/hostname /etc/hosts /etc/resolv.conf")
def _mounts() -> str:
    kernel_made = {
        "overlay", "proc", "tmpfs", "devpts", "sysfs", "cgroup", "cgroup2", "mqueue", "devtmpfs", "rootfs", "none",
    }  # fmt: skip
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = {where for _, where, kind, *_ in mounts if kind not in kernel_made and not where.endswith("/docker-init")}
    return " ".join(sorted(found - {"/"}))


@attempt("host", "other processes", "none")
def _others() -> str:
    own = {os.getpid(), os.getppid(), 1}
    return " ".join(name for name in os.listdir("/proc") if name.isdigit() and int(name) not in own) or "none"


@attempt("host", "the first process's root", "ours", gvisor=REFUSED)
def _root() -> str:
    return "ours" if os.path.samestat(os.stat("/proc/1/root"), os.stat("/")) else "another"


@attempt("host", "entries of /channel")
def _channel() -> str:
    return " ".join(os.listdir("/channel")) or "none"


@attempt("host", "keys, kernel memory and firmware", "hidden", gvisor="hidden")
def _hidden() -> str:
    seen = []
    for path in ("/proc/keys", "/proc/kcore", "/proc/timer_list", "/proc/sched_debug"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if file.read(64):
                seen.append(path)
    with contextlib.suppress(OSError):
        seen += [f"/sys/firmware/{name}" for name in os.listdir("/sys/firmware")]
    return " ".join(seen) or "hidden"


@attempt(
    "host",
    "names in the environment",
    "HOME HOSTNAME LANG MALLOC_MMAP_THRESHOLD_ MALLOC_TRIM_THRESHOLD_ OMP_NUM_THREADS PATH PYTHONFAULTHANDLER "
    "PYTHONPATH PYTHONUNBUFFERED TMPDIR TORCHINDUCTOR_CACHE_DIR TORCHINDUCTOR_COMPILE_THREADS "
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS TORCH_EXTENSIONS_DIR TRITON_CACHE_DIR",
)
def _environment() -> str:
    return " ".join(sorted(set(os.environ) - {"LC_CTYPE"}))


# What must work


@attempt("allowed", "a library compiled in /tmp and loaded from it", "42")
def _compile() -> str:
    with open("/tmp/answer.c", "w") as file:
        file.write("int answer(void) { return 42; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", "/tmp/answer.so", "/tmp/answer.c"], check=True)
    return str(ctypes.CDLL("/tmp/answer.so").answer())


@attempt("allowed", "threads, pipes and shared memory", "done")
def _ordinary() -> str:
    import threading  # noqa: PLC0415
    from multiprocessing import shared_memory  # noqa: PLC0415

    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=lambda: theirs.sendall(b"done"))
    thread.start()
    shared = shared_memory.SharedMemory(create=True, size=4096)
    shared.close()
    shared.unlink()
    thread.join()
    return ours.recv(4).decode()


def main() -> None:
    """Try everything and say, each as one line of JSON, what was seen."""
    LIMITS.update(json.loads(sys.argv[1]))
    channel = socket.socket(socket.AF_UNIX)
    channel.connect(sys.argv[2])
    for each in ATTEMPTS:
        is_tried = each.gvisor != NOT_TRIED or not LIMITS["gvisor"]
        channel.sendall(json.dumps(_child_sees(each.run) if is_tried else NOT_TRIED).encode() + b"\n")


if __name__ == "__main__":
    main()
