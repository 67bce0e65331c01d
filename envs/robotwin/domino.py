"""The DOMINO adapter: RoboTwin's tasks with an object that moves, upstream's own rules of failure, and its manipulation score."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from ..api import Episode, StepResult
from ..errors import VlarigError
from ..upstream import quiet
from .env import Rehearsal, RobotwinEnv
from .plain import plain, restored

#: What ``init_dynamic_motion_for_eval`` reads of the expert's run (DOMINO@9fd1271 envs/_base_task.py).
MOTION = (
    *("start_position", "end_position", "original_orientation", "kinematic_duration", "dynamic_level", "trajectory_params"),
    "table_bounds",
)

#: Kinds of failure that end an episode early, as upstream names them (script/eval_policy.py).
FAILURES = ("out_of_bounds", "object_not_lifted", "eval_fail")


class DominoEnv(RobotwinEnv):
    """One env of DOMINO's tasks.

    The payload is RoboTwin's, with ``level`` and ``coefficient`` of the motion, and ``motion``, which :meth:`prepare` found: the
    expert's interception, from which upstream makes the object's way, some tenth of a second of it an action.
    """

    source = "domino_source"
    every = 25  # physics steps: 0.1 s, of which an action's share of the motion is made (``init_dynamic_motion_for_eval``)

    def begin(self, episode: Episode, rng: np.random.Generator) -> str:
        """Set the scene up and set the object in motion."""
        words = super().begin(episode, rng)
        if not self._found["motion"]:
            raise VlarigError(
                f"{episode.key}: upstream's expert does not meet the object from here; run: vlarig envs prepare domino"
            )
        self._follow = Followed(self.task, self._found["motion"], self.changes(episode))
        if not self._follow.moves:
            raise VlarigError(
                f"{episode.key}: the object's way leads through what upstream keeps free; run: vlarig envs prepare domino"
            )
        return words

    def prepare(self, episode: Episode) -> Optional[dict[str, Any]]:
        """Whether upstream's expert solves the task, and the object's way stays free; the motion then."""
        found = super().prepare(episode)
        moves = found is not None and Followed(self.set_up(episode), found["motion"], self.changes(episode)).moves
        return found if moves else None

    def changes(self, episode: Episode) -> dict[str, Any]:
        """The motion's level and coefficient."""
        payload = episode.payload
        return {"use_dynamic": True, "dynamic_level": payload["level"], "dynamic_coefficient": payload["coefficient"]}

    def apply(self, action: np.ndarray) -> StepResult:
        step = super().apply(action)
        return self._follow.judge(step)

    def metrics(self) -> dict[str, float]:
        """Route completion, penalty factor and manipulation score (0 to 100, 0 to 1, 0 to 100), and the failures, 0 or 1."""
        return self._follow.metrics()

    def simulator_state(self) -> np.ndarray:
        """As RoboTwin's, with what the object's motion and the rules depend on."""
        return np.concatenate([super().simulator_state(), self._follow.memory()])

    def said(self, task: Any) -> Rehearsal:
        """What an expert's run says of itself; the motion with it."""
        found = super().said(task)
        motion = task._saved_dynamic_motion_info
        found.motion = {name: plain(motion[name]) for name in MOTION}
        return found


class Followed:
    """Upstream's evaluation of one episode after ``setup_demo``: the motion, the rules after each action, and the metrics.

    Args:
        task: Upstream's task, set up.
        motion: The expert's interception (:data:`MOTION`).
        settings: Entries of upstream's configuration.
    """

    def __init__(self, task: Any, motion: dict[str, Any], settings: dict[str, Any]) -> None:
        from eval_metrics import EvalMetricsTracker

        self._task = task
        task._saved_dynamic_motion_info = {name: restored(value) for name, value in motion.items()}
        with quiet():
            #: Whether the object's way stays clear of what upstream keeps free; where not, upstream goes on to the next seed.
            self.moves = bool(task.init_dynamic_motion_for_eval())
            rules = task.get_dynamic_motion_config() or {}
        self._threshold = rules.get("check_z_threshold")
        self._stops = rules.get("stop_on_contact", True)
        self._lifted_actor: Any = rules.get("check_z_actor", rules.get("target_actor"))
        self._height = 0.0 if self._threshold is None else self._lifted_actor.get_pose().p[2]
        self._lifted = self._threshold is None
        self._success, self._failure = False, ""
        self._tracker = EvalMetricsTracker(task, settings)
        self._tracker.on_episode_start()
        task._metrics_tracker = self._tracker

    def judge(self, step: StepResult) -> StepResult:
        """What upstream's evaluator makes of an action (script/eval_policy.py, ``eval_policy``)."""
        task = self._task
        if not self._lifted:
            self._lifted = bool(self._lifted_actor.get_pose().p[2] - self._height > self._threshold)
        if step.success_at_end:
            if self._lifted:
                self._success = True
                return step
            self._failure = "object_not_lifted"
            return StepResult(0.0, False, False, terminated=True)
        with quiet():
            if task.check_gripper_contact_dynamic_object() and self._stops:
                task.stop_dynamic_object_motion()
            if not getattr(task, "_dynamic_object_stopped", False) and not task.check_dynamic_object_boundary():
                self._failure = "out_of_bounds"
                self._tracker.record_out_of_bounds()
            elif task.eval_fail:
                self._failure = "eval_fail"
        return StepResult(0.0, False, False, terminated=bool(self._failure))

    def metrics(self) -> dict[str, float]:
        found = self._tracker.get_episode_metrics(self._success, self._failure or None)
        scores = {
            "route_completion": float(found.route_completion),
            "penalty": float(found.total_penalty_factor),
            "manipulation_score": float(found.manipulation_score),
        }
        return scores | {name: float(name == self._failure) for name in FAILURES}

    def memory(self) -> np.ndarray:
        """The numbers that the motion and the rules go on from."""
        task = self._task
        numbers = [value for each in task.active_kinematic_tasks for value in each.values() if isinstance(value, (int, float))]
        return np.array([*numbers, self._lifted, task.transient_event, getattr(task, "_dynamic_object_stopped", False)], float)
