"""The training's speed scripts: their operations, bytes and times against sums by hand, and against what torch and FSDP do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
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
from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import build, parameter_counts
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
    names = ("training", "training_on_paper", "counted", "marks", "machine", "qwen_vla", "loader", "demos")
    with speed_scripts(*names) as modules:
        yield SimpleNamespace(**dict(zip(names, modules, strict=True)))


def forward_by_hand(scripts: Any) -> tuple[int, dict[str, int]]:
    """Tokens of a prompt with two pictures, and the operations of a forward pass by part as the chunk's script counts them."""
    subject = scripts.qwen_vla.Subject(scripts.qwen_vla.Options("tiny"), torch.device("cpu"), torch.float32)
    flops = {part.name.strip(): part.flops for part in subject.parts(1)}
    names = {"vision": "vision", "language model": "language model", "expert": "Euler step"}
    return subject.batch(1).inputs.input_ids.shape[1], {part: flops[name] for part, name in names.items()}


def three_passes(forward: dict[str, int]) -> int:
    """Forward and both gradients, but for that of the pictures."""
    patches, pixels = 2 * 4 * TINY.image_tokens(), 3 * 2 * 16**2
    return 3 * sum(forward.values()) - 2 * patches * pixels * TINY.vision["hidden_size"]


def test_a_step_is_the_trainers_and_its_parts_add_up_to_it(scripts: Any) -> None:
    options = scripts.training.Options("tiny", batch=4, micro_batch=2, turns=2)
    machine = scripts.machine.Machine("cpu", 1)
    # As the script does, so that the peak memory is its own; its threads are, too.
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as process:
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


