"""The RoboTwin adapter: upstream's own tasks, with frames rendered only where they are due."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Optional

import numpy as np

from ..api import Camera, Env, Episode, StepResult
from ..errors import VlarigError
from ..upstream import quiet
from .camera import SharedCamera
from .plain import added, restored
from .planner import planner_name
from .robot import ROBOTWIN_ALOHA, ROBOTWIN_ALOHA_POSE
from .upstream import PATCHES, in_assets, instruction, make_task, set_up

#: Steps in which an expert's plan stays where it ended, so that grippers come to rest.
RESTING = 6


@dataclass
class Rehearsal:
    """What upstream's expert does from an initial state.

    Attributes:
        solved: Whether it plans all of its paths and solves the task.
        info: What it says of the objects and arms, for instructions.
        kept: Attributes that it leaves in upstream's task, on some of which success depends in the evaluation after it.
        motion: How an object moves, where one does.
        plan: Its targets of the joints, at the times of an episode's steps; rows of 14 numbers.
    """

    solved: bool = False
    info: dict[str, str] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    motion: dict[str, Any] = field(default_factory=dict)
    plan: list[np.ndarray] = field(default_factory=list)


class RobotwinEnv(Env):
    """One env of RoboTwin's tasks.

    The payload is ``config`` (upstream's configuration), ``seed`` (of the scene), and what :meth:`prepare` found: ``info`` (what the
    expert says of objects and arms, for the instruction), ``kept`` (what its run leaves in the task) and ``planner``. Where it was
    not prepared, the expert plays first. The protocol's option ``instructions`` chooses upstream's ``seen`` or ``unseen`` ones.
    """

    embodiment = ROBOTWIN_ALOHA
    patches = PATCHES
    source = "robotwin_source"
    """Bundle of upstream's code."""
    action_type = "qpos"
    """Upstream's name of what an action says."""
    every = 15
    """Physics steps between two steps of an expert's plan: the rate of upstream's demonstrations (task_config, ``save_freq``)."""

    def __init__(self, camera: Optional[SharedCamera] = None) -> None:
        super().__init__()
        self.task: Any = None
        """Upstream's task, in the episode's scene."""
        self._camera = camera or SharedCamera()

    def sibling(self) -> RobotwinEnv:
        """A further env that renders by the same camera."""
        return type(self)(self._camera)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Set the scene up; all that is sampled comes from its seed."""
        self._found = episode.payload
        if "info" not in self._found:
            self._found = vars(self.rehearse(episode))
        self.task = self.set_up(episode)
        for name, value in self._found["kept"].items():
            if not hasattr(self.task, name):
                setattr(self.task, name, restored(value))
        return instruction(episode.task, self._found["info"], episode.protocol.options["instructions"])

    def prepare(self, episode: Episode) -> Optional[dict[str, Any]]:
        """Whether upstream's expert solves the task, as upstream's evaluator asks of a seed; what it says then."""
        found = self.rehearse(episode)
        motion = {"motion": found.motion} if found.motion else {}
        return {"info": found.info, "kept": found.kept, **motion, "planner": planner_name()} if found.solved else None

    def rehearse(self, episode: Episode) -> Rehearsal:
        """Have upstream's expert play the episode, in a scene of its own."""
        found, plan = Rehearsal(), []
        try:
            task = self.set_up(episode)
            self._record(task, plan)
            before = set(vars(task))
            with in_assets(), quiet():
                task.play_once()
                found = self.said(task)
            found.kept = added(before, task)
        except VlarigError:
            raise
        except Exception:  # upstream's evaluator goes on to the next seed, whatever it was
            logging.getLogger(__name__).warning("the expert gave up %s", episode.key, exc_info=True)
        found.plan = plan + plan[-1:] * RESTING
        return found

    def said(self, task: Any) -> Rehearsal:
        """What an expert's run says of itself."""
        info = {name: str(value) for name, value in task.info["info"].items()}
        return Rehearsal(bool(task.plan_success and task.check_success()), info)

    def set_up(self, episode: Episode) -> Any:
        """Upstream's task in the episode's scene."""
        task = make_task(self.source, episode.task)
        set_up(task, episode.task, episode.payload["config"], episode.payload["seed"], **self.changes(episode))
        task.step_lim = None  # the protocol's limit is applied elsewhere
        return task

    def changes(self, episode: Episode) -> dict[str, Any]:
        """Entries of upstream's configuration that the payload changes."""
        return {}

    def _record(self, task: Any, plan: list[np.ndarray]) -> None:
        """Add the robot's step to ``plan``, once in ``every`` physics steps, while the expert's demonstration is under way."""
        scene, steps = task.scene, count(1)
        step = scene.step

        def recording() -> None:
            step()
            if task.save_freq is not None and next(steps) % self.every == 0:  # upstream's sign that nothing is tried beforehand
                plan.append(self.row(task))

        scene.step = recording

    def apply(self, action: np.ndarray) -> StepResult:
        """One action: the arms' way to its joint angles, in as many physics steps as they need; it ends at once at success."""
        self.task.eval_success = False
        self.task.take_action(action, self.action_type)
        success = bool(self.task.eval_success)
        return StepResult(float(success), success, success)

    def state(self) -> np.ndarray:
        """``float32[14]``: the last targets of joints and grippers."""
        return self.row(self.task)

    def row(self, task: Any) -> np.ndarray:
        """The step that leaves the robot as it is, and the state: the same numbers, as upstream's observations have them."""
        robot = task.robot
        return np.array(robot.get_left_arm_jointState() + robot.get_right_arm_jointState(), dtype=np.float32)

    def render_view(self, camera: Camera) -> np.ndarray:
        """What one of upstream's cameras shows."""
        cameras, robot = self.task.cameras, self.task.robot
        named = {name: (each, each.entity.pose) for name, each in zip(cameras.static_camera_name, cameras.static_camera_list)}
        for side in ("left_camera", "right_camera"):
            named[side] = getattr(cameras, side), getattr(robot, side).entity_pose
        upstream, pose = named[self.embodiment.cameras[camera.view]]
        if (upstream.height, upstream.width) != (camera.height, camera.width):
            raise VlarigError(
                f"the view {camera.view!r} was requested in {camera.height} x {camera.width}, and upstream's camera has "
                f"{upstream.height} x {upstream.width}; render it in that size and have the protocol resize it"
            )
        return self._camera.image(self.task.scene, upstream, pose)

    def simulator_state(self) -> np.ndarray:
        """Bodies, joints and their drives, and the grippers."""
        return np.concatenate([np.asarray(part, dtype=np.float64).ravel() for part in everything(self.task)])

    def privileged(self) -> dict[str, np.ndarray]:
        """``plan``, ``float32[steps, 14]``: the targets that upstream's expert gives the joints; at an episode's start alone."""
        if self._step or self.episode is None:
            return {}
        plan = self._found["plan"] if "plan" in self._found else self.rehearse(self.episode).plan
        return {"plan": np.array(plan, dtype=np.float32)} if plan else {}

    def close(self) -> None:
        self.task = None


