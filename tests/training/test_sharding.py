"""A sharded model answers every call as a whole one does: training's, acting's and RL's; here one process holds all shards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from demonstrations import Mixed
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.checkpoint import LoadedPolicy, load, load_checkpoint, save_checkpoint
from vlarig.policies.qwen_vla.flow import Sde, SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import QwenVla
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.recording import RecordedBatch, evaluate
from vlarig.training.batches import Collator
from vlarig.training.parallel import shard

STREAM = Mixed()


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield
    distributed.destroy_process_group()


@pytest.fixture(params=["tiny", "small"])
def bundle(request: pytest.FixtureRequest) -> LoadedPolicy:
    bundle = load(request.param, seed=2)
    torch.nn.init.normal_(bundle.model.value_head.readout.weight)
    return bundle


@pytest.fixture
def sharded(bundle: LoadedPolicy) -> QwenVla:
    model = copy.deepcopy(bundle.model)
    shard(model, init_device_mesh("cpu", (1,)))
    assert all(isinstance(weight, DTensor) for weight in model.parameters())
    return model


def test_every_block_is_a_group_of_its_own(sharded: QwenVla) -> None:
    inner = sharded.backbone.model
    for blocks in (inner.visual.blocks, inner.language_model.layers, sharded.expert.blocks):
        assert all(isinstance(block, FSDPModule) for block in blocks)


def test_losses_and_gradients_are_the_whole_models(bundle: LoadedPolicy, sharded: QwenVla) -> None:
    config = bundle.description.config
    batch = Collator(InputBuilder(config, bundle.tokenizer), STREAM.statistics, SigmoidNormal(), 0)(
        [(p, STREAM[p]) for p in range(8)]
    ).batch
    found = []
    for model in (bundle.model, sharded):
        model.train().checkpoint_activations("vision", "language", "expert")
        losses = model(batch)
        (losses.action.sum + losses.language.sum).backward()
        gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append(
            (losses, {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in gradients.items()})
        )
    (expected, gradients), (losses, others) = found
    torch.testing.assert_close(losses.action.sum, expected.action.sum)
    torch.testing.assert_close(losses.language.sum, expected.language.sum)
    assert others.keys() == gradients.keys()
    for name, gradient in others.items():
        torch.testing.assert_close(gradient, gradients[name], msg=lambda text, name=name: f"{name}: {text}")


def test_rl_scores_and_values_are_the_whole_models(bundle: LoadedPolicy, sharded: QwenVla) -> None:
    policy = QwenVlaPolicy.of(bundle)
    policy.record({})
    requests = [
        Request(0, f"key{index}", 0, index, STREAM[index].observation, STREAM[index].embodiment, 8)  # type: ignore[union-attr]
        for index in range(3)
    ]
    recorded = RecordedBatch.stack([reply.recorded for reply in policy.act(requests) if reply.recorded], 64)
    inputs = policy.prepare(requests).inputs
    for given in (None, inputs):
        expected, found = (evaluate(model, recorded, Sde(), given) for model in (bundle.model, sharded))
        torch.testing.assert_close(found.log_probability, expected.log_probability)
        torch.testing.assert_close(found.value, expected.value)
    (found.log_probability.sum() + found.value.sum()).backward()
    parts = {name.split(".")[0] for name, weight in sharded.named_parameters() if weight.grad is not None}
    assert parts == {"backbone", "expert", "value_head"}


def test_a_sharded_model_is_saved_whole(bundle: LoadedPolicy, sharded: QwenVla, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "saved", LoadedPolicy(bundle.description, sharded, bundle.tokenizer, "sharded"))
    expected: dict[str, Any] = bundle.model.state_dict()
    found = load_checkpoint(tmp_path / "saved").model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
