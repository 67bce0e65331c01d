"""SimplerEnv's Bridge scenes: where the objects of each initial state are before they settle.

Positions and turns are upstream's own grids, numbered as upstream numbers its episodes: simpler-env/ManiSkill2_real2sim
mani_skill2_real2sim/envs/custom_scenes/put_on_in_scene.py@ef7a4d4, and the port in mani_skill 3.0.1, envs/tasks/digital_twins/
bridge_dataset_eval/put_on_in_scene.py. The two have the same grids, apart from the eggplant's. The original lets everything fall from
half a metre with roll and pitch locked; the port puts it where it comes to rest, and so do we.

A pose is ``[x, y, z, qw, qx, qy, qz]`` in m in the world frame. +x points from the table to the robot, which is down in the image,
+y to the robot's right, which is right in the image, +z up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations, product
from typing import Any

import numpy as np

Pose = list[float]
_Place = tuple[float, float]

UNTURNED = (1.0, 0.0, 0.0, 0.0)

#: Centre of the grids on the table, and how far from it their corners are along x and y (``xy_center``, ``half_edge_length_x``).
TABLE_CENTRE = (-0.16, 0.0)
SQUARE = (0.075, 0.075)
CUBE_SQUARES = ((0.05, 0.05), (0.1, 0.1))

#: Heights at which mani-skill 3 puts the objects' centres.
CARROT_HEIGHT, PLATE_HEIGHT, CUBE_HEIGHT = 0.887529, 0.869532, 0.887529
SPOON_HEIGHT, TOWEL_HEIGHT = 0.88, 0.875
EGGPLANT_HEIGHT, BASKET_HEIGHT = 0.933, 1.0

#: Turns about z that the source has at each place (``quat_configs``).
SPOON_YAWS = (0.0, math.pi / 2)
CARROT_YAWS = (math.pi, -math.pi / 2)

#: Centres of source and target are at least so far apart where they are sampled: the nearest of upstream's cubes are.
APART = 0.1

#: Initial states of the tasks on the table: 12 places with two turns each, or 24 places.
INITIAL_STATES = 24

#: Places of the eggplant, in upstream's order: two of x with four of y each (``xy_center``, ``half_span_x``, ``half_span_y``).
EGGPLANT_PLACES = tuple(product((-0.115, -0.095), (0.191, 0.201, 0.211, 0.221)))
BASKET_PLACE = (-0.125, 0.025)

#: How the eggplant lies after it fell, as measured by the authors of mani-skill 3's port, with the degrees that they note. They count
#: the other way round than yaw about +z does: the first is turned by +30 degrees against the second, the third by -18.
EGGPLANT_TURNS = (
    (0.543729, 0.82549, 0.0746101, 0.131747),  # -45 degrees
    (0.559342, 0.817133, -0.138906, -0.0116353),  # 0
    (0.543029, 0.789388, -0.267736, -0.101503),  # 45
    (-0.40751, -0.532897, 0.652644, 0.352154),  # 90
    (-0.157154, 0.235481, 0.75148, -0.595927),  # 135
    (-0.020137, 0.0213848, 0.953791, -0.299033),  # 180
    (-0.108854, 0.337692, 0.897378, -0.262348),  # 225
    (0.366114, 0.618434, 0.571457, 0.396152),  # 270
)
#: The original drops it turned by a yaw of 0, 45 and -45 degrees, in this order: which of the above come of that.
ORIGINAL_EGGPLANT_TURNS = (1, 0, 2)


@dataclass(frozen=True)
class Scene:
    """A scene with a source, which is to be moved, and a target.

    Attributes:
        environment: mani-skill 3's environment whose scene it is.
        source: Model that the base task moves.
        target: The other model.
        poses: Number of an initial state to the poses of source and target before they settle.
        initial_states: How many initial states upstream numbers.
        sample: Poses of source and target, before they settle, sampled for training: the same, between the numbered places.
    """

    environment: str
    source: str
    target: str
    poses: Callable[[int], tuple[Pose, Pose]]
    initial_states: int
    sample: Callable[[np.random.Generator], tuple[Pose, Pose]]

    def objects(self, initial_state: int) -> dict[str, Pose]:
        """Model to its pose before it settles, in the environment's own order."""
        return self._named(*self.poses(initial_state))

    def sampled_objects(self, rng: np.random.Generator) -> dict[str, Pose]:
        """The same at a sampled place."""
        return self._named(*self.sample(rng))

    def _named(self, source: Pose, target: Pose) -> dict[str, Pose]:
        return {self.source: source, self.target: target}


@dataclass(frozen=True)
class Definition:
    """A task in a scene: its words, the conditions of its success, and whether source and target change places."""

    scene: Scene
    instruction: str
    goal: list[dict[str, Any]]
    swapped: bool = False

    def payload(self, objects: dict[str, Pose]) -> dict[str, Any]:
        """What :class:`~vlarig.envs.simpler.env.BridgeEnv` takes of an episode with objects at these poses."""
        source, target = self.scene.source, self.scene.target
        return {
            "instruction": self.instruction,
            "scene": self.scene.environment,
            "objects": objects,
            "source": target if self.swapped else source,
            "target": source if self.swapped else target,
            "goal": [dict(condition) for condition in self.goal],
        }