def test_what_is_not_computed_is_counted_as_what_is(scripts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, forward = forward_by_hand(scripts)
    job = scripts.counted.Job("", "cpt", 2, TINY.horizon)
    monkeypatch.setattr(scripts.counted, "TEXT", tokens - 2 * (TINY.image_tokens() + scripts.counted.AROUND))
    found = scripts.counted.operations(job, TINY, False)
    assert {part: found[part] for part in forward} == forward
    assert sum(found.values()) == pytest.approx(three_passes(forward), rel=0.02)


def test_live_bytes_are_those_that_something_refers_to(scripts: Any) -> None:
    weight = torch.ones(1000, requires_grad=True)
    with scripts.counted.Live([weight]) as live:
        twice = weight.exp().exp()
        assert live.now == 2 * 4000  # the first is kept for the backward pass
        twice.sum().backward()
        assert live.most == pytest.approx(4 * 4000, abs=16)  # and the gradient of each
        del twice
        assert live.now == 4000  # of the weight
    job = scripts.counted.Job("", "cpt", 1, TINY.horizon)
    one, two, four = (scripts.counted.activations(job, TINY, False, samples) for samples in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    assert scripts.counted.activations(job, TINY, True, 4) < 0.7 * four


def test_weights_of_the_papers_model_and_their_bytes(scripts: Any) -> None:
    model = build(PRESETS["4b"](), None, device="meta")
    model.freeze("value_head")
    held = scripts.training_on_paper.Weights.of(model)
    assert held.every == 4_539_265_536 + 1_148_944_448 + 2_561
    assert held.every - held.trained == 2_561
    block = scripts.training_on_paper.count(model.expert.blocks[0])
    assert block == 30 * 1536**2 + 6 * 1536 + 2 * 128  # biases of AdaLN, norms of queries and keys
    assert held.largest == 112_923_840
    assert held.trained_root == held.root - 2_561
    alone = held.memory(1, 64)
    assert sum(alone.values()) == pytest.approx(16 * held.every, rel=1e-5)
    eight = held.memory(8, 8)
    assert eight["weights"] == alone["weights"] / 8
    assert eight["gradients"] == alone["gradients"]
    assert held.memory(8, 1)["gradients"] == alone["gradients"] / 8


def test_times_of_links_by_hand(scripts: Any) -> None:
    paper = scripts.training_on_paper
    giga = 8e9
    assert paper.Cluster(8, 8).gather(giga) == pytest.approx(7 / 450)
    assert paper.Cluster(64, 64).gather(giga) == pytest.approx(8 * 63 / 64 / 400)
    assert paper.Cluster(8, 1).gather(giga) == paper.Cluster(8, 8).all_reduce(giga) == 0
    assert paper.Cluster(8, 1).all_reduce(giga) == pytest.approx(14 / 450)
    assert paper.Cluster(64, 8).all_reduce(giga) == pytest.approx(2 * 7 / 8 * 1 / 50)  # an eighth of it by an adapter
    step = paper.Step(micro_batches=4, computing=8, gathers=4, root=0.5, reductions=3, copies=0, last=0.25, update=0.125)
    assert step.overlapped == 3 * 2 + (1 + 3) + 0.5 + 0.25 + 0.125
    assert step.hidden == pytest.approx(1 - (2 + 0.5 + 0.25) / 7.75)


def test_a_loader_is_compared_with_a_loop_that_decodes_the_same_frames(scripts: Any, tmp_path: Path) -> None:
    """The bare loops give the pictures of the samples, bit for bit, in order, across episodes, and at random."""
    scripts.demos.make_demos(tmp_path, episodes=3, size=64, lengths=(9, 12))
    dataset, meta = open_lerobot(tmp_path, horizon=16), read_meta(tmp_path)
    loader, mixture, cameras = scripts.loader, mix([dataset], [1.0]), list(meta.films)
    end, films = int(meta.lengths[0]), [loader.Films(meta, cameras, keeps) for keeps in (True, False)]
    for indices in (range(end - 2, end + 3), [end + 7, 1, 0]):
        expected = [dataset[index].observation["images"].values() for index in indices]
        for each in films:
            found = list(each.at_random(indices))
            assert np.array_equal(found, [picture[0] for pictures in expected for picture in pictures])
            if isinstance(indices, range):
                by_camera = [picture[0] for pictures in zip(*expected, strict=True) for picture in pictures]
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
    """Bytes that collectives are called with, where they are whole; of an all-reduce those of a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = {"gathered": 0, "reduced": 0, "copies": 0}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        name, first = function.name(), arguments[0] if arguments else None
        if name == "c10d::_allgather_base_":
            self.bytes["gathered"] += first.nbytes
        if name == "c10d::_reduce_scatter_base_":
            self.bytes["reduced"] += arguments[1].nbytes
        if name == "c10d::allreduce_":
            self.bytes["copies"] += sum(each.nbytes for each in first)
        return function(*arguments, **(options or {}))


@contextmanager
def one_of_four(copies: int) -> Iterator[Processes]:
    """A process whose collectives give it anything, at once."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        shape, names = ((copies, 4 // copies), ("copy", "shard")) if copies > 1 else ((4,), ("shard",))
        yield Processes(0, 4, torch.device("cpu"), init_device_mesh("cpu", shape, mesh_dim_names=names))
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("frozen", [("vision",), ("vision", "language")], ids=["language", "expert"])
def test_communication_is_what_fsdp_exchanges(scripts: Any, frozen: tuple[str, ...], copies: int, micro_batches: int) -> None:
    """Of prompts without pictures, so that the vision tower's blocks are not gathered."""
    bundle, stream = load("tiny"), Random()
    bundle.model.freeze(*frozen, "value_head")
    held = scripts.training_on_paper.Weights.of(bundle.model)
    unseen = sum(scripts.training_on_paper.count(block) for block in bundle.model.backbone.model.visual.blocks)
    layer = scripts.training_on_paper.count(bundle.model.backbone.model.language_model.layers[-1])
    collate = Collator(InputBuilder(TINY, bundle.tokenizer), stream.statistics, SigmoidNormal(), 0, pictures=False)
    with one_of_four(copies) as processes:
        learner = Learner(bundle.model, OptimizerSettings(), 1, processes)
        learner.model.every_part = False
        with Exchanged() as exchanged:
            for index in range(micro_batches):
                loss = learner.model(collate([(index, stream[index])]).batch).action.mean
                learner.backward(loss, last=index == micro_batches - 1)
    traffic = scripts.training_on_paper.Traffic.of(replace(held, blocks=held.blocks - unseen))
    reduced, gathered = traffic.reduced + traffic.last, traffic.blocks + traffic.root
    if "language" in frozen:  # in the backward pass FSDP gathers ahead what ran before the expert, and it is not needed
        gathered += 4 * layer
    assert exchanged.bytes["gathered"] == pytest.approx(micro_batches * gathered, rel=2e-3)
    assert exchanged.bytes["reduced"] == pytest.approx(reduced, rel=2e-3)
    assert exchanged.bytes["copies"] == pytest.approx(reduced * copies / 4 if copies > 1 else 0, rel=2e-3)
