"""How each kind of blow is struck from inside the driver."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from chaos import clock, disk, processes
from chaos.blows import AFTER_DEATH, Blow

if TYPE_CHECKING:
    from chaos.storm import Storm

Strike = Callable[[], None]


def aim(blow: Blow, storm: Storm) -> Strike | None:
    """The function that strikes the blow; ``None`` where it has no target at this moment."""
    if blow.kind in AFTER_DEATH:
        return partial(signal_all, [os.getpid()], signal.SIGKILL, storm.landed(blow))
    if blow.kind == "fill":
        return partial(in_order, storm.landed(blow), partial(disk.fill, Path(storm.settings.disk)))
    if blow.kind == "clock":
        seconds = random.Random(blow.seed).randint(-clock.FURTHEST, clock.FURTHEST)
        return partial(in_order, storm.landed(blow), partial(clock.jump, storm.folder, seconds))
    victims = _victims(blow, storm)
    if not victims:
        return None
    if blow.kind == "pause":
        return partial(in_order, storm.landed(blow), partial(processes.pause, victims, blow.seconds))
    if blow.kind in ("hang", "grow"):
        return partial(_order, storm.folder / "orders" / str(victims[0]), f"{blow.line()}\n")
    number = signal.SIGKILL if blow.kind == "kill" else signal.SIGSTOP
    return partial(signal_all, victims, number, storm.landed(blow))


def signal_all(pids: list[int], number: signal.Signals, landed: Strike) -> None:
    """Record the blow and send the signal; a signal to this process ends it."""
    landed()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def in_order(*steps: Strike) -> None:
    """One after the other."""
    for step in steps:
        step()


def _order(path: Path, line: str) -> None:
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".new")
    draft.write_text(line)
    draft.replace(path)


def _victims(blow: Blow, storm: Storm) -> list[int]:
    if blow.target == "driver":
        return [os.getpid()]
    launchers = [pid for pid in processes.children(os.getpid()) if processes.is_launcher(pid)]
    if blow.target == "launcher":
        return launchers[:1]
    if blow.target == "all":
        return [*launchers, *(child for launcher in launchers for child in processes.children(launcher)), os.getpid()]
    worker = storm.worker(blow.moment)
    return [] if worker is None or worker.pid is None else [worker.pid]
