"""Judging and rotations against the original benchmark's code; runs under the Python of the ``simpler`` runtime.

The original runs on SAPIEN 2, which the runtime does not have, so ``original.npz`` has its own code's results for steps that
were made up by chance. Of simpler-env/ManiSkill2_real2sim@ef7a4d4, unchanged, ran ``_initialize_actors`` and ``evaluate`` of
``PutCarrotOnPlateInScene``, ``PutSpoonOnTableClothInScene`` and ``PutEggplantInBasketScene`` (envs/custom_scenes/put_on_in_scene.py and
move_near_in_scene.py), ``WidowX.check_grasp`` (agents/robots/widowx.py), and what these call in utils/, on stand-ins for SAPIEN's
actors, contacts and poses. Of 48 episodes with 12 steps each it holds

* of an episode: ``flavour``, a number in ``TASKS``; ``extents``, the sides of the boxes of source and target; ``centres``, their
  centres of mass, as poses in their own frames; ``settled``, their poses at the start;
* of a step: ``poses``, theirs; ``fingers``, quaternions of the left and the right finger; ``contact_bodies``, ``contact_points`` and
  ``contact_impulses``: of up to 8 contacts which of ``BODIES`` meet (-1: no contact), at how many points, and the impulse on the first
  of them at each, in N s;
* what the original returned: ``success``; ``grasped``, at the step; ``statistics``, see ``STATISTICS``.

Distances come within 3 micrometres of a bound, impulses within 0.03 % and angles within 0.003 degrees.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sapien
import torch
from scipy.spatial.transform import Rotation
from transforms3d.euler import euler2axangle

from vlarig.benchmarks.simpler.widowx import SIMPLER_WIDOWX
from vlarig.envs.simpler.judge import Judge
from vlarig.envs.simpler.rotations import ROTATIONS
from vlarig.envs.simpler.scene import Scene
from vlarig.envs.simpler.upstream import import_upstream

STEPS = dict(np.load(Path(__file__).with_name("original.npz")))
TASKS = ("put_carrot_on_plate", "put_spoon_on_towel", "put_eggplant_in_basket")
BODIES = ("source", "target", "left_finger_link", "right_finger_link", "gripper_bar_link", "arena", "sink")
LINKS = BODIES[2:5]
STATISTICS = ("moved_correct_obj", "moved_wrong_obj", "is_src_obj_grasped", "consecutive_grasp")


class Body:
    """A body of SAPIEN 3's, as far as judging reads it."""

    def __init__(self, name: str) -> None:
        self.entity = SimpleNamespace(name=name if name in LINKS else f"scene-0_{name}", pose=sapien.Pose())
        self.cmass_local_pose = sapien.Pose()
        self.linear_velocity = np.zeros(3)

    @property
    def entity_pose(self) -> sapien.Pose:
        """Where a link is."""
        return self.entity.pose


class MadeUp(Scene):
    """The scene of one recorded episode, after it has settled."""

    def __init__(self, episode: int) -> None:
        self._recorded = {name: STEPS[name][episode] for name in STEPS}
        self._everybody = {name: Body(name) for name in BODIES}
        self._contacts: list[Any] = []
        self.bodies = {name: self._everybody[name] for name in BODIES[:2]}
        self.links = {name: self._everybody[name] for name in LINKS}
        boxes = {
            name: {"min": -sides / 2, "max": sides / 2}
            for name, sides in zip(self.bodies, self._recorded["extents"], strict=True)
        }
        self.upstream = SimpleNamespace(model_db={name: {"bbox": box} for name, box in boxes.items()})
        for body, centre in zip(self.bodies.values(), self._recorded["centres"], strict=True):
            body.cmass_local_pose = sapien.Pose(centre[:3], centre[3:])
        self._put(self._recorded["settled"])

    @property
    def physics(self) -> Any:
        return SimpleNamespace(timestep=1 / 500, get_contacts=lambda: self._contacts)

    def show(self, number: int) -> None:
        """Be as in one of the episode's steps."""
        recorded, parts = self._recorded, ("bodies", "points", "impulses")
        self._put(recorded["poses"][number])
        for link, quaternion in zip(LINKS[:2], recorded["fingers"][number], strict=True):
            self.links[link].entity.pose = sapien.Pose([0, 0, 1], quaternion)
        self._contacts = [
            SimpleNamespace(
                bodies=[self._everybody[BODIES[body]] for body in pair],
                points=[SimpleNamespace(impulse=impulse) for impulse in impulses[:points]],
            )
            for pair, points, impulses in zip(*(recorded[f"contact_{name}"][number] for name in parts), strict=True)
            if pair[0] >= 0
        ]

    def _put(self, poses: np.ndarray) -> None:
        for body, pose in zip(self.bodies.values(), poses, strict=True):
            body.entity.pose = sapien.Pose(pose[:3], pose[3:])


def goal_of(task: str) -> list[dict[str, Any]]:
    protocol = SIMPLER_WIDOWX.protocols[0]
    assert protocol.options["predicates"] == "original"
    return SIMPLER_WIDOWX.episode(SIMPLER_WIDOWX.task(task), 0, 0, protocol).payload["goal"]


