"""Questions on recorded demonstrations: they show the frames that they are about, and the answers are the recorded words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_data import described, record_dataset
from lerobot_images import LENGTHS, TASKS, shown
from score_means import means_of

from vlarig.policies.qwen_vla.conversation import Still, Turn, Video
from vlarig.training.data.captions import CaptionDataset
from vlarig.training.data.errors import DataError
from vlarig.training.data.mixture_file import read_mixture
from vlarig.training.data.score_questions import read_questions, score_questions


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captions")
    return record_dataset(folder / "demos", folder / "staging", labels=True)


def asked_of(turns: Sequence[Turn]) -> tuple[str, bytes]:
    """The words of the last turn, and what it shows."""
    (seen, words) = turns[-1].content
    assert isinstance(words, str)
    assert isinstance(seen, Still | Video)
    return words, (seen.image if isinstance(seen, Still) else seen.frames).tobytes()


def test_questions_show_what_they_are_about(demos: Path) -> None:
    dataset = CaptionDataset(demos, frames=4)
    assert len(dataset) == 4 * len(LENGTHS)
    for episode, length in enumerate(LENGTHS):
        begins = {"steps": (0, length), "segment/1": (0, 5), "segment/2": (5, length), "next/1": (5, 6)}
        for number, (kind, (begin, end)) in enumerate(begins.items()):
            sample = dataset[4 * episode + number]
            assert sample.name == f"demos/captions/{episode}/{kind}"
            (seen,) = sample.conversation.seen()
            assert isinstance(seen, Still if kind == "next/1" else Video)
            frames = [seen.image] if isinstance(seen, Still) else list(seen.frames)
            found = [shown(frame) for frame in frames]
            assert {(of, view) for of, _, view in found} == {(episode, 0)}
            steps = [step for _, step, _ in found]
            assert (steps[0], steps[-1]) == (begin, end - 1)
            if isinstance(seen, Video):
                assert len(steps) == min(4, end - begin)
                assert seen.seconds == pytest.approx([(step - begin) / 10 for step in steps])


def test_answers_are_the_recorded_words(demos: Path) -> None:
    dataset = CaptionDataset(demos)
    first, second = described(LENGTHS[0]).segments
    answers = [dataset[index].conversation.turns[-1].content[0] for index in range(4)]
    assert answers == [described(LENGTHS[0]).caption, first.words, second.words, "Grasp the red cube."]
    assert TASKS[0] in str(dataset[3].conversation.turns[0].content[1])
    again, other = CaptionDataset(demos), CaptionDataset(demos, seed=1)
    texts = [[each.question(index).text for index in range(12)] for each in (dataset, again, other)]
    assert texts[0] == texts[1] != texts[2]


def test_the_reference_scores_in_full_and_another_answer_does_not(demos: Path, tmp_path: Path) -> None:
    posed = read_questions(demos)
    expected = {asked_of(each.turns()): each.question.answer for each in posed}
    assert len(expected) == len(posed)
    best = score_questions(posed, lambda asked, _: [expected[asked_of(turns)] for turns in asked], "", tmp_path / "best")
    assert Counter(each.kind for each in best) == {"next": 3, "segment": 6, "steps": 3}
    measures = means_of(best)
    assert set(measures.values()) == {1.0}
    assert {("steps", "action primitive recall"), ("steps", "contact region precision")} <= set(measures)
    worse = score_questions(posed, lambda asked, _: ["Step 1: Reach the red cube."] * len(asked), "", tmp_path / "worse")
    assert means_of(worse)["steps", "action primitive recall"] == 0.5
    assert means_of(worse)["next", "action sequence recall"] == 0.0


def test_a_mixture_names_them(demos: Path) -> None:
    (demos.parent / "mix.toml").write_text('[[datasets]]\nsource = "captions"\nfolder = "demos"\nframes = 2\n')
    mixture = read_mixture(demos.parent / "mix.toml")
    assert [dataset.family for dataset in mixture.datasets] == ["action_caption"]
    assert {mixture[position].name for position in range(12)} == {CaptionDataset(demos)[index].name for index in range(12)}


def test_what_has_no_captions_is_refused(demos: Path, tmp_path: Path) -> None:
    silent = record_dataset(tmp_path / "silent", tmp_path / "staging")
    with pytest.raises(DataError, match="silent describes none of its episodes; record a suite that has a describer"):
        CaptionDataset(silent)
    with pytest.raises(DataError, match="to show 0 frames"):
        CaptionDataset(demos, frames=0)
    with pytest.raises(DataError, match="side"):
        CaptionDataset(demos, view="side")
    file = silent / "meta" / "vlarig_episodes.parquet"
    table = pq.read_table(file)
    wrong = pa.array([[{"begin": 3, "end": 1, "label": "x", "words": "X.", "dimensions": {"trajectory": "up"}}]] * 3)
    column = table.schema.get_field_index("segments")
    pq.write_table(table.set_column(column, "segments", wrong), file)
    with pytest.raises(DataError, match=r"the segments in \S+vlarig_episodes.parquet are not as .* of the steps 3 to 1"):
        CaptionDataset(silent)
