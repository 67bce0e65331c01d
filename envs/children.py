"""Processes of ours in a session of their own: how to await, end and explain them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

#: Environment variable that marks what a process of ours has started.
_MARK = "VLARIG_STARTED_BY"

#: Most looks for such processes.
_KILLS = 10

#: Seconds between two looks at a process that is to be gone soon.
_POLL_SECONDS = 0.01


async def exits(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Whether the process is gone within so many seconds, counted in ticks of this event loop."""
    for _ in range(math.ceil(seconds / _POLL_SECONDS)):
        if process.poll() is not None:
            return True
        await asyncio.sleep(_POLL_SECONDS)
    return False


def kill_group(process: subprocess.Popen[Any]) -> None:
    """Kill the process and whatever it has started in its session."""
    with contextlib.suppress(OSError):  # nobody is left in it
        os.killpg(process.pid, signal.SIGKILL)


def mark() -> dict[str, str]:
    """An environment variable by which :func:`kill_marked` finds all that a process has started."""
    return {_MARK: secrets.token_hex(16)}


def kill_marked(environment: Mapping[str, str]) -> None:
    """Kill whatever was started with the :func:`mark` in ``environment``, in whichever session it is by now (Linux only)."""
    mark = f"{_MARK}={environment[_MARK]}".encode()
    for _ in range(_KILLS):  # what is forked while we look is found by the next look
        found = [process for process in Path("/proc").glob("[0-9]*") if mark in _environment_of(process)]
        if not found:
            return
        for process in found:
            with contextlib.suppress(OSError):  # it is gone
                os.kill(int(process.name), signal.SIGKILL)


def _environment_of(process: Path) -> list[bytes]:
    """What a process was started with; nothing where it is gone, has ended, or is somebody else's."""
    try:
        return (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def how_it_ended(status: Optional[int]) -> str:
    """An exit status in words: ``exited with status 3``, ``was ended by SIGKILL``."""
    if status is None or status >= 0:
        return f"exited with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"
