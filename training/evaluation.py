"""What becomes of weights in training: evaluations in simulators, and the policy's folder."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..harness.evaluator import Evaluator
from ..policies.qwen_vla.checkpoint import LoadedPolicy, save_checkpoint
from ..policies.qwen_vla.model import build
from ..policies.qwen_vla.named import TrainedStage
from ..policies.qwen_vla.policy import QwenVlaPolicy
from .config import EvaluationSettings
from .reporting import Reporter

#: The best success rate so far, and the step that it was measured at.
BEST_FILE = "best.json"


class Evaluations(contextlib.ExitStack):
    """The periodic evaluations of a training. Use it as a context manager.

    The policy that acts has weights of its own, which are the trained ones (or their average) as they were at that step.

    Args:
        settings: The training's; ``None``: nothing is evaluated.
        steps: Of the whole training.
        stage: Gives the training as a stage, after so many steps.
        run: Its folder.
        bundle: The policy that is trained.
        reporter: Gets the success rates.
    """

    def __init__(
        self,
        settings: EvaluationSettings | None,
        steps: int,
        stage: Callable[[int], TrainedStage],
        run: Path,
        bundle: LoadedPolicy,
        reporter: Reporter,
    ) -> None:
        super().__init__()
        self._settings = settings
        self._steps = steps
        self._stage = stage
        self._run = run
        self._bundle = bundle
        self._reporter = reporter
        self._evaluator: Evaluator | None = None
        self._policy: QwenVlaPolicy | None = None

    def due(self, step: int) -> bool:
        settings = self._settings
        return settings is not None and (step % settings.every == 0 or step == self._steps)

    def evaluate(self, step: int, weights: Mapping[str, Tensor] | None) -> float | None:
        """Measure the policy with these weights; keep it where it is the best so far. Without weights, nothing is done.

        Returns:
            Its success, where it was measured in simulators.
        """
        settings = self._settings
        if weights is None or settings is None:
            return None
        if self._policy is None:
            self._policy = QwenVlaPolicy.of(acting_copy(self._bundle), **settings.policy_options)
        self._policy.load_weights(step, weights)
        rates = self._sweep(settings, self._policy, step)
        self._reporter.report(step, rates)
        success = rates.get("eval/success")
        if success is not None and success >= self._best():
            export(self._bundle, weights, self._run / "best", self._stage(step))
            (self._run / BEST_FILE).write_text(json.dumps({"step": step, "success": success}) + "\n", encoding="utf-8")
        return success

    def explore(self, step: int, recording: Mapping[str, Any]) -> float | None:
        """Success of the weights that were evaluated last, over the same initial states, with the noise of a rollout.

        Args:
            step: Of the training.
            recording: How chunks are sampled, see :meth:`~vlarig.policies.qwen_vla.policy.QwenVlaPolicy.record`.

        Returns:
            ``None`` where nothing was evaluated in simulators.
        """
        if self._settings is None or self._policy is None:
            return None
        self._policy.record(recording)
        try:
            rates = self._sweep(self._settings, self._policy, step, "exploring")
        finally:
            self._policy.record(None)
        success = rates.get("eval/success")
        if success is not None:
            self._reporter.report(step, {"eval/success_exploring": success})
        return success

    def _sweep(self, settings: EvaluationSettings, policy: QwenVlaPolicy, step: int, kind: str = "step") -> dict[str, float]:
        """Success rates in simulators."""
        if self._evaluator is None:
            self._evaluator = self.enter_context(Evaluator(settings.suites, self._run / "evaluations", **settings.options))
        return self._evaluator(policy, step, kind).rates()

    def _best(self) -> float:
        file = self._run / BEST_FILE
        return json.loads(file.read_text(encoding="utf-8"))["success"] if file.exists() else 0.0


def acting_copy(bundle: LoadedPolicy) -> LoadedPolicy:
    """The same policy with a model of its own, its weights not set, in the precision that the trained one computes in."""
    trained = bundle.model
    device = trained.value_head.readout.weight.device
    model = build(bundle.description.config, seed=None, device=device, dtype=trained.compute)
    return LoadedPolicy(bundle.description, model, bundle.tokenizer, bundle.revision)


def export(bundle: LoadedPolicy, weights: Mapping[str, Tensor], folder: Path, stage: TrainedStage) -> None:
    """Write the policy with these weights, which ``stage`` has made, as a checkpoint's folder, in place of one that is there."""
    description = replace(bundle.description, trained=(*bundle.description.trained, stage))
    model = build(bundle.description.config, seed=None)
    model.load_state_dict(dict(weights))
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    save_checkpoint(partial, LoadedPolicy(description, model, bundle.tokenizer, bundle.revision))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
