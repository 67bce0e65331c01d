"""Qwen-VLA: the backbone reads images and text, the action expert turns noise into a chunk of actions (paper, section 2.2).

Weights are in float32 for training, or in bfloat16 for acting alone. Computing is in float32, or in bfloat16: then matrices are
multiplied in bfloat16, and all between them stays in float32 (``torch.autocast``). The flow itself is computed in float32 always, see
:class:`~.tensors.Float32Linear`. The weights that autocast rounds are those that :func:`cast_parameters` rounds, so bfloat16
weights give the same numbers as float32 weights that compute in bfloat16.

Shapes: ``B`` samples, ``S`` prompt tokens, ``H`` and ``K`` steps and channels of a chunk, ``D`` the backbone's width, ``C`` samples of
a batch that have a chunk to learn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from ..api import PolicyError
from .action_expert import ActionExpert
from .backbone import BackboneInputs, Context, Embedded, embed, hidden_states, load_backbone, make_backbone
from .config import ModelConfig
from .flow import interpolate, target_velocity
from .losses import Loss, action_loss, language_loss, marks_loss, sample_losses
from .readouts import ValueHead, ends_loss
from .tensors import Float32Linear, Tensors, computing

#: What can be frozen, and has activation checkpointing of its own but the value head.
PARTS = ("vision", "language", "expert", "value_head")


@dataclass(frozen=True)
class Chunks:
    """Chunks to learn, and the random numbers that were sampled for them.

    Attributes:
        samples: ``int64[C]``, which sample of the batch each belongs to.
        clean: ``float32[C, H, K]``, normalised.
        mask: ``bool[C, H, K]``, the valid entries.
        noise: ``float32[C, H, K]``, standard normal.
        time: ``float32[C]``, the flow time, 0 (clean) to 1 (noise).
        embodiment: ``int64[C]`` for the projections ``multi_mlp`` and ``concat``.
        state: ``float32[C, state_numbers]`` for the state mode ``dit``.
        ends: ``float32[C, READ]``, what the prompts' ends say, where that is not the backbone's (:func:`~.end_numbers.blurred`).
    """

    samples: Tensor
    clean: Tensor
    mask: Tensor
    noise: Tensor
    time: Tensor
    embodiment: Tensor | None = None
    state: Tensor | None = None
    ends: Tensor | None = None


@dataclass(frozen=True)
class Batch(Tensors):
    """What :meth:`QwenVla.forward` learns from: samples with a chunk, samples with answers, or both kinds.

    Attributes:
        inputs: All samples' prompts; ``None`` where the chunks say what the prompts' ends do, and the backbone does not run.
        chunks: The chunks of those that have one.
    """

    inputs: BackboneInputs | None
    chunks: Chunks | None = None


@dataclass(frozen=True)
class Losses:
    """The terms of the objective (paper, equation 4, and two of ours), not yet weighted.

    Attributes:
        action: Over the samples with a chunk (equations 1 and 2).
        each: ``float32[C]``, the action loss of each chunk, without a gradient.
        language: Over the tokens of answers (equation 3).
        marks: Over the marks of images (ours, :mod:`.losses`).
        ends: Over the prompts whose ends have numbers to hold (ours, :mod:`.readouts`).
    """

    action: Loss
    each: Tensor
    language: Loss
    marks: Loss
    ends: Loss


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
        self.backbone: Any = make_backbone(config) if backbone is None else backbone
        self.expert = ActionExpert(config)
        self.value_head = ValueHead(config.text["hidden_size"], config.state_numbers)
        self.compute = torch.float32
        self.every_part = False
        self.vision_alone = False

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch (paper, section 2.5)."""
        # Not self.encode and self.velocity: those of a sharded model gather the root's weights, which are gathered by now.
        inputs, chunks = batch.inputs, batch.chunks
        if inputs is None:
            if chunks is None or chunks.ends is None:
                raise PolicyError(
                    "a batch has neither prompts nor chunks that say what their prompts' ends do; give one of the two"
                )
            nothing = _nothing(chunks.clean)
            return Losses(*self._action_losses(chunks, chunks.ends), nothing, nothing, nothing)
        with self._computing():
            embedded = embed(self.backbone, inputs, self.compute, self.every_part, self.config.kept_tokens)
        if self.vision_alone:
            nothing = _nothing(embedded.states)
            return Losses(nothing, nothing.sum.new_zeros(0), nothing, self._marks_loss(embedded, None, inputs), nothing)
        context = self._context(inputs, embedded)
        given = QwenVla._for_expert(self, context, inputs.last)
        if chunks is None and self.every_part:
            chunks = _no_chunk(context, self.config)
        action, each = _nothing(context.states), context.states.new_zeros(0, dtype=torch.float32)
        if chunks is not None:
            own = given.of(chunks.samples) if isinstance(given, Context) else given[chunks.samples]
            action, each = self._action_losses(chunks, own)
        return Losses(
            action,
            each[: 0 if batch.chunks is None else None],
            self._language_loss(context, inputs),
            self._marks_loss(embedded, context.states, inputs),
            _nothing(context.states) if isinstance(given, Context) else _ends_loss(given, inputs),
        )

    def encode(self, inputs: BackboneInputs) -> Context:
        """The backbone's forward pass."""
        with self._computing():
            embedded = embed(self.backbone, inputs, self.compute, self.every_part, self.config.kept_tokens)
        return QwenVla._context(self, inputs, embedded)

    def _context(self, inputs: BackboneInputs, embedded: Embedded) -> Context:
        """What the language model makes of what it reads."""
        with self._computing():
            states = hidden_states(self.backbone, inputs, embedded)
        return Context(states.to(self.compute), inputs.valid, embedded.positions)

    def _for_expert(self, context: Context, last: Tensor | None = None) -> Context | Tensor:
        """What the action expert gets of the prompts: all, or what their ends say, ``float32[B, READ]``."""
        if not self.config.reads_ends:
            return context
        return self.backbone.model.language_model.ends(context.states, context.valid, last)

    def _action_losses(self, chunks: Chunks, given: Context | Tensor) -> tuple[Loss, Tensor]:
        """The action loss, and each chunk's without a gradient."""
        noisy = interpolate(chunks.clean, chunks.noise, chunks.time)
        with self._computing():
            found = self.expert(noisy, chunks.time, given, chunks.mask, chunks.embodiment, chunks.state)
        losses = sample_losses(found, target_velocity(chunks.clean, chunks.noise), chunks.mask)
        return action_loss(losses, chunks.mask), losses.detach()

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
            time: ``[B]``, the flow time, 0 (clean) to 1 (noise).
            context: From :meth:`encode`.
            mask: ``bool[B, H, K]``, the valid entries.
            embodiment: ``int64[B]``, :meth:`~.config.ModelConfig.embodiment_index` of each sample; ``None`` for ``zero_pad``.
            state: ``[B, state_numbers]`` for the state mode ``dit``, else ``None``.
        """
        with self._computing():
            return self.expert(noisy, time, QwenVla._for_expert(self, context), mask, embodiment, state)

    def value(self, context: Context, state: Tensor | None = None) -> Tensor:
        """The value of each observation, ``float32[B]``; no gradient reaches the backbone.

        Args:
            context: From :meth:`encode`.
            state: ``[B, state_numbers]`` for the state mode ``dit``, else ``None``.
        """
        return self.value_head(context.states, context.valid, state)

    def part(self, name: str) -> nn.Module:
        """The module that is one of :data:`PARTS`."""
        inner = self.backbone.model
        parts = {"vision": inner.visual, "language": inner.language_model, "expert": self.expert, "value_head": self.value_head}
        if name not in parts:
            raise PolicyError(f"the model has no part {name!r}, expected one of {', '.join(PARTS)}")
        return parts[name]

    def freeze(self, *names: str) -> None:
        """Freeze these of :data:`PARTS`, and train all others."""
        frozen = [self.part(name) for name in names]
        self.requires_grad_(True)
        for part in frozen:
            part.requires_grad_(False)

    def learn_vision_alone(self) -> None:
        """Run the vision tower alone from now on. The other parts learn nothing, and have no state in an optimiser."""
        self.vision_alone = True
        language = self.backbone.model.language_model
        for name, unused in language.named_children():
            unused.requires_grad_(name == "embed_tokens")  # by which marks are read

    def checkpoint_activations(self, *names: str) -> None:
        """In training, keep no activations within the blocks of these of :data:`PARTS`, and compute them again in the backward pass."""
        chosen = {id(module) for name in names for module in self.part(name).modules()}
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):  # transformers' blocks, and the expert's
                module.gradient_checkpointing = id(module) in chosen
                # Nothing in a block is random.
                module._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # type: ignore[assignment]

    def _language_loss(self, context: Context, inputs: BackboneInputs) -> Loss:
        if inputs.labelled is None or inputs.targets is None:
            return _nothing(context.states)
        with self._computing():
            total, count = language_loss(context.states, self.backbone.lm_head.weight, inputs.labelled, inputs.targets)
        return Loss(total, total.new_full((), count))

    def _marks_loss(self, embedded: Embedded, states: Tensor | None, inputs: BackboneInputs) -> Loss:
        if inputs.marks is None:
            return _nothing(embedded.states)
        with self._computing():
            return Loss(*marks_loss(embedded, states, self.backbone.lm_head.weight, inputs.marks))

    def _computing(self) -> contextlib.AbstractContextManager[object]:
        return computing(self.value_head.readout.weight.device, self.compute)


def _nothing(states: Tensor) -> Loss:
    zero = states.new_zeros((), dtype=torch.float32)
    return Loss(zero, zero)


def _ends_loss(given: Tensor, inputs: BackboneInputs) -> Loss:
    if inputs.ends is None:
        return Loss(0 * given.sum(), given.new_zeros(()))
    return Loss(*ends_loss(given, inputs.ends))


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
        state=zeros.new_zeros((1, config.state_numbers)) if config.state == "dit" else None,
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
        device: Where the weights are made. A GPU's generator gives other weights than the CPU's; ``meta`` makes none.
        dtype: Precision of the weights, see :func:`cast_parameters`.
        compute: Precision to compute in; by default the weights'.
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
    """Make sure that a model with weights of ``dtype`` can compute in ``compute``."""
    legal = (torch.float32, torch.bfloat16)
    if dtype not in legal or compute not in legal or (dtype, compute) == (torch.bfloat16, torch.float32):
        given, wanted = (str(each).removeprefix("torch.") for each in (dtype, compute))
        raise PolicyError(
            f"weights in {given} cannot compute in {wanted}; float32 weights compute in float32 or bfloat16, those in bfloat16 in it"
        )


def cast_parameters(model: QwenVla, dtype: torch.dtype) -> None:
    """Gives another precision, in place, to the weights that a computation in it rounds anyway: those of matrix products.

    All others stay in float32, or go back to it: norms, decays, learned positions, and the layers around the flow
    (:class:`~.tensors.Float32Linear`). They are one part in five hundred of the whole. Buffers stay as they are:
    ``model.to(torch.bfloat16)`` would round the backbone's rotary frequencies, which loading the same weights does not.
    """
    embedding = model.backbone.get_input_embeddings()  # its weights are the language-model head's too
    for module in model.modules():
        product = module is embedding or isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        product = product and not isinstance(module, Float32Linear)
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype if product else torch.float32)


def parameter_counts(model: QwenVla) -> dict[str, int]:
    """Parameters by part, under the names that the paper uses where it prints a number (section 2.2); shared weights count once."""
    expert, vision = model.expert, model.backbone.model.visual
    parts = {
        "block": expert.blocks[0],
        "blocks": expert.blocks,
        "action projections": expert.action_projection,
        "time embedding": expert.time_embedding,
        "output modulation": expert.output_modulation,
        "state projection": expert.state_projection,
        "vlm projection": expert.vlm_projection,
        "ends projection": expert.ends_projection,
        "action expert": expert,
        "vision": vision,
        "language model": model.backbone,
        "value head": model.value_head,
        "total": model,
    }
    counts = {name: sum(each.numel() for each in part.parameters()) for name, part in parts.items() if part is not None}
    return counts | {"language model": counts["language model"] - counts["vision"]}
