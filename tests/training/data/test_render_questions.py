"""Rendered questions: right in the image's own pixels, whatever number of workers, after a kill, and held out from training."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.runtimes.runtime import Runtime
from vlarig.envs.tabletop import layout
from vlarig.harness.cli import main as vlarig
from vlarig.policies.qwen_vla.conversation import Still
from vlarig.results.ledger import Ledger
from vlarig.training.data import question_scenes
from vlarig.training.data import render_questions as rendering
from vlarig.training.data.boxes import boxes_in, to_pixels
from vlarig.training.data.errors import DataError
from vlarig.training.data.question_scenes import RecordedScenes, motion, scene_episode, scene_protocol
from vlarig.training.data.render_options import RenderOptions
from vlarig.training.data.render_questions import open_questions, render_questions

SCENES = 24
RED, OTHERS = layout.OBJECT_COLOURS["red"], [rgb for name, rgb in layout.OBJECT_COLOURS.items() if name != "red"]


def digest(folder: Path) -> str:
    """Of all files that data are read from."""
    hashed = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        hashed.update(f"{file.relative_to(folder)} ".encode() + file.read_bytes())
    return hashed.hexdigest()


@pytest.fixture(scope="module")
def shards_of_ten() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "SHARD", 10)
        yield


@pytest.fixture(scope="module")
def options(tabletop: Runtime, shards_of_ten: None, tmp_path_factory: pytest.TempPathFactory) -> RenderOptions:
    made = RenderOptions("tabletop", SCENES, tmp_path_factory.mktemp("rendered") / "questions", questions=9, workers=1)
    done = render_questions(made)
    assert done.scenes == SCENES
    return made


def reds(image: np.ndarray) -> np.ndarray:
    """``bool[h, w]``: pixels of a red object, in light or shadow."""
    pixels = image.astype(float)
    return (pixels[..., 0] > 2.5 * pixels[..., 1]) & (pixels[..., 0] > 2.5 * pixels[..., 2]) & (pixels[..., 0] > 60)


@pytest.mark.slow
def test_the_box_of_a_red_thing_is_where_the_image_is_red(options: RenderOptions) -> None:
    (grounding,) = [each for each in open_questions(options.to) if each.family == "spatial_grounding"]
    checked = 0
    for index in range(len(grounding)):
        asked, answered = grounding[index].conversation.turns
        still, text = asked.content
        if not isinstance(still, Still) or not isinstance(text, str) or " red " not in text:
            continue
        red = reds(still.image)
        height, width = red.shape
        within = np.zeros_like(red)
        for found in boxes_in("".join(map(str, answered.content))):
            left, top, right, bottom = (round(side) for side in to_pixels(found.box, width, height))
            box = red[top:bottom, left:right]
            assert box[:, [0, -1]].any(axis=0).all()  # the object touches each side of its box
            assert box[[0, -1]].any(axis=1).all()
            within[top:bottom, left:right] = True
        assert "red object" not in text or not (red & ~within).any()
        checked += 1
    assert checked >= 5


@pytest.mark.slow
def test_what_an_instruction_moves_is_marked_where_the_image_shows_it(tabletop: Runtime, tmp_path: Path) -> None:
    made = RenderOptions("tabletop", SCENES, tmp_path / "asked", questions=0, instructions=2, size=128, workers=1)
    done = render_questions(made)
    assert set(done.questions) == {"instruction"}
    (grounding,) = open_questions(made.to)
    hits, misses, understood = [], [], 0
    for index in range(len(grounding)):
        prompt, *seen = grounding[index].conversation.turns[0].content
        assert isinstance(prompt, str)
        task = prompt.partition("to execute the following task: ")[2]
        assert "The robot is Franka Panda with single arm." in prompt
        assert [each.view for each in seen if isinstance(each, Still)] == ["ego", "cam_left_wrist"]
        task = task.removesuffix(".")
        for still in seen:
            assert isinstance(still, Still)
            assert still.image.shape == (128, 128, 3)
            for mark in still.marks:
                assert mark.role != "goal" or task.endswith(f" {mark.name}")
                assert mark.role != "object" or f" {mark.name} " in task
                is_red = bool(reds(still.image)[int(mark.y * 128), int(mark.x * 128)])
                hits += [is_red] if mark.name.startswith("red") else []
                misses += [is_red] if mark.name.startswith(("blue", "green", "yellow")) else []
        ends = np.array(grounding[index].conversation.ends)
        assert np.isfinite(ends[:5]).all() and np.isfinite(ends[9:12]).all(), "what is moved is known in both frames"
        if np.isfinite(ends[:9]).all():  # the expert understands the words
            beside = {"left": -0.85, "right": 0.85}.get(
                next((side for side in ("left", "right") if f" {side} " in task), ""), 0.0
            )
            np.testing.assert_allclose(ends[6:8] - ends[3:5], [0, beside], atol=1e-3)  # in dm
            understood += 1
    assert understood > 10
    assert len(hits) > 20
    assert np.mean(hits) > 0.9  # the centre of a box is seldom beside the object
    assert np.mean(misses) < 0.05  # or behind another


@pytest.mark.slow
def test_images_show_what_the_families_expect(options: RenderOptions) -> None:
    datasets = open_questions(options.to)
    assert [each.family for each in datasets] == ["general_vision_language", "spatial_grounding"]
    counts = json.loads((options.to / "shards" / "00000.json").read_text())["questions"]
    assert {"where", "every", "side", "depth", "count", "colour", "exists", "caption"} <= set(counts)
    (still,) = datasets[0][0].conversation.seen()
    assert isinstance(still, Still)
    assert (still.image.shape, still.view) == ((128, 128, 3), "ego")


@pytest.mark.slow
def test_a_new_scene_has_what_its_own_task_is_about(simpler: Runtime, tmp_path: Path) -> None:
    """The first scenes are of the spoon, each turned another way. Of made-up tasks nothing says how the hand is to turn."""
    scenes = RenderOptions("simpler_widowx", 3, tmp_path / "scenes", questions=0, instructions=1, size=128, workers=1)
    render_questions(scenes)
    (grounding,) = open_questions(scenes.to)
    ends = np.array([grounding[index].conversation.ends for index in range(len(grounding))])
    ends = ends[np.isfinite(ends).all(axis=1)]
    assert len(ends) == 3
    np.testing.assert_allclose(ends[:, 3:5], ends[:, 6:8], atol=1e-3)  # a spoon belongs on the towel's centre
    np.testing.assert_allclose(np.hypot(ends[:, 18], ends[:, 19]), 1, atol=1e-3)  # a spoon is long
    assert np.ptp(ends[:, 18:20], axis=0).min() > 0.1


@pytest.fixture(scope="module")
def recording(tabletop: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demonstrations of one task."""
    folder = tmp_path_factory.mktemp("recorded") / "demos"
    words = ["tabletop", "--policy", "expert", "--episodes", "3", "--tasks", "pick_into", "--workers", "1", "--num-envs", "1"]
    vlarig(["data", "record", *words, "--to", str(folder)])
    return folder


