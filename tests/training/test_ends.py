"""An action expert that reads the ends of prompts learns from keypoints alone, and a backbone to say them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from kept_numbers import Numbers

from vlarig.envs.api import Observation
from vlarig.envs.keypoints import Keypoints
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.end_numbers import end_numbers, hand_pose
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, bounds_statistics
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.training.config import TrainingError, read_config
from vlarig.training.samples import ActionSample, Stream
from vlarig.training.trainer import train

STATE = Statistics(q01=(-1.0,) * 8, q99=(1.0,) * 8, source="made up")


class Reaching(Stream):
    """The hand goes to where the object is; the image is of one colour for each place, and the words are always the same."""

    embodiments = (TABLETOP_PANDA,)
    statistics = {TABLETOP_PANDA.statistics_key: DatasetStatistics(bounds_statistics(TABLETOP_PANDA), STATE)}

    def __init__(self, keypoints: bool = True) -> None:
        self._keypoints = keypoints

    def __getitem__(self, position: int) -> ActionSample:
        rng = np.random.default_rng(position)
        place = rng.choice([-0.1, 0.1], 2)
        hand = rng.uniform(-0.05, 0.05, 2)
        state = np.array([*hand, 1.0, 0, 0, 0, 0.04, -0.04], np.float32)
        actions = np.zeros((16, 7), np.float32)
        actions[:, :2] = (place - hand) / 0.2
        position = np.array([*place, 0.87])
        image = np.full((1, 128, 128, 3), (90 + 800 * place[0], 90 + 800 * place[1], 90), np.uint8)
        seen = Observation(images={"ego": image}, state=state, instruction="reach the cube")
        about = Keypoints(position, position, position).numbers() if self._keypoints else None
        return ActionSample(f"reach/{position}", seen, TABLETOP_PANDA, actions, keypoints=about)


COMMON = (
    "model.source=small",
    "model.state=dit",
    "model.compute=float32",
    "model.checkpointed=[]",
    "micro_batch_size=16",
    "data.source=elsewhere:Reaching",
    "report_every=1",
    "track=[]",
)


@pytest.mark.slow
def test_the_expert_learns_from_keypoints_without_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarig.policies.qwen_vla.model.embed", None)  # what reads a prompt
    blur = ("steps=60", "batch_size=32", "optimizer.expert.lr=2e-3")
    reporter = Numbers()
    policy = train(read_config("t2a", None, (*COMMON, *blur)), tmp_path / "t2a", reporter, Reaching())
    losses = [reporter.numbers[step]["train/loss/action"] for step in (1, 60)]
    assert losses[1] < losses[0] / 2
    before, after = load("small").model.state_dict(), load(str(policy)).model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items() if name.startswith("backbone.model.visual"))
    monkeypatch.undo()
    acting = QwenVlaPolicy(str(policy), temperature="0.1")
    for position in range(4):
        sample = Reaching()[position]
        said = end_numbers(sample.keypoints, hand_pose(sample.observation["state"], TABLETOP_PANDA.state_layout))  # type: ignore[arg-type]
        read = torch.tensor([*said, *[-3.0] * 6])[None]
        monkeypatch.setattr(type(acting.model), "_for_expert", lambda *_, read=read: read)
        (reply,) = acting.act([Request(0, "key", 0, position, sample.observation, TABLETOP_PANDA, 16)])
        np.testing.assert_allclose(reply.actions[:, :2], sample.actions[:, :2], atol=0.25)


@pytest.mark.slow
def test_a_backbone_learns_what_the_keypoints_say(tmp_path: Path) -> None:
    words = ("objective.language_weight=0", "steps=50", "batch_size=8", "micro_batch_size=8", "optimizer.backbone.lr=2e-3")
    reporter = Numbers()
    train(read_config("backbone", None, (*COMMON, *words)), tmp_path / "backbone", reporter, Reaching())
    losses = [reporter.numbers[step]["train/loss/ends"] for step in (1, 50)]
    assert losses[1] < losses[0] / 4
    assert reporter.numbers[50]["train/loss/marks"] == 0


@pytest.mark.parametrize(
    ("keypoints", "frozen", "sentence"),
    [
        (False, "['vision', 'language', 'value_head']", "it has no keypoints, which training without images needs"),
        (True, "['value_head']", "the action expert alone learns.*; add vision and language to model.frozen"),
    ],
)
def test_what_cannot_be_blurred_is_refused(tmp_path: Path, keypoints: bool, frozen: str, sentence: str) -> None:
    words = ("steps=1", "batch_size=16", f"model.frozen={frozen}")
    with pytest.raises(TrainingError, match=sentence):
        train(read_config("t2a", None, (*COMMON, *words)), tmp_path / "run", Numbers(), Reaching(keypoints))
    assert (tmp_path / "run").exists() != keypoints  # what the data lack shows when they are read
