"""What experts say that a step is about, beside what comes out, in recordings of the real simulators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from vlarig.envs.keypoints import NAMES
from vlarig.training.data.lerobot import open_lerobot


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "suite", "tasks"),
    [
        ("tabletop", "tabletop", ["place_beside", "stack", "push_to"]),
        ("simpler", "simpler_widowx", ["put_eggplant_in_basket", "stack_green_on_yellow"]),
        ("libero", "libero_object", ["pick_up_the_milk_and_place_it_in_the_basket"]),
    ],
)
def test_what_is_moved_ends_where_it_is_said_to_belong(
    request: pytest.FixtureRequest, cli: Any, tmp_path: Path, runtime: str, suite: str, tasks: list[str]
) -> None:
    request.getfixturevalue(runtime)
    done = cli("data", "record", suite, "--policy", "expert", "--tasks", *tasks, "--episodes", "1", "--to", tmp_path / "demos")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = pq.read_table(tmp_path / "demos/data/chunk-000/file-000.parquet").to_pydict()
    numbers, episodes = np.array(rows["keypoints"]), np.array(rows["episode_index"])
    dataset = open_lerobot(tmp_path / "demos", horizon=4)
    for episode in range(len(tasks)):
        steps = dict(zip(NAMES, numbers[episodes == episode].T, strict=True))
        moved, goal, place = (np.stack([steps[f"{name}_{axis}"] for axis in "xyz"], 1) for name in ("object", "goal", "place"))
        began, ended = (float(np.linalg.norm(moved[step, :2] - place[step, :2])) for step in (0, -1))
        assert ended < 0.05 < began, (tasks[episode], began, ended)
        assert np.linalg.norm(goal[-1] - place[-1]) < 0.2
        hands = np.array(rows["observation.state"])[episodes == episode, :3]
        assert np.linalg.norm(hands - moved, axis=1).min() < 0.06, "they are in another frame than the state"
        assert steps["pushed"][0] == (tasks[episode] == "push_to")
        first = dataset[int(np.flatnonzero(episodes == episode)[3])]
        assert first.keypoints is not None and np.array_equal(
            first.keypoints, numbers[episodes == episode][3].astype(np.float32)
        )
    looked = cli(
        "data", "render-questions", suite, "--recording", tmp_path / "demos", "--scenes", "9", "--frames", "12",
        "--instructions", "4", "--questions", "0", "--size", "128", "--to", tmp_path / "looked",
    )  # fmt: skip
    assert looked.returncode == 0, looked.stdout + looked.stderr
    own, made_up = ends_by_object(tmp_path / "looked")
    shared = own.keys() & made_up.keys()
    assert shared or suite == "libero_object"  # where milk may be nothing that a made-up task moves
    for frame in shared:
        assert np.linalg.norm(np.array(own[frame][:3]) - made_up[frame][:3]) < 0.3, "labels of images are in another frame"
        assert None not in own[frame][:18], "a recording's own task is known"


def ends_by_object(folder: Path) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], list[float]]]:
    """What prompts' ends are to hold (dm), by step and the object that is moved: of the recording's own tasks, and of made-up ones."""
    own: dict[tuple[str, str], list[float]] = {}
    made_up: dict[tuple[str, str], list[float]] = {}
    for line in (folder / "spatial_grounding/00000.jsonl").read_text().splitlines():
        record = json.loads(line)
        frame, _, turn = record["id"].rsplit("/", 2)
        for part in record["messages"][0]["content"]:
            for mark in part.get("marks", []):
                if mark.get("role") == "object":
                    (own if turn == "4" else made_up)[frame, mark["name"]] = record["ends"]
    return own, made_up
