"""Whole trajectories: every episode or subtask once, from its first image to its last action."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from lerobot_data import record_dataset
from lerobot_images import LENGTHS, TASKS, numbers, shown

from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.training.batches import Collator
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.lerobot import open_lerobot
from vlarig.training.data.mixture_file import clean_mixture, read_mixture
from vlarig.training.data.trajectories import open_trajectories


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    return record_dataset(folder / "demos", folder / "staging", labels=True)


def test_an_episode_is_one_sample_with_all_its_actions(recorded: Path) -> None:
    dataset: Dataset = open_trajectories(recorded)
    assert len(dataset) == len(LENGTHS)
    assert dataset.hours == open_lerobot(recorded, horizon=1).hours
    assert dataset.tasks == {"lift the cup": [0, 2], "wipe the table": [1]}
    for number, length in enumerate(LENGTHS):
        sample = ForkingPickler.loads(ForkingPickler.dumps(dataset))[number]
        np.testing.assert_array_equal(sample.actions, numbers(number)[1])
        assert sample.horizon is None
        assert sample.observation["instruction"] == TASKS[number]
        assert shown(sample.observation["images"]["ego"][0])[:2] == (number, 0)
        assert dataset.length(number) == length  # type: ignore[attr-defined]
    with pytest.raises(IndexError, match="demos has 3 samples, expected an index from 0, got 3"):
        dataset[3]


def test_a_subtask_is_one_sample_where_the_dataset_is_segmented(recorded: Path) -> None:
    dataset = open_trajectories(recorded, segmented=True)
    assert len(dataset) == 2 * len(LENGTHS)
    assert {task: list(each) for task, each in dataset.tasks.items()} == {
        "reach the red cube": [0, 2, 4], "grasp the red cube": [1, 3, 5]
    }  # fmt: skip
    reach, grasp = dataset[2], dataset[3]
    np.testing.assert_array_equal(reach.actions, numbers(1)[1][:5])
    np.testing.assert_array_equal(grasp.actions, numbers(1)[1][5:])
    np.testing.assert_array_equal(grasp.observation["state"], numbers(1)[0][5])


def test_a_mixture_of_t2a_predicts_whole_trajectories_without_images(recorded: Path, tmp_path: Path) -> None:
    file = tmp_path / "mix.toml"
    file.write_text(f'weights = "balanced"\n[[datasets]]\nsource = "trajectories"\nfolder = "{recorded}"\n')
    mixture = read_mixture(file)
    bundle = load("tiny")
    collator = Collator(
        InputBuilder(bundle.description.config, bundle.tokenizer), mixture.statistics, SigmoidNormal(), seed=0, images=False
    )
    batch = collator([(position, mixture[position]) for position in range(6)]).batch
    assert batch.chunks is not None
    assert batch.inputs.pixel_values is None
    assert max(batch.chunks.mask.any(2).sum(1).tolist()) == max(LENGTHS)
    words = [bundle.tokenizer.decode(ids) for ids in batch.inputs.input_ids]
    assert any(f"predict the next {max(LENGTHS)} control actions" in each for each in words)


def test_a_folder_that_is_read_in_two_ways_is_cleaned_once(recorded: Path, tmp_path: Path) -> None:
    entry = f'[[datasets]]\nsource = "{{}}"\nfolder = "{recorded}"\n'
    file = tmp_path / "mix.toml"
    file.write_text(entry.format("trajectories") + entry.format("lerobot") + "horizon = 8\n")
    found = list(clean_mixture(file, 1, lambda verdicts, _: verdicts))
    assert [folder for folder, _, _ in found] == [str(recorded)]
