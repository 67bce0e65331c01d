"""The second track of supervised fine-tuning (paper, section 3.1): a real robot's LeRobotDataset, from CPT or from scratch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lerobot_data import make_aloha
from training_process import OVERRIDES

from vlarig.envs.api import Observation
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.embodiments import MOBILE_ALOHA_JOINT
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.training.config import TrainingError, read_config
from vlarig.training.reporting import Reporter
from vlarig.training.trainer import train

#: An ALOHA as its public datasets have it; ``cam_low`` is no view of the policy.
MIXTURE = """
weights = "balanced"

[[datasets]]
source = "lerobot"
folder = "aloha"
horizon = 16
embodiment = "mobile_aloha_joint"
action_names = {motors}
state_names = {motors}

[datasets.cameras]
"observation.images.cam_high" = "ego"
"observation.images.cam_left_wrist" = "cam_left_wrist"
"observation.images.cam_right_wrist" = "cam_right_wrist"
"""


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lerobot_data import ALOHA_MOTORS

    folder = tmp_path_factory.mktemp("real")
    make_aloha(folder / "aloha")
    file = folder / "mix.toml"
    file.write_text(MIXTURE.format(motors=list(ALOHA_MOTORS)))
    return file


def fine_tune(stage: str, mixture: Path, run: Path, source: str, *overrides: str) -> Path:
    given = [each for each in OVERRIDES if not each.startswith(("data.source", "model.source", "steps"))]
    words = (*given, f"data.source=mixture:{mixture}", f"model.source={source}", "steps=3", *overrides)
    return train(read_config(stage, None, words), run, Reporter())


@pytest.mark.slow
def test_a_real_robots_dataset_is_fine_tuned_on_from_scratch_and_from_cpt(mixture: Path, tmp_path: Path) -> None:
    scratch = fine_tune("sft", mixture, tmp_path / "scratch", "tiny")
    cpt = fine_tune("cpt", mixture, tmp_path / "cpt", "tiny")
    tuned = fine_tune("sft", mixture, tmp_path / "tuned", str(cpt))
    for folder in (scratch, tuned):
        policy = QwenVlaPolicy(str(folder))
        assert policy.embodiments == (MOBILE_ALOHA_JOINT,)
        rng = np.random.default_rng(0)
        views = {view: rng.integers(0, 255, (1, 480, 640, 3), np.uint8) for view in MOBILE_ALOHA_JOINT.cameras}
        seen = Observation(images=views, state=np.zeros(14, np.float32), instruction="Pick up the battery and insert it.")
        key = "aloha/real@1/insert/base/0/0"
        (reply,) = policy.act([Request(0, key, 0, 1, seen, MOBILE_ALOHA_JOINT, n_action_steps=16)])
        assert reply.actions.shape == (16, 14)
        assert np.isfinite(reply.actions).all()
        assert np.abs(reply.actions[:, :6]).max() < 1.0  # radians, within what the demonstrations show


def test_the_robot_has_to_be_named(mixture: Path, tmp_path: Path) -> None:
    bare = mixture.parent / "bare.toml"
    bare.write_text('weights = "balanced"\n[[datasets]]\nsource = "lerobot"\nfolder = "aloha"\nhorizon = 16\n')
    with pytest.raises(Exception, match="does not say which robot it is of; give embodiment=NAME"):
        fine_tune("sft", bare, tmp_path / "run", "tiny")


def test_t2a_is_no_beginning_of_it(mixture: Path, tmp_path: Path) -> None:
    t2a = fine_tune("t2a", mixture, tmp_path / "t2a", "tiny")
    with pytest.raises(TrainingError, match="'sft' goes on from a checkpoint of 'cpt' or a preset"):
        fine_tune("sft", mixture, tmp_path / "sft", str(t2a))
