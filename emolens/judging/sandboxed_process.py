"""What the sandboxed process does to itself before it runs code that a model wrote, and what it does then.

`sandbox` starts this file as a script, in a fresh interpreter without site-packages, so it imports the standard
library alone. Each layer is laid where the platform has it; `sandbox.containment` finds out, by trying, what
they add up to, and nothing here is taken on trust.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import json
import os
import platform
import signal
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

# The system calls that computing needs, as name:number on x86-64:number on ARM64. Whatever is not named here
# fails, so that a call which a later kernel adds is refused too.
CALLS = """
read:0:63 write:1:64 close:3:57 fstat:5:80 lseek:8:62 mmap:9:222 mprotect:10:226 munmap:11:215 mremap:25:216
madvise:28:233 brk:12:214 rt_sigaction:13:134 rt_sigprocmask:14:135 rt_sigreturn:15:139 rt_sigpending:127:136
rt_sigtimedwait:128:137 rt_sigsuspend:130:133 sigaltstack:131:132 pread64:17:67 readv:19:65 writev:20:66
preadv:295:69 pipe:22: pipe2:293:59 dup:32:23 dup2:33: dup3:292:24 sched_yield:24:124 nanosleep:35:101
clock_nanosleep:230:115 clock_gettime:228:113 clock_getres:229:114 gettimeofday:96:169 time:201: times:100:153
getitimer:36:102 setitimer:38:103 alarm:37: pause:34: getpid:39:172 gettid:186:178 getppid:110:173 getpgrp:111:
getpgid:121:155 getsid:124:156 getuid:102:174 geteuid:107:175 getgid:104:176 getegid:108:177 getresuid:118:148
getresgid:120:150 getgroups:115:158 exit:60:93 exit_group:231:94 uname:63:160 sysinfo:99:179 getrlimit:97:163
getrusage:98:165 getcwd:79:17 chdir:80:49 fchdir:81:50 umask:95:166 readlink:89: readlinkat:267:78 stat:4: lstat:6:
newfstatat:262:79 statx:332:291 statfs:137:43 fstatfs:138:44 access:21: faccessat:269:48 faccessat2:439:439
getdents:78: getdents64:217:61 fadvise64:221:223 poll:7: ppoll:271:73 select:23: pselect6:270:72 epoll_create:213:
epoll_create1:291:20 epoll_ctl:233:21 epoll_wait:232: epoll_pwait:281:22 eventfd2:290:19 futex:202:98
set_tid_address:218:96 set_robust_list:273:99 get_robust_list:274:100 rseq:334:293 membarrier:324:283 getcpu:309:168
sched_getaffinity:204:123 getrandom:318:278 close_range:436:436 restart_syscall:219:128
open:2: openat:257:56 fcntl:72:25 ioctl:16:29 kill:62:129 tgkill:234:131 prlimit64:302:261
"""
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of CALLS, the kernel's name of it

WRITING = 0o3 | 0o100 | 0o1000 | 0o20000000  # flags of open: write, read and write, create, truncate, unnamed
OWNERS = (8, 10, 15)  # commands of fcntl that have signals sent to another process
TERMINAL = (0x5401, 0x5413, 0x5421, 0x541B, 0x5450, 0x5451)  # ioctl: what Python asks of any file it opens

NOBODY = 65534
CAN_READ_ALL = 2  # CAP_DAC_READ_SEARCH


def confine(limits: dict[str, Any], scratch: str, parent: int) -> list[str]:
    """Give up for good what code under test does not need. Returns the layers that the platform lacks, and why.

    >>> el.sandbox.run_tests("import socket; socket.socket()", "import solution").output.splitlines()[-1]
    'PermissionError: [Errno 1] Operation not permitted'
    """
    _limit(limits)
    if sys.platform != "linux":
        return [f"{layer} (not on {sys.platform})" for layer in ("Landlock", "seccomp")]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.syscall.restype = ctypes.c_long
    paths = list(_readable(scratch))
    has_landlock = libc.syscall(444, None, 0, 1) > 0
    layers: dict[str, Callable[[], Any]] = {
        "the change of user": lambda: _become_nobody(libc, paths, has_landlock),
        # From here on no program that is started gains a right, and this process ends with its parent.
        "PR_SET_NO_NEW_PRIVS": lambda: _check(libc.prctl(38, 1, 0, 0, 0)),
        "PR_SET_DUMPABLE": lambda: _check(libc.prctl(4, 0, 0, 0, 0)),
        "PR_SET_PDEATHSIG": lambda: _check(libc.prctl(1, 9, 0, 0, 0)),
        "Landlock": lambda: _allow_reading(libc, paths),
        "seccomp": lambda: _allow_calls(libc),
    }
    missing = []
    for name, lay in layers.items():
        try:
            lay()
        except OSError as error:
            missing.append(f"{name} ({error.strerror})")
    if os.getppid() != parent:  # it ended before it could end this one
        os._exit(1)
    return missing


def _limit(limits: dict[str, Any]) -> None:
    import resource

    # No process or thread of its own: that also keeps whatever it does within the limits of one process.
    wanted = {"CORE": 0, "FSIZE": 0, "NPROC": 0, "MEMLOCK": 0, "NOFILE": 64, "CPU": int(limits["seconds"]) + 1}
    for name, value in (wanted | {"AS": limits["memory"], "DATA": limits["memory"]}).items():
        with contextlib.suppress(AttributeError, ValueError, OSError):  # macOS has or heeds only some
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _readable(scratch: str) -> Iterator[str]:
    """What may be read: the scratch folder, the standard library without what was installed into it, C libraries."""
    yield scratch
    paths = sysconfig.get_paths()
    for folder in {paths["stdlib"], paths["platstdlib"]}:
        with contextlib.suppress(OSError):
            yield from (e.path for e in os.scandir(folder) if not e.name.endswith("-packages"))
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    libraries = [sysconfig.get_config_var("LIBDIR") or "", *(f"{top}/{multiarch}" for top in ("/lib", "/usr/lib"))]
    for folder in {os.path.realpath(path) for path in [*libraries, "/lib64", "/usr/lib64", "/lib", "/usr/lib"]}:
        with contextlib.suppress(OSError):
            yield from (e.path for e in os.scandir(folder) if ".so" in e.name and not e.is_dir())
    yield from filter(os.path.exists, ("/etc/ld.so.cache", "/usr/share/zoneinfo"))


def _become_nobody(libc: Any, paths: list[str], landlock: bool) -> None:
    """Leave the superuser and drop every capability.

    An interpreter below a private folder (`/root`) could then not read its own library. It keeps the right to
    read in that case, where Landlock narrows that right to `paths`; else it stays the superuser in name.
    """
    keep = 0
    if os.geteuid() == 0:
        private = not all(map(_is_open_to_all, paths[:2]))
        if not private or landlock:
            keep = 1 << CAN_READ_ALL if private else 0
            _check(libc.prctl(8, 1, 0, 0, 0))  # KEEPCAPS: through the change of user, to the line that drops them
            with contextlib.suppress(OSError):  # a container without these rights
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
    header = struct.pack("Ii", 0x20080522, 0)
    if libc.capset(header, struct.pack("6I", keep, keep, 0, 0, 0, 0)):  # effective, permitted, inherited, twice
        _check(libc.capset(header, bytes(24)))


def _is_open_to_all(path: str) -> bool:
    """Whether every user may reach and read `path`."""
    parents: list[str] = []
    while (parent := os.path.dirname(path)) not in (path, *parents):
        parents.append(parent)
        path = parent
    return all(os.stat(parent).st_mode & 0o001 for parent in parents)


def _allow_reading(libc: Any, paths: list[str]) -> None:
    """Landlock: no file but those under `paths` can be opened, and none changed, made or removed.

    The folder of the standard library cannot be listed either, as what was installed lies below it. Imports go by
    the listing that is taken here.
    """
    for finder in filter(None, sys.path_importer_cache.values()):
        finder.find_spec("listing")
        vars(finder)["invalidate_caches"] = lambda: None
    version = _check(libc.syscall(444, None, 0, 1))
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1  # every right that this version knows
    net, scope = (0b11 if version >= 4 else 0), (0b11 if version >= 6 else 0)
    attributes = struct.pack("QQQ", files, net, scope)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _check(libc.syscall(444, attributes, len(attributes), 0))
    read, look = 1 << 2, 1 << 3
    for path in paths:
        with contextlib.suppress(OSError):  # a dangling link, an archive that is not there
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = read | look if os.path.isdir(path) else read
            _check(libc.syscall(445, rules, 1, struct.pack("=Qi", rights, opened), 0))
            os.close(opened)
    _check(libc.syscall(446, rules, 0))
    os.close(rules)


def _allow_calls(libc: Any) -> None:
    """seccomp: only the system calls above, and those that name a process, a flag or a command with these alone."""
    if platform.machine() not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"not on {platform.machine()}")
    column, architecture = ARCHITECTURES[platform.machine()]
    rows = [call.split(":") for call in CALLS.split()]
    numbers = {name: int(each[column]) for name, *each in rows if each[column]}
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06  # instructions of the filter
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000

    def code(*steps: tuple[int, int, int, int]) -> bytes:
        return b"".join(struct.pack("HBBI", operation, yes, no, value) for operation, yes, no, value in steps)

    def argument(place: int) -> tuple[int, int, int, int]:
        return (load, 0, 0, 16 + 8 * place)

    def only(place: int, values: tuple[int, ...], then: int, otherwise: int) -> bytes:
        tests = [(equal, len(values) - i, 0, value) for i, value in enumerate(values)]
        return code(argument(place), *tests, (give, 0, 0, otherwise), (give, 0, 0, then))

    def no_bit(place: int, bits: int) -> bytes:
        return code(argument(place), (any_bit, 0, 1, bits), (give, 0, 0, refuse), (give, 0, 0, allow))

    own = os.getpid()
    conditions = {
        "open": no_bit(1, WRITING),
        "openat": no_bit(2, WRITING),
        "fcntl": only(1, OWNERS, refuse, allow),
        "ioctl": only(1, TERMINAL, allow, refuse),
        "kill": only(0, (own,), allow, refuse),
        "tgkill": only(0, (own,), allow, refuse),
        "prlimit64": only(0, (0, own), allow, refuse),
    }
    program = code((load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0))
    for name, number in numbers.items():
        body = conditions.get(name, code((give, 0, 0, allow)))
        program += code((equal, 0, len(body) // 8, number)) + body
    program += code((give, 0, 0, refuse))
    held = ctypes.create_string_buffer(program, len(program))
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(held)))
    _check(libc.prctl(22, 2, ctypes.addressof(described), 0, 0))


# --- what runs inside ------------------------------------------------------------------------------


def attempts(outside: str, memory: int) -> list[str]:
    """Try what the sandbox must stop, harmlessly; the names of what was not stopped.

    >>> all(el.sandbox.containment().values())  # they are tried inside
    True
    """

    def network() -> None:
        import socket

        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()

    def read() -> None:
        open(os.path.join(outside, "private"), "rb").close()

    def look() -> None:
        folders = sysconfig.get_paths()
        os.listdir(os.path.join(folders["stdlib"], "site-packages"))

    def write() -> None:
        with contextlib.suppress(OSError):
            os.mkdir(os.path.join(outside, "made"))
            return
        os.chmod(os.path.join(outside, "private"), 0o600)  # which Landlock does not cover

    def processes() -> None:
        if os.fork() == 0:
            os._exit(0)
        os.wait()

    def memory_hog() -> None:
        import mmap

        mmap.mmap(-1, 2 * memory).close()  # asked for, never touched

    def signals() -> None:
        os.kill(os.getppid(), 0)  # signal 0 only asks whether another could be sent

    tried = {
        network: "network", read: "reading", look: "reading", write: "writing",
        processes: "processes", memory_hog: "memory", signals: "signals",
    }  # fmt: skip
    passed = {}
    for attempt, hazard in tried.items():
        with contextlib.suppress(OSError, ImportError, MemoryError, ValueError):
            attempt()
            passed[hazard] = True
    return list(passed)


def run_tests(order: dict[str, Any], tests: str, solution: Apart | None) -> None:
    """Run the tests, then ask for the token and send it back; leave the process in any case.

    The token does not exist before it is asked for. What is said before, "." when confined and "+" when the code
    compiles, cannot be unsaid by the code.

    Args:
        solution: where it has a process of its own.

    >>> el.sandbox.run_tests("import os; os._exit(0)", "import solution").ended
    'early'
    """
    import linecache
    import traceback
    import types

    ask, answer, write, read, leave = order["ask"], order["answer"], os.write, os.read, os._exit
    path = os.path.join(order["scratch"], "solution.py")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.path.insert(0, order["scratch"])
    linecache.cache["tests.py"] = (len(tests), None, tests.splitlines(keepends=True), "tests.py")

    def fail(text: str, verdict: bytes = b"") -> NoReturn:
        write(ask, verdict)
        write(2, text.encode("utf-8", "replace"))
        if solution:
            solution.end()
        leave(1)

    write(ask, b".")
    try:
        with open(path, "rb") as file:
            compile(file.read(), path, "exec")
        write(ask, b"+")
        if solution:
            sys.modules["solution"] = solution.module(lambda why: fail(why, b"!"))
        exec(compile(tests, "tests.py", "exec"), main.__dict__)
        if solution:
            solution.end()
    except BaseException as error:  # SystemExit above all: an early end is no pass
        frames = error.__traceback__ and error.__traceback__.tb_next
        fail("".join(traceback.format_exception(type(error), error, frames)))
    write(ask, b"?")
    write(ask, read(answer, 64))
    leave(0)


class Apart:
    """The solution in a process of its own, forked from this one before it had the tests.

    >>> tests = "import os, solution\\nassert solution.number() != os.getpid()"
    >>> el.sandbox.run_tests("import os; number = os.getpid", tests, apart=True).ended
    'end'
    """

    def __init__(self, order: dict[str, Any]) -> None:
        path = os.path.join(os.path.dirname(__file__), "plain_calls.py")
        spec = importlib.util.spec_from_file_location("plain_calls", path)
        assert spec and spec.loader
        self.calls = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.calls)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # it leaves nothing behind when it ends
        (self.answers, answering), (asked, self.asking) = os.pipe(), os.pipe()
        parent = os.getpid()
        if os.fork():
            os.close(answering)
            os.close(asked)
            return
        try:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for descriptor in (self.answers, self.asking, order["ask"], order["answer"]):
                os.close(descriptor)
            _confine_as_tried(order, parent)
            sys.modules["__main__"] = type(sys)("__main__")
            sys.path.insert(0, order["scratch"])
            self.calls.serve_solution(asked, answering)
        finally:
            os._exit(1)

    def module(self, refuse: Callable[[str], NoReturn]) -> Any:
        """What the tests import; `refuse` is told what came that is no plain data."""
        return self.calls.remote_solution(self.answers, self.asking, refuse)

    def end(self) -> None:
        """Let it end, and wait until it has."""
        with contextlib.suppress(OSError):
            os.close(self.asking)
            while os.read(self.answers, 1 << 16):
                pass


def run_program(order: dict[str, Any], source: str) -> None:
    """Run a program as `python -c` or `python FILE` would, in the scratch folder.

    >>> el.sandbox.run_program("import sys; print(input(), sys.argv[1:])", ["-v"], "calm").output
    "calm ['-v']\\n"
    """
    import io
    import traceback
    import types

    sys.argv, sys.stdin = order["argv"], io.StringIO(order["input"])
    sys.path.insert(0, order["scratch"])
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        os.write(order["ask"], b".")
        program = compile(source, order["argv"][0], "exec")
        os.write(order["ask"], b"+")
        exec(program, main.__dict__)
    except SystemExit as error:
        if error.code not in (None, 0):
            print("" if isinstance(error.code, int) else error.code, file=sys.stderr, end="")
            os._exit(1)
    except BaseException as error:
        frames = error.__traceback__ and error.__traceback__.tb_next
        print("".join(traceback.format_exception(type(error), error, frames)), file=sys.stderr, end="")
        os._exit(1)
    _say_that_it_ended(order)


def _say_that_it_ended(order: dict[str, Any]) -> None:
    """Ask for the token and send it back; leave the process."""
    os.write(order["ask"], b"?")
    os.write(order["ask"], os.read(order["answer"], 64))
    os._exit(0)


def _confine_as_tried(order: dict[str, Any], parent: int) -> None:
    """Raises RuntimeError where a layer is missing that was there when `sandbox.containment` tried."""
    missing = confine(order["limits"], order["scratch"], parent)
    if lost := set(missing) - set(order["missing"]):
        raise RuntimeError(f"{min(lost)} was there before")


def main() -> None:
    """Do what is ordered in the first argument, with the tests or the program on standard input.

    >>> el.sandbox.run_tests("print(input())", "import solution").output.splitlines()[-1]  # they are read by then
    'EOFError: EOF when reading a line'
    """
    order = json.loads(sys.argv[1])
    if "outside" in order:
        missing = confine(order["limits"], order["scratch"], order["parent"])
        through = attempts(order["outside"], order["limits"]["memory"])
        print(json.dumps({"through": through, "missing": missing}), flush=True)
        return
    solution = Apart(order) if order.get("apart") else None
    tests = sys.stdin.buffer.read().decode()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _confine_as_tried(order, order["parent"])
    if "argv" in order:
        run_program(order, tests)
    run_tests(order, tests, solution)


if __name__ == "__main__":
    main()
