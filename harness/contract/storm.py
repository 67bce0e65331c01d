"""A policy for the kit's sweeps: random steps, episodes cut short, and kills that fall while it plays."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...benchmarks.suite import Suite
from ...envs.api import Needs
from ...policies.api import Policy, Reply, Request
from ...results.run_files import appearing
from .. import plan
from .activity import DriverActivity, children, is_launcher

#: Environment variable: the file of the kills that are to fall, a target and a driver's activity a line; without it there are none.
KILLS = "VLARIG_CONTRACT_KILLS"

#: Rows of a reply at least, for protocols that combine overlapping chunks.
HORIZON = 16

#: Seconds between two kills; and for which the policy thinks while kills are to come, so that the sweep lasts.
GAP, THINKING = 0.1, 0.03


class RandomStorm(Policy):
    """Random steps between the channels' bounds, from the request's own seed, of an observation with images.

    Args:
        steps: Steps after which every suite's episodes end.
    """

    name = "random-storm"
    revision = "1"
    needs = Needs(images=True)
    horizon = HORIZON
    stateful = False

    def __init__(self, steps: int) -> None:
        load = plan.load_suite

        def shortened(name: str) -> Suite:
            suite = load(name)
            cut = [replace(each, step_limit=steps, task_limits={}, repeats=1) for each in suite.protocols]
            return replace(suite, protocols=tuple(cut))

        plan.load_suite = shortened  # a policy is made before the planning
        self._storm = Storm(Path(os.environ[KILLS])) if KILLS in os.environ else None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """Random steps for each request."""
        with self._storm.activity.during("policy") if self._storm else contextlib.nullcontext():
            time.sleep(THINKING if self._storm and self._storm.rages else 0.0)
            return [Reply(_draw(request)) for request in requests]


def _draw(request: Request) -> np.ndarray:
    space = request.embodiment.action_space()
    rng = np.random.default_rng(request.seed)
    return rng.uniform(space.low, space.high, (HORIZON, len(space.low))).astype(np.float32)


class Storm:
    """Kills the driver that it is made in, its launcher and its simulators, each once and during its activity.

    A kill is taken off the file just before it falls, so that the next driver goes on with the rest.
    """

    def __init__(self, kills: Path) -> None:
        self.activity = DriverActivity()
        self.rages = True
        self._kills = kills
        threading.Thread(target=self._rage, name="storm", daemon=True).start()

    def _rage(self) -> None:
        while kills := self._kills.read_text().splitlines():
            time.sleep(GAP)
            target, activity = kills[0].split()
            self.activity.wait_for(activity)
            victim = self._victim(target, activity)
            if victim is not None:
                with appearing(self._kills) as draft:
                    draft.write_text("".join(f"{line}\n" for line in kills[1:]))
                os.kill(victim, signal.SIGKILL)
        self.rages = False

    def _victim(self, target: str, activity: str) -> int | None:
        if target == "driver":
            return os.getpid()
        if target == "launcher":
            return next((pid for pid in children(os.getpid()) if is_launcher(pid)), None)
        worker = self.activity.worker(activity)
        return None if worker is None else worker.pid
