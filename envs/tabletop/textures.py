"""Procedural textures for the table's top and for the floor behind it: no image files, each a function of a number.

The pools have the sizes of the paper's (section 3.2.3: approximately 3K backgrounds and 1K table textures).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Side of a texture in pixels: the views are of 128.
SIDE = 128

#: Distinct textures of each pool.
BACKGROUNDS = 3000
TABLES = 1000


def background(number: int) -> np.ndarray:
    """``uint8[SIDE, SIDE, 3]``: the floor's texture of that number below :data:`BACKGROUNDS`; any colour."""
    return _texture(np.random.default_rng([1, number]), saturation=0.75)


def table(number: int) -> np.ndarray:
    """``uint8[SIDE, SIDE, 3]``: the table's texture of that number below :data:`TABLES`; pale, so that no object's colour is on it."""
    return _texture(np.random.default_rng([2, number]), saturation=0.35)


def _texture(rng: np.random.Generator, saturation: float) -> np.ndarray:
    pattern = PATTERNS[rng.integers(len(PATTERNS))](rng)
    hue = rng.uniform(0.0, 1.0)
    dark = _colour(hue, rng.uniform(0.0, saturation), rng.uniform(0.3, 0.75))
    light = _colour(hue + rng.normal(0.0, 0.06), rng.uniform(0.0, saturation), rng.uniform(0.6, 0.98))
    colour = dark + pattern[..., None] * (light - dark) + rng.normal(0.0, rng.uniform(0.0, 0.02), (SIDE, SIDE, 1))
    return (np.clip(colour, 0.0, 1.0) * 255).astype(np.uint8)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    """``float64[3]``: red, green and blue of a hue, each from 0 to 1."""
    ramp = np.abs((hue * 6 + np.array([3.0, 1.0, 5.0])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(ramp, 0.0, 1.0))


def _grid() -> tuple[np.ndarray, np.ndarray]:
    """Two ``float64[SIDE, SIDE]``: how far each pixel is across and down, from 0 to 1."""
    down, across = np.mgrid[:SIDE, :SIDE] / SIDE
    return across, down


def _clouds(rng: np.random.Generator) -> np.ndarray:
    """Noise of several sizes, each twice as fine and weaker."""
    total = np.zeros((SIDE, SIDE))
    coarsest = int(rng.integers(2, 6))
    for octave in range(4):
        cells = min(coarsest * 2**octave, SIDE)
        knots = rng.uniform(0.0, 1.0, (cells, cells))
        place = np.arange(SIDE) * cells / SIDE
        low = place.astype(int)
        part = place - low
        part = part * part * (3 - 2 * part)
        rows = knots[low % cells] * (1 - part)[:, None] + knots[(low + 1) % cells] * part[:, None]
        total += (rows[:, low % cells] * (1 - part) + rows[:, (low + 1) % cells] * part) * 0.5**octave
    return (total - total.min()) / (np.ptp(total) + 1e-9)


def _marble(rng: np.random.Generator) -> np.ndarray:
    across, down = _grid()
    waves = rng.uniform(2, 6) * across + rng.uniform(-3, 3) * down + rng.uniform(1, 3) * _clouds(rng)
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves)


def _wood(rng: np.random.Generator) -> np.ndarray:
    across, down = _grid()
    planks = int(rng.integers(1, 7))
    shift = rng.uniform(0, 10, planks)[(down * planks).astype(int)]
    grain = 0.5 + 0.5 * np.sin(2 * np.pi * (down * rng.uniform(8, 24) + 0.8 * _clouds(rng) + shift + 0.3 * across))
    gap = (down * planks) % 1 < 0.04 * (planks > 1)
    return np.where(gap, 0.0, 0.4 + 0.6 * grain)


def _checks(rng: np.random.Generator) -> np.ndarray:
    across, down = _turned(rng)
    squares = rng.integers(2, 12)
    return ((np.floor(across * squares) + np.floor(down * squares)) % 2 + 0.15 * _clouds(rng)) / 1.15


def _stripes(rng: np.random.Generator) -> np.ndarray:
    across, _ = _turned(rng)
    return ((across * rng.uniform(3, 16)) % 1 < rng.uniform(0.2, 0.8)).astype(float)


def _tiles(rng: np.random.Generator) -> np.ndarray:
    across, down = _grid()
    tiles, joint = int(rng.integers(2, 9)), rng.uniform(0.03, 0.1)
    offset = 0.5 * (np.floor(down * tiles) % 2) * rng.integers(0, 2)
    shade = rng.uniform(0.5, 1.0, (tiles, tiles + 1))
    column, line = (across * tiles + offset).astype(int), (down * tiles).astype(int)
    joints = ((across * tiles + offset) % 1 < joint) | ((down * tiles) % 1 < joint)
    return np.where(joints, 0.0, shade[line, column])


def _granite(rng: np.random.Generator) -> np.ndarray:
    return np.clip(0.5 + 0.3 * _clouds(rng) + rng.normal(0.0, rng.uniform(0.1, 0.3), (SIDE, SIDE)), 0.0, 1.0)


def _cloth(rng: np.random.Generator) -> np.ndarray:
    across, down = _turned(rng)
    threads = rng.uniform(10, 30)
    weave = np.sin(2 * np.pi * across * threads) * np.sin(2 * np.pi * down * threads)
    return 0.5 + 0.3 * weave + 0.2 * (_clouds(rng) - 0.5)


def _dots(rng: np.random.Generator) -> np.ndarray:
    across, down = _turned(rng)
    dots = rng.uniform(4, 14)
    away = np.hypot((across * dots) % 1 - 0.5, (down * dots) % 1 - 0.5)
    return (away < rng.uniform(0.15, 0.4)).astype(float)


def _plain(rng: np.random.Generator) -> np.ndarray:
    return np.full((SIDE, SIDE), rng.uniform(0.0, 1.0))


def _turned(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    across, down = _grid()
    angle = rng.uniform(0, np.pi)
    return across * np.cos(angle) - down * np.sin(angle) + 2, across * np.sin(angle) + down * np.cos(angle) + 2


#: The families; each gives ``float64[SIDE, SIDE]`` from 0 (the dark colour) to 1 (the light one).
PATTERNS: tuple[Callable[[np.random.Generator], np.ndarray], ...] = (
    _clouds,
    _marble,
    _wood,
    _checks,
    _stripes,
    _tiles,
    _granite,
    _cloth,
    _dots,
    _plain,
)