@pytest.mark.slow
def test_demonstrations_are_looked_at_on_their_way(recording: Path, tmp_path: Path) -> None:
    """The suite's own task is among the prompts; what it moves is seen on the table, and later in the air."""
    looked = RenderOptions(
        "tabletop", 3, tmp_path / "looked", questions=0, instructions=1, size=128, recording=recording, frames=12, workers=1
    )
    render_questions(looked)
    (grounding,) = open_questions(looked.to)
    with Ledger.open_read_only(recording / "run") as ledger:
        texts = [record.instruction for record in ledger.records() if record.success]
    heights: dict[str, list[float]] = {}
    for index in range(len(grounding)):
        sample = grounding[index]
        prompt, still, *_ = sample.conversation.turns[0].content
        assert isinstance(prompt, str) and isinstance(still, Still)
        own = [text for text in texts if f"task: {text}." in prompt]
        assert not own or np.isfinite(sample.conversation.ends).all()  # by the recording's keypoints
        for mark in still.marks:
            if own and mark.role == "object":
                assert f" {mark.name} " in own[0]
                heights.setdefault(own[0], []).append(mark.y)
    assert set(heights) == set(texts)
    assert all(len(seen) > 4 and max(seen) - min(seen) > 0.04 for seen in heights.values())  # of the image: it is lifted
    (marker,) = (json.loads(path.read_text()) for path in (looked.to / "shards").glob("*.json"))
    assert marker["scenes"] == len(texts)
    again = replace(looked, to=tmp_path / "again", scenes=1)
    render_questions(again)
    assert (again.to / "images" / "00000" / "000000-7-ego.png").read_bytes() == (
        looked.to / "images" / "00000" / "000000-7-ego.png"
    ).read_bytes()


