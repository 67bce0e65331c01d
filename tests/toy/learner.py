"""A policy that learns: its weights are a few numbers, and with good ones it solves the toy's tasks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, PolicyError, Recorded, Reply, Request

from .env import STEP_LENGTH


class Learner(Policy):
    """It moves towards the goal by the part of the way that is its one weight ``gain``: 0 never moves, 1 succeeds."""

    name = "learner"
    horizon = 4
    needs = Needs(images=False, privileged=True)
    stateful = False

    def __init__(self) -> None:
        self.gain = np.zeros(1, np.float32)
        self.options: dict[str, Any] | None = None

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self._chunk(request), self._recorded(request)) for request in requests]

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        return np.array([self._value(request) for request in requests], np.float32)

    def record(self, options: Mapping[str, Any] | None) -> None:
        self.options = None if options is None else dict(options)

    def load_weights(self, version: int, state: Mapping[str, Any]) -> None:
        if set(state) != {"gain"}:
            raise PolicyError(f"the learner has one weight, gain; got {', '.join(state)}")
        self.gain, self.version = np.asarray(state["gain"], np.float32), version

    def _chunk(self, request: Request) -> np.ndarray:
        position = request.privileged["position"].copy()
        chunk = np.zeros((4, 3), np.float32)
        for step in chunk:
            step[:2] = float(self.gain[0]) * np.clip((request.privileged["goal"] - position) / STEP_LENGTH, -1, 1)
            position += STEP_LENGTH * step[:2]
        return chunk

    def _recorded(self, request: Request) -> Recorded | None:
        if self.options is None:
            return None
        return Recorded(-float(self.gain[0]), self._value(request), {"pid": os.getpid(), **self.options})

    def _value(self, request: Request) -> float:
        return float(self.gain[0]) - float(request.observation["state"][0])
