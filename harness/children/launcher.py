"""The launcher: a program of one thread that starts a driver's child processes, watches their memory, and ends them.

It runs as ``python -I -S launcher.py DRIVER_PID`` with its end of a socket pair as standard input, and imports the standard library
alone. It exists for what the driver cannot do itself:

- The driver has several threads, so nothing may run in it between fork and exec. The launcher has one: its forked child sets,
  before exec, that the kernel kills it when the launcher dies.
- The driver's interpreter may be held by a policy for minutes. The launcher watches memory meanwhile.
- The driver may be killed at any time. The launcher then kills every child, in whatever state, and all that it has started.

Both ends send lines of JSON. The driver sends ``{"start": n, "command": [...], "environment": {...}, "files": [...], "memory": b}``,
before it a byte 0 with the descriptors of the child's standard input, its output, and ``files``, which are the environment variables
that get the path of an inherited file; and ``{"kill": n}``. The launcher sends ``{"child": n}`` with one more member: ``pid`` when it
has started, ``excess`` when it is killed for its memory, ``status`` when it has ended (with ``error`` where it never began).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: prctl option: the kernel sends the process a signal when its parent dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1

#: Environment variable that marks all processes that a child has started, in any process session.
MARK = "VLARIG_STARTED_BY"

#: Seconds between two checks of the children's memory, and of whether the driver lives.
TICK = 0.25

#: Descriptors that one message carries at most.
MOST_FILES = 8

#: Most scans for the processes that a child has left: a process forked during one scan is found by the next.
_SCANS = 10

_GB = 10**9


@dataclass
class _Process:
    """A child: its process id, its most bytes of memory, its mark, and the pipe with the error of a failed exec."""

    pid: int
    memory: int | None
    mark: str
    problem: int


class Launcher:
    """Serves one driver, by its process id."""

    def __init__(self, control: socket.socket, driver: int) -> None:
        self._control = control
        self._driver = driver
        self._children: dict[int, _Process] = {}
        self._received = b""
        self._descriptors: list[int] = []

    def run(self) -> None:
        """Serve until the driver ends the connection or dies; then end all children."""
        self._control.setblocking(False)
        woken, wake = socket.socketpair()
        woken.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        try:
            while os.getppid() == self._driver:
                ready = {key.fileobj for key, _ in selector.select(TICK)}
                if woken in ready:
                    woken.recv(4096)
                if self._control in ready and not self._take():
                    break
                self._watch_memory()
                self._reap()
        finally:
            signal.set_wakeup_fd(-1)  # its socket is closed with this call; a child's end may still be signalled
            for child in self._children.values():
                _kill(child.pid)
            _kill_marked({child.mark for child in self._children.values()})

    def _take(self) -> bool:
        """Carry out what the driver has sent; false where it has ended the connection."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 2**16, MOST_FILES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors += descriptors
        *lines, self._received = (self._received + data.replace(b"\0", b"")).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "kill" in order:
                child = self._children.get(order["kill"])
                if child is not None:
                    _kill(child.pid)
            else:
                self._start(order)
        return bool(data)

    def _start(self, order: dict[str, Any]) -> None:
        count = 2 + len(order["files"])
        descriptors, self._descriptors = self._descriptors[:count], self._descriptors[count:]
        number, mark = order["start"], order["environment"][MARK]
        try:
            pid, problem = _spawn(order, descriptors)
        except OSError as error:
            self._say(number, status=1, error=str(error))
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._children[number] = _Process(pid, order["memory"], mark, problem)
        self._say(number, pid=pid)

    def _watch_memory(self) -> None:
        for number, child in self._children.items():
            excess = excess_of(child.pid, child.memory)
            if excess is not None:
                self._say(number, excess=excess)
                child.memory = None
                _kill(child.pid)

    def _reap(self) -> None:
        for number, child in list(self._children.items()):
            ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                continue
            _kill(child.pid)  # its group, as long as no other process can have its number
            _kill_marked({child.mark})
            status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
            del self._children[number]
            error = os.read(child.problem, 4096).decode(errors="replace")
            os.close(child.problem)
            self._say(number, status=status, **({"error": error} if error else {}))

    def _say(self, number: int, **members: Any) -> None:
        """Report to the driver; a stopped driver that reads nothing gets what fits into the buffer."""
        self._control.settimeout(TICK)
        with contextlib.suppress(OSError):
            self._control.sendall(json.dumps({"child": number, **members}).encode() + b"\n")
        self._control.setblocking(False)


def _spawn(order: dict[str, Any], descriptors: list[int]) -> tuple[int, int]:
    """Fork and execute; the child's process id, and the pipe to which it writes why exec failed.

    This does not wait for exec, as subprocess does: a child that is stopped before it would stop the launcher.
    """
    launcher = os.getpid()
    problem, problems = os.pipe()
    os.set_blocking(problem, False)
    pid = os.fork()
    if pid:
        os.close(problems)
        return pid, problem
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != launcher:
            os._exit(1)
        for name in (signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(name, signal.SIG_DFL)
        environment = order["environment"]
        for variable, descriptor in zip(order["files"], descriptors[2:], strict=True):
            os.set_inheritable(descriptor, True)
            environment[variable] = f"/proc/self/fd/{descriptor}"
        for target, descriptor in enumerate((descriptors[0], descriptors[1], descriptors[1])):
            os.dup2(descriptor, target)
        os.execve(order["command"][0], order["command"], environment)
    except BaseException as error:
        os.write(problems, str(error).encode(errors="replace"))
    finally:
        os._exit(127)


def die_with_parent(number: int) -> None:
    """Have the kernel send this process a signal when its parent dies, also where this process is stopped (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def excess_of(pid: int, share: int | None) -> str | None:
    """How a process broke its bound of memory, in words; ``None`` if it did not."""
    resident = resident_bytes(pid) if share is not None else 0
    if share is None or resident <= share:
        return None
    return (
        f"grew to {resident / _GB:.1f} GB, its share of the memory is {share / _GB:.1f} GB; "
        "fewer envs or workers make shares larger"
    )


def resident_bytes(pid: int) -> int:
    """Resident memory of a process in bytes (proc_pid_statm(5)); 0 where it is unknown: no Linux, or the process is dead."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _kill(pid: int) -> None:
    """Kill a child that was not awaited yet, and its group; a child that has just been forked has none."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def _kill_marked(marks: set[str]) -> None:
    """Kill every process with one of the marks in its environment (Linux only)."""
    wanted = {f"{MARK}={mark}".encode() for mark in marks}
    for _ in range(_SCANS if wanted else 0):
        found = [process for process in Path("/proc").glob("[0-9]*") if wanted.intersection(_environment_of(process))]
        if not found:
            return
        for process in found:
            with contextlib.suppress(OSError):
                os.kill(int(process.name), signal.SIGKILL)


def _environment_of(process: Path) -> list[bytes]:
    """The environment variables a process was started with; none where it has ended, or is another user's."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def main() -> None:
    # A launcher that is stopped goes on when its driver dies, and ends its children.
    die_with_parent(signal.SIGCONT)
    for name in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(name, signal.SIG_IGN)
    Launcher(socket.socket(fileno=0), int(sys.argv[1])).run()


if __name__ == "__main__":
    main()
