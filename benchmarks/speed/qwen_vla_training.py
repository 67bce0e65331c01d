"""Training steps of a Qwen-VLA: flow loss, backward pass in micro-batches, AdamW.

Trained weights are float32, with float32 moments; matrices are multiplied in bfloat16 under autocast. That is 16 bytes a trained
weight, as many as bfloat16 weights with float32 copies take.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from qwen_vla_machine import Cost, Machine
from qwen_vla_parts import Moment
from torch import Tensor, nn

from vlarig.policies.qwen_vla.backbone import BackboneInputs
from vlarig.policies.qwen_vla.flow import interpolate, masked_velocity_loss, target_velocity
from vlarig.policies.qwen_vla.model import Context, QwenVla


@dataclass(frozen=True)
class Measured:
    """A training step.

    Attributes:
        cost: Of the whole step.
        optimizer: Of AdamW alone.
        micro_batch: Samples that went through together.
        gigabytes: Allocated at most, weights and moments included; ``None`` on a CPU.
    """

    cost: Cost
    optimizer: Cost
    micro_batch: int
    gigabytes: float | None


class Training:
    """One way to train: which weights, with which memory.

    Attributes:
        model: In training mode; what is not trained asks for no gradient.
        whole: Whether the backbone is trained too, or its states are at hand.
    """

    def __init__(self, model: QwenVla, moment: Moment, whole: bool, checkpointing: bool, dtype: torch.dtype) -> None:
        """Prepare a model.

        Args:
            model: Its weights become float32 where they are trained.
            moment: A batch of one micro-batch's size; it is repeated.
            whole: Train the backbone too.
            checkpointing: Compute the backbone's activations again in the backward pass.
            dtype: What matrices are multiplied in.
        """
        self.model = model.train()
        self.whole = whole
        self.dtype = dtype
        self._moment = moment
        trained: nn.Module = model if whole else model.expert
        trained.float()
        model.requires_grad_(False)
        trained.requires_grad_(True)
        model.value_head.requires_grad_(False)
        if checkpointing:
            model.backbone.gradient_checkpointing_enable()
        weights = [weight for weight in trained.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(weights, lr=1e-6, fused=moment.mask.is_cuda)
        generator = torch.Generator(moment.mask.device).manual_seed(0)
        self._clean, self._noise = (
            torch.randn(moment.mask.shape, device=moment.mask.device, generator=generator) for _ in range(2)
        )
        self._time = torch.rand(len(moment.mask), device=moment.mask.device, generator=generator)

    def backward(self, batch: int, micro_batch: int) -> None:
        """Gradients of a batch."""
        for _ in range(batch // micro_batch):
            with torch.autocast(self._time.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self._loss(micro_batch) * (micro_batch / batch)
            loss.backward()

    def step(self) -> None:
        """AdamW."""
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, samples: int) -> Tensor:
        moment = self._moment
        context = (
            self.model.encode(_first_inputs(moment.inputs, samples)) if self.whole else _first_states(moment.context, samples)
        )
        clean, noise, time, mask = (whole[:samples] for whole in (self._clean, self._noise, self._time, moment.mask))
        predicted = self.model.velocity(interpolate(clean, noise, time), time, context, mask)
        return masked_velocity_loss(predicted, target_velocity(clean, noise), mask)


def measure(machine: Machine, training: Training, batch: int, micro_batches: Iterable[int], turns: int) -> list[Measured]:
    """Measure with the first of the micro-batches that fits into the memory, after two steps to warm up.

    Args:
        machine: Where.
        training: What.
        batch: Samples of an optimiser step.
        micro_batches: Sizes to try, the largest first; each divides the batch.
        turns: Steps to measure.

    Raises:
        RuntimeError: None fits.
    """
    for micro_batch in micro_batches:
        machine.start_memory()
        try:
            for _ in range(2):
                training.backward(batch, micro_batch)
                training.step()
            return [_turn(machine, training, batch, micro_batch) for _ in range(turns)]
        except torch.OutOfMemoryError:
            training.optimizer.zero_grad()
    raise RuntimeError("no micro-batch fits into the device's memory")


def _turn(machine: Machine, training: Training, batch: int, micro_batch: int) -> Measured:
    gradients = machine.cost(lambda: training.backward(batch, micro_batch))
    optimizer = machine.cost(training.step)
    whole = Cost(gradients.wall + optimizer.wall, gradients.busy + optimizer.busy)
    return Measured(whole, optimizer, micro_batch, machine.largest_memory())


def _first_inputs(inputs: BackboneInputs, samples: int) -> BackboneInputs:
    """Those of the first samples; all have as many pictures."""
    share = samples / len(inputs.input_ids)
    pixels, grids = inputs.pixel_values, inputs.image_grid_thw
    return BackboneInputs(
        input_ids=inputs.input_ids[:samples],
        valid=inputs.valid[:samples],
        positions=inputs.positions[:, :samples],
        pixel_values=None if pixels is None else pixels[: round(len(pixels) * share)],
        image_grid_thw=None if grids is None else grids[: round(len(grids) * share)],
    )


def _first_states(context: Context, samples: int) -> Context:
    return Context(context.states[:samples], context.valid[:samples], context.positions[:, :samples])
