"""DOMINO's evaluation loop: what parity and measurements compare the adapter with.

It is that of H-EmbodVis/DOMINO@9fd1271 script/eval_policy.py, ``eval_policy``: the expert's run on the same task object, whose motion
is restored after a second ``setup_demo``; then actions, the rules after each, and the metrics of its own tracker.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..api import Episode
from ..parity import Verdict
from ..upstream import quiet
from .domino import FAILURES, DominoEnv
from .evaluator import RobotwinEvaluator
from .upstream import set_up


class DominoEvaluator(RobotwinEvaluator):
    """The evaluator's loop over one task."""

    source = DominoEnv.source

    def begin_again(self, episode: Episode) -> None:
        """The evaluator's own: the expert plays first, on the same task."""
        from eval_metrics import EvalMetricsTracker

        task, payload, self._seen = self.task, episode.payload, None
        changes = {"use_dynamic": True, "dynamic_level": payload["level"], "dynamic_coefficient": payload["coefficient"]}
        set_up(task, episode.task, payload["config"], payload["seed"], **changes)
        with quiet():
            task.play_once()
        motion = task._saved_dynamic_motion_info
        set_up(task, episode.task, payload["config"], payload["seed"], **changes)
        task._saved_dynamic_motion_info = motion
        with quiet():
            assert task.init_dynamic_motion_for_eval()
            rules = task.get_dynamic_motion_config()
        self._threshold, self._stops = rules.get("check_z_threshold"), rules.get("stop_on_contact", True)
        self._watched = rules.get("check_z_actor", rules["target_actor"])
        self._start, self._lifted = self._watched.get_pose().p[2], False
        self._failure: Any = None
        self._tracker = task._metrics_tracker = EvalMetricsTracker(task, changes)
        self._tracker.on_episode_start()

    def step(self, action: np.ndarray, look: bool = True) -> Verdict:
        task = self.task
        success = super().step(action, look).success
        if self._threshold is not None and not self._lifted and self._watched.get_pose().p[2] - self._start > self._threshold:
            self._lifted = True
        if success and self._threshold is not None and not self._lifted:
            success, self._failure = False, "object_not_lifted"
        elif not success:
            with quiet():
                if task.check_gripper_contact_dynamic_object() and self._stops:
                    task.stop_dynamic_object_motion()
                if not getattr(task, "_dynamic_object_stopped", False) and not task.check_dynamic_object_boundary():
                    task.eval_fail, self._failure = True, "out_of_bounds"
                    self._tracker.record_out_of_bounds()
                elif task.eval_fail:
                    self._failure = "eval_fail"
        found = self._tracker.get_episode_metrics(success, self._failure)
        metrics = {
            "route_completion": float(found.route_completion),
            "penalty": float(found.total_penalty_factor),
            "manipulation_score": float(found.manipulation_score),
            **{name: float(name == self._failure) for name in FAILURES},
        }
        return Verdict(float(success), success, metrics, success or self._failure is not None)
