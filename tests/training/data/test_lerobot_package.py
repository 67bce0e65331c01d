"""The real ``lerobot`` package reads what we write and trains on it, and we read what it writes; in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import results
from lerobot_data import ROBOT, record_dataset
from lerobot_images import LENGTHS, TASKS, frame_image, numbers, shown
from third_party.environments import environment

from vlarig.envs.runtimes.runtime import Runtime
from vlarig.training.data.lerobot import open_lerobot

SCRIPT = Path(__file__).parents[2] / "third_party" / "lerobot_datasets.py"
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "lerobot_training.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def lerobot() -> Callable[..., str]:
    """Runs :mod:`lerobot_datasets` and returns what it prints."""
    interpreter = environment("lerobot", with_torch=True)

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [interpreter, SCRIPT, *words], capture_output=True, text=True, timeout=280, check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_dataset(folder / "demos", folder / "staging", labels=True, video_mb=0.005)


def test_lerobot_reads_what_we_write(lerobot: Callable[..., str], demos: Path, tmp_path: Path) -> None:
    lerobot("read", demos, tmp_path / "read.npz")
    ours = open_lerobot(demos, horizon=8)
    with np.load(tmp_path / "read.npz") as theirs:
        assert len(theirs["index"]) == len(ours) == sum(LENGTHS)
        for index in range(len(ours)):
            sample = ours[index]
            steps = len(sample.actions)
            np.testing.assert_array_equal(theirs["observation.state"][index], sample.observation["state"])
            np.testing.assert_array_equal(theirs["action"][index][:steps], sample.actions)
            np.testing.assert_array_equal(theirs["action_is_pad"][index], np.arange(8) >= steps)
            assert theirs["task"][index] == sample.observation["instruction"]
            assert theirs["subtask"][index] == ("reach" if theirs["frame_index"][index] < 5 else "grasp")
            for view, images in sample.observation["images"].items():
                same = theirs[f"observation.images.{view}"][index].transpose(1, 2, 0)
                np.testing.assert_array_equal(same, images[0])


def test_lerobot_trains_on_what_we_write(lerobot: Callable[..., str], demos: Path, tmp_path: Path) -> None:
    losses = [float(word) for word in lerobot("train", demos, tmp_path / "out").split("losses")[1].split()]
    assert len(losses) == 6
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_lerobots_training_measures_its_checkpoints_and_learns_the_same(
    lerobot: Callable[..., str], tabletop: Runtime, cli: Any, tmp_path: Path
) -> None:
    demos = tmp_path / "demos"
    recorded = cli("data", "record", "tabletop", "--tasks", "push_to", "--policy", "expert", "--episodes", "2", "--to", demos)
    assert recorded.returncode == 0, recorded.stderr
    small = {"chunk_size": 8, "n_action_steps": 8, "dim_model": 32, "n_heads": 2, "dim_feedforward": 64, "latent_dim": 8}
    small |= {"n_encoder_layers": 1, "n_vae_encoder_layers": 1, "pretrained_backbone_weights": "null"}
    words = ["--policy.type=act", "--policy.device=cpu", "--policy.push_to_hub=false", "--dataset.repo_id=me/demos"]
    words += [f"--dataset.root={demos}", *(f"--policy.{name}={value}" for name, value in small.items())]
    words += ["--num_workers=0", "--batch_size=4", "--steps=2", "--save_freq=1", "--seed=1"]
    own = ["--suite", "tabletop", "--tasks", "push_to", "--episodes", "1", "--policy-options", "convention=tabletop_panda"]
    lerobot("run", EXAMPLE, *own, *words, f"--output_dir={tmp_path / 'measured'}")
    lerobot("run", "lerobot.scripts.lerobot_train", *words, f"--output_dir={tmp_path / 'plain'}")
    revisions = set()
    for step in (1, 2):
        run = tmp_path / "measured" / "vlarig" / f"step-{step:08d}"
        assert [key.split("/")[2] for key in results(run)] == ["push_to"]
        revisions.add(json.loads((run / "manifest.json").read_text())["identity"]["policy_revision"])
        measured, plain = (
            (tmp_path / run / "checkpoints" / f"{step:06d}" / "pretrained_model" / "model.safetensors").read_bytes()
            for run in ("measured", "plain")
        )
        assert measured == plain
    assert len(revisions) == 2


def test_we_read_what_lerobot_writes(lerobot: Callable[..., str], tmp_path: Path) -> None:
    lerobot("write", tmp_path / "theirs")
    cameras = {"observation.images.front": "ego", "observation.images.hand": "cam_left_wrist"}
    for kind, error in (("video", 4.0), ("image", 0.0)):
        dataset = open_lerobot(tmp_path / "theirs" / kind, horizon=8, embodiment=ROBOT, cameras=cameras)
        index = 0
        for episode, length in enumerate(LENGTHS):
            states, actions = numbers(episode)
            for frame in range(length):
                sample = dataset[index]
                index += 1
                np.testing.assert_array_equal(sample.observation["state"], states[frame])
                np.testing.assert_array_equal(sample.actions, actions[frame : frame + 8])
                assert sample.observation["instruction"] == TASKS[episode]
                for view, tag in enumerate(ROBOT.cameras):
                    image = sample.observation["images"][tag][0]
                    assert shown(image) == (episode, frame, view)
                    assert np.abs(image.astype(int) - frame_image(episode, frame, view)).mean() <= error
        assert index == len(dataset)
