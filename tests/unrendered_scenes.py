"""Scenes that were never rendered, for questions on them."""

from __future__ import annotations

import numpy as np

from vlarig.envs.api import SceneObject
from vlarig.training.data.questions import View

COLOURS = ("red", "green", "blue", "yellow", "purple")
SHAPES = ("cube", "cylinder")


def scene_object(name: str, box: tuple[float, float, float, float], depth: float = 1.0, visible: float = 1.0) -> SceneObject:
    """``red cube``, or a noun alone."""
    colour, _, kind = name.rpartition(" ")
    return SceneObject(name, kind, colour, box, (0.0, 0.0, 0.0), depth, visible)


def sampled(seed: int) -> View:
    """One to five objects at random, 128 pixels wide."""
    rng = np.random.default_rng(seed)
    objects = []
    for _ in range(rng.integers(1, 6)):
        left, top = rng.uniform(0, 110, 2)
        name = f"{rng.choice(COLOURS)} {rng.choice(SHAPES)}"
        visible = float(rng.choice([1.0, 1.0, 1.0, 0.3]))
        objects.append(scene_object(name, (left, top, left + 12, top + 12), float(rng.uniform(0.8, 1.2)), visible))
    return View(tuple(objects), 128, 128)
