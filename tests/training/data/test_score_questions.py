"""``vlarig data score``: the questions, what is kept of each answer, going on after a kill, and the page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from score_means import means_of

from vlarig.envs.errors import VlarigError
from vlarig.training.data.command import main
from vlarig.training.data.errors import DataError
from vlarig.training.data.score_questions import GREY, read_questions, score_questions, summarize

BOX = json.dumps([{"bbox_2d": [250, 250, 750, 750], "label": "red cube"}])
HALF = json.dumps([{"bbox_2d": [250, 250, 750, 500], "label": "red cube"}])


def line(kind: str, text: str, answer: str, image: str, **more: Any) -> dict[str, Any]:
    shown = [{"type": "image", "path": image, "view": "ego"}, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
    return {"id": f"{image}/{kind}", "kind": kind, "messages": messages, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As ``vlarig data render-questions`` writes it: 20 images with a count and a box each, and a caption."""
    root = tmp_path / "held"
    for family in ("spatial_grounding", "general_vision_language", "images"):
        (root / family).mkdir(parents=True)
    boxes, others = [], []
    for number in range(20):
        Image.fromarray(np.full((64, 64, 3), 10 * number, np.uint8)).save(root / "images" / f"{number}.png")
        image = f"../images/{number}.png"
        boxes.append(line("where", "Where is the red cube?", BOX, image))
        others.append(line("count", "How many cubes are there?", str(min(number % 4, 2)), image))
    others.append(
        line("caption", "Describe it.", "There is a cube.", "../images/0.png", facts={"object recognition": ["cube"]})
    )
    for family, lines in (("spatial_grounding", boxes), ("general_vision_language", others)):
        (root / family / "00000.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return root


class Model:
    """Answers every question alike, by its words; remembers the images and may die."""

    def __init__(self, last: int = 10**6) -> None:
        self.seen: list[int] = []
        self.most: list[int] = []
        self.left = last

    def __call__(self, conversations: Any, most: int) -> list[str]:
        found = []
        for turns in conversations:
            still, text = turns[-1].content
            self.seen.append(int(still.image[0, 0, 0]))
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            found.append("two" if "many" in text else HALF if "Where" in text else "A ball.")
        self.most.append(most)
        return found


def test_every_answer_is_kept_with_its_measures(folder: Path, tmp_path: Path) -> None:
    file, model = tmp_path / "answers.jsonl", Model()
    answers = score_questions(read_questions(folder), model, "mine", file)
    rows = [json.loads(each) for each in file.read_text().splitlines()]
    assert len(rows) == len(answers) == 41
    assert {row["model"] for row in rows} == {"mine"}
    boxed = next(row for row in rows if row["kind"] == "where")
    assert (boxed["expected"], boxed["answer"]) == (BOX, HALF)
    assert boxed["measures"] == {"iou": 0.5, "right": 1.0}
    means = means_of(answers)
    assert means["count", "right"] == 0.5
    assert means["where", "iou"] == 0.5
    assert means["caption", "object recognition recall"] == 0
    assert max(model.most) < 2 * len(BOX)  # a model that never ends is cut where no right answer is longer


def test_a_table_has_intervals_and_what_a_constant_answer_scores(folder: Path, tmp_path: Path) -> None:
    answers = score_questions(read_questions(folder), Model(), "mine", tmp_path / "answers.jsonl")
    table = {(each.kind, each.measure): each for each in summarize(answers)}
    count = table["count", "right"]
    assert (count.n, count.mean, count.constant) == (20, 0.5, 0.5)
    assert count.interval == pytest.approx((0.299, 0.701), abs=1e-3)  # Wilson's of 10 in 20
    assert table["where", "iou"].interval is None  # all alike
    assert table["where", "right"].constant is None


def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlarig.training.data.score_questions.AT_ONCE", 8)
    whole, file = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    questions = read_questions(folder)
    score_questions(questions, Model(), "mine", whole)
    with pytest.raises(KeyboardInterrupt):
        score_questions(questions, Model(20), "mine", file)
    assert len(file.read_text().splitlines()) == 16
    file.write_bytes(file.read_bytes()[:-9])  # killed while it wrote
    model = Model()
    score_questions(questions, model, "mine", file)
    assert len(model.seen) == 41 - 8  # the set with the cut line is answered as before, in its whole
    assert sorted(file.read_text().splitlines()) == sorted(whole.read_text().splitlines())
    again = Model()
    score_questions(questions, again, "mine", file)
    assert again.seen == []


def test_answers_of_another_model_or_to_other_questions_are_refused(folder: Path, tmp_path: Path) -> None:
    file, questions = tmp_path / "answers.jsonl", read_questions(folder)
    score_questions(questions, Model(), "mine", file)
    with pytest.raises(
        DataError, match=r"answers of the model 'mine' to its images, not of 'other' to its images; name another"
    ):
        score_questions(questions, Model(), "other", file)
    with pytest.raises(DataError, match="not of 'mine' to grey images; name another file"):
        score_questions(questions, Model(), "mine", file, blind=True)
    changed = folder / "general_vision_language" / "00000.jsonl"
    changed.write_text(changed.read_text().replace("How many", "Count how many"))
    with pytest.raises(DataError, match="holds an answer to another question"):
        score_questions(read_questions(folder), Model(), "mine", file)
    file.write_text("{}\n")
    with pytest.raises(DataError, match=r"line 1 is no answer of `vlarig data score` \(.*`model`\); name another file"):
        score_questions(questions, Model(), "mine", file)


def test_a_blind_model_sees_grey(folder: Path, tmp_path: Path) -> None:
    model = Model()
    score_questions(read_questions(folder, limit=5), model, "mine", tmp_path / "answers.jsonl", blind=True)
    assert model.seen == [GREY] * 5


def test_questions_that_cannot_be_scored_are_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rendered questions"):
        read_questions(tmp_path / "nothing")
    for turns in ([("human", "Why?")], [("gpt", "So.")], [("human", "Why?"), ("gpt", " ")]):
        file = tmp_path / "asked.jsonl"
        file.write_text(json.dumps({"conversations": [{"from": side, "value": text} for side, text in turns]}) + "\n")
        with pytest.raises(DataError, match=r"asked.jsonl line 1 has no question with an answer at its end"):
            read_questions(file)
    shutil.copy(folder / "images" / "0.png", tmp_path)
    turns = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A cube."}]
    file.write_text(json.dumps({"image": "0.png", "conversations": turns}) + "\n")
    [posed] = read_questions(file)
    assert (posed.question.kind, posed.question.text, posed.question.answer) == (
        "general_vision_language",
        "What is it?",
        "A cube.",
    )
    assert posed.images == ("0.png",)


def test_the_command_answers_shows_and_goes_on(folder: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    file = tmp_path / "answers.jsonl"
    command = ["score", str(folder), "--model", "tiny", "--to", str(file), "--limit", "12"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "12 of 12 questions" in shown
    assert "0.0 to" in shown
    assert main(command) == 0
    assert "12 of 12 questions" not in capsys.readouterr().out
    assert len(file.read_text().splitlines()) == 12
    (tmp_path / "no_model").mkdir()
    with pytest.raises(VlarigError):
        main([*command[:2], "--model", str(tmp_path / "no_model")])
