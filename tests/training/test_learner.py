"""What updates the weights: rates over the steps, groups, the average."""

from __future__ import annotations

import math

import pytest
import torch
from demonstrations import Mixed

from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.flow import SigmoidNormal
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.tokenizer import token_ids
from vlarig.training.batches import Collator
from vlarig.training.config import GroupSettings, OptimizerSettings
from vlarig.training.learner import Learner, parameter_groups, rate
from vlarig.training.parallel import Processes

ALONE = Processes(0, 1, torch.device("cpu"), None)


def test_a_rate_rises_then_falls_as_a_cosine() -> None:
    settings = GroupSettings(lr=2.0, warmup=0.1, final=0.25)
    rates = [rate(settings, step, 101) for step in range(101)]
    assert rates[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(0.5 + 1.5 / 2)  # half of the way
    assert rates[100] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = GroupSettings(lr=2.0, warmup=0.0, schedule="constant")
    assert {rate(constant, step, 101) for step in range(101)} == {2.0}
    assert math.isclose(rate(GroupSettings(lr=1.0), 0, 1), 1.0)


def test_groups_hold_every_weight_that_is_trained_once() -> None:
    model = build(PRESETS["tiny"]())
    model.freeze("vision", "value_head")
    groups = parameter_groups(model, OptimizerSettings(weight_decay=0.5))
    held = [id(weight) for group in groups for weight in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert {group["name"] for group in groups} == {"backbone", "expert"}
    assert {id(weight) for weight in model.backbone.model.visual.parameters()}.isdisjoint(held)
    for group in groups:
        assert group["weight_decay"] == (0.5 if group["params"][0].ndim > 1 else 0.0)
        assert len({weight.ndim > 1 for weight in group["params"]}) == 1


@pytest.mark.parametrize(("step", "share"), [(0, 0.1), (8, 0.5), (60, 0.75)])
def test_each_group_has_the_rate_of_its_own_and_the_average_follows(step: int, share: float) -> None:
    """The average keeps less of what was before in the first steps, so that the weights of the beginning are forgotten."""
    settings = OptimizerSettings(
        backbone=GroupSettings(lr=0.0), expert=GroupSettings(lr=1e-2, schedule="constant", warmup=0.0), ema=0.75
    )
    model = build(PRESETS["tiny"]())
    model.freeze("value_head")
    learner = Learner(model, settings, 100, ALONE)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    learner.backward(sum((weight.square().sum() for weight in model.parameters() if weight.requires_grad), torch.zeros(())))
    norms = learner.update(step)
    assert norms["gradient_norm"] > 1
    moved = {name.split(".")[0] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert moved == {"expert"}
    assert learner.rates() == {"lr/backbone": 0.0, "lr/expert": 1e-2}
    assert learner.average is not None
    name = "expert.vlm_projection.weight"
    expected = share * before[name] + (1 - share) * model.get_parameter(name)
    torch.testing.assert_close(learner.average.state[name], expected)
    assert all(weight.grad is None for weight in model.parameters())


def test_the_gradient_is_clipped_as_a_whole() -> None:
    model = build(PRESETS["tiny"]())
    model.freeze("vision", "language", "value_head")
    learner = Learner(model, OptimizerSettings(clip=1e-3), 10, ALONE)
    seen = []
    learner.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(
            torch.nn.utils.get_total_norm([weight.grad for group in optimizer.param_groups for weight in group["params"]])
        )
    )
    learner.backward(sum((weight.square().sum() for weight in model.parameters() if weight.requires_grad), torch.zeros(())))
    learner.update(0)
    assert float(seen[0]) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("frozen", [("value_head",), ("vision", "language", "value_head")])
@pytest.mark.parametrize("positions", [range(8), (6, 7)], ids=["all kinds", "words alone"])
def test_a_step_reads_no_number_from_the_device(frozen: tuple[str, ...], positions: list[int]) -> None:
    """On the meta device, which has no numbers: whatever would wait for a GPU fails there."""
    bundle, stream = load("tiny"), Mixed()
    collator = Collator(InputBuilder(bundle.description.config, bundle.tokenizer), stream.statistics, SigmoidNormal(), seed=0)
    batch = collator([(position, stream[position]) for position in positions]).batch.to("meta")
    model = build(PRESETS["tiny"](tokens=token_ids(bundle.tokenizer)), seed=None, device="meta")
    model.freeze(*frozen)
    model.checkpoint_activations("vision", "language", "expert")
    learner = Learner(model, OptimizerSettings(ema=0.9), 10, Processes(0, 1, torch.device("meta"), None))
    for last in (False, True):
        losses = learner.model(batch)
        learner.backward(losses.action.sum + losses.language.sum, last)
    norms = learner.update(0)
    assert {norm.device.type for norm in norms.values()} == {"meta"}