@pytest.mark.slow
def test_the_first_demonstrations_are_of_all_tasks(tabletop: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["tabletop", "--policy", "expert", "--episodes", "2", "--tasks", "push_to", "stack", "--workers", "1"]
    vlarig(["data", "record", *words, "--to", str(tmp_path / "demos")])
    monkeypatch.setattr(question_scenes, "BLOCK", 1)
    scenes = [RecordedScenes(load_suite("tabletop"), tmp_path / "demos", (), 128, 0, 1, count) for count in (2, 4)]
    first, every = ([source[number].episode.task for number in range(len(source))] for source in scenes)
    assert sorted(first) == ["push_to", "stack"] and every == first * 2


@pytest.mark.slow
def test_demonstrations_are_not_looked_at_while_they_rest(recording: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(recording, tmp_path / "demos"))
    with Ledger.open_read_only(folder / "run") as ledger:
        records = list(ledger.each_record(with_actions=True))
    resting = {record.initial_state: record.steps - 5 for record in records}
    for path in (folder / "run").glob("ledger.sqlite*"):
        path.unlink()
    with Ledger.create(folder / "run") as ledger:
        for record in records:
            actions = record.actions.copy()
            actions[resting[record.initial_state] :] = actions[-1]
            ledger.write_episode(replace(record, actions=actions))
    scenes = RecordedScenes(load_suite("tabletop"), folder, (), 128, 0, 1000, 3)
    for number in range(len(scenes)):
        scene = scenes[number]
        assert scene.stops == tuple(range(resting[scene.episode.initial_state] + 1))


def test_what_is_no_recording_of_the_suite_is_refused(recording: Path, tmp_path: Path) -> None:
    looked = RenderOptions("tabletop", 3, tmp_path / "looked", instructions=1, recording=tmp_path)
    with pytest.raises(DataError, match="holds no folder 'run'; name a folder that vlarig data record wrote"):
        render_questions(looked)
    with pytest.raises(DataError, match="is no recording of the suite 'libero_spatial'"):
        render_questions(replace(looked, suite="libero_spatial", recording=recording))
    with pytest.raises(DataError, match="expected 1 without a recording"):
        replace(looked, recording=None, frames=2)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_other_workers_to_the_same_bytes(options: RenderOptions, tmp_path: Path) -> None:
    again = replace(options, to=tmp_path / "again", workers=2)

    def die(there: int, wanted: int) -> None:
        if there == wanted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_questions(replace(again, scenes=13), die)
    assert render_questions(again).scenes == SCENES - 10  # the first shard was whole, the second has grown
    assert digest(again.to) == digest(options.to)
    assert render_questions(again).scenes == 0


def test_other_options_do_not_go_on_in_the_folder(options: RenderOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was rendered with seed 0, not 1; name another folder"):
        render_questions(replace(options, seed=1))
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(DataError, match=r"holds other files and no questions.json"):
        render_questions(replace(options, to=tmp_path))
    with pytest.raises(DataError, match="holds no rendered questions"):
        open_questions(tmp_path)


@pytest.mark.parametrize("suite", ["tabletop", "libero_spatial", "simpler_widowx"])
def test_held_out_scenes_are_none_of_the_training_scenes(suite: str) -> None:
    loaded = load_suite(suite)
    protocol = scene_protocol(loaded)

    def scenes(split, count: int) -> set[str]:
        episodes = [scene_episode(loaded, protocol, split, 0, number) for number in range(count)]
        return {json.dumps([each.task, each.variant, each.initial_state, each.payload], sort_keys=True) for each in episodes}

    train, held_out = scenes("train", 1000), scenes("held_out", 200)
    assert not train & held_out
    assert len(train) == 1000
    assert len(held_out) >= 90  # SimplerEnv's tasks have 24 initial states each


def test_a_scene_and_its_motion_are_functions_of_their_number() -> None:
    suite = load_suite("tabletop")
    protocol = scene_protocol(suite, ("ego",), 96)
    assert [(each.view, each.height, each.width) for each in protocol.cameras] == [("ego", 96, 96)]
    assert scene_episode(suite, protocol, "train", 1, 5) == scene_episode(suite, protocol, "train", 1, 5)
    moves = [motion(suite, "train", 0, number, 16) for number in range(200)]
    assert {len(each) for each in moves} == set(range(17))
    assert np.array_equal(moves[3], motion(suite, "train", 0, 3, 16))


def test_a_wrong_request_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0 scenes of the split 'train'"):
        RenderOptions("tabletop", 0, tmp_path)
    with pytest.raises(DataError, match="images of 0 x 0 pixels were requested; expected 32 to 2048"):
        RenderOptions("tabletop", 1, tmp_path, size=0)
    with pytest.raises(DataError, match="has no view 'top'; it has ego, cam_left_wrist"):
        scene_protocol(load_suite("tabletop"), ("top",))
