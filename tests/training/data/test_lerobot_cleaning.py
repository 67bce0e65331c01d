"""Episodes of a LeRobotDataset that break a rule are left out of its samples; actions may be made of its states."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_data import ROBOT, make_v21, record_dataset
from lerobot_images import LENGTHS, numbers

from vlarig.envs.embodiments import Channel
from vlarig.policies.qwen_vla.normalization import statistics_of
from vlarig.training.data.command import main
from vlarig.training.data.errors import DataError
from vlarig.training.data.lerobot import LeRobotDataset, open_lerobot
from vlarig.training.data.lerobot_cleaning import clean_lerobot
from vlarig.training.data.mixture_file import read_mixture

CAMERAS = {"observation.images.front": "ego", "observation.images.hand": "cam_left_wrist"}
OLD: dict[str, Any] = {"horizon": 8, "embodiment": ROBOT, "cameras": CAMERAS}

#: Under them the 30 steps of episode 1 are too many beside 12 and 7.
SHORT = {"length_episodes": 3, "length_slack": 1.1, "length_spread": 0.5}


def change_rows(folder: Path, episode: int, change: Callable[[dict[str, Any]], object]) -> None:
    """Change each row of an episode's Parquet file, in v2.1 and v3.0."""
    for file in folder.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for row in rows:
            if row["episode_index"] == episode:
                change(row)
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def spoil(row: dict[str, Any]) -> None:
    if row["frame_index"] == 4:
        row["action"] = [0.1, float("nan"), 0.2]


def hold_still(row: dict[str, Any]) -> None:
    row["action"] = [0.0, 0.0, 1e-5]


def damage_film(folder: Path) -> None:
    """Change a byte of an image."""
    film = folder / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    content = bytearray(film.read_bytes())
    content[content.find(b"mdat") + 1200] ^= 0xFF
    film.write_bytes(content)


def cut_film(folder: Path) -> None:
    film = folder / "videos/chunk-000/observation.images.hand/episode_000001.mp4"
    film.write_bytes(film.read_bytes()[:-200])


def shorten_film(folder: Path) -> None:
    films = folder / "videos" / "chunk-000" / "observation.images.front"
    (films / "episode_000001.mp4").write_bytes((films / "episode_000000.mp4").read_bytes())


def nothing(folder: Path) -> None:
    del folder


@pytest.mark.parametrize(
    ("damage", "thresholds", "reason", "detail"),
    [
        (damage_film, {}, "missing frames", "1 of 30 frames of ego are missing or damaged, the first is"),
        (cut_film, {}, "missing frames", "30 of 30 frames of cam_left_wrist are missing"),
        (shorten_film, {}, "missing frames", "18 of 30 frames of ego are missing or damaged, the first is 12"),
        (lambda folder: change_rows(folder, 1, spoil), {}, "broken numbers", "not finite at step 4"),
        (lambda folder: change_rows(folder, 1, hold_still), {}, "static", "no channel of its 30 actions moves"),
        (lambda folder: change_rows(folder, 1, lambda row: row.update(timestamp=1.0)), {}, "does not read", "is at 1.0000 s"),
        (nothing, SHORT, "odd length", "30 steps, expected 6 to 27"),
    ],
)
def test_damage_drops_its_episode_and_no_other(
    tmp_path: Path, damage: Callable[[Path], object], thresholds: dict[str, Any], reason: str, detail: str
) -> None:
    folder = make_v21(tmp_path / "old")
    assert not clean_lerobot(folder, **OLD)[0].drops
    damage(folder)
    cleaning, _ = clean_lerobot(folder, thresholds=thresholds, **OLD)
    assert {number: drop.reason for number, drop in cleaning.drops.items()} == {1: reason}
    assert detail in cleaning.drops[1].detail
    dataset = open_lerobot(folder, thresholds=thresholds, **OLD)
    assert dataset.cleaning == cleaning.report
    assert [dataset[index].name.split("/")[1] for index in range(len(dataset))] == ["0"] * LENGTHS[0] + ["2"] * LENGTHS[2]


