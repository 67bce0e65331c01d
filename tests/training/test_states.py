"""Kept states of a frozen backbone: the training is the same, and each prompt is read once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from demonstrations import Mixed, Ten
from safetensors.torch import load_file
from training_process import OVERRIDES, configuration

from vlarig.policies.qwen_vla.inputs import Prompted
from vlarig.policies.qwen_vla.model import Context, QwenVla
from vlarig.training.config import TrainConfig, TrainingError
from vlarig.training.reporting import SilentReporter
from vlarig.training.states import ENTRY, KeptStates, keyed
from vlarig.training.trainer import train

FROZEN = ("model.frozen=['vision', 'language', 'value_head']", "batch_size=8", "micro_batch_size=4")


def trained(config: TrainConfig, run: Path, stream: Any = None) -> dict[str, torch.Tensor]:
    train(config, run, SilentReporter(), Ten() if stream is None else stream)
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
    assert sum(read) == 10  # of 48 samples
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


PROMPTS = [keyed(Prompted("push")), keyed(Prompted("pull"))]


def a_context(compute: torch.dtype) -> Context:
    """States of two prompts, one of them shorter."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, 8, generator=generator).to(compute)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Context(states, valid, torch.randint(0, 9, (3, 2, 5), generator=generator))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
def test_states_come_back_rounded_to_half_precision(tmp_path: Path, compute: torch.dtype) -> None:
    given = a_context(compute)
    kept = KeptStates(tmp_path, 0, 8, compute)
    assert list(kept.unknown([*PROMPTS, PROMPTS[0]], 0).values()) == [each.prompt for each in PROMPTS]
    kept.keep([each.key for each in PROMPTS], 0, given)
    later = KeptStates(tmp_path, 0, 8, compute)
    assert len(later) == 2
    assert (tmp_path / "0.index").stat().st_size == 2 * ENTRY.itemsize
    assert not later.unknown(PROMPTS, 1)
    for one, other in ((kept.context(PROMPTS), [0, 1]), (later.context(PROMPTS[::-1]), [1, 0])):
        assert one.states.dtype == compute
        valid = given.valid[other]
        torch.testing.assert_close(one.states[one.valid], given.states[other][valid], rtol=1e-3, atol=1e-3)
        assert torch.equal(one.positions[:, one.valid], given.positions[:, other][:, valid])
        assert torch.equal(one.valid, valid)


def test_what_another_process_has_read_is_known_from_the_next_step_on(tmp_path: Path) -> None:
    one, other = (KeptStates(tmp_path, rank, 8, torch.float32) for rank in (0, 1))
    one.keep([each.key for each in PROMPTS], 3, a_context(torch.float32))
    assert len(other.unknown(PROMPTS, 3)) == 2  # it may have been read before or after
    assert not other.unknown(PROMPTS, 4)
    found, expected = other.context(PROMPTS), one.context(PROMPTS)
    assert torch.equal(found.states, expected.states)
    assert torch.equal(found.positions, expected.positions)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in steps in which one of them has new prompts and the other has none."""
    alone = trained(configuration("steps=6", "model.keep_states=true", *FROZEN), tmp_path / "alone")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    words = [*OVERRIDES, "steps=6", "model.keep_states=true", *FROZEN, "data.source=demonstrations:Ten", "micro_batch_size=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    train = ["vlarig.harness", "train", "sft", "--run", str(tmp_path / "two"), "--override", *words]
    subprocess.run([*torchrun, *train], check=True)
    together = load_file(tmp_path / "two" / "policy" / "model.safetensors")
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=0, atol=2e-3)
    entries = sum(file.stat().st_size for file in (tmp_path / "two" / "states").glob("*.index")) // ENTRY.itemsize
    assert entries == 10


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
    assert len({keyed(prompt).key for prompt in prompts}) == len(prompts)
    assert keyed(prompts[0]).key == keyed(Prompted("push", (("ego", picture.copy()),))).key


def test_a_backbone_that_changes_and_data_that_teach_it_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="keep_states needs a backbone that does not change; add vision and language"):
        configuration("model.keep_states=true")
    config = configuration("steps=1", "model.keep_states=true", *FROZEN)
    with pytest.raises(TrainingError, match="'talk/5' does not fit: it is vision-language data, which teach a frozen backbone"):
        trained(config, tmp_path, Mixed())
