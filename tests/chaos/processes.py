"""Processes of a storm: found by their parent and by the storm's name in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from chaos import STORM
from vlarig.contract.subject import children, is_launcher

__all__ = ["await_end", "carrying", "children", "is_launcher", "is_stopped", "living", "pause"]


def is_stopped(pid: int) -> bool:
    """Whether the process is held by SIGSTOP."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def pause(pids: Sequence[int], seconds: float) -> None:
    """Stop processes, perhaps this one too, and have another process continue them after a while."""
    words = " ".join(map(str, pids))
    subprocess.Popen(
        ["sh", "-c", f"kill -STOP {words}; sleep {seconds}; kill -CONT {words}"],
        env={"PATH": os.environ["PATH"]},  # not marked as the storm's
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def living(folder: Path) -> list[int]:
    """Processes that the storm in ``folder`` started, drivers, launchers and simulators."""
    return carrying(STORM, str(folder))


def carrying(variable: str, value: str) -> list[int]:
    """Processes that have the environment variable with this value."""
    mark = f"{variable}={value}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def await_end(folder: Path, seconds: float) -> list[str]:
    """Wait until no process of the storm is left; the command lines of those that are still there, which are then killed."""
    deadline = time.monotonic() + seconds
    while (left := living(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    lines = []
    for pid in left:
        with contextlib.suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
            os.kill(pid, signal.SIGKILL)
    return lines
