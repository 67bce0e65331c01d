"""Questions on scenes: every answer follows from the scene, references fit one object, and no answer is the usual one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from unrendered_scenes import COLOURS, SHAPES, sampled, scene_object

from vlarig.benchmarks.captions import DIMENSIONS
from vlarig.envs.api import SceneObject
from vlarig.training.data.boxes import boxes_in, to_thousandths
from vlarig.training.data.instructions import _WORDINGS, EMPTY, instruction, own_task
from vlarig.training.data.questions import FAMILY_OF, Question, View, questions

MANY = 800


def asked(seed: int, count: int = 9) -> tuple[View, list[Question]]:
    view = sampled(seed)
    return view, questions(view, np.random.default_rng(seed), count)


@cache
def everything() -> list[tuple[View, Question]]:
    """The questions on many scenes; other workers of pytest import this file, too, without need of them."""
    return [(view, question) for view, found in map(asked, range(MANY)) for question in found]


def of(kind: str) -> list[tuple[View, Question]]:
    found = [(view, question) for view, question in everything() if question.kind == kind]
    assert len(found) > 50
    return found


def fitting(view: View, words: str) -> list[SceneObject]:
    """The objects that words such as ``red cubes`` or ``yellow object`` fit."""
    said = set(words.rstrip("?.").replace("cubes", "cube").replace("cylinders", "cylinder").split())
    colours, kinds = said & {*COLOURS, "orange", "pink", "cyan"}, said & {*SHAPES}
    return [each for each in view.objects if colours <= {each.colour} and kinds <= {each.kind}]


def the(view: View, words: str) -> SceneObject:
    (found,) = fitting(view, words)
    return found


def test_kinds_are_all_different_and_as_many_as_wanted_at_most() -> None:
    for seed in range(50):
        kinds = [question.kind for question in asked(seed, 3)[1]]
        assert len(kinds) == len(set(kinds)) <= 3
    assert {question.kind for _, question in everything()} == set(FAMILY_OF) - {"instruction"}


def test_a_scene_and_a_seed_give_the_same_questions() -> None:
    assert asked(7) == asked(7)
    view = sampled(7)
    assert questions(view, np.random.default_rng(1), 9) != questions(view, np.random.default_rng(2), 9)


def test_a_place_is_the_box_of_the_only_thing_that_fits() -> None:
    for view, question in of("where"):
        (found,) = boxes_in(question.answer)
        (named,) = fitting(view, question.text.split(". Output")[0].split("? Output")[0])
        assert found.box == to_thousandths(named.box, 128, 128)
        assert named.visible == 1.0


def test_every_thing_that_fits_has_its_box() -> None:
    for view, question in of("every"):
        named = fitting(view, question.text.partition(". ")[0])
        expected = sorted(tuple(to_thousandths(each.box, 128, 128)) for each in named)
        assert sorted(each.box for each in boxes_in(question.answer)) == expected


def test_left_is_left_in_the_image() -> None:
    for view, question in of("side"):
        if question.text.startswith("Is the "):
            first, second = question.text.removeprefix("Is the ").split(" to the left or to the right of the ")
        else:
            rest = question.text.removeprefix("On which side of the ").removesuffix(", left or right?")
            second, first = rest.split(" is the ")
        assert (the(view, first).box[0] < the(view, second).box[0]) == (question.answer == "left")


def test_in_front_is_nearer_to_the_camera() -> None:
    for view, question in of("depth"):
        first, second = question.text.removeprefix("Seen from the camera, is the ").split(" in front of or behind the ")
        assert (the(view, first).depth < the(view, second).depth) == (question.answer == "in front")


def test_the_furthest_thing_is_named() -> None:
    for view, question in of("extreme"):
        furthest = (min if "left" in question.text else max)(view.objects, key=lambda each: each.box[0])
        assert question.answer == furthest.name


def test_numbers_count_and_leave_out_what_is_in_doubt() -> None:
    for view, question in of("count"):
        words = question.text.removeprefix("How many ").removeprefix("Count the ").split(" are ")[0].split(" do ")[0]
        found = fitting(view, words)
        assert question.answer == str(len(found))
        assert all(each.visible == 1.0 for each in found)


def test_colours_are_those_of_the_thing() -> None:
    for view, question in of("colour"):
        kind = next(each for each in SHAPES if each in question.text)
        same = [each for each in view.objects if each.kind == kind]
        if "furthest" in question.text:
            same = [(min if "left" in question.text else max)(same, key=lambda each: each.box[0])]
        assert [each.colour for each in same] == [question.answer]


def test_yes_is_there_and_no_is_not() -> None:
    for view, question in of("exists"):
        assert bool(fitting(view, question.text)) == (question.answer == "yes")


def test_a_caption_says_all_that_is_clear_and_nothing_else() -> None:
    for view, question in of("caption"):
        clear = {each.name for each in view.objects if each.visible == 1.0}
        assert set(question.facts["object recognition"]) == clear
        assert set(question.facts) <= set(DIMENSIONS)
        assert question.answer.count(" at the ") == sum(each.visible == 1.0 for each in view.objects)
        assert all(name in question.answer for name in clear)


@pytest.mark.parametrize(
    ("kind", "words"), [("side", ["left", "right"]), ("depth", ["behind", "in front"]), ("exists", ["no", "yes"])]
)
def test_two_answers_are_equally_frequent(kind, words) -> None:
    counts = Counter(question.answer for _, question in of(kind))
    assert sorted(counts) == words
    share = counts[words[0]] / counts.total()
    assert abs(share - 0.5) < 2.6 * 0.5 / np.sqrt(counts.total())


def test_no_number_and_no_colour_is_the_usual_answer() -> None:
    numbers = Counter(question.answer for _, question in of("count"))
    assert {"0", "1", "2"} <= set(numbers)
    assert max(numbers.values()) < 0.6 * numbers.total()
    colours = Counter(question.answer for _, question in of("colour"))
    assert set(colours) == set(COLOURS)
    assert max(colours.values()) < 0.3 * colours.total()


def test_twins_are_never_referred_to_alone() -> None:
    twins = View((scene_object("red cube", (10, 10, 20, 20)), scene_object("red cube", (60, 10, 70, 20))), 128, 128)
    kinds = {question.kind for seed in range(30) for question in questions(twins, np.random.default_rng(seed), 9)}
    assert kinds <= {"every", "count", "exists", "caption", "colour"}


def test_a_scene_without_colours_is_asked_by_its_nouns() -> None:
    view = View((scene_object("carrot", (10, 10, 30, 20)), scene_object("plate", (60, 10, 90, 40), depth=0.8)), 128, 128)
    found = [question for seed in range(30) for question in questions(view, np.random.default_rng(seed), 9)]
    assert "colour" not in {question.kind for question in found}
    assert {question.answer for question in found if question.kind == "extreme"} == {"carrot", "plate"}
    assert {question.answer for question in found if question.kind == "exists"} == {"yes", "no"}


def test_an_empty_scene_has_no_question() -> None:
    assert questions(View((), 128, 128), np.random.default_rng(0), 9) == []


def test_an_instruction_marks_what_it_names_in_every_view() -> None:
    checked = 0
    for seed in range(100):
        first, second = sampled(seed), sampled(seed + 1000)
        task = instruction({"ego": first, "cam_left_wrist": second}, np.random.default_rng(seed))
        if task is None:
            names = Counter(each.name for each in first.objects)
            assert sum(names[each.name] == 1 for each in first.clear) < 2
            continue
        moved, goal = boxes_in(task.answer)
        before, _, after = task.text.partition(moved.label)
        assert after.endswith(f" {goal.label}")
        assert before.endswith(" the ") == after.endswith(f" the {goal.label}")
        for view, marks in ((first, task.marks["ego"]), (second, task.marks["cam_left_wrist"])):
            for name, (x, y), role in marks:
                if name == "nothing":
                    boxes = [to_thousandths(each.box, view.width, view.height) for each in view.objects]
                    assert not any(
                        box[0] - EMPTY <= x <= box[2] + EMPTY and box[1] - EMPTY <= y <= box[3] + EMPTY for box in boxes
                    )
                    continue
                at = [each for each in view.clear if (int(view.across(each) * 1000), int(view.down(each) * 1000)) == (x, y)]
                assert name in {each.name for each in at}
                assert role == {moved.label: "object", goal.label: "goal"}.get(name)
                checked += 1
        assert [mark.role for mark in task.marks["ego"]][:2] == ["object", "goal"]
    assert checked > 200


def test_what_nothing_is_put_on_is_not_moved() -> None:
    objects = (
        scene_object("red tray", (0, 0, 20, 20)),
        scene_object("blue cube", (40, 40, 60, 60)),
        scene_object("cyan zone", (70, 70, 90, 90)),
    )
    tasks = [instruction({"ego": View(objects, 100, 100)}, np.random.default_rng(seed)) for seed in range(100)]
    texts = [task.text.replace(" the ", " ") for task in tasks if task]
    assert all(" blue cube " in text for text in texts)
    assert {text.partition(" blue cube ")[2] for text in texts} == {
        *(f"{how} red tray" for how in ("in", "into", "and place it in")),
        *(f"{how} cyan zone" for how in ("into", "to", "on")),
    }
    assert instruction({"ego": View(objects[:1], 100, 100)}, np.random.default_rng(0)) is None


def test_a_suite_s_own_task_marks_what_the_simulator_says_it_is_about() -> None:
    """One of two red cubes, and one that is hidden by more than half: names would not do."""
    tray = replace(scene_object("white tray", (60, 60, 90, 90)), role="goal")
    cubes = (
        scene_object("red cube", (0, 0, 10, 10)),
        replace(scene_object("red cube", (20, 20, 30, 30)), role="object", visible=0.3),
    )
    views = {"ego": View((tray, *cubes), 100, 100), "cam_left_wrist": View((cubes[0],), 100, 100)}
    task = own_task(views, "put the other red cube in the white tray", np.random.default_rng(0))
    assert task is not None
    assert task.text == "put the other red cube in the white tray"
    assert [(name, role) for name, _, role in task.marks["ego"] if name != "nothing"] == [
        ("red cube", "object"),
        ("white tray", "goal"),
        ("red cube", None),
    ]
    assert [mark.point for mark in task.marks["ego"]][:2] == [(250, 250), (750, 750)]
    assert [mark.role for mark in task.marks["cam_left_wrist"]] == [None] * len(task.marks["cam_left_wrist"])
    assert [each.label for each in boxes_in(task.answer)] == ["white tray"]
    assert own_task({"ego": View((cubes[0],), 100, 100)}, "look", np.random.default_rng(0)) is None


def test_no_wording_is_one_of_the_held_out_paraphrases() -> None:
    """Their verbs and turns are for evaluation alone."""
    taught = {word for wordings in _WORDINGS.values() for wording in wordings for word in wording.split()}
    assert not taught & {"drop", "belongs", "over", "leave", "set", "should", "carry", "lift", "slide", "shove", "begin"}
