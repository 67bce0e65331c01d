"""What the benchmark measures after every step: its own statistics and its own success, as the original or as mani-skill 3 decides."""

from __future__ import annotations

from typing import Any

import numpy as np
from transforms3d.quaternions import quat2mat

from ..errors import VlarigError
from .contacts import MANISKILL3_GRASP, ORIGINAL_GRASP, Contacts
from .goals import StepState, holds, plane
from .scene import Scene

#: Values of a protocol's option ``predicates``.
PREDICATES = ("original", "maniskill3")

#: Steps in succession that count as a ``consecutive_grasp`` (ManiSkill2_real2sim put_on_in_scene.py@ef7a4d4; the same in mani-skill 3).
CONSECUTIVE_GRASPS = 5
#: An object that went further than this, in m, was moved (same place).
MOVED = 0.03
#: The source may lie this far, in m, beyond half the diagonal of the target's box (same place; the same in mani-skill 3).
BEYOND_TARGET = 0.003
#: Original: another body that pushes the source by more than this, in N s, carries it (same place).
CARRYING_IMPULSE = 1e-6
#: mani-skill 3: the target carries the source if it pushes it by more than this, in N (mani_skill 3.0.1,
#: bridge_dataset_eval/base_env.py).
CARRYING_FORCE = 0.05


class Judge:
    """Judges one episode.

    The original uses the centres of mass, and allows the source to touch nothing but the target and the robot; mani-skill 3 uses the
    centres of the models and requires a force between source and target, whatever else carries the source. They also detect a grasp
    differently. Sources: simpler-env/ManiSkill2_real2sim mani_skill2_real2sim/envs/custom_scenes/put_on_in_scene.py@ef7a4d4,
    ``evaluate``; mani_skill 3.0.1, envs/tasks/digital_twins/bridge_dataset_eval/base_env.py, ``_evaluate``.

    Args:
        scene: The scene, reset to the episode's start.
        source: The object to be moved.
        target: The object that it is moved to.
        goal: The conditions of success; see :mod:`vlarig.envs.simpler.goals`.
        predicates: One of :data:`PREDICATES`.
    """

    def __init__(self, scene: Scene, source: str, target: str, goal: list[dict[str, Any]], predicates: str) -> None:
        if predicates not in PREDICATES:
            raise VlarigError(f"the option 'predicates' is {predicates!r}, expected one of {', '.join(PREDICATES)}")
        self._scene = scene
        self._source = source
        self._target = target
        self._goal = goal
        self._original = predicates == "original"
        self.settled = {model: scene.pose(model)[:3] for model in scene.bodies}
        self._halves = {model: quat2mat(scene.pose(model)[3:]) @ scene.extent(model) / 2 for model in (source, target)}
        self._grasps = 0
        self.statistics: dict[str, float] = dict.fromkeys(
            ("moved_correct_obj", "moved_wrong_obj", "is_src_obj_grasped", "consecutive_grasp"), 0.0
        )

    def judge(self) -> bool:
        """Record the scene's state and return whether the goal is reached."""
        contacts = Contacts(self._scene, self._source)
        grasped = contacts.grasped(*(ORIGINAL_GRASP if self._original else MANISKILL3_GRASP), as_force=not self._original)
        self._grasps = self._grasps + 1 if grasped else 0
        self._count(grasped)
        return holds(self._goal, self._state(contacts, grasped))

    def memory(self) -> list[float]:
        """What decides later statistics beside the physics."""
        return [float(self._grasps), *self.statistics.values(), *np.concatenate(list(self.settled.values()))]

    def _state(self, contacts: Contacts, grasped: bool) -> StepState:
        bodies = self._scene.bodies
        target = bodies[self._target].entity.name
        if self._original:
            carried = contacts.only_touches({target, *self._scene.links}, CARRYING_IMPULSE)
        else:
            carried = contacts.force(target) > CARRYING_FORCE
        source, target_place = self._place(self._source), self._place(self._target)
        return StepState(
            source=self._scene.pose(self._source)[:3],
            target=self._scene.pose(self._target)[:3],
            settled_source=self.settled[self._source],
            settled_target=self.settled[self._target],
            speed=float(np.linalg.norm(bodies[self._source].linear_velocity)),
            grasped=grasped,
            touching=contacts.force(target) > CARRYING_FORCE,
            above=source - target_place,
            half_source=self._halves[self._source],
            half_target=self._halves[self._target],
            reach=plane(self._halves[self._target]) + BEYOND_TARGET,
            carried=carried,
        )

    def _place(self, model: str) -> np.ndarray:
        """Where an object is for the benchmark's own predicate, ``float64[3]``."""
        body = self._scene.bodies[model]
        return (body.entity.pose * body.cmass_local_pose if self._original else body.entity.pose).p.astype(np.float64)

    def _count(self, grasped: bool) -> None:
        """Upstream's statistics; grasps count for the rest of the episode, the others only now."""
        source = plane(self._place(self._source) - self.settled[self._source])
        others = [plane(self._scene.pose(model)[:3] - at) for model, at in self.settled.items() if model != self._source]
        statistics = self.statistics
        statistics["moved_correct_obj"] = float(source > MOVED and all(other < source for other in others))
        statistics["moved_wrong_obj"] = float(
            any(other > MOVED for other in others) and any(other > source for other in others)
        )
        statistics["is_src_obj_grasped"] = float(statistics["is_src_obj_grasped"] or grasped)
        statistics["consecutive_grasp"] = float(statistics["consecutive_grasp"] or self._grasps >= CONSECUTIVE_GRASPS)