def test_what_is_damaged_can_be_cleaned_where_little_rest_is_taken(tmp_path: Path) -> None:
    folder = make_v21(tmp_path / "old")
    change_rows(folder, 1, lambda row: row.update(timestamp=1.0))
    cleaning, _ = clean_lerobot(folder, rest=2, **OLD)
    assert {number: drop.reason for number, drop in cleaning.drops.items()} == {1: "does not read"}
    dataset = open_lerobot(folder, rest=2, **OLD)
    assert {dataset[index].name.split("/")[1] for index in range(len(dataset))} == {"0", "2"}


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A mixture of a recording whose second episode holds a number that is not finite."""
    record_dataset(tmp_path / "demos", tmp_path / "staging")
    change_rows(tmp_path / "demos", 1, spoil)
    file = tmp_path / "mix.toml"
    file.write_text("[[datasets]]\nsource = 'lerobot'\nfolder = 'demos'\nhorizon = 8\n")
    return file


def test_what_the_command_drops_is_in_no_sample_and_no_quantile(mixture: Path, capsys: Any) -> None:
    (whole,) = read_mixture(mixture).datasets
    assert (whole.cleaning, len(whole)) == (None, sum(LENGTHS))
    assert main(["clean", str(mixture)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1 of 3 episodes are left out" in shown
    assert "broken numbers 1 33.3%" in shown
    stored = (mixture.parent / "demos/meta/vlarig_cleaning.json").read_bytes()

    (dataset,) = read_mixture(mixture).datasets
    assert len(dataset) == LENGTHS[0] + LENGTHS[2]
    assert {task: len(indices) for task, indices in dataset.tasks.items()} == {"lift the cup": 19}
    assert dataset.statistics["test_arm"].actions == statistics_of([numbers(at)[1] for at in (0, 2)], "demos")
    assert main(["inspect", str(mixture), "--samples", "3"]) == 0
    assert "1 of 3" in capsys.readouterr().out

    assert main(["clean", str(mixture), "--workers", "2"]) == 0
    assert (mixture.parent / "demos/meta/vlarig_cleaning.json").read_bytes() == stored


def test_a_cleaning_of_something_else_is_refused(mixture: Path) -> None:
    demos = mixture.parent / "demos"
    main(["clean", str(mixture)])
    entry = mixture.read_text()
    mixture.write_text(entry + "[datasets.thresholds]\nfewest_steps = 9\n")
    with pytest.raises(DataError, match=r"cleaning.json was made with fewest steps 2, and now it is 9; run vlarig data clean"):
        read_mixture(mixture)
    main(["clean", str(mixture)])
    assert len(read_mixture(mixture).datasets[0]) == LENGTHS[0]

    mixture.write_text(entry + "[datasets.thresholds]\nfewest = 9\n")
    with pytest.raises(DataError, match=r"the thresholds of demos: .*fewest"):
        main(["clean", str(mixture)])
    one_camera = entry + "cameras = {'observation.images.ego' = 'ego'}\n[datasets.thresholds]\nfewest_steps = 9\n"
    mixture.write_text(one_camera)
    assert len(read_mixture(mixture).datasets[0]) == LENGTHS[0]  # both were looked at
    main(["clean", str(mixture)])
    mixture.write_text(entry + "[datasets.thresholds]\nfewest_steps = 9\n")
    with pytest.raises(DataError, match=r"was made with cameras .* run vlarig data clean"):
        read_mixture(mixture)

    mixture.write_text(entry)
    file = demos / "meta" / "vlarig_cleaning.json"
    data = json.loads(file.read_text())
    data["made_of"] |= {"fewest_steps": 2, "episodes": 2}
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=r"was made with episodes 2, and now it is 3; run vlarig data clean"):
        read_mixture(mixture)
    file.write_text("{}")
    with pytest.raises(DataError, match=r"vlarig_cleaning.json is not as vlarig writes it"):
        read_mixture(mixture)
    file.unlink()
    assert len(read_mixture(mixture).datasets[0]) == sum(LENGTHS)
    mixture.write_text(entry + "[datasets.thresholds]\nfewest_steps = 9\n")
    with pytest.raises(DataError, match=r"demos has thresholds and is not cleaned; run vlarig data clean on the mixture"):
        read_mixture(mixture)


def test_nothing_left_and_nothing_to_clean_are_said(mixture: Path) -> None:
    mixture.write_text(mixture.read_text() + "[datasets.thresholds]\nfewest_steps = 99\n")
    main(["clean", str(mixture)])
    with pytest.raises(DataError, match=r"cleaning left nothing of \S+demos \(\{'odd length': 3\}\)"):
        read_mixture(mixture)
    mixture.write_text("[[datasets]]\nsource = 'questions'\nfolder = 'x'\n")
    with pytest.raises(DataError, match=r"has no dataset of the source 'lerobot'; the other sources are cleaned where they"):
        main(["clean", str(mixture)])


#: Its actions are where it goes, by the names of its state.
GOES_TO = replace(ROBOT, channels=tuple(Channel(name, "m", "absolute", "base", -9.0, 9.0) for name in ("px", "py")))


def without_actions(folder: Path) -> Path:
    info = json.loads((folder / "meta" / "info.json").read_text())
    del info["features"]["action"]
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    for file in folder.glob("data/*/*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["action"]), file)
    return folder


def test_actions_are_made_of_states(tmp_path: Path) -> None:
    folder = without_actions(make_v21(tmp_path / "old"))
    options: dict[str, Any] = OLD | {"embodiment": GOES_TO, "actions": "from_states"}

    def check(dataset: LeRobotDataset, episodes: tuple[int, ...]) -> None:
        states = [numbers(episode)[0] for episode in episodes]
        places = [(at, frame) for at, part in enumerate(states) for frame in range(len(part) - 1)]  # the last has no next one
        assert len(dataset) == len(places) == sum(map(len, dataset.tasks.values()))
        for index, (at, frame) in enumerate(places):
            assert dataset[index].name == f"old/{episodes[at]}/{frame}"
            np.testing.assert_array_equal(dataset[index].observation["state"], states[at][frame])
            np.testing.assert_array_equal(dataset[index].actions, states[at][1:][frame : frame + 8])
        assert dataset.statistics["test_arm"].actions == statistics_of([part[1:] for part in states], "old")

    check(open_lerobot(folder, **options), (0, 1, 2))
    change_rows(folder, 0, lambda row: row.update({"observation.state": [0.5, 0.5]}))
    cleaning, _ = clean_lerobot(folder, **options)
    assert cleaning.report.counts == {"static": 1}
    check(open_lerobot(folder, **options), (1, 2))


def test_states_that_do_not_tell_the_actions_are_refused_when_it_is_opened(tmp_path: Path) -> None:
    folder = without_actions(make_v21(tmp_path / "old"))
    for options, words in (
        ({}, r"has no feature 'action', it has .*; give actions='from_states' to make them of its states"),
        ({"actions": "from_states"}, r"test_arm: the state has no x, it has px, py; give actions"),
        ({"actions": "from_state"}, r"the actions of \S+ are 'from_state'; did you mean from_states"),
        ({"actions": "from_states", "action_names": ("x", "y", "grip")}, r"is given action_names, and its actions are made of"),
    ):
        with pytest.raises(DataError, match=words):
            open_lerobot(folder, **(OLD | options))
    change_rows(folder, 1, lambda row: row.update(frame_index=row["frame_index"] + (row["frame_index"] > 3)))
    change_rows(folder, 1, lambda row: row.update(timestamp=row["frame_index"] / 10))
    cleaning, _ = clean_lerobot(folder, **(OLD | {"embodiment": GOES_TO, "actions": "from_states"}))
    assert {number: drop.reason for number, drop in cleaning.drops.items()} == {1: "does not read"}
    assert "30 frames that do not follow each other" in cleaning.drops[1].detail
