"""VLN-CE's data sets as a user has them: read, damaged in a part, recorded and learned from, and a table of what came out."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bundles import bundle_folder

from vlarig.benchmarks.registry import load_suite
from vlarig.benchmarks.vlnce.episodes import LANGUAGES, read_objects, read_r2r, read_rxr
from vlarig.envs.errors import VlarigError
from vlarig.harness.evaluator import evaluate
from vlarig.results.ledger import Ledger
from vlarig.training.data.frames import read_frames
from vlarig.training.data.navigation import NavigationDataset

R2R = "data/datasets/R2R_VLNCE_v1-3_preprocessed/val_unseen"
RXR = "data/datasets/RxR_VLNCE_v0/val_unseen"
HOUSES = "data/scene_datasets/mp3d"


def copied(tmp_path: Path) -> Path:
    """A copy of the stand-ins, which may be changed."""
    folder = tmp_path / "assets" / "vlnce_r2r"
    shutil.copytree(bundle_folder("vlnce_r2r"), folder)
    return folder


def rewrite(file: Path, change) -> None:
    """Change a data set's file."""
    data = json.loads(gzip.decompress(file.read_bytes()))
    file.write_bytes(gzip.compress(json.dumps(change(data) or data).encode()))


@pytest.mark.slow
def test_a_sweep_goes_on_where_houses_and_episodes_are_broken(vlnce, cli, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / HOUSES / "proc_house_02" / "proc_house_02.glb").unlink()
    mesh = folder / HOUSES / "proc_house_03" / "proc_house_03.navmesh"
    mesh.write_bytes(mesh.read_bytes()[:-100])

    def lift(data: dict) -> None:
        first = next(each for each in data["episodes"] if "proc_house_01" in each["scene_id"])
        first["start_position"][1] += 30

    rewrite(folder / R2R / "val_unseen.json.gz", lift)
    run = tmp_path / "run"
    done = cli("sweep", "r2r_val_unseen", "--policy", "expert", "--run", run, VLARIG_ASSETS=folder.parent)
    read = read_r2r(folder, "vlnce_r2r", "val_unseen")
    sound = sum("proc_house_01" in each["scene"] for each in read.values()) - 1
    assert done.returncode != 0 and "Traceback" not in done.stdout + done.stderr
    assert f"incomplete: {sound} of 60 episodes finished, {60 - sound} errors, 0 missing" in " ".join(done.stdout.split())
    with Ledger.open_read_only(run) as ledger:
        said = {attempt.key: attempt.message for attempt in ledger.attempts()}
    assert len(said) == 60 - sound and all(attempt.count("\n") == 0 for attempt in said.values())
    for sentence in (
        "proc_house_02.glb cannot be read (No such file or directory); put the scan's own .glb there",
        "proc_house_03.navmesh is no intact .navmesh of habitat's (it has",
        "which is not on the walkable surface",
    ):
        assert any(sentence in message for message in said.values()), sentence
    assert "100.0" in cli("table", run).stdout  # of those that were played


