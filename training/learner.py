"""What updates the weights, for the supervised stages and for RL: groups of weights, their learning rates, AdamW, an average."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from ..policies.qwen_vla.model import QwenVla
from .config import GroupSettings, OptimizerSettings
from .parallel import Processes, shard, sum_gradients, whole

#: Group of weights to the beginning of their names.
GROUPS = {"backbone": "backbone.", "expert": "expert.", "value_head": "value_head."}


def rate(settings: GroupSettings, step: int, steps: int) -> float:
    """The learning rate of a group at a step, from 0 on, of all: a linear rise, then a cosine, or constant; after the last it stays."""
    rise = round(settings.warmup * steps)
    if step < rise:
        return settings.lr * (step + 1) / rise
    if settings.schedule == "constant":
        return settings.lr
    share = min((step - rise) / max(steps - 1 - rise, 1), 1.0)
    return settings.lr * (settings.final + (1 - settings.final) * (1 + math.cos(math.pi * share)) / 2)


def parameter_groups(model: QwenVla, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """The weights that are trained, as groups for AdamW: by part, and matrices apart from vectors, which have no weight decay."""
    groups = []
    for name, beginning in GROUPS.items():
        weights = [weight for each, weight in model.named_parameters() if each.startswith(beginning) and weight.requires_grad]
        for decay, own in (
            (settings.weight_decay, [weight for weight in weights if weight.ndim > 1]),
            (0.0, [weight for weight in weights if weight.ndim <= 1]),
        ):
            if own:
                groups.append({"params": own, "weight_decay": decay, "lr": 0.0, "name": name})
    return groups


class Learner:
    """A model on its way: takes gradients, updates the weights, and knows how.

    Args:
        model: In training mode from now on, and sharded where several processes hold a part each.
        settings: Of the optimiser.
        steps: Those over which learning rates fall; they stay where they are in steps beyond.
        processes: Those that train together.
    """

    def __init__(self, model: QwenVla, settings: OptimizerSettings, steps: int, processes: Processes) -> None:
        self.model = model.train()
        # Alone too: a part that a batch does not need has a gradient of zero, not none, with any number of processes.
        model.every_part = True
        if processes.mesh is not None and processes.shards:
            shard(model, processes.mesh)
        self.settings = settings
        self.steps = steps
        self.processes = processes
        self.optimizer = torch.optim.AdamW(
            parameter_groups(model, settings),
            betas=settings.betas,
            eps=settings.eps,
            fused=processes.device.type == "cuda",
            foreach=processes.device.type == "cpu",  # not torch's choice there, and quicker
        )
        self.average = None if settings.ema is None else Average(model, settings.ema)
        self.begins: dict[str, int] = {}
        """Group to the step at which its learning rate begins to rise, where that is not the first: it is 0 before."""

    def backward(self, loss: Tensor, last: bool = True) -> None:
        """Add a loss's gradient to those that are there.

        Args:
            loss: This process's part of the step's loss, which is the sum of all parts of all processes.
            last: Whether it is the step's last part; gradients are summed over the processes then.
        """
        if isinstance(self.model, FSDPModule):
            self.model.set_requires_gradient_sync(last)
            loss = loss * self.processes.world  # FSDP averages
        loss.backward()
        if last and self.processes.world > 1 and not self.processes.shards:
            sum_gradients([weight for group in self.optimizer.param_groups for weight in group["params"]])

    def update(self, step: int, held: Collection[str] = ()) -> dict[str, Tensor]:
        """One step of the optimiser by the gradients that are there; they are gone after it.

        Args:
            step: Its number, from 0.
            held: Groups that do not move in this step, by whatever momentum.

        Returns:
            Norms of the gradient before it was clipped, and of the weights: tensors, for which no process waits here.
        """
        for group in self.optimizer.param_groups:
            name, begin = group["name"], self.begins.get(group["name"], 0)
            waits = name in held or step < begin
            group["lr"] = 0.0 if waits else rate(getattr(self.settings, name), step - begin, self.steps - begin)
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        gradient = nn.utils.clip_grad_norm_(weights, self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update(step)
        norms = {"gradient_norm": gradient, "weight_norm": nn.utils.get_total_norm([weight.detach() for weight in weights])}
        return {name: whole(norm) for name, norm in norms.items()}

    def rates(self) -> dict[str, float]:
        """The learning rate of each group at the last step."""
        return {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}


class Average:
    """An exponential moving average of the weights that are trained, in their precision and shards.

    Args:
        model: Whose weights.
        decay: Share of the old average in the new one; in the first steps less, so that the weights of the beginning are forgotten:
            (1 + step) / (10 + step), as TensorFlow's ``ExponentialMovingAverage`` does by ``num_updates``.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._decay = decay
        self.state = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after a step, counted from 0, to the average."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.state.values()), list(self._weights.values()), 1 - decay)  # type: ignore[attr-defined]
