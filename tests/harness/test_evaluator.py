"""The evaluator inside a training: numbers that change with the weights, and workers that stay."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from chaos.processes import is_launcher
from processes import workers_of
from toy.learner import Learner

from vlarig.envs.errors import VlarigError
from vlarig.harness import Evaluator
from vlarig.harness.sinks import make_tracker
from vlarig.results.ledger import Ledger


class Noted:
    """A tracker that keeps what it gets."""

    def __init__(self) -> None:
        self.numbers: dict[int, dict[str, float]] = {}

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.numbers[step] = dict(numbers)

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_numbers_follow_the_weights_and_workers_stay() -> None:
    policy, tracker, workers = Learner(), Noted(), []
    with Evaluator("toy", Path("runs"), trackers=[tracker], episodes=4, workers=2) as evaluator:
        for step in range(3):
            policy.load_weights(step, {"gain": np.array([step / 2], np.float32)})
            evaluation = evaluator(policy, step)
            assert evaluation.complete
            workers.append(sorted(workers_of(os.getpid())))
            assert tracker.numbers[step]["eval/success"] == evaluation.success_rate
    assert len(workers[0]) == 2
    assert workers == [workers[0]] * 3
    assert workers_of(os.getpid()) == []
    assert sorted(folder.name for folder in Path("runs").iterdir()) == [f"step-{step:08d}" for step in range(3)]
    assert set(tracker.numbers[2]) == {"eval/success", "eval/reach_red", "eval/reach_blue"}
    assert tracker.numbers[0]["eval/success"] == 0.0
    assert tracker.numbers[2]["eval/success"] == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_a_call_is_resumed_where_it_was_interrupted_and_refused_with_other_weights() -> None:
    policy = Learner()
    with Evaluator(["toy", "two_ways"], Path("runs"), episodes=1, workers=1) as evaluator:
        first = evaluator(policy, 5)
        assert evaluator(policy, 5).success_rate == first.success_rate
        with Ledger.open_read_only(first.run) as ledger:
            assert len(ledger.finished_keys()) == 4
        policy.load_weights(1, {"gain": np.ones(1, np.float32)})
        with pytest.raises(VlarigError, match="the policy object has another state"):
            evaluator(policy, 5)
        assert evaluator(policy, 6).success_rate == 1.0


@pytest.mark.usefixtures("toy_home")
def test_a_policy_may_be_named() -> None:
    with Evaluator("toy", Path("runs"), episodes=1) as evaluator:
        assert evaluator("toy.learner:Learner", 0).success_rate == 0.0


@pytest.mark.usefixtures("toy_home")
def test_a_worker_that_dies_between_calls_is_replaced() -> None:
    policy = Learner()
    policy.load_weights(1, {"gain": np.ones(1, np.float32)})
    with Evaluator("toy", Path("runs"), episodes=2, workers=1) as evaluator:
        evaluator(policy, 1)
        (before,) = workers_of(os.getpid())
        os.kill(before, 9)
        assert evaluator(policy, 2).success_rate == 1.0
        (after,) = workers_of(os.getpid())
        assert after != before
    assert not any(map(is_launcher, workers_of(os.getpid())))


@pytest.mark.usefixtures("toy_home")
def test_success_in_tensorboard() -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    policy = Learner()
    with Evaluator("toy", Path("runs"), trackers=["tensorboard"], episodes=2) as evaluator:
        for step in (100, 200):
            policy.load_weights(step, {"gain": np.array([step / 200], np.float32)})
            evaluator(policy, step)
    events = EventAccumulator("runs/tensorboard").Reload()
    assert [(event.step, *event.tensor_proto.float_val) for event in events.Tensors("eval/success")][-1] == (200, 1.0)
    assert [event.step for event in events.Tensors("eval/reach_red")] == [100, 200]


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_a_sweeps_rates_in_tensorboard(cli) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = cli("sweep", "toy", "--policy", "random", "--episodes", "2", "--run", "r", "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    events = EventAccumulator("r/tensorboard").Reload()
    assert events.Tags()["tensors"] == ["eval/success", "eval/reach_red", "eval/reach_blue"]
    assert [event.step for event in events.Tensors("eval/success")] == [4]
    refused = cli("sweep", "toy", "--policy", "random", "--track", "tensorbord")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_a_tracker_that_is_not_there_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VlarigError, match="unknown tracker 'tensorbord'; expected one of tensorboard, trackio, wandb"):
        make_tracker("tensorbord", tmp_path, "mine")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(VlarigError, match="wandb is not installed, which --track wandb needs; run: pip install wandb"):
        make_tracker("wandb", tmp_path, "mine")


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_in_a_plain_torch_loop_success_rises_with_what_is_learned() -> None:
    """A weight learns to be 1 by gradient descent, which is what solves the toy's tasks."""
    import torch

    gain = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([gain], lr=0.1)
    policy, rates = Learner(), []
    with Evaluator("toy", Path("runs"), episodes=3, workers=1) as evaluator:
        for step in range(31):
            if step % 15 == 0:
                policy.load_weights(step, {"gain": gain.detach().numpy().copy()})
                rates.append(evaluator(policy, step).success_rate)
            optimizer.zero_grad()
            ((gain - 1.0) ** 2).sum().backward()
            optimizer.step()
    assert rates[0] == 0.0
    assert rates == sorted(rates)
    assert rates[-1] == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_in_the_trainer_of_transformers() -> None:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Gain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = torch.nn.Parameter(torch.zeros(1))

        def forward(self, target: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.gain - target) ** 2).mean()}

    class Evaluate(TrainerCallback):
        """A callback that a user adds to a Trainer."""

        def __init__(self, evaluator: Evaluator) -> None:
            self.evaluator, self.policy, self.rates = evaluator, Learner(), []

        def on_save(self, arguments, state, control, model, **_):
            self.policy.load_weights(state.global_step, {"gain": model.gain.detach().numpy().copy()})
            self.rates.append(self.evaluator(self.policy, state.global_step).success_rate)

    arguments = TrainingArguments(
        "trained", max_steps=20, save_steps=10, learning_rate=0.2, optim="sgd", lr_scheduler_type="constant", report_to="none",
        per_device_train_batch_size=4, use_cpu=True, disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    with Evaluator("toy", Path("runs"), episodes=3, workers=1) as evaluator:
        callback = Evaluate(evaluator)
        data = [{"target": torch.ones(1)}] * 80
        Trainer(Gain(), arguments, train_dataset=data, callbacks=[callback]).train()
    assert callback.rates == sorted(callback.rates)
    assert callback.rates[-1] == 1.0
