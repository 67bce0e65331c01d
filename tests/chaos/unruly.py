"""Runs in the simulator's process: any adapter, made to hang or to grow when it is ordered to.

``chaos.unruly:module:Class`` is the adapter ``module:Class``; the file ``orders/PID`` in the storm's folder holds the order.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from chaos import STORM
from vlarig.envs.simulation.simulator import load_adapter

#: Bytes that a growing simulator takes at a time.
BITE = 2**26


def __getattr__(name: str) -> Any:
    if ":" not in name:
        raise AttributeError(name)
    tests = str(Path(__file__).parents[1])
    if tests not in sys.path:
        sys.path.append(tests)  # where adapters that exist for tests alone are
    return unruly(load_adapter(name))


def unruly(adapter: Any) -> Any:
    """The adapter, which checks for orders before each step."""

    class Unruly(adapter):
        def apply(self, action: Any) -> Any:
            obey()
            return super().apply(action)

    return Unruly


def obey() -> None:
    """Carry out the order for this process, if there is one."""
    folder = Path(os.environ[STORM])
    order = folder / "orders" / str(os.getpid())
    try:
        line = order.read_text()
        order.unlink()
    except OSError:
        return
    with (folder / "landed").open("a") as file:
        file.write(line)
    if line.startswith("grow"):
        eaten = []
        while True:
            eaten.append(b"\x01" * BITE)
            time.sleep(0.01)
    time.sleep(3600)