def test_what_is_no_data_set_is_one_sentence(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    file = folder / R2R / "val_unseen.json.gz"
    whole = file.read_bytes()
    for damage in (whole[:500], gzip.compress(b"[]"), gzip.compress(b'{"episodes": []}')):
        file.write_bytes(damage)
        with pytest.raises(VlarigError, match="is not of VLN-CE's format"):
            read_r2r(folder, "vlnce_r2r", "val_unseen")
    for member, value, says in (
        ("scene_id", "../../etc/passwd", "has the scene '../../etc/passwd', expected a path below data/scene_datasets"),
        ("start_position", [1, 2], r"array` of length 3 - at `\$.episodes\[3\].start_position`"),
        ("goals", None, r"got `null` - at `\$.episodes\[3\].goals`"),
        ("episode_id", "a", r"got `str` - at `\$.episodes\[3\].episode_id`"),
    ):
        file.write_bytes(whole)
        rewrite(file, lambda data: data["episodes"][3].update({member: value}))
        with pytest.raises(VlarigError, match=says):
            read_r2r(folder, "vlnce_r2r", "val_unseen")
    file.unlink()
    with pytest.raises(VlarigError, match=r"val_unseen.json.gz is missing; docs/vlnce.md says where"):
        read_r2r(folder, "vlnce_r2r", "val_unseen")


def test_languages_followers_and_training_are_read_where_they_are(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    guides = read_rxr(folder, "vlnce_rxr", "val_unseen", "guide")
    assert {language: len(states) for language, states in guides.items()} == dict.fromkeys(LANGUAGES, 6)
    suite = load_suite("rxr_val_unseen")
    read = suite.read_states({"vlnce_rxr": folder})
    assert not read.states.get("follower_en-US")
    for kind in ("", "_gt"):
        shutil.copy(folder / RXR / f"val_unseen_guide{kind}.json.gz", folder / RXR / f"val_unseen_follower{kind}.json.gz")
    assert len(suite.read_states({"vlnce_rxr": folder}).states["follower_en-US"]) == 6
    r2r = load_suite("r2r_val_unseen")
    training = r2r.read_states({"vlnce_r2r": folder}).training
    with pytest.raises(VlarigError, match=r"train.json.gz is missing"):
        training(r2r.tasks[0], 0, r2r.protocols[0])
    shutil.copytree(folder / R2R, folder / R2R / ".." / "train")
    for file in (folder / R2R / ".." / "train").iterdir():
        file.rename(file.with_name(file.name.replace("val_unseen", "train")))
    first, again = (training(r2r.tasks[0], number, r2r.protocols[0]) for number in (0, 60))
    assert first == again and first["kind"] == "instruction_following"


def test_objects_of_a_matterport_house_are_where_its_list_says(tmp_path: Path) -> None:
    house = tmp_path / "scan" / "scan.house"
    house.parent.mkdir()
    house.write_text(
        "ASCII 1.1\nC 0 5 dining#chair 3 chair 0 0 0 0 0\nC 1 1 wall 1 wall 0 0 0 0 0\n"
        "O 0 0 0 1.5 2.5 0.4 1 0 0 0 1 0 .3 .3 .4 0 0 0 0 0 0 0 0\nO 1 0 1 0 0 0 1 0 0 0 1 0 1 1 1 0 0 0 0 0 0 0 0\n"
        "O 2 0 -1 0 0 0 1 0 0 0 1 0 1 1 1 0 0 0 0 0 0 0 0\n"
    )
    assert read_objects([house.with_suffix(".glb")]) == {"mp3d/scan/scan.glb": {"chair": [[1.5, 0.4, -2.5]]}}


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["r2r_val_unseen", "vln_object_search", "vln_target_tracking"])
def test_recorded_walks_are_samples_to_learn_from(vlnce, cli, tmp_path: Path, suite: str) -> None:
    walks = tmp_path / "walks"
    done = cli(
        "data", "record", suite, "--policy", "expert", "--initial-states", "evaluation", "--episodes", "2", "--to", walks
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "mixture.toml").write_text(f'[[datasets]]\nsource = "walks"\nfolder = "{walks}"\n')
    prepared = cli("data", "prepare", tmp_path / "mixture.toml")
    assert prepared.returncode == 0, prepared.stdout + prepared.stderr
    data = NavigationDataset(walks)
    assert len(data.walks) == 2 and data.walks[0].kind == load_suite(suite).walks
    for walk in data.walks:
        steps = np.diff(np.array(walk.poses)[:, :2], axis=0)
        assert walk.poses[0] == (0.0, 0.0, 0.0) and np.linalg.norm(steps, axis=1).max() < 0.3  # a step, and what a wall adds
    sample = data[len(data.walks[0].poses) - 1]
    assert np.abs(sample.actions).max() == 0 or suite == "vln_target_tracking"  # an arrival
    assert sample.observation["images"]["ego"].shape[0] == 8
    assert len(read_frames(walks / data.walks[1].frames, [0])) == 1


@pytest.mark.slow
def test_table_7_and_pages_have_a_row_of_ours(vlnce, cli, tmp_path: Path) -> None:
    runs = [tmp_path / suite for suite in ("r2r_val_unseen", "rxr_val_unseen")]
    for run in runs:
        evaluate(run.name, "expert", run=run, episodes=2)
    done = cli("table", *runs, "--layout", "table7", "--format", "csv")
    assert "100.0" in next(line for line in done.stdout.splitlines() if "expert" in line)
    done = cli("page", *runs, "--out", tmp_path / "site")
    assert "nDTW" in (tmp_path / "site" / "index.html").read_text(), done.stderr