def _pairs(half_x: float, half_y: float) -> list[tuple[_Place, _Place]]:
    """Places of source and target: any two corners of a rectangle about the table's centre, in upstream's order."""
    x, y = TABLE_CENTRE
    corners = [(x + along * half_x, y + across * half_y) for along, across in product((-1, 1), repeat=2)]
    return list(permutations(corners, 2))


def _standing(place: _Place, height: float, yaw: float) -> Pose:
    """A pose turned by ``yaw`` about z."""
    return [*place, height, math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


def _on_square(initial_state: int, yaws: tuple[float, float], source_height: float, target_height: float) -> tuple[Pose, Pose]:
    turned, initial_state = divmod(initial_state, INITIAL_STATES)
    source, target = _pairs(*SQUARE)[initial_state // 2]
    return _standing(source, source_height, yaws[initial_state % 2] + turned * math.pi), [*target, target_height, *UNTURNED]


def _cubes(initial_state: int) -> tuple[Pose, Pose]:
    narrow, wide = CUBE_SQUARES
    mixed = ((narrow[0], wide[1]), (wide[0], narrow[1]))
    pairs = [pair for rectangle in (*CUBE_SQUARES, *mixed) for pair in _pairs(*rectangle)]
    source, target = pairs[initial_state]
    return [*source, CUBE_HEIGHT, *UNTURNED], [*target, CUBE_HEIGHT, *UNTURNED]


def _eggplant_and_basket(initial_state: int, turns: Sequence[int]) -> tuple[Pose, Pose]:
    place, turn = divmod(initial_state, len(turns))
    eggplant = [*EGGPLANT_PLACES[place], EGGPLANT_HEIGHT, *EGGPLANT_TURNS[turns[turn]]]
    return eggplant, [*BASKET_PLACE, BASKET_HEIGHT, *UNTURNED]


def _sampled_on_square(
    rng: np.random.Generator, half: _Place, source_height: float, target_height: float, turned: bool
) -> tuple[Pose, Pose]:
    """Anywhere on the rectangle, the centres :data:`APART` or further from each other, the source turned by any angle if ``turned``."""
    while True:
        source, target = rng.uniform(np.subtract(TABLE_CENTRE, half), np.add(TABLE_CENTRE, half), (2, 2))
        if np.linalg.norm(source - target) >= APART:
            break
    yaw = float(rng.uniform(-math.pi, math.pi)) if turned else 0.0
    return _standing(tuple(source.tolist()), source_height, yaw), [*target.tolist(), target_height, *UNTURNED]


def _sampled_eggplant(rng: np.random.Generator) -> tuple[Pose, Pose]:
    """Anywhere in the sink between the numbered places, as it lies after one of the falls that were measured."""
    place = rng.uniform(np.min(EGGPLANT_PLACES, axis=0), np.max(EGGPLANT_PLACES, axis=0)).tolist()
    turn = EGGPLANT_TURNS[rng.integers(len(EGGPLANT_TURNS))]
    return [*place, EGGPLANT_HEIGHT, *turn], [*BASKET_PLACE, BASKET_HEIGHT, *UNTURNED]


#: Initial states 24 to 47 of the three scenes on the table are ours, of the same kind, for suites that need more: the same places
#: with the source turned by half a turn, and for the cubes, which look alike then, the rectangles between upstream's two squares.
SPOON_AND_TOWEL = Scene(
    "PutSpoonOnTableClothInScene-v1",
    "bridge_spoon_generated_modified",
    "table_cloth_generated_shorter",
    partial(_on_square, yaws=SPOON_YAWS, source_height=SPOON_HEIGHT, target_height=TOWEL_HEIGHT),
    INITIAL_STATES,
    partial(_sampled_on_square, half=SQUARE, source_height=SPOON_HEIGHT, target_height=TOWEL_HEIGHT, turned=True),
)
CARROT_AND_PLATE = Scene(
    "PutCarrotOnPlateInScene-v1",
    "bridge_carrot_generated_modified",
    "bridge_plate_objaverse_larger",
    partial(_on_square, yaws=CARROT_YAWS, source_height=CARROT_HEIGHT, target_height=PLATE_HEIGHT),
    INITIAL_STATES,
    partial(_sampled_on_square, half=SQUARE, source_height=CARROT_HEIGHT, target_height=PLATE_HEIGHT, turned=True),
)
CUBES = Scene(
    "StackGreenCubeOnYellowCubeBakedTexInScene-v1",
    "baked_green_cube_3cm",
    "baked_yellow_cube_3cm",
    _cubes,
    INITIAL_STATES,
    partial(_sampled_on_square, half=CUBE_SQUARES[1], source_height=CUBE_HEIGHT, target_height=CUBE_HEIGHT, turned=False),
)
EGGPLANT_AND_BASKET = Scene(
    "PutEggplantInBasketScene-v1",
    "eggplant",
    "dummy_sink_target_plane",
    partial(_eggplant_and_basket, turns=ORIGINAL_EGGPLANT_TURNS),
    24,
    _sampled_eggplant,
)
MANISKILL3_EGGPLANT = replace(
    EGGPLANT_AND_BASKET, poses=partial(_eggplant_and_basket, turns=range(len(EGGPLANT_TURNS))), initial_states=64
)
