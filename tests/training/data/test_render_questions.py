"""Rendered questions: right in the picture's own pixels, whatever number of workers, after a kill, and held out from training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.tabletop import layout
from vlarig.harness.runtimes.runtime import Runtime
from vlarig.policies.qwen_vla.conversation import Picture
from vlarig.training.data import render_questions as rendering
from vlarig.training.data.boxes import boxes_in, to_pixels
from vlarig.training.data.errors import DataError
from vlarig.training.data.question_scenes import motion, scene_episode, scene_protocol
from vlarig.training.data.render_questions import RenderOptions, open_questions, render_questions

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


def reds(picture: np.ndarray) -> np.ndarray:
    """``bool[h, w]``: pixels of a red thing, in light or shadow."""
    pixels = picture.astype(float)
    return (pixels[..., 0] > 2.5 * pixels[..., 1]) & (pixels[..., 0] > 2.5 * pixels[..., 2]) & (pixels[..., 0] > 60)


def test_the_box_of_a_red_thing_is_where_the_picture_is_red(options: RenderOptions) -> None:
    (grounding,) = [each for each in open_questions(options.to) if each.family == "spatial_grounding"]
    checked = 0
    for index in range(len(grounding)):
        asked, answered = grounding[index].conversation.turns
        picture, text = asked.content
        if not isinstance(picture, Picture) or not isinstance(text, str) or " red " not in text:
            continue
        red = reds(picture.image)
        height, width = red.shape
        within = np.zeros_like(red)
        for found in boxes_in("".join(map(str, answered.content))):
            left, top, right, bottom = (round(side) for side in to_pixels(found.box, width, height))
            box = red[top:bottom, left:right]
            assert box[:, [0, -1]].any(axis=0).all()  # the thing touches each side of its box
            assert box[[0, -1]].any(axis=1).all()
            within[top:bottom, left:right] = True
        assert "red object" not in text or not (red & ~within).any()
        checked += 1
    assert checked >= 5


def test_what_an_instruction_moves_is_marked_where_the_picture_shows_it(tabletop: Runtime, tmp_path: Path) -> None:
    made = RenderOptions("tabletop", SCENES, tmp_path / "asked", questions=0, instructions=2, size=128, workers=1)
    done = render_questions(made)
    assert set(done.questions) == {"instruction"}
    (grounding,) = open_questions(made.to)
    hits, misses = [], []
    for index in range(len(grounding)):
        prompt, *seen = grounding[index].conversation.turns[0].content
        assert isinstance(prompt, str)
        task = prompt.partition("to execute the following task: ")[2]
        assert "The robot is Franka Panda with single arm." in prompt
        assert [each.view for each in seen if isinstance(each, Picture)] == ["ego", "cam_left_wrist"]
        _, moved, goal = task.split(" the ")
        for picture in seen:
            assert isinstance(picture, Picture)
            assert picture.image.shape == (128, 128, 3)
            for mark in picture.marks:
                assert mark.role is None or {"object": moved, "goal": goal}[mark.role].startswith(mark.name)
                is_red = bool(reds(picture.image)[int(mark.y * 128), int(mark.x * 128)])
                hits += [is_red] if mark.name.startswith("red") else []
                misses += [is_red] if mark.name.startswith(("blue", "green", "yellow")) else []
    assert len(hits) > 20
    assert np.mean(hits) > 0.9  # the middle of a box is seldom beside the thing
    assert np.mean(misses) < 0.05  # or behind another


def test_pictures_show_what_the_families_expect(options: RenderOptions) -> None:
    datasets = open_questions(options.to)
    assert [each.family for each in datasets] == ["general_vision_language", "spatial_grounding"]
    counts = json.loads((options.to / "shards" / "00000.json").read_text())["questions"]
    assert {"where", "every", "side", "depth", "count", "colour", "exists", "caption"} <= set(counts)
    (picture,) = datasets[0][0].conversation.seen()
    assert isinstance(picture, Picture)
    assert (picture.image.shape, picture.view) == ((128, 128, 3), "ego")


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
    with pytest.raises(DataError, match="pictures of 0 x 0 pixels were requested; expected 32 to 2048"):
        RenderOptions("tabletop", 1, tmp_path, size=0)
    with pytest.raises(DataError, match="has no view 'top'; it has ego, cam_left_wrist"):
        scene_protocol(load_suite("tabletop"), ("top",))
