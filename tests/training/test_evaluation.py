"""Evaluations in the midst of a training: real sweeps with the weights of that step, the best of which are kept."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from toy.env import TOY_POINT
from training_process import configuration

from vlarig.envs.api import Observation
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, bounds_statistics
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.results.tables import run_table
from vlarig.training.reporting import ConsoleReporter
from vlarig.training.samples import ActionSample, Stream
from vlarig.training.stopping import Stopped
from vlarig.training.trainer import train


class Points(Stream):
    """The toy's robot."""

    embodiments = (TOY_POINT,)
    statistics = {"toy": DatasetStatistics(bounds_statistics(TOY_POINT))}

    def __getitem__(self, position: int) -> ActionSample:
        images = {"ego": np.full((1, 64, 64, 3), position % 256, np.uint8)}
        observation = Observation(images=images, state=np.zeros(3, np.float32), instruction="move the point to the red goal")
        return ActionSample(f"point/{position}", observation, TOY_POINT, np.zeros((16, 3), np.float32))


@pytest.mark.slow
def test_a_training_is_evaluated_as_it_goes_and_the_best_is_kept(toy_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vlarig.harness.screen import Screen

    settings = "{suites = ['toy'], every = 2, options = {episodes = 2, workers = 1, tasks = ['reach_red']}}"
    config = configuration("steps=5", f"evaluation={settings}", "track=['tensorboard']", "optimizer.ema=0.5")
    run = toy_home.parent / "run"
    with ConsoleReporter(Screen(), run, config.track, "sft of tiny") as reporter:
        policy = train(config, run, reporter, Points())
    folders = sorted(each.name for each in (run / "evaluations").iterdir())
    assert folders == ["step-00000002", "step-00000004", "step-00000005"]
    tallies = [run_table(run / "evaluations" / name).total for name in folders]
    assert [tally.finished for tally in tallies] == [2, 2, 2]
    best = json.loads((run / "best.json").read_text())
    assert best["success"] == max(tally.rate or 0 for tally in tallies)
    assert QwenVlaPolicy(str(run / "best")).embodiments == (TOY_POINT,)
    shown = capsys.readouterr().out
    assert "step 2 of 5: success" in shown
    assert "sft of tiny: 5 steps" in shown
    assert list((run / "tensorboard").iterdir())
    manifest = json.loads((run / "evaluations" / "step-00000005" / "manifest.json").read_text())
    assert "weights 5" in json.dumps(manifest)
    if best["step"] == 5:
        kept, last = (load_file(folder / "model.safetensors") for folder in (run / "best", policy))
        assert all((kept[name] == last[name]).all() for name in last)


@pytest.mark.slow
def test_a_signal_ends_an_evaluation_at_once_and_the_same_call_finishes_it(toy_home: Path) -> None:
    settings = "{suites = ['toy'], every = 2, options = {episodes = 40, workers = 1}}"
    config = configuration("steps=3", f"evaluation={settings}")
    run = toy_home.parent / "run"

    class Console:
        def start(self, step: int, steps: int) -> None:
            self.first = step

        def report(self, step: int, numbers: dict[str, float]) -> None:
            pass

        def note(self, sentence: str) -> None:
            pass

    def end() -> None:
        while not (run / "evaluations" / "step-00000002").exists():
            time.sleep(0.05)
        time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end).start()
    with pytest.raises(Stopped, match="stopped while step 2 was evaluated; the same command goes on"):
        train(config, run, Console(), Points())
    before = run_table(run / "evaluations" / "step-00000002").total
    assert before.finished < 160
    console = Console()
    train(config, run, console, Points())
    assert console.first == 2
    for name in ("step-00000002", "step-00000003"):
        assert run_table(run / "evaluations" / name).total.missing == 0