@pytest.mark.parametrize("flavour", range(len(TASKS)), ids=TASKS)
def test_moments_are_judged_as_the_original_judges_them(flavour: int) -> None:
    """Success and the statistics of every step, and the grasp, by its condition."""
    episodes = np.flatnonzero(STEPS["flavour"] == flavour)
    found: dict[str, list[Any]] = {"success": [], "grasped": [], "statistics": []}
    for episode in episodes:
        scene = MadeUp(episode)
        judge, grasping = (
            Judge(scene, "source", "target", goal, "original") for goal in (goal_of(TASKS[flavour]), [{"is": "released"}])
        )
        for number in range(STEPS["success"].shape[1]):
            scene.show(number)
            found["success"].append(judge.judge())
            found["grasped"].append(not grasping.judge())
            found["statistics"].append([judge.statistics[name] for name in STATISTICS])
    for name, ours in found.items():
        theirs = STEPS[name][episodes].reshape(np.shape(ours))
        np.testing.assert_array_equal(ours, theirs, name)
        assert (theirs.mean(axis=0) > 0.05).all() and (theirs.mean(axis=0) < 0.95).all(), "both outcomes are among the steps"


def test_stacking_is_judged_as_the_carrot_is() -> None:
    """Neither of the original's tasks changes ``evaluate``."""
    assert goal_of("stack_green_on_yellow") == goal_of("put_carrot_on_plate")


# Rotations.

#: Angles of a control step, and far larger ones; about one axis; and none at all.
ANGLES = np.concatenate(
    [
        *(np.random.default_rng(5).uniform(-most, most, (200, 3)) for most in (0.01, 0.2, 1.0, 3.0)),
        *(size * np.eye(3) for size in (0.25, -0.25, 1e-9)),
        np.zeros((1, 3)),
    ]
)
#: Hands that the steps turn, in the base frame, and what the controllers want of them.
HAND = sapien.Pose([0.25, -0.02, 0.13], Rotation.from_euler("xyz", [0.3, 1.4, -0.2]).as_quat()[[3, 0, 1, 2]])
WANTED = sapien.Pose([0.27, 0.01, 0.1], Rotation.from_euler("xyz", [0.1, 1.5, -0.4]).as_quat()[[3, 0, 1, 2]])
WAY = [0.01, -0.02, 0.015]


def originals_turn(vector: np.ndarray) -> np.ndarray:
    """What the original's controller makes of a rotation vector.

    Source: ManiSkill2_real2sim agents/controllers/pd_ee_pose.py@ef7a4d4, ``compute_target_pose``, the frame ``ee_align2``.
    """
    delta = sapien.Pose(WAY, Rotation.from_rotvec(vector).as_quat()[[3, 0, 1, 2]])
    target = sapien.Pose(HAND.p) * delta * sapien.Pose(HAND.p).inv() * WANTED
    return target.to_transformation_matrix()[:3, :3]


def maniskill3s_turn(angles: np.ndarray) -> np.ndarray:
    """What mani-skill 3's controller makes of our angles."""
    import_upstream()
    from mani_skill.agents.controllers.pd_ee_pose import PDEEPoseController
    from mani_skill.envs.tasks.digital_twins.bridge_dataset_eval.base_env import WidowX250SBridgeDatasetFlatTable as Robot
    from mani_skill.utils.structs import Pose

    (configs,) = Robot._controller_configs.fget(Robot).values()
    action = torch.from_numpy(np.float32([*WAY, *angles]))[None]
    target = PDEEPoseController.compute_target_pose(SimpleNamespace(config=configs["arm"]), Pose.create(WANTED), action)
    return target.to_transformation_matrix()[0, :3, :3].numpy()


def axis_times_angle(angles: np.ndarray) -> np.ndarray:
    """The conversion of the original's evaluators (SimplerEnv simpler_env/policies/octo/octo_model.py@4ab7178)."""
    axis, angle = euler2axangle(*angles)
    return axis * angle


@pytest.mark.parametrize(
    ("option", "vector"),
    [("fixed_axes", axis_times_angle), ("rotation_vector", lambda angles: angles)],
    ids=["fixed_axes", "rotation_vector"],
)
def test_the_hand_turns_as_the_originals_controller_turns_it(option: str, vector: Any) -> None:
    for angles in ANGLES:
        ours = maniskill3s_turn(ROTATIONS[option](angles))
        np.testing.assert_allclose(ours, originals_turn(vector(angles)), atol=1e-6, err_msg=str(angles))


def test_the_hand_turns_as_mani_skills_own_evaluator_turns_it() -> None:
    """SimplerEnv simpler_env/policies/octo/octo_model.py@52a5088, whose rotation vector the env reads as angles."""
    import_upstream()
    from mani_skill.utils.geometry.rotation_conversions import euler_angles_to_matrix, matrix_to_axis_angle

    vectors = matrix_to_axis_angle(euler_angles_to_matrix(torch.from_numpy(ANGLES), "XYZ")).numpy()
    np.testing.assert_allclose([ROTATIONS["maniskill3"](angles) for angles in ANGLES], vectors, atol=1e-9)


def test_moving_axes_are_mani_skills() -> None:
    before = WANTED.to_transformation_matrix()[:3, :3]
    for angles in ANGLES:
        turned = Rotation.from_euler("XYZ", angles).as_matrix() @ before
        np.testing.assert_allclose(maniskill3s_turn(ROTATIONS["moving_axes"](angles)), turned, atol=1e-6)
