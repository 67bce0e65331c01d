"""The 20 scenes of generated tasks, with 10 placements each: what is on the table, and where.

The numbers are the paper's (section 3.2.3: 20 tabletop scenes, each with 10 initial-pose configurations). A scene has two cubes and two
cylinders in two to four colours, and up to two trays and zones. Placements 0 to 9 are for evaluation; there is no end of further ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...envs.tabletop import layout
from .sampler import HIGH, LOW, fits, on_table

#: Seeds scenes and placements; another value is another suite.
SEED = 20323

SCENES = 20
PLACEMENTS = 10

#: Trays and zones of the scenes, one after the other. Two and two do not fit on the table beside four objects.
_CONTAINERS = ((2, 0), (1, 1), (0, 2), (1, 0), (2, 0), (0, 1), (1, 1), (0, 0), (2, 0), (0, 2))
#: Which of a scene's colours the two cubes and the two cylinders have: twins, pairs with an odd one, all different.
_COLOURS = ((0, 1, 0, 1), (0, 1, 0, 2), (0, 1, 2, 3), (0, 1, 2, 1))


@dataclass(frozen=True)
class Layout:
    """A scene with its objects in their places.

    Attributes:
        names: The objects, such as ``red cube``: cubes first.
        trays: Names of the trays.
        zones: Names of the zones.
        spots: Name to ``float64[2]``, the object's centre in the world frame, in m.
        yaws: Object to its rotation about the vertical, in rad.
    """

    names: tuple[str, ...]
    trays: tuple[str, ...]
    zones: tuple[str, ...]
    spots: dict[str, np.ndarray]
    yaws: dict[str, float]

    def free(self, spot: np.ndarray, besides: tuple[str, ...] = (), gap: float = 0.11) -> bool:
        """Whether an object can be set down at a spot: in reach, ``gap`` from all others but some, clear of trays and zones."""
        clear = all(np.linalg.norm(self.spots[name] - spot) >= gap for name in self.names if name not in besides)
        places = ((self.trays, layout.TRAY_OUTER + 0.065), (self.zones, layout.ZONE_HALF + 0.03))
        beyond = all(np.abs(self.spots[name] - spot).max() >= half for names, half in places for name in names)
        return on_table(spot) and clear and beyond


def layout_of(scene: int, placement: int) -> Layout:
    """A placement of a scene, the same for ever."""
    names, trays, zones = contents(scene)
    rng = np.random.default_rng([SEED, scene, placement])
    while True:
        spots = {name: np.round(rng.uniform(LOW, HIGH), 4) for name in (*names, *trays, *zones)}
        if fits(spots, list(names), list(trays), list(zones)) and _clear(spots, trays, zones):
            return Layout(names, trays, zones, spots, {name: round(rng.uniform(-0.78, 0.78), 4) for name in names})


def contents(scene: int) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Names of a scene's objects, trays and zones."""
    rng = np.random.default_rng([SEED, scene])
    trays, zones = _CONTAINERS[scene % len(_CONTAINERS)]
    colours = rng.permutation(list(layout.OBJECT_COLOURS))
    shapes = [shape for shape, spec in layout.SHAPES.items() for _ in range(spec.count)]
    pattern = _COLOURS[(scene + scene // len(_CONTAINERS)) % len(_COLOURS)]
    return (
        tuple(f"{colours[colour]} {shape}" for colour, shape in zip(pattern, shapes, strict=True)),
        tuple(f"{colour} tray" for colour in rng.permutation(list(layout.TRAY_COLOURS))[:trays]),
        tuple(f"{colour} zone" for colour in rng.permutation(list(layout.ZONE_COLOURS))[:zones]),
    )


def _clear(spots: dict[str, np.ndarray], trays: tuple[str, ...], zones: tuple[str, ...]) -> bool:
    """Whether trays are beside zones, not over them."""
    apart = layout.TRAY_OUTER + layout.ZONE_HALF + 0.02
    return all(np.abs(spots[tray] - spots[zone]).max() >= apart for tray in trays for zone in zones)
