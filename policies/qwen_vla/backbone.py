"""The vision-language backbone: Qwen3.5 through transformers' classes, its inputs, and its multi-section RoPE positions.

Positions are computed here and always passed on: transformers computes them in a Python loop that waits for the device, and keeps what
it found in the module (``rope_deltas``), where the next call may use it. No cache is kept; the action expert reads hidden states.

An image here is a still or a temporal patch of a video, two frames. Qwen3.5 gives each temporal patch a span of tokens of its own, with
its time in words before it. So both have one grid and count their positions alike.

Shapes: ``B`` samples, ``S`` tokens (padded on the right), ``I`` images of the whole batch, ``Q`` patches in all, ``v`` tokens of
the vision tower for them, ``Y`` tokens to learn, ``D`` the backbone's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from ..api import PolicyError
from .config import BACKBONE_4B, LAST_TOKENS, ModelConfig
from .losses import Marks
from .readouts import Ends
from .tensors import STAYS, Tensors
from .vision import add_to_tower, image_features, kept, use_grouped_attention


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
class BackboneInputs(Tensors):
    """A batch of prompts and conversations with their images.

    Attributes:
        input_ids: ``int64[B, S]``, padded on the right with any legal id.
        valid: ``bool[B, S]``, false at padding.
        positions: ``int64[3, B, S]`` from :func:`positions_of`: frame, row and column of each token.
        pixel_values: ``float32[Q, 1536]`` of all images, in the order of their tokens; ``None`` where there is none.
        image_grid_thw: ``int64[I, 3]``, frames (always 1), rows and columns of patches of each image; stays on the CPU.
        labelled: ``int64[Y]``, the places in ``[B * S]`` whose next token is to be learned; ``None`` where no sample is a conversation.
        targets: ``int64[Y]``, the ids of those next tokens.
        marks: What tokens of images have to say; ``None`` where no image has a mark.
        last: ``int64[B]``, where each prompt ends, before an answer where there is one; ``None``: nothing follows the prompts.
        ends: ``float32[B, 27]``, what the prompts' ends are to hold (:mod:`.readouts`), not a number where that is not known; ``None``
            where no sample has such numbers.
    """

    input_ids: Tensor
    valid: Tensor
    positions: Tensor
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = field(default=None, metadata={STAYS: True})
    labelled: Tensor | None = None
    targets: Tensor | None = None
    marks: Marks | None = None
    last: Tensor | None = None
    ends: Tensor | None = None


def positions_of(
    input_ids: Tensor,
    valid: Tensor,
    image_grid_thw: Tensor | None,
    image_token: int,
    video_token: int | None = None,
    merge: int = 2,
    kept_tokens: int = 0,
) -> Tensor:
    """Multi-section RoPE positions, as transformers' ``Qwen3_5Model.get_rope_index`` gives them.

    Text counts on by one in all three sections. An image's tokens have its row and its column counted from the position at which it
    starts, and the text after it goes on past its longer side. A run of image tokens is an image: between two of them is text.

    Args:
        input_ids: ``int64[B, S]``.
        valid: ``bool[B, S]``; padding gets position 0.
        image_grid_thw: ``int64[I, 3]``, the images in the order of their tokens, or ``None``.
        image_token: Id of ``<|image_pad|>``.
        video_token: Id of ``<|video_pad|>``, where the batch may have videos.
        merge: Side of a merge block, in patches.
        kept_tokens: How many of an image's tokens the sequence has, if not all. Their rows and columns are known when the vision tower
            has processed the image, so :func:`embed` adds them.

    Returns:
        ``int64[3, B, S]``.
    """
    image = _image_tokens(input_ids, valid, image_token, video_token)  # [B, S]
    begins = image & ~functional.pad(image, (1, 0))[:, :-1]
    grids = torch.zeros((0, 3), dtype=torch.int64) if image_grid_thw is None else image_grid_thw
    grids = functional.pad(grids.to(input_ids.device), (0, 0, 0, 1), value=merge)  # one grid more, for the tokens that are text
    number = (begins.flatten().cumsum(0) - 1).reshape(image.shape)
    grid = grids[torch.where(image, number, len(grids) - 1)]  # [B, S, 3]
    rows, columns = grid[..., 1] // merge, grid[..., 2] // merge

    # How far each token moves the count: text by one, an image's first token by its longer side, its others not at all.
    step = torch.where(image, begins * torch.maximum(rows, columns), 1) * valid
    before = step.cumsum(dim=1) - step
    index = torch.arange(image.shape[1], device=image.device).expand_as(image)
    first = torch.where(begins, index, 0).cummax(dim=1).values  # where the image of this token begins
    start = torch.where(image, before.gather(1, first), before)
    within = torch.where(image, index - first, 0)
    offsets = torch.stack([within // (rows * columns), within // columns % rows, within % columns])
    return (start.expand_as(offsets) if kept_tokens else start + offsets) * valid


def _image_tokens(input_ids: Tensor, valid: Tensor, image_token: int, video_token: int | None) -> Tensor:
    """``bool[B, S]``, the places that the vision tower's states take."""
    image = input_ids == image_token
    if video_token is not None:
        image |= input_ids == video_token
    return image & valid


