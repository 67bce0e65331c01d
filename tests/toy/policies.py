"""Policies that tests sweep with, by name."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply, Request

if TYPE_CHECKING:
    from nowhere import Unknown


class ImageReader(Policy):
    """Its actions are a function of what it sees and of its seed, so a wrong image or a mixed-up env changes results."""

    name = "image-reader"
    revision = "1"
    needs = Needs()

    def __init__(self, horizon: int = 10) -> None:
        self.horizon: int | None = horizon
        self.gain = np.ones(1)
        self.batches: list[int] = []

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(len(requests))
        return [Reply(self._sample(request)) for request in requests]

    def _sample(self, request: Request) -> np.ndarray:
        pixels = sum(int(image.sum()) for image in request.observation["images"].values())
        rng = np.random.default_rng([request.seed, pixels])
        actions = self.gain * rng.uniform(-1, 1, (self.horizon or request.n_action_steps, request.embodiment.action_size))
        return actions.astype(np.float32)


class SlowImageReader(ImageReader):
    """The same, after a pause."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(0.1)
        return super().act(requests)


class Talkative(ImageReader):
    """It prints, as third-party policies do, and logs warnings."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        print("thinking")
        logging.getLogger("talkative").warning("%s requests are too few", len(requests))
        return super().act(requests)


class WrongShape(ImageReader):
    """Answers every request with six channels."""

    def _sample(self, request: Request) -> np.ndarray:
        return np.zeros((10, 6), np.float32)


class NotANumber(ImageReader):
    """Plays well for a while, then answers with NaN."""

    def _sample(self, request: Request) -> np.ndarray:
        actions = super()._sample(request)
        if len(self.batches) > 30:
            actions[2, 1] = np.nan
        return actions


class Raising(ImageReader):
    """Raises."""

    def _sample(self, request: Request) -> np.ndarray:
        raise KeyError("ego_view")


class Silent(ImageReader):
    """Leaves requests unanswered."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return []


class WithOptions(ImageReader):
    """Its options are its horizon, and its patience, which changes no answer."""

    transport_options = frozenset({"patience"})
    closed: list[str] = []

    def __init__(self, horizon: str = "10", patience: str = "1") -> None:
        super().__init__(int(horizon))
        self.patience = patience

    def close(self) -> None:
        WithOptions.closed.append(self.patience)


class NeverLoads(ImageReader):
    """Prints that it loads, and loads for a minute."""

    def __init__(self) -> None:
        super().__init__()
        print("loading", flush=True)
        for _ in range(600):  # Python handles no signal that comes just before a sleep until the sleep is over
            time.sleep(0.1)


class Annotated(ImageReader):
    """Its options have types."""

    def __init__(
        self,
        gain: float = 1.0,
        steps: int | None = None,
        exact: bool = False,
        mode: Literal["fast", "slow"] = "fast",
        size: tuple[int, int] = (1, 1),
        views: list[str] | None = None,
        weights: dict[str, float] | None = None,
        either: int | str = 0,
        anything=None,
        made: Unknown | None = None,
    ) -> None:
        super().__init__()
        given = {"gain": gain, "steps": steps, "exact": exact, "mode": mode, "size": size, "views": views}
        self.given = given | {"weights": weights, "either": either, "anything": anything, "made": made}


class Leaving(ImageReader):
    """Tries to end the program, as soon as it is made or when it acts."""

    def __init__(self, soon: bool = False) -> None:
        super().__init__()
        if soon:
            sys.exit(0)

    def _sample(self, request: Request) -> np.ndarray:
        sys.exit(0)


class Wandering(ImageReader):
    """Changes the working directory whenever it acts."""

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        os.chdir(tempfile.mkdtemp())
        return super().act(requests)


class Shouting(ImageReader):
    """Its first action is fifty times as large as it may be, and its second overshoots by what is tolerated."""

    def _sample(self, request: Request) -> np.ndarray:
        actions = super()._sample(request)
        actions[:, 0] = 50.0
        actions[:, 1] = 1.001
        return actions


def stages_of(actions: np.ndarray) -> tuple[str, ...]:
    """What the point does in each step."""
    return tuple("hurry" if np.abs(action[:2]).max() == 1 else "arrive" for action in actions)


class Finder(Policy):
    """Brings the point to the goal, by the simulator's own truth, but from every ``lost``-th initial state."""

    name = "finder"
    needs = Needs(images=False, privileged=True)
    stateful = False

    def __init__(self, lost: int | None = None, seconds: float = 0.0, speaks: bool = True) -> None:
        self.lost = lost
        self.seconds = seconds
        self.speaks = speaks

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.seconds)
        replies = [Reply(self._way(request)) for request in requests]
        return [replace(reply, stages=stages_of(reply.actions)) for reply in replies] if self.speaks else replies

    def _way(self, request: Request) -> np.ndarray:
        position = request.privileged["position"].copy()
        stays = self.lost is not None and int(request.key.split("/")[4]) % self.lost == 0
        actions = []
        for _ in range(request.n_action_steps):
            step = np.zeros(2) if stays else np.clip((request.privileged["goal"] - position) / 0.1, -1, 1)
            position += 0.1 * step
            actions.append([*step, 1.0])
        return np.array(actions, np.float32)
