"""Processes of ours in a session of their own: how to await, end and explain them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
from typing import Any, Optional

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


def how_it_ended(status: Optional[int]) -> str:
    """An exit status in words: ``exited with status 3``, ``was ended by SIGKILL``."""
    if status is None or status >= 0:
        return f"exited with status {status}"
    names = {number.value: number.name for number in signal.Signals}
    return f"was ended by {names.get(-status, f'signal {-status}')}"
