"""Contacts: impulses between bodies in the last physics step, and whether the gripper holds an object."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .scene import Scene

#: A grasp: both fingers push the object at least so hard, and within this angle (in degrees) of the direction in which they close.
#: Original: an impulse in N s (simpler-env/ManiSkill2_real2sim mani_skill2_real2sim/agents/robots/widowx.py@ef7a4d4, ``check_grasp``);
#: mani-skill 3: a force in N (mani_skill 3.0.1, agents/robots/widowx/widowx.py, ``is_grasping``).
ORIGINAL_GRASP = (1e-6, 60.0)
MANISKILL3_GRASP = (0.5, 85.0)


class Contacts:
    """The contacts of one object at one time."""

    def __init__(self, scene: Scene, model: str) -> None:
        self._scene = scene
        self._timestep = scene.physics.timestep
        body = scene.bodies[model]
        #: Impulse that each other body gives to the object, in N s, by the name of its entity.
        self.impulses: dict[str, np.ndarray] = {}
        #: Sizes of the impulses at the pairs of shapes, in N s, by the name of the other body's entity.
        self.strengths: dict[str, list[float]] = {}
        for contact in scene.physics.get_contacts():
            first, second = contact.bodies
            if body not in (first, second):
                continue
            other, sign = (second, 1.0) if body == first else (first, -1.0)
            total = np.sum([point.impulse for point in contact.points], axis=0, dtype=np.float64)
            name = other.entity.name
            self.impulses[name] = self.impulses.get(name, np.zeros(3)) + sign * total
            self.strengths.setdefault(name, []).append(float(np.linalg.norm(total)))

    def force(self, name: str) -> float:
        """The force, in N, between the object and the body whose entity has this name."""
        return float(np.linalg.norm(self.impulses.get(name, np.zeros(3)))) / self._timestep

    def only_touches(self, expected: Iterable[str], most: float) -> bool:
        """Whether no other body pushes the object at any place by more than ``most`` N s."""
        allowed = set(expected)
        return all(strength <= most for name in self.strengths.keys() - allowed for strength in self.strengths[name])

    def grasped(self, least: float, angle: float, as_force: bool) -> bool:
        """Whether both fingers push the object.

        Args:
            least: Least impulse in N s, or force in N.
            angle: Greatest angle to the direction in which the finger closes, in degrees.
            as_force: Whether ``least`` is a force.
        """
        scale = self._timestep if as_force else 1.0
        for link, opening in (("left_finger_link", 1.0), ("right_finger_link", -1.0)):
            push = -self.impulses.get(link, np.zeros(3))  # on the finger
            strength = np.linalg.norm(push)
            if strength / scale < least:
                return False
            axes = self._scene.links[link].entity_pose.to_transformation_matrix()[:3, :3].astype(np.float64)
            direction = opening * axes[:, 1]
            cosine = np.clip(push @ direction / max(strength, 1e-12), -1.0, 1.0)
            if np.degrees(np.arccos(cosine)) > angle:
                return False
        return True
