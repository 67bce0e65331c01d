"""Policies for storms: each starts the storm when the driver makes the policy, and acting is one of the storm's moments."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from toy.policies import ImageReader

from chaos import STORM
from chaos.storm import Storm
from vlarig.benchmarks.suite import Suite
from vlarig.envs.api import Needs
from vlarig.harness import plan
from vlarig.policies.api import Reply, Request
from vlarig.policies.scripted import ExpertPolicy, RandomPolicy


class InStorm:
    """A policy for storms that gets images, so that their digests are compared.

    Args:
        step_limit: Steps after which every suite's episodes end; the suites' own limits when 0.
    """

    needs = Needs(images=True, privileged=True)

    def __init__(self, step_limit: int = 0) -> None:
        super().__init__()
        if step_limit:
            _shorten_episodes(step_limit)
        self.storm = Storm(Path(os.environ[STORM])) if STORM in os.environ else None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        with self.storm.during("policy") if self.storm else contextlib.nullcontext():
            return super().act(requests)  # pyright: ignore[reportAttributeAccessIssue]


def _shorten_episodes(step_limit: int) -> None:
    """Make every suite that this process plans end its episodes after ``step_limit`` steps. A policy is made before the planning."""
    load = plan.load_suite

    def shortened(name: str) -> Suite:
        suite = load(name)
        return replace(suite, protocols=tuple(replace(protocol, step_limit=step_limit) for protocol in suite.protocols))

    plan.load_suite = shortened


class StormPolicy(InStorm, ExpertPolicy):
    """The expert in a storm."""

    name = "storm"


class WanderingStormPolicy(InStorm, RandomPolicy):
    """Random actions in a storm."""

    name = "wandering-storm"


class FarsightedStormPolicy(WanderingStormPolicy):
    """Answers with sixteen random steps, however many are carried out."""

    name = "farsighted-storm"
    horizon = 16

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return super().act([replace(request, n_action_steps=self.horizon) for request in requests])


class ReadingStormPolicy(InStorm, ImageReader):
    """Acts by its observations in a storm, and slowly, so that the toy's episodes last."""

    name = "reading-storm"

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(0.05)
        return super().act(requests)
