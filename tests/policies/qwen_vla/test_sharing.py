"""Weights in a file that processes share: read or sampled once, the same in each, and in memory once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from trained_policy import trained_bundle

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.checkpoint import load, save_checkpoint
from vlarig.policies.qwen_vla.model import QwenVla
from vlarig.policies.qwen_vla.tensors import share


@pytest.fixture
def shared() -> Iterator[Path]:
    number = os.memfd_create("test")
    yield Path(f"/proc/self/fd/{number}")
    os.close(number)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, trained_bundle())
    return folder


def assert_same(one: QwenVla, other: QwenVla) -> None:
    theirs = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("preset", [True, False], ids=["preset", "checkpoint"])
def test_weights_are_those_of_a_process_alone(preset: bool, saved: Path, shared: Path, dtype: torch.dtype) -> None:
    source = "tiny" if preset else str(saved)
    alone = load(source, seed=3, dtype=dtype)
    for _ in range(2):
        together = load(source, seed=3, dtype=dtype, shared=shared)
        assert together.revision == alone.revision
        assert_same(together.model, alone.model)
        assert not together.model.training


def test_only_the_first_reads_the_weights(saved: Path, shared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    first = load(str(folder), shared=shared)
    (folder / "model.safetensors").write_bytes(b"")
    second = load(str(folder), shared=shared)
    assert second.revision == first.revision
    assert_same(second.model, first.model)


def test_a_checkpoint_that_changed_meanwhile_is_another_policy(saved: Path, shared: Path, tmp_path: Path) -> None:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first = load(str(tmp_path), shared=shared)
    text = (tmp_path / "statistics.json").read_text()
    (tmp_path / "statistics.json").write_text(text.replace("made up", "made otherwise"))
    assert load(str(tmp_path), shared=shared).revision == load(str(tmp_path)).revision != first.revision
    with pytest.raises(PolicyError, match="the weights that other replicas hold are of another size"):
        load("tiny", dtype=torch.bfloat16, shared=shared)


def test_tied_weights_stay_tied_and_writing_is_private(shared: Path) -> None:
    first, second = load("tiny", shared=shared).model, load("tiny", shared=shared).model
    head, embedding = first.backbone.lm_head.weight, first.backbone.get_input_embeddings().weight
    assert head.data_ptr() == embedding.data_ptr()
    with torch.no_grad():
        embedding.fill_(5)
    assert torch.equal(head, torch.full_like(head, 5))
    assert_same(second, load("tiny").model)


def test_weights_begin_where_torch_begins_them(shared: Path) -> None:
    assert {weight.data_ptr() % 64 for weight in load("tiny", shared=shared).model.parameters()} == {0}


def test_what_was_left_half_filled_is_filled_again(shared: Path) -> None:
    model, names = torch.nn.Linear(3, 2), iter(["first", "second"])

    def fill() -> str:
        with torch.no_grad():
            model.weight.fill_(1)
            name = next(names)
            if name == "first":
                raise KeyboardInterrupt  # as good as killed
            model.bias.fill_(2)
        return name

    with pytest.raises(KeyboardInterrupt):
        share(model, shared, fill)
    assert share(model, shared, fill) == "second"
    other = torch.nn.Linear(3, 2)
    assert share(other, shared, lambda: "third") == "second"
    assert other.weight.tolist() == [[1] * 3] * 2
    assert other.bias.tolist() == [2, 2]
