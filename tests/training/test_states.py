"""Kept states of a frozen backbone: the training is the same, and each prompt is read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from demonstrations import Mixed, Random
from safetensors.torch import load_file
from training_process import configuration

from vlarig.policies.qwen_vla.inputs import Prompted
from vlarig.policies.qwen_vla.model import Context, QwenVla
from vlarig.training.config import TrainConfig, TrainingError
from vlarig.training.reporting import SilentReporter
from vlarig.training.states import ENTRY, KeptStates, key_of
from vlarig.training.trainer import train

FROZEN = ("model.frozen=['vision', 'language', 'value_head']", "batch_size=8", "micro_batch_size=4")


class Twelve(Random):
    """Twelve moments, again and again."""

    def __getitem__(self, position: int) -> Any:
        return super().__getitem__(position % 12)


def trained(config: TrainConfig, run: Path, stream: Any = None) -> dict[str, torch.Tensor]:
    train(config, run, SilentReporter(), Twelve() if stream is None else stream)
    return load_file(run / "policy" / "model.safetensors")


def test_the_expert_learns_the_same_and_each_prompt_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    encode = QwenVla.encode

    def counted(self: QwenVla, inputs: Any) -> Context:
        read.append(len(inputs.input_ids))
        return encode(self, inputs)

    monkeypatch.setattr(QwenVla, "encode", counted)
    expected = trained(configuration("steps=6", *FROZEN), tmp_path / "read")
    found = trained(configuration("steps=6", "model.keep_states=true", *FROZEN), tmp_path / "kept")
    assert sum(read) == 12  # of 48 samples
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=2e-3)


def test_what_was_kept_before_an_interruption_gives_the_same_bits(tmp_path: Path) -> None:
    config = configuration("steps=4", "model.keep_states=true", *FROZEN)
    expected = trained(config, tmp_path / "one")
    kept = tmp_path / "again" / "states"
    kept.mkdir(parents=True)
    for file in (tmp_path / "one" / "states").iterdir():
        (kept / file.name).write_bytes(file.read_bytes())
    with (kept / "0.index").open("ab") as file:
        file.write(b"cut")
    found = trained(config, tmp_path / "again")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


PROMPTS = [Prompted("push"), Prompted("pull")]


def a_context(compute: torch.dtype) -> Context:
    """States of two prompts, one of them shorter."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, 8, generator=generator).to(compute)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Context(states, valid, torch.randint(0, 9, (3, 2, 5), generator=generator))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_states_come_back_rounded_to_half_precision(tmp_path: Path, compute: torch.dtype) -> None:
    given = a_context(compute)
    first = KeptStates(tmp_path, 0, 8, compute).context(PROMPTS, 0, lambda _: given)
    later = KeptStates(tmp_path, 0, 8, compute)
    assert len(later) == 2
    assert (tmp_path / "0.index").stat().st_size == 2 * ENTRY.itemsize
    again = later.context(PROMPTS[::-1], 1, pytest.fail)
    for one, other in ((first, [0, 1]), (again, [1, 0])):
        assert one.states.dtype == compute
        valid = given.valid[other]
        torch.testing.assert_close(one.states[one.valid], given.states[other][valid], rtol=1e-3, atol=1e-3)
        assert torch.equal(one.positions[:, one.valid], given.positions[:, other][:, valid])
        assert torch.equal(one.valid, valid)


def test_only_new_prompts_are_read(tmp_path: Path) -> None:
    given, read = a_context(torch.float32), []
    kept = KeptStates(tmp_path, 0, 8, torch.float32)

    def reading(prompts: list[Prompted]) -> Context:
        read.append([prompt.text for prompt in prompts])
        return Context(given.states[: len(prompts)], given.valid[: len(prompts)], given.positions[:, : len(prompts)])

    for words in (["a", "b", "a"], ["b", "c"], ["c", "a"]):
        assert len(kept.context([Prompted(each) for each in words], 0, reading).states) == len(words)
    assert read == [["a", "b"], ["c"]]


def test_what_another_process_has_read_is_known_from_the_next_step_on(tmp_path: Path) -> None:
    given = a_context(torch.float32)
    one, other = (KeptStates(tmp_path, rank, 8, torch.float32) for rank in (0, 1))
    read: list[int] = []

    def reading(prompts: list[Prompted]) -> Context:
        read.append(len(prompts))
        return given

    written = one.context(PROMPTS, 3, reading)
    found = [other.context(PROMPTS, step, reading) for step in (4, 5)]
    assert read == [2]
    assert all(torch.equal(each.states, written.states) and torch.equal(each.positions, written.positions) for each in found)
    late = KeptStates(tmp_path, 2, 8, torch.float32)
    late.context(PROMPTS, 3, reading)  # in the same step, which may come before or after the other's reading
    assert read == [2, 2]
    again = KeptStates(tmp_path, 2, 8, torch.float32)
    again.context(
        [Prompted("other"), *PROMPTS], 4, lambda prompts: pytest.fail(prompts) if len(prompts) > 1 else reading(prompts)
    )


def test_a_key_is_of_words_views_and_pictures() -> None:
    picture = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3).numpy()
    prompts = [
        Prompted("push", (("ego", picture),)),
        Prompted("pull", (("ego", picture),)),
        Prompted("push", (("wrist", picture),)),
        Prompted("push", (("ego", picture + 1),)),
        Prompted("push", (("ego", picture.reshape(4, 1, 3)),)),
        Prompted("push"),
    ]
    assert len({key_of(prompt) for prompt in prompts}) == len(prompts)
    assert key_of(prompts[0]) == key_of(Prompted("push", (("ego", picture.copy()),)))


def test_a_backbone_that_changes_and_data_that_teach_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="keep_states needs a backbone that does not change; add vision and language"):
        configuration("model.keep_states=true")
    config = configuration("steps=1", "model.keep_states=true", *FROZEN)
    with pytest.raises(TrainingError, match="'talk/5' does not fit: it is vision-language data, which teach a frozen backbone"):
        trained(config, tmp_path, Mixed())
