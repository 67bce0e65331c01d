"""Which scene of a suite has which number, for questions on it: to train on, or held out.

A scene is a function of the suite, the split, the seed and its number. Held-out scenes are none that anything is trained on: where a
suite draws scenes for being looked at, by a generator of its own seed for each split; elsewhere they are the initial states that
protocols evaluate, which no training ever begins from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from ...benchmarks.suite import Suite
from ...envs.api import Episode, Protocol
from .errors import DataError

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: Scenes in succession that are of one task, so that a simulator loads it once for them.
BLOCK = 20

#: Steps of a random motion that its actions repeat before another is drawn: the arm goes somewhere, instead of trembling.
HELD = 4


def rng_of(split: Split, seed: int, *numbers: int) -> np.random.Generator:
    """The generator of one thing of a split."""
    return np.random.default_rng([SPLITS.index(split), seed, *numbers])


def scene_protocol(suite: Suite, views: tuple[str, ...] = (), size: int | None = None, protocol: str | None = None) -> Protocol:
    """The suite's protocol with these views alone, in squares of ``size`` pixels where that is given.

    Raises:
        DataError: The protocol has no such view.
    """
    base = suite.protocol(protocol)
    known = {camera.view: camera for camera in base.cameras}
    for view in views:
        if view not in known:
            raise DataError(f"protocol {base.name!r} of {suite.name} has no view {view!r}; it has {', '.join(known)}")
    cameras = [known[view] for view in views or known]
    if size is not None:
        cameras = [replace(camera, height=size, width=size) for camera in cameras]
    return replace(base, name=f"{base.name}-questions", derived_from=base.derived_from or base.name, cameras=tuple(cameras))


def scene_episode(suite: Suite, protocol: Protocol, split: Split, seed: int, number: int) -> Episode:
    """The episode at whose beginning the scene is.

    Raises:
        DataError: The suite has no scenes to train on.
    """
    task = suite.tasks[number // BLOCK % len(suite.tasks)]
    if suite.assorted is not None:
        payload = suite.assorted(rng_of(split, seed, number, 0))
        return Episode(suite.name, protocol, task.name, f"{split}-{seed}", number, 0, payload)
    turn = number // (BLOCK * len(suite.tasks)) * BLOCK + number % BLOCK  # scenes of the task before this one
    if split == "held_out":
        states = task.initial_states_of(protocol)
        return suite.episode(task, states[(seed + turn) % len(states)], 0, protocol)
    if suite.training is None:
        raise DataError(f"suite {suite.name!r} has no initial states to train on; its scenes can only be held out")
    return suite.training_episode(task, seed * 1_000_003 + turn, protocol)


def motion(suite: Suite, split: Split, seed: int, number: int, most: int) -> np.ndarray:
    """Actions before the picture is taken, ``float32[H, A]`` with ``H`` from 0 to ``most``, so that the arm is elsewhere each time."""
    rng = rng_of(split, seed, number, 1)
    steps = int(rng.integers(most + 1))
    space = suite.embodiment.action_space()
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return np.zeros((0, suite.embodiment.action_size), np.float32)
    drawn = rng.uniform(low, high, (-(-most // HELD), len(low)))
    return np.repeat(drawn, HELD, axis=0)[:steps].astype(np.float32)
