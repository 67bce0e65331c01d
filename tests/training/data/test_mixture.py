"""Mixtures: the paper's weights, balance, and the same samples whoever reads them and wherever they begin."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from lerobot_data import ALOHA_MOTORS, make_aloha
from made_up_datasets import Motions, Talk, three
from training_process import configuration

from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.conversation import Conversation, Turn
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics, statistics_of
from vlarig.training.batches import Collator, MicroBatch, micro_batches
from vlarig.training.data.errors import DataError
from vlarig.training.data.lerobot import open_lerobot
from vlarig.training.data.mixture import mix
from vlarig.training.data.mixture_file import find_stream, read_mixture
from vlarig.training.samples import LanguageSample, Sample, Stream

FILE = """
weights = "table_1"
seed = 4

[[datasets]]
source = "made_up_datasets:Motions"
name = "libero"

[[datasets]]
source = "made_up_datasets:Talk"
count = 5
"""


def names(positions: range, **options: object) -> list[str]:
    mixture = mix(three(), **options)  # type: ignore[arg-type]
    return [mixture[position].name for position in positions]


def test_table_1s_weights_are_divided_by_samples_and_renormalised() -> None:
    mixture = mix(three(), "table_1")
    total = 74.2 + 3.4
    assert mixture.shares == pytest.approx([74.2 / total / 3, 74.2 / total * 2 / 3, 3.4 / total])
    counts = Counter(mixture[position].name.split("/")[0] for position in range(1000))
    assert counts["talk"] == pytest.approx(1000 * 3.4 / total, abs=3)


def test_a_training_says_the_shares_and_what_is_absent() -> None:
    synthetic = Motions("made", family="synthetic_simulation", robot=WIDOWX_BRIDGE, count=9)
    shares, absent = mix([Motions("libero"), synthetic, Talk()], "table_1").notes
    assert shares == (
        "shares of the families: robot_manipulation 91.3 % (74.2 in the table), synthetic_simulation 4.6 % (3.7 in the table), "
        "general_vision_language 4.2 % (3.4 in the table)"
    )
    assert absent == (
        "no data set is of these families, so the others have their shares: human_egocentric 6.0 %, navigation 7.5 %, "
        "spatial_grounding 2.5 %, driving_vqa 2.4 %, action_caption 0.2 %"
    )
    assert mix([Motions("libero"), synthetic, Talk()], "t2a").notes == (
        "shares of the families: synthetic_simulation 20.0 % (20 in the table), robot_manipulation 80.0 % (80 in the table)",
        "left out, as the table lacks them: general_vision_language",
    )
    assert mix(three(), "balanced").notes == ("shares of the data sets: libero 33.3 %, bridge 33.3 %, talk 33.3 %",)


def test_t2a_takes_a_fifth_synthetic_and_no_words_alone() -> None:
    synthetic = Motions("made", family="synthetic_simulation", robot=WIDOWX_BRIDGE, count=9)
    mixture = mix([Motions("libero"), synthetic, Talk()], "t2a")
    assert mixture.shares == pytest.approx([0.8, 0.2])
    assert {mixture[position].name.split("/")[0] for position in range(200)} == {"libero", "made"}
    with pytest.raises(DataError, match=r"no dataset is of the families synthetic_simulation, robot_manipulation"):
        mix([Talk()], "t2a")


def test_balance_is_over_embodiments_and_then_tasks() -> None:
    mixture = mix(three(), "balanced")
    assert [source.name for source in mixture.sources] == [
        "libero: lift", "libero: push", "bridge: lift", "bridge: push", "talk: talk"
    ]  # fmt: skip
    assert mixture.shares == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 3])


def test_an_epoch_has_every_sample_once() -> None:
    mixture = mix([Motions("libero")], [1.0])
    first, second = ([mixture[position].name for position in range(begin, begin + 30)] for begin in (0, 30))
    assert sorted(first) == sorted(second) == sorted(f"libero/{index}" for index in range(30))
    assert first != second


def test_a_position_gives_the_same_sample_wherever_reading_begins() -> None:
    whole = names(range(300))
    assert names(range(100, 300)) == whole[100:]
    assert names(range(299, -1, -1)) == whole[::-1]
    assert names(range(300), seed=1) != whole


def test_broken_samples_end_it_or_are_replaced_alike_everywhere() -> None:
    datasets = [Motions("libero", broken=(3, 5)), Talk()]
    strict = mix(datasets)
    with pytest.raises(DataError, match=r"libero/[35]: the video ends before its frame"):
        _ = [strict[position] for position in range(40)]
    skipping, again = (mix(datasets, skip_broken=True) for _ in range(2))
    found = [skipping[position].name for position in range(200)]
    assert not {"libero/3", "libero/5"} & set(found)
    assert [again[position].name for position in range(199, -1, -1)] == found[::-1]
    hopeless = mix([Motions("libero", count=3, broken=(0, 1, 2))], [1.0], skip_broken=True)
    with pytest.raises(DataError, match="the video ends"):
        _ = hopeless[0]


def test_datasets_of_one_robot_get_quantiles_of_all(tmp_path: Path) -> None:
    motors = list(ALOHA_MOTORS)
    cameras = {f"observation.images.{tag}": tag for tag in ("cam_left_wrist", "cam_right_wrist")}
    first, second = (
        open_lerobot(
            make_aloha(tmp_path / name, lengths, size=(48, 64)),
            horizon=4, embodiment="mobile_aloha_joint", cameras=cameras, action_names=motors, state_names=motors,
        )
        for name, lengths in (("short", (8, 9)), ("long", (40,)))
    )  # fmt: skip
    key = "mobile_aloha_joint"
    assert first.statistics[key] != second.statistics[key]
    found = mix([first, second], [1.0, 1.0]).statistics[key]
    every = [*first.trajectories("actions"), *second.trajectories("actions")]
    assert found.actions == statistics_of(every, "short and long")
    assert found.state is not None
    assert found.state.source == "short and long"
    assert mix([first, first], [1.0, 1.0]).statistics[key] == first.statistics[key]
    with pytest.raises(DataError, match="which differ"):
        other = Motions("other", robot=dataclasses.replace(LIBERO_PANDA, statistics_key=key))
        mix([first, other], [1.0, 1.0])


def test_datasets_that_contradict_each_other_are_refused() -> None:
    other = Motions("other")
    other.statistics = {"libero": DatasetStatistics(Statistics((0.0,) * 7, (1.0,) * 7, "other"))}
    with pytest.raises(DataError, match=r"other and libero both have statistics 'libero', which differ"):
        mix([Motions("libero"), other])
    with pytest.raises(DataError, match="a mixture has no dataset"):
        mix([])
    with pytest.raises(DataError, match=r"the weights \[1\.0\] do not fit 3 datasets"):
        mix(three(), [1.0])
    with pytest.raises(DataError, match="empty: lift has no samples"):
        mix([Motions("empty", count=0)], "balanced")


def test_a_file_names_datasets_and_options(tmp_path: Path) -> None:
    (tmp_path / "mix.toml").write_text(FILE)
    stream = find_stream(f"mixture:{tmp_path / 'mix.toml'}", {})
    same = mix([Motions("libero"), Talk(count=5)], seed=4)
    assert [stream[position].name for position in range(50)] == [same[position].name for position in range(50)]
    assert stream.embodiments == (LIBERO_PANDA,)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("weights = = 1", "does not read as TOML"),
        ("wheights = 'balanced'", "has an unknown name 'wheights'; did you mean weights"),
        ("[[datasets]]\nsource = 'lerobt'", "has a dataset of the source 'lerobt'"),
        ("[[datasets]]\nsource = 'made_up_datasets:Moti'", "'made_up_datasets:Moti' in .* cannot be imported"),
        ("[[datasets]]\nsource = 'made_up_datasets:Motions'\nnme = 'a'", "does not take its options"),
        (
            "[[datasets]]\nsource = 'made_up_datasets:Talk'\nweight = 1.0\n[[datasets]]\nsource = 'made_up_datasets:Talk'",
            "gives weights to 1 of 2 datasets; give all one, or none",
        ),
    ],
)
def test_a_file_that_cannot_be_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mix.toml").write_text(text)
    with pytest.raises(DataError, match=sentence) as caught:
        read_mixture(tmp_path / "mix.toml")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="there is no mixture"):
        read_mixture(tmp_path / "absent.toml")


def batches(workers: int, rank: int = 0, world: int = 1, first: int = 0, stream: Stream | None = None) -> Iterator[MicroBatch]:
    config = configuration("steps=16", "batch_size=64", "micro_batch_size=16", f"data.workers={workers}")
    stream, bundle = stream or mix(three(), seed=2), load("tiny")
    collator = Collator(InputBuilder(bundle.description.config, bundle.tokenizer), stream.statistics, SigmoidNormal(), seed=0)
    return micro_batches(config, stream, collator, rank, world, first)


def digests(found: Iterator[MicroBatch]) -> list[str]:
    """A digest of each micro-batch: names, ids, images, chunks, noise."""
    result = []
    for each in found:
        whole = hashlib.sha256("".join(each.names).encode())
        inputs, chunks = each.batch.inputs, each.batch.chunks
        tensors = [
            inputs.input_ids,
            inputs.pixel_values,
            *(() if chunks is None else (chunks.clean, chunks.noise, chunks.time)),
        ]
        for tensor in tensors:
            if tensor is not None:
                whole.update(tensor.numpy().tobytes())
        result.append(whole.hexdigest())
    return result


@pytest.fixture(scope="module")
def thousand() -> list[str]:
    """The digests of the first 1,024 samples, 16 by 16, by one process without workers."""
    return digests(batches(0))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, pytest.param(4, marks=pytest.mark.slow)])  # each imports PyTorch
def test_workers_give_the_same_thousand_samples(thousand: list[str], workers: int) -> None:
    assert digests(batches(workers)) == thousand


def test_two_processes_share_the_same_thousand_samples(thousand: list[str]) -> None:
    shares = [digests(batches(0, rank, 2)) for rank in (0, 1)]
    assert [each for pair in zip(*shares, strict=True) for each in pair] == thousand


@pytest.mark.slow
def test_after_a_kill_the_next_samples_are_the_same(thousand: list[str]) -> None:
    """In a process of its own, which begins where another was killed."""
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_mixture import batches, digests\n"
        "print('\\n'.join(digests(batches(0, first=9))))"
    )
    here = Path(__file__)
    done = subprocess.run(
        [sys.executable, "-c", code, str(here.parent), str(here.parents[2])], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == thousand[9 * 4 :]


@dataclasses.dataclass
class LongTalk(Talk):
    """Answers of 1 to 199 words."""

    count: int = 199

    def __getitem__(self, index: int) -> Sample:
        words = " ".join(["again"] * (index + 1))
        return LanguageSample(f"{self.name}/{index}", Conversation((Turn("user", ("Say it.",)), Turn("assistant", (words,)))))


class Lengths(LongTalk):
    """The same; it knows how long they are."""

    def length(self, index: int) -> int:
        return index + 1


def test_a_step_puts_samples_of_about_one_length_together() -> None:
    """Known lengths save padding; the samples of a step stay the same."""
    unknown, known = (list(batches(0, stream=mix([Motions("libero"), talk], [1.0, 1.0]))) for talk in (LongTalk(), Lengths()))
    for step in range(16):
        several = [sorted(name for each in found[4 * step : 4 * step + 4] for name in each.names) for found in (unknown, known)]
        assert several[0] == several[1]
    assert sum(each.batch.inputs.valid.numel() for each in known) < 0.8 * sum(
        each.batch.inputs.valid.numel() for each in unknown
    )


def test_a_step_puts_samples_of_a_dataset_together() -> None:
    kinds = [{name.split("/")[0] for name in each.names} for each in batches(0)]
    assert sum(len(kind) > 1 for kind in kinds) < len(kinds) * 0.6
    assert any(kind == {"talk", "bridge"} or kind == {"talk"} for kind in kinds)