class RobotwinPoseEnv(RobotwinEnv):
    """The same tasks, moved by the poses of the grippers."""

    embodiment = ROBOTWIN_ALOHA_POSE
    action_type = "ee"

    def row(self, task: Any) -> np.ndarray:
        """Pose and opening of each gripper, ``float32[16]``."""
        robot = task.robot
        left, right = robot.get_left_ee_pose(), robot.get_right_ee_pose()
        return np.array([*left, robot.get_left_gripper_val(), *right, robot.get_right_gripper_val()], dtype=np.float32)


def everything(task: Any) -> list[np.ndarray]:
    """PhysX's whole state of a scene, and the targets of the grippers."""
    scene, robot = task.scene, task.robot
    parts = [[robot.left_gripper_val, robot.right_gripper_val]]
    for articulation in scene.get_all_articulations():
        parts += [articulation.pose.p, articulation.pose.q, articulation.qpos, articulation.qvel, articulation.qf]
        parts += [[*joint.drive_target, *joint.drive_velocity_target] for joint in articulation.active_joints]
    for actor in scene.get_all_actors():
        parts += [actor.pose.p, actor.pose.q]
        for component in actor.components:
            if hasattr(component, "linear_velocity"):
                parts += [component.linear_velocity, component.angular_velocity, [float(component.is_sleeping)]]
    return [np.array(part, dtype=np.float64) for part in parts]
