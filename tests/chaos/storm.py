"""The storm inside a driver: it watches the driver's activity, and strikes the blows of its schedule one after the other.

It changes only the driver's process, without changing the product: the simulators' adapters are the unruly ones of
:mod:`chaos.unruly`, and timeouts are short.
"""

from __future__ import annotations

import faulthandler
import random
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from chaos.blows import Schedule
from chaos.settings import Settings
from chaos.strikes import aim
from vlarig.benchmarks.suite import Patience, Suite
from vlarig.contract.subject import DriverActivity
from vlarig.envs import backoff
from vlarig.envs.simulation.worker import die_with_parent
from vlarig.harness import plan, workers
from vlarig.harness.workers import Worker


class Storm(DriverActivity):
    """Blows on the driver that it lives in, its workers, their launcher, and all that they share.

    Args:
        folder: Folder of the storm: its schedule and its settings.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings.load_from(folder)
        self.schedule = Schedule(folder)
        super().__init__()
        self._lose_patience()
        faulthandler.register(signal.SIGUSR1)
        die_with_parent()  # an ended campaign leaves no process behind
        threading.Thread(target=self._rage, name="storm", daemon=True).start()

    def _rage(self) -> None:
        while blows := self.schedule.to_come():
            blow = blows[0]
            time.sleep(random.uniform(*self.settings.gap))
            self.wait_for(blow.moment)
            strike = aim(blow, self)
            if strike is not None:
                self.schedule.cross_out()
                strike()

    def began(self, worker: Worker) -> None:
        super().began(worker)
        worker._memory_bytes = self.settings.memory

    def _lose_patience(self) -> None:
        settings, load = self.settings, plan.load_suite
        patience = Patience(settings.load, settings.reset, settings.step)

        def impatient(name: str) -> Suite:
            suite = load(name)
            return replace(suite, adapter=f"chaos.unruly:{suite.adapter}", patience=patience)

        plan.load_suite = impatient
        workers.START_MARGIN = settings.margin
        backoff.FIRST_PAUSE, backoff.LONGEST_PAUSE = 0.1, 1.0

    def landed(self, blow: Any) -> Any:
        """What a blow calls when it hits."""
        return partial(self.schedule.note_landed, blow)
