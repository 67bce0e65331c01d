"""The training's speed scripts: their operations and times against sums by hand; and what processes of a training exchange."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from demonstrations import Random
from speed_scripts import speed_scripts
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import build, parameter_counts
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.training.batches import Collator
from vlarig.training.config import OptimizerSettings
from vlarig.training.data.lerobot import open_lerobot
from vlarig.training.data.lerobot_files import read_meta
from vlarig.training.data.mixture import mix
from vlarig.training.learner import Learner
from vlarig.training.parallel import Processes

TINY = PRESETS["tiny"]()


@pytest.fixture
def scripts() -> Iterator[Any]:
    names = ("training", "marks", "machine", "chunks", "loader", "demos")
    with speed_scripts(*names) as modules:
        yield SimpleNamespace(**dict(zip(names, modules, strict=True)))


def forward_by_hand(scripts: Any) -> tuple[int, dict[str, int]]:
    """Tokens of a prompt with two images, and the operations of a forward pass by part as the chunk's script counts them."""
    subject = scripts.chunks.Subject(scripts.chunks.Acting("tiny"), torch.device("cpu"), torch.float32)
    flops = {part.name.strip(): part.flops for part in subject.parts(1)}
    names = {"vision": "vision", "language model": "language model", "expert": "Euler step"}
    return subject.batch(1).inputs.input_ids.shape[1], {part: flops[name] for part, name in names.items()}


def three_passes(forward: dict[str, int]) -> int:
    """Forward and both gradients, but for that of the images."""
    patches, pixels = 2 * 4 * TINY.image_tokens(), 3 * 2 * 16**2
    return 3 * sum(forward.values()) - 2 * patches * pixels * TINY.vision["hidden_size"]


@pytest.mark.slow
def test_a_step_is_the_trainers_and_its_parts_add_up_to_it(scripts: Any) -> None:
    options = scripts.training.Steps("tiny", batch=4, micro_batch=2, turns=2)
    machine = scripts.machine.Machine("cpu", 1)
    # As the script does, so that the peak memory is its own.
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        measured, flops, needed = process.submit(scripts.training.measure, machine, options, "all", True).result()
    assert [len(each) for each in (measured.seconds, measured.split, measured.peaks)] == [2, 2, 2]
    assert all(set(split) == set(scripts.training.PARTS) for split in measured.split)
    for split, (seconds, wall) in zip(measured.split, measured.seconds, strict=True):
        assert 0 < sum(split.values()) < 3 * seconds
        assert 0.5 * seconds < wall
    assert measured.memory > 16 * parameter_counts(build(TINY))["total"]  # weights, gradients and two moments
    _, forward = forward_by_hand(scripts)
    assert {part: flops[part] for part in forward} == forward
    assert needed == pytest.approx(three_passes(forward), rel=0.02)
    assert 1.05 * needed < sum(flops.values()) < 4 / 3 * needed
    _, alone, _ = scripts.training.measure(machine, replace(options, turns=1), "expert", False)
    assert {part: alone[part] for part in forward} == forward
    assert [part for part in scripts.marks.BACKWARD if alone[part]] == ["expert, backward"]


def test_a_loader_is_compared_with_a_loop_that_decodes_the_same_frames(scripts: Any, tmp_path: Path) -> None:
    """The bare loops give the images of the samples, bit for bit, in order, across episodes, and at random."""
    scripts.demos.make_demos(tmp_path, episodes=3, size=64, lengths=(9, 12))
    dataset, meta = open_lerobot(tmp_path, horizon=16), read_meta(tmp_path)
    loader, mixture, cameras = scripts.loader, mix([dataset], [1.0]), list(meta.films)
    end, films = int(meta.lengths[0]), [loader.Films(meta, cameras, keeps) for keeps in (True, False)]
    for indices in (range(end - 2, end + 3), [end + 7, 1, 0]):
        expected = [dataset[index].observation["images"].values() for index in indices]
        for each in films:
            found = list(each.at_random(indices))
            assert np.array_equal(found, [image[0] for images in expected for image in images])
            if isinstance(indices, range):
                by_camera = [image[0] for images in zip(*expected, strict=True) for image in images]
                assert np.array_equal(list(each.in_order(indices)), by_camera)
    options = loader.Samples(preset="tiny", samples=4, micro_batch=2, workers=(0,), turns=2)
    for subject in loader.subjects(options, mixture):
        rates = loader.compare(subject, meta, cameras, options.turns)
        assert [len(each) for each in (rates.ours, rates.kept, rates.plain)] == [2, 2, 2]
        assert min(rates.ours) > 0
    share, rate = loader.waits(loader.Waits(preset="tiny", batch=4, micro_batch=2, steps=2), mixture, 0)
    assert 0 < share < 1
    assert rate > 0


class Exchanged(TorchDispatchMode):
    """Bytes that are gathered, and those whose sums are shared out."""

    def __init__(self) -> None:
        super().__init__()
        self.gathered = self.reduced = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if function.name() == "c10d::_allgather_base_":
            self.gathered += arguments[0].nbytes
        if function.name() == "c10d::_reduce_scatter_base_":
            self.reduced += arguments[1].nbytes
        return function(*arguments, **(options or {}))


@pytest.fixture
def one_of_four() -> Iterator[Processes]:
    """A process whose collectives give it anything, at once."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    yield Processes(0, 4, torch.device("cpu"), init_device_mesh("cpu", (4,), mesh_dim_names=("shard",)))
    distributed.destroy_process_group()


def test_micro_batches_gather_weights_each_and_reduce_gradients_once(one_of_four: Processes) -> None:
    found = []
    for micro_batches in (1, 2):
        bundle, stream = load("tiny"), Random()
        bundle.model.freeze("vision", "value_head")
        collate = Collator(InputBuilder(TINY, bundle.tokenizer), stream.statistics, SigmoidNormal(), 0, images=False)
        learner = Learner(bundle.model, OptimizerSettings(), 1, one_of_four)
        learner.model.every_part = False
        with Exchanged() as exchanged:
            for index in range(micro_batches):
                loss = learner.model(collate([(index, stream[index])]).batch).action.mean
                learner.backward(loss, last=index == micro_batches - 1)
        found.append(exchanged)
    one, two = found
    assert two.gathered == pytest.approx(2 * one.gathered, rel=2e-3) and one.gathered > 0
    assert two.reduced == pytest.approx(one.reduced, rel=2e-3) and one.reduced > 0
