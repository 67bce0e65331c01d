"""Qwen-VLA: the backbone reads images and text, the action expert turns noise into a chunk of actions (paper, section 2.2).

Weights are in float32 for training, or in bfloat16 for acting alone. Computing is in float32, or in bfloat16: then matrices are
multiplied in bfloat16, and all between them stays in float32 (``torch.autocast``). The flow itself is computed in float32 always, see
:class:`~.projections.Float32Linear`. The weights that autocast rounds are those that :func:`cast_parameters` rounds, so bfloat16
weights give the same numbers as float32 weights that compute in bfloat16.

Shapes: ``B`` samples, ``S`` prompt tokens, ``H`` and ``K`` steps and channels of a chunk, ``D`` the backbone's width, ``C`` samples of
a batch that have a chunk to learn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from ..api import PolicyError
from .action_expert import ActionExpert
from .backbone import BackboneInputs, embed, hidden_states, load_backbone, make_backbone
from .config import ModelConfig
from .flow import Loss, action_loss, interpolate, sample_losses, target_velocity
from .language import language_loss
from .marks import marks_loss
from .projections import Float32Linear, computing
from .tensors import changed
from .value_head import ValueHead

#: What can be frozen, and has activation checkpointing of its own but the value head.
PARTS = ("vision", "language", "expert", "value_head")


@dataclass(frozen=True)
class Context:
    """The backbone's output for a batch of prompts; enough for the action expert and the value head.

    Attributes:
        states: ``[B, S, D]`` in the precision that the model computes in, zero at padding.
        valid: ``bool[B, S]``.
        positions: ``int64[3, B, S]``.
    """

    states: Tensor
    valid: Tensor
    positions: Tensor

    @classmethod
    def padded(cls, states: Sequence[Tensor], positions: Sequence[Tensor]) -> Context:
        """Of several samples, states ``[S, D]`` and positions ``int64[3, S]`` each, as one batch."""
        together = pad_sequence(list(states), batch_first=True)
        lengths = torch.tensor([len(each) for each in states])
        places = pad_sequence([each.T for each in positions], batch_first=True).permute(2, 0, 1)
        return cls(together, torch.arange(together.shape[1]) < lengths[:, None], places.contiguous())

    def of(self, samples: Tensor) -> Context:
        """Those of some samples, ``int64[C]``."""
        return Context(self.states[samples], self.valid[samples], self.positions[:, samples])


@dataclass(frozen=True)
class Chunks:
    """Chunks to learn, and what chance drew for them.

    Attributes:
        samples: ``int64[C]``, which sample of the batch each belongs to.
        clean: ``float32[C, H, K]``, normalised.
        mask: ``bool[C, H, K]``, the valid entries.
        noise: ``float32[C, H, K]``, standard normal.
        time: ``float32[C]``, 0 (clean) to 1 (noise).
        embodiment: ``int64[C]`` for the projections ``multi_mlp`` and ``concat``.
        state: ``float32[C, state_size]`` for the state mode ``dit``.
    """

    samples: Tensor
    clean: Tensor
    mask: Tensor
    noise: Tensor
    time: Tensor
    embodiment: Tensor | None = None
    state: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """What :meth:`QwenVla.forward` learns from: samples with a chunk, samples with answers, or both kinds.

    Attributes:
        inputs: All samples' prompts, or what a frozen backbone made of them; it does not run then.
        chunks: The chunks of those that have one.
    """

    inputs: BackboneInputs | Context
    chunks: Chunks | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        inputs = self.inputs
        moved = changed(inputs, move) if isinstance(inputs, Context) else inputs.to(device, non_blocking)
        return Batch(moved, changed(self.chunks, move))

    def pin_memory(self) -> Batch:
        """The same in pinned memory; a DataLoader calls it."""
        inputs = self.inputs
        pinned = changed(inputs, Tensor.pin_memory) if isinstance(inputs, Context) else inputs.pin_memory()
        return Batch(pinned, changed(self.chunks, Tensor.pin_memory))


@dataclass(frozen=True)
class Losses:
    """The terms of the objective (paper, equation 4, and one of ours), not yet weighted.

    Attributes:
        action: Over the samples with a chunk (equations 1 and 2).
        language: Over the tokens of answers (equation 3).
        marks: Over the marks of pictures (ours, :mod:`.marks`).
        each: ``float32[C]``, the action loss of each chunk, without a gradient.
    """

    action: Loss
    language: Loss
    marks: Loss
    each: Tensor


class QwenVla(nn.Module):
    """The whole policy network: :meth:`forward` for the supervised stages, the other methods for acting and RL.

    Attributes:
        config: Its architecture.
        backbone: Transformers' ``Qwen3_5ForConditionalGeneration``; its language-model head serves the vision-language loss.
        expert: The action expert.
        value_head: The critic of the RL stage.
        compute: The precision that matrices are multiplied in, whoever calls.
        every_part: Whether :meth:`forward` runs the parts that no sample of the batch needs, without an effect on the loss. Processes
            that share weights have to run the same parts.
        vision_alone: Whether :meth:`forward` runs the vision tower alone, of which marks are learned and nothing else.
    """

    def __init__(self, config: ModelConfig, backbone: nn.Module | None = None) -> None:
        """Weights come from torch's current generators; :func:`build` seeds them.

        Args:
            config: The architecture.
            backbone: A backbone that is there already, instead of a new one.
        """
        super().__init__()
        self.config = config
        self.backbone: Any = make_backbone(config.backbone) if backbone is None else backbone
        self.expert = ActionExpert(config)
        self.value_head = ValueHead(config.text["hidden_size"])
        self.compute = torch.float32
        self.every_part = False
        self.vision_alone = False

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch (paper, section 2.5).

        Raises:
            PolicyError: A shape does not fit, or something that the configuration needs is missing.
        """
        # Not self.encode and self.velocity: those of a sharded model gather the root's weights, which are gathered by now.
        inputs = batch.inputs
        if isinstance(inputs, Context):
            context, language = inputs, _nothing(inputs.states)
            marks = language
        elif self.vision_alone:
            with self._computing():
                embedded = embed(self.backbone, inputs, self.compute, self.every_part)
            nothing = _nothing(embedded)
            return Losses(nothing, nothing, self._marks_loss(embedded, embedded, inputs), nothing.sum.new_zeros(0))
        else:
            embedded, context = QwenVla._read(self, inputs)
            language = self._language_loss(context, inputs)
            marks = self._marks_loss(embedded, context.states, inputs)
        chunks = batch.chunks
        if chunks is None and self.every_part:
            chunks = _no_chunk(context, self.config)
        action, each = _nothing(context.states), context.states.new_zeros(0, dtype=torch.float32)
        if chunks is not None:
            noisy = interpolate(chunks.clean, chunks.noise, chunks.time)
            own = context.of(chunks.samples)
            found = QwenVla.velocity(self, noisy, chunks.time, own, chunks.mask, chunks.embodiment, chunks.state)
            losses = sample_losses(found, target_velocity(chunks.clean, chunks.noise), chunks.mask)
            action, each = action_loss(losses, chunks.mask), losses.detach()[: 0 if batch.chunks is None else None]
        return Losses(action, language, marks, each)

    def encode(self, inputs: BackboneInputs) -> Context:
        """The backbone's forward pass."""
        return QwenVla._read(self, inputs)[1]

    def _read(self, inputs: BackboneInputs) -> tuple[Tensor, Context]:
        """What the language model reads, ``[B, S, D]``, and what it makes of it."""
        with self._computing():
            embedded = embed(self.backbone, inputs, self.compute, self.every_part)
            states = hidden_states(self.backbone, inputs, embedded)
        return embedded, Context(states.to(self.compute), inputs.valid, inputs.positions)

    def velocity(
        self,
        noisy: Tensor,
        time: Tensor,
        context: Context,
        mask: Tensor,
        embodiment: Tensor | None = None,
        state: Tensor | None = None,
    ) -> Tensor:
        """The flow's velocity, from clean to noise: ``float32[B, H, K]``, zero outside the mask.

        Args:
            noisy: ``[B, H, K]``; the values outside the mask are not read. ``H`` is the chunk's own, not the configuration's.
            time: ``[B]``, 0 (clean) to 1 (noise).
            context: From :meth:`encode`.
            mask: ``bool[B, H, K]``, the valid entries.
            embodiment: ``int64[B]``, :meth:`~.config.ModelConfig.embodiment_index` of each sample; ``None`` for ``zero_pad``.
            state: ``[B, state_size]`` for the state mode ``dit``, else ``None``.

        Raises:
            PolicyError: A shape does not fit, or something that the configuration needs is missing.
        """
        with self._computing():
            return self.expert(noisy, time, context.states, context.valid, context.positions, mask, embodiment, state)

    def value(self, context: Context) -> Tensor:
        """The value of each observation, ``float32[B]``; no gradient reaches the backbone."""
        return self.value_head(context.states, context.valid)

    def part(self, name: str) -> nn.Module:
        """The module that is one of :data:`PARTS`.

        Raises:
            PolicyError: There is no such part.
        """
        inner = self.backbone.model
        parts = {"vision": inner.visual, "language": inner.language_model, "expert": self.expert, "value_head": self.value_head}
        if name not in parts:
            raise PolicyError(f"the model has no part {name!r}, expected one of {', '.join(PARTS)}")
        return parts[name]

    def freeze(self, *names: str) -> None:
        """Train these of :data:`PARTS` no more, and all others.

        Raises:
            PolicyError: There is no such part.
        """
        frozen = [self.part(name) for name in names]
        self.requires_grad_(True)
        for part in frozen:
            part.requires_grad_(False)

    def learn_vision_alone(self) -> None:
        """Run the vision tower alone from now on. What does not run learns nothing, and has no state in an optimiser."""
        self.vision_alone = True
        language = self.backbone.model.language_model
        for unused in (language.layers, language.norm):  # marks are read by the words' own weights
            unused.requires_grad_(False)

    def checkpoint_activations(self, *names: str) -> None:
        """In training, keep no activations within the blocks of these of :data:`PARTS`, and compute them again in the backward pass.

        Raises:
            PolicyError: There is no such part.
        """
        chosen = {id(module) for name in names for module in self.part(name).modules()}
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):  # transformers' blocks, and the expert's
                module.gradient_checkpointing = id(module) in chosen
                module._gradient_checkpointing_func = _checkpoint  # type: ignore[assignment]

    def _language_loss(self, context: Context, inputs: BackboneInputs) -> Loss:
        if inputs.labelled is None or inputs.targets is None:
            return _nothing(context.states)
        with self._computing():
            total, count = language_loss(context.states, self.backbone.lm_head.weight, inputs.labelled, inputs.targets)
        return Loss(total, total.new_full((), count))

    def _marks_loss(self, embedded: Tensor, states: Tensor, inputs: BackboneInputs) -> Loss:
        if inputs.marked is None:
            return _nothing(states)
        with self._computing():
            return Loss(*marks_loss(embedded, states, self.backbone.lm_head.weight, inputs.marked))

    def _computing(self) -> contextlib.AbstractContextManager[object]:
        return computing(self.value_head.readout.weight.device, self.compute)


