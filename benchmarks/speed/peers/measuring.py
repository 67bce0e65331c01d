"""Command lines, run and measured: wall time, CPU time of all their processes, their memory, and what they leave behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MEGABYTE = 2**20
#: prctl's PR_SET_CHILD_SUBREAPER (linux/prctl.h): a process that loses its parent becomes our child and is waited for and counted.
SUBREAPER = 36
POLL = 0.05
#: Seconds until the memory is first read, and at most between two readings; until then half as long as it has run. To read a
#: gigabyte takes some 17 ms.
FIRST_LOOK, LONGEST_PAUSE = 0.5, 15.0
PATIENCE = 1800.0
#: Seconds that processes have to end by themselves after their command did.
GRACE = 20.0


@dataclass(frozen=True)
class Command:
    """A command line.

    Attributes:
        words: Its words.
        environment: Its environment variables.
        folder: Where it is typed; its output goes to a file there.
        name: Name of that file.
    """

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path
    name: str

    @property
    def log(self) -> Path:
        """What it prints, standard error included."""
        return self.folder / f"{self.name}.log"


@dataclass
class Measured:
    """What commands took that were started together.

    Attributes:
        wall: Seconds from the first one's start to the last one's exit.
        cpu: CPU seconds of all their processes, and of the servers in that time.
        memory: Most megabytes that they had at a time, servers included (proportional set size).
        statuses: Exit statuses, in the order of the commands; negative for a signal.
        left: Processes that were still alive some time after the commands had ended, and were killed then.
    """

    wall: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    statuses: list[int] = field(default_factory=list)
    left: int = 0


def start(command: Command) -> subprocess.Popen[bytes]:
    with command.log.open("ab") as log:
        return subprocess.Popen(
            list(command.words),
            cwd=command.folder,
            env=dict(command.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


@contextlib.contextmanager
def serving(command: Command, ready: str) -> Iterator[tuple[psutil.Process, str]]:
    """A server for as long as the block lasts, and what the pattern's group matched in its output.

    Raises:
        RuntimeError: It ended, or did not report that it is ready.
    """
    process = start(command)
    try:
        deadline = time.monotonic() + 300
        while not (match := re.search(ready, command.log.read_text(errors="replace"), re.MULTILINE)):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command.words)} does not serve: {command.log.read_text()[-800:]}")
            time.sleep(POLL)
        yield psutil.Process(process.pid), match[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:  # what it had started, too, else that would count for the next commands
                os.waitpid(-process.pid, 0)
        process.wait()


def run(
    commands: Sequence[Command],
    servers: Sequence[psutil.Process],
    watch: Callable[[list[psutil.Process]], None] | None = None,
) -> Measured:
    """Run commands side by side and measure them.

    Args:
        commands: What to run.
        servers: Processes that they talk to, counted for the time that this takes.
        watch: Called again and again with the commands' processes (children are found by it) while any lives.

    Raises:
        RuntimeError: They do not end, or a server does.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    measured, served = Measured(), sum(map(_cpu, _families(servers)))
    began = time.monotonic()
    started = [start(command) for command in commands]
    roots = [psutil.Process(each.pid) for each in started]
    pending, due = {each.pid: each for each in started}, began + FIRST_LOOK
    while pending:
        if (found := _reap(servers)) is not None:
            pid, status, seconds = found
            measured.cpu += seconds
            if ended := pending.pop(pid, None):
                ended.returncode = status
                measured.wall = time.monotonic() - began
            continue
        if watch is not None:
            watch(roots)
        now = time.monotonic()
        if now > due:
            measured.memory, due = max(measured.memory, _megabytes()), now + min((now - began) / 2, LONGEST_PAUSE)
        if now > began + PATIENCE:
            _kill_rest(servers)
            raise RuntimeError(f"{' '.join(commands[0].words)} does not end")
        time.sleep(POLL)
    measured.statuses = [each.returncode for each in started]
    measured.cpu += sum(map(_cpu, _families(servers))) - served
    deadline = time.monotonic() + GRACE
    while (rest := _others(servers)) and time.monotonic() < deadline:
        while (found := _reap(servers)) is not None:
            measured.cpu += found[2]
        time.sleep(POLL)
    measured.left = len(rest)
    _kill_rest(servers)
    return measured


def _reap(servers: Sequence[psutil.Process]) -> tuple[int, int, float] | None:
    """Id, exit status and CPU seconds of a child of ours that has ended, of its own waited-for children too; ``None`` if none has.

    Raises:
        RuntimeError: It was a server.
    """
    try:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if pid in {server.pid for server in servers}:
        raise RuntimeError("a server ended before the commands that talk to it")
    return (pid, os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime) if pid else None


def _families(servers: Sequence[psutil.Process]) -> list[psutil.Process]:
    return [*servers, *(child for server in servers for child in server.children(recursive=True))]


def _others(servers: Sequence[psutil.Process]) -> list[psutil.Process]:
    """All processes below us that are not servers' ones."""
    kept = set(_families(servers))
    return [each for each in psutil.Process().children(recursive=True) if each not in kept]


def _kill_rest(servers: Sequence[psutil.Process]) -> None:
    while rest := _others(servers):
        for process in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        while _reap(servers) is not None:
            pass
        time.sleep(POLL)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _megabytes() -> float:
    """Proportional set size of all that we started, resident set size where that cannot be read."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            try:
                total += process.memory_full_info().pss
            except psutil.AccessDenied:
                total += process.memory_info().rss
    return total / MEGABYTE