def make_backbone(config: ModelConfig) -> Qwen3_5ForConditionalGeneration:
    """A backbone of this configuration with weights from torch's current generators."""
    model = Qwen3_5ForConditionalGeneration(Qwen3_5Config(**config.backbone))
    add_to_tower(model.model.visual, config.stem, config.kept_tokens)
    if config.reads_ends:
        model.model.language_model.ends = Ends(config.text["hidden_size"], LAST_TOKENS)
    use_grouped_attention(model)
    return model


def read_backbone_config(source: str | Path) -> dict[str, Any]:
    """The configuration of a Qwen3.5 in a local directory or of a hub's repository, for :attr:`~.config.ModelConfig.backbone`."""
    try:
        config = Qwen3_5Config.from_pretrained(str(source))
    except Exception as error:
        raise _unloadable("configuration", source, error) from None
    return backbone_data(config)


def load_backbone(
    source: str | Path, dtype: torch.dtype = torch.float32, backbone: dict[str, Any] | None = None
) -> Qwen3_5ForConditionalGeneration:
    """A backbone with trained weights.

    Args:
        source: A local directory in the Hugging Face manner, or a hub's repository id (``Qwen/Qwen3.5-4B``).
        dtype: Precision of the weights.
        backbone: Where given, what the loaded model's configuration must be.
    """
    try:
        loaded: Any = Qwen3_5ForConditionalGeneration.from_pretrained(
            str(source), dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        model, report = loaded
    except Exception as error:
        raise _unloadable("backbone", source, error) from None
    missing = sorted(report["missing_keys"])
    if missing:
        raise PolicyError(
            f"the backbone {str(source)!r} lacks {len(missing)} weights, {missing[0]} first; take a whole Qwen3.5"
        )
    if backbone is not None:
        _check_same(backbone, backbone_data(model.config), str(source))
    use_grouped_attention(model)
    return model


def backbone_data(config: Qwen3_5Config) -> dict[str, Any]:
    """A transformers configuration as :attr:`~.config.ModelConfig.backbone` holds it: plain data, what has no weight left out."""
    data = config.to_dict()
    text, vision = data["text_config"], data["vision_config"]
    stated = BACKBONE_4B["text_config"], BACKBONE_4B["vision_config"]
    rope = {"mrope_interleaved": True, **text["rope_parameters"]}
    text["rope_parameters"] = {name: rope[name] for name in stated[0]["rope_parameters"] if name in rope}
    data["text_config"] = {name: text[name] for name in stated[0] if name in text}
    data["vision_config"] = {name: vision[name] for name in stated[1] if name in vision}
    return {name: data[name] for name in BACKBONE_4B}


@dataclass(frozen=True)
class Embedded:
    """What the language model reads, and the states of the vision tower.

    Attributes:
        states: ``float32[B, S, D]``: tokens, and in their places the images' states.
        positions: ``int64[3, B, S]``, those of the inputs, with the rows and columns of the tokens that are kept.
        seen: ``float32[v, D]``, the tower's states of all tokens of all images.
        objectness: ``float32[v]``, how much each of them looks like an object, as a logit; ``None`` of a tower that does not say.
        places: ``int64[v]``, where each is in ``[B * S]``; -1 of those that the language model does not read.
    """

    states: Tensor
    positions: Tensor
    seen: Tensor
    objectness: Tensor | None
    places: Tensor


def hidden_states(
    backbone: Qwen3_5ForConditionalGeneration, inputs: BackboneInputs, embedded: Embedded | None = None
) -> Tensor:
    """Last hidden states ``float32[B, S, D]``; at padding they are zero.

    No attention mask is passed: every layer is causal, so padding on the right cannot reach a valid token, and without a mask the
    attention takes its fastest path. ``embedded`` is from :func:`embed`, where that is computed already.
    """
    given = embed(backbone, inputs) if embedded is None else embedded
    output = backbone.model.language_model(inputs_embeds=given.states, position_ids=given.positions, use_cache=False)
    return output.last_hidden_state.masked_fill(~inputs.valid.unsqueeze(-1), 0.0)


def embed(
    backbone: Qwen3_5ForConditionalGeneration,
    inputs: BackboneInputs,
    compute: torch.dtype = torch.float32,
    with_vision: bool = False,
    kept_tokens: int = 0,
) -> Embedded:
    """What the language model reads.

    Args:
        backbone: The backbone.
        inputs: The prompts.
        compute: The precision that the tokens' embeddings are rounded to.
        with_vision: Run the vision tower where there are no images too, without an effect on the states.
        kept_tokens: How many of an image's tokens are read, if not all.
    """
    model = backbone.model
    states = model.get_input_embeddings()(inputs.input_ids).to(compute).float()
    visual, grids, positions = model.visual, inputs.image_grid_thw, inputs.positions
    seen, objectness, places = states.new_zeros(0, states.shape[-1]), None, positions.new_zeros(0)
    if inputs.pixel_values is not None and grids is not None and len(grids):
        seen = image_features(visual, inputs.pixel_values, grids).to(states.dtype)
        config, merge = backbone.config, visual.config.spatial_merge_size
        images = _image_tokens(inputs.input_ids, inputs.valid, config.image_token_id, config.video_token_id)
        read = torch.arange(len(seen), device=seen.device)
        if kept_tokens:
            objectness = visual.thing(seen).float().squeeze(-1)
            read = kept(objectness.detach(), (grids.prod(dim=1) // merge**2).tolist(), kept_tokens)
            states = states + 0 * objectness.sum() if with_vision else states
        # By index: the backward pass of masked_scatter waits for the device.
        own = images.flatten().argsort(descending=True, stable=True)[: len(read)]
        states = states.flatten(0, 1).index_copy(0, own, seen[read]).view_as(states)
        places = positions.new_full((len(seen),), -1).index_copy(0, read, own)
        if kept_tokens:
            cells = torch.cat([_cells(*grid) for grid in (grids[:, 1:] // merge).tolist()], dim=1)
            moved = positions.flatten(1).clone()
            moved[1:, own] += cells.to(moved.device)[:, read]
            positions = moved.view_as(positions)
    elif with_vision:
        blank = _blank_image(visual, states.device)
        unused = blank.sum() + visual.thing(blank).float().sum() if kept_tokens else blank.sum()
        states = states + 0 * unused
    return Embedded(states, positions, seen, objectness, places)


def _cells(rows: int, columns: int) -> Tensor:
    """Of each token of an image its row and its column, ``int64[2, rows * columns]``."""
    index = torch.arange(rows * columns)
    return torch.stack([index // columns, index % columns])


def _blank_image(visual: Any, device: torch.device) -> Tensor:
    """The features of a grey image of one token, ``[1, D]``."""
    config = visual.config
    side = config.spatial_merge_size
    pixels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return image_features(visual, torch.zeros(side * side, pixels, device=device), torch.tensor([[1, side, side]]))


def _unloadable(what: str, source: str | Path, error: Exception) -> PolicyError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return PolicyError(
        f"no {what} can be loaded from {str(source)!r} ({lines[0]}); give a local directory with config.json and "
        "model.safetensors of a Qwen3.5, or the id of one on the hub"
    )


def _check_same(expected: dict[str, Any], found: dict[str, Any], source: str) -> None:
    for part in ("text_config", "vision_config"):
        for name, value in expected[part].items():
            other = found[part].get(name)
            if other != value:
                raise PolicyError(
                    f"the backbone {source!r} has {name} {other!r} in its {part}, this model expects {value!r}; take the preset or "
                    "checkpoint that was made for it"
                )