def _checkpoint(function: Any, *arguments: Any) -> Any:
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)  # nothing in a block is random


def _nothing(states: Tensor) -> Loss:
    """A loss over nothing."""
    zero = states.new_zeros((), dtype=torch.float32)
    return Loss(zero, zero)


def _no_chunk(context: Context, config: ModelConfig) -> Chunks:
    """A chunk of the first sample without a valid entry: its loss is 0, and so is every gradient of it."""
    states = context.states
    zeros = states.new_zeros((1, 1, config.channels), dtype=torch.float32)
    first = torch.zeros(1, dtype=torch.int64, device=states.device)
    return Chunks(
        samples=first,
        clean=zeros,
        mask=zeros.bool(),
        noise=zeros,
        time=zeros[:, 0, 0],
        embodiment=None if config.projection == "zero_pad" else first,
        state=zeros.new_zeros((1, config.state_size)) if config.state == "dit" else None,
    )


def build(
    config: ModelConfig,
    seed: int | None = 0,
    backbone: str | Path | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
) -> QwenVla:
    """A model whose weights are a function of ``config`` and ``seed`` alone; torch's generators are left as they were.

    Args:
        config: The architecture.
        seed: Seed of the random weights. ``None`` leaves them unset, for a checkpoint to fill every one of them: at full size that
            saves minutes.
        backbone: Directory or hub id of a trained Qwen3.5 whose weights the backbone takes; its sizes must be ``config.backbone``'s.
        device: Where the weights are made. A GPU's generator draws others than the CPU's; ``meta`` makes none.
        dtype: Precision of the weights, see :func:`cast_parameters`.
        compute: Precision to compute in; by default the weights'.

    Raises:
        PolicyError: The trained backbone cannot be loaded or has other sizes, or the precisions do not go together.
    """
    compute = dtype if compute is None else compute
    check_precision(dtype, compute)
    place = torch.device(device)
    with _seeded(seed or 0, place):
        trained: Any = None if backbone is None else load_backbone(backbone, dtype, config.backbone)
        with no_init_weights() if seed is None else contextlib.nullcontext(), place:
            model = QwenVla(config, None if trained is None else trained.to(place))
    model.backbone.tie_weights()
    if seed is not None:
        with _seeded(seed, place):  # again, so that the expert does not depend on where its backbone came from
            model.expert.reset()
            model.value_head.reset()
    cast_parameters(model, dtype)
    model.compute = compute
    return model.eval()


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch's generators of the CPU and of ``device`` for the block and restores them after it."""
    cuda = device.type == "cuda"
    index = device.index if device.index is not None else torch.cuda.current_device() if cuda else 0
    with torch.random.fork_rng(devices=[index] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def check_precision(dtype: torch.dtype, compute: torch.dtype) -> None:
    """Make sure that a model with weights of ``dtype`` can compute in ``compute``.

    Raises:
        PolicyError: It cannot: either is none of float32 and bfloat16, or it would compute in more than its weights have.
    """
    legal = (torch.float32, torch.bfloat16)
    if dtype not in legal or compute not in legal or (dtype, compute) == (torch.bfloat16, torch.float32):
        given, wanted = (str(each).removeprefix("torch.") for each in (dtype, compute))
        raise PolicyError(
            f"weights in {given} cannot compute in {wanted}; float32 weights compute in float32 or bfloat16, those in bfloat16 in it"
        )


def cast_parameters(model: QwenVla, dtype: torch.dtype) -> None:
    """Gives another precision, in place, to the weights that are rounded in computing in it anyway: those of matrix products.

    All others stay in float32, or go back to it: norms, decays, learned positions, and the layers around the flow
    (:class:`~.projections.Float32Linear`). They are one part in five hundred of the whole. Buffers stay as they are:
    ``model.to(torch.bfloat16)`` would round the backbone's rotary frequencies, which loading the same weights does not.
    """
    embedding = model.backbone.get_input_embeddings()  # its weights are the language-model head's too
    for module in model.modules():
        product = module is embedding or isinstance(module, nn.Linear | nn.Conv1d | nn.Conv3d)
        product = product and not isinstance(module, Float32Linear)
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype if product else torch.float32)


def parameter_counts(model: QwenVla) -> dict[str, int]:
    """Parameters by part, under the names that the paper uses where it prints a number (section 2.2); shared weights count once."""
    expert, vision = model.expert, model.backbone.model.visual
    counts = {
        "block": _count(expert.blocks[0]),
        "blocks": _count(expert.blocks),
        "action projections": _count(expert.action_projection),
        "vlm projection": _count(expert.vlm_projection),
        "time embedding": _count(expert.time_embedding),
        "output modulation": _count(expert.output_modulation),
    }
    if expert.state_projection is not None:
        counts["state projection"] = _count(expert.state_projection)
    if expert.condition_projection is not None:
        counts["condition projection"] = _count(expert.condition_projection)
    counts |= {
        "action expert": _count(expert),
        "vision": _count(vision),
        "language model": _count(model.backbone) - _count(vision),
        "value head": _count(model.value_head),
        "total": _count(model),
    }
    return counts


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
