"""The backbone's vision tower, run over all images of a batch at once.

The blocks and the merger are transformers' own modules (``Qwen3_5VisionModel``, models/qwen3_5/modeling_qwen3_5.py, v5.23.0), so that
sharding and gradient checkpointing find the calls they hook. Two parts are done otherwise, and a test compares the results:

* Attention. Transformers' SDPA path makes one call for each image, 24 layers deep. :func:`attend_by_length` takes images of equal
  length together; :func:`use_grouped_attention` sets it.
* The patch embedding is a matrix product. As a 3-D convolution over single patches it takes five times as long on a CPU.

A small tower has two parts beside Qwen3.5's. One of 1M parameters that begins at random does not learn in minutes to tell a cube from a
cylinder by a linear layer over patches, so :class:`ConvStem` is in the place of the patch embedding, and reads whole images; ``thing``
reads out where an object is.

An image is a still, or the two frames of a video's temporal patch.

Shapes: ``I`` images of ``gh x gw`` patches, ``Q`` patches in all, ``D`` the tower's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from ..api import PolicyError

#: Channels after each halving of the image but the last, which gives the tower's width.
_CHANNELS = (32, 64, 128)
_GROUPS = 8


class _Halving(nn.Module):
    """A convolution at every second pixel, group normalisation, SiLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, after)

    def forward(self, image: Tensor) -> Tensor:
        return functional.silu(self.norm(self.convolution(image)))


class ConvStem(nn.Module):
    """From an image's patches of 16 pixels to as many states, by four halvings of the whole image.

    Args:
        width: Of the tower.
        frames: Frames of a patch, whose colours are channels.
        patch: Side of a patch.
        merge: Side of a merge block, by whose blocks the patches are ordered.
    """

    def __init__(self, width: int, frames: int, patch: int, merge: int) -> None:
        super().__init__()
        if patch != 2 ** (len(_CHANNELS) + 1):
            raise PolicyError(f"the stem 'conv' halves an image four times, so a patch has 16 pixels, not {patch}")
        self.colours, self.patch, self.merge = 3 * frames, patch, merge
        steps = (self.colours, *_CHANNELS, width)
        self.halvings = nn.Sequential(*(_Halving(*pair) for pair in itertools.pairwise(steps)))

    def forward(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """``[I * rows * columns, D]``, in the order of the patches, of images of one size.

        Args:
            patches: ``float32[I * rows * columns, colours * patch^2]`` from :func:`~.vision.patchify`.
            rows: Of patches in an image.
            columns: The same.
        """
        merge, patch = self.merge, self.patch
        cut = patches.view(-1, rows // merge, columns // merge, merge, merge, self.colours, patch, patch)
        # To: image, colour, block row, row, y, block column, column, x.
        images = cut.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, self.colours, rows * patch, columns * patch)
        # In float32 channels last are quicker; in bfloat16 on a CPU the norms' backward pass over them takes ten times as long.
        rounds = images.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        layout = torch.contiguous_format if rounds else torch.channels_last
        found = self.halvings(images.contiguous(memory_format=layout))
        blocks = found.unflatten(3, (columns // merge, merge)).unflatten(2, (rows // merge, merge))
        return blocks.permute(0, 2, 4, 3, 5, 1).reshape(len(patches), -1)


def add_to_tower(visual: Any, stem: str, kept_tokens: int) -> None:
    """Give transformers' tower the parts that a configuration names, with weights from torch's current generators."""
    config = visual.config
    if stem == "conv":
        visual.patch_embed = ConvStem(
            config.hidden_size, config.temporal_patch_size, config.patch_size, config.spatial_merge_size
        )
    if kept_tokens:
        visual.thing = nn.Linear(config.out_hidden_size, 1)


def kept(scores: Tensor, lengths: list[int], count: int) -> Tensor:
    """Of each image's tokens the ``count`` with the greatest scores, in their order: ``int64``, numbers among all tokens.

    Args:
        scores: ``[v]``, image after image.
        lengths: Tokens of each image.
        count: How many of each; all of an image that has fewer.
    """
    begins = [sum(lengths[:index]) for index in range(len(lengths))]
    best = [part.topk(min(count, len(part))).indices.sort().values for part in scores.split(lengths)]
    return torch.cat([begin + each for begin, each in zip(begins, best, strict=True)])


#: Base of the tower's rotary embedding (transformers modeling_rope_utils.py, ``default_theta``, v5.23.0).
_ROTARY_BASE = 10_000.0

#: Name of :func:`attend_by_length` in transformers. It makes one attention call for the whole batch, with the images' lengths, where
#: the name contains ``flash`` (``Qwen3_5VisionAttention.forward`` and ``is_flash_attention_requested``, v5.2.0 to v5.23.0).
_ATTENTION = "flash_by_length"


def patchify(images: Tensor, patch: int = 16, merge: int = 2, frames: int = 2) -> Tensor:
    """Images as rows of pixels, as transformers' ``Qwen2VLImageProcessor`` makes them.

    Patches are in the order of their merge blocks, so that the ``merge x merge`` patches of one token are neighbours; a still is
    repeated over the patch's ``frames``. Pixels are scaled to -1 to 1.

    Args:
        images: Stills ``uint8[I, h, w, 3]``, or ``uint8[I, frames, h, w, 3]``; sides in multiples of ``patch * merge``.
        patch: Side of a patch.
        merge: Side of a merge block, in patches.
        frames: Frames of a patch.

    Returns:
        ``float32[I * gh * gw, 3 * frames * patch * patch]``.
    """
    stacked = images.unsqueeze(1) if images.ndim == 4 else images
    count, given, height, width, colours = stacked.shape
    rows, columns = height // patch, width // patch
    blocks = stacked.reshape(count, given, rows // merge, merge, patch, columns // merge, merge, patch, colours)
    # To: image, block row, block column, row, column, colour, frame, y, x. As bytes, which are a quarter of what they become.
    ordered = blocks.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).contiguous()
    pixels = ordered.float().div_(127.5).sub_(1.0)
    repeated = pixels.expand(*pixels.shape[:6], frames, *pixels.shape[7:])
    return repeated.reshape(count * rows * columns, colours * frames * patch * patch)


def use_grouped_attention(backbone: PreTrainedModel) -> None:
    """Have the vision tower of ``backbone`` attend by :func:`attend_by_length`; results stay the same up to rounding."""
    AttentionInterface.register(_ATTENTION, attend_by_length)
    backbone.set_attn_implementation({"vision_config": _ATTENTION})


def attend_by_length(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Tensor | None = None,
    image_lengths: Sequence[int] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each image, in one call for neighbours of equal length; an attention function of transformers.

    ``query``, ``key`` and ``value`` are ``[1, heads, Q, width]``, the result is ``[1, Q, heads, width]``. ``cu_seq_lens_q`` is
    ``int32[I + 1]``, where each image begins, and ``Q``, as transformers' own tower gives it; ``image_lengths`` are the patches
    of each image, as :func:`image_features` gives them, so that no tensor is read. ``module`` and ``attention_mask`` are not used.
    """
    lengths = image_lengths
    if lengths is None:
        lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    counts = [(length, len(list(run))) for length, run in groupby(lengths)]
    parts = (each[0].split([length * count for length, count in counts], dim=1) for each in (query, key, value))
    mixed: list[Tensor] = []
    for (length, count), *part in zip(counts, *parts, strict=True):
        # Each is [count, heads, length, width].
        query_, key_, value_ = (each.unflatten(1, (count, length)).transpose(0, 1) for each in part)
        each = functional.scaled_dot_product_attention(query_, key_, value_, dropout_p=dropout, scale=scaling)
        mixed.append(each.transpose(1, 2).flatten(0, 1))
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).unsqueeze(0), None


def image_features(visual: Any, pixel_values: Tensor, grids: Tensor) -> Tensor:
    """One state for each merge block of each image, in the order of the images.

    Args:
        visual: The backbone's vision tower, ``Qwen3_5VisionModel``.
        pixel_values: ``[Q, 3 * frames * patch * patch]`` from :func:`patchify`, image after image.
        grids: ``int64[I, 3]``; best left on the CPU, where reading it waits for nothing.

    Returns:
        ``[Q / merge^2, D_lm]``.
    """
    sizes = [(rows, columns) for _, rows, columns in grids.tolist()]
    lengths = [rows * columns for rows, columns in sizes]
    # Images of one size beside each other.
    order = sorted(range(len(sizes)), key=lambda index: (lengths[index], sizes[index]))
    groups = [(rows, columns, len(list(run))) for (rows, columns), run in groupby(sizes[index] for index in order)]
    patches = _in_order(pixel_values, lengths, order)
    lengths = [lengths[index] for index in order]

    if isinstance(visual.patch_embed, ConvStem):
        parts = patches.split([rows * columns * count for rows, columns, count in groups])
        states = [visual.patch_embed(part, rows, columns) for part, (rows, columns, _) in zip(parts, groups, strict=True)]
        hidden = torch.cat(states).float()
    else:
        embed = visual.patch_embed.proj
        hidden = functional.linear(patches.to(embed.weight.dtype), embed.weight.flatten(1), embed.bias)
    learned = [_position_embedding(visual, rows, columns).repeat(count, 1) for rows, columns, count in groups]
    hidden = hidden + torch.cat(learned).to(hidden.dtype)
    angles = torch.cat(
        [_rotary_angles(visual, rows, columns, hidden.device).repeat(count, 1) for rows, columns, count in groups]
    )
    rotary = angles.cos(), angles.sin()
    begins = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    for block in visual.blocks:
        hidden = block(hidden, cu_seqlens=begins, max_seqlen=max(lengths), position_embeddings=rotary, image_lengths=lengths)
    merged = visual.merger(hidden)
    blocks = [length // visual.config.spatial_merge_size**2 for length in lengths]
    return _in_order(merged, blocks, sorted(range(len(order)), key=order.__getitem__))


def _in_order(rows: Tensor, lengths: list[int], order: list[int]) -> Tensor:
    """The rows of images of these lengths, image ``order[0]`` first."""
    if order == list(range(len(order))):
        return rows
    parts = rows.split(lengths)
    return torch.cat([parts[index] for index in order])


def _in_blocks(table: Tensor, merge: int) -> Tensor:
    """``[rows, columns, *]`` as ``[rows * columns, *]`` in the order of the merge blocks."""
    rows, columns, width = table.shape
    blocks = table.reshape(rows // merge, merge, columns // merge, merge, width)
    return blocks.transpose(1, 2).reshape(rows * columns, width)


def _position_embedding(visual: Any, rows: int, columns: int) -> Tensor:
    """The learned square of positions, bilinearly resampled to the image's grid: ``float32[patches, D]``."""
    weights = visual.pos_embed.weight
    side = round(weights.shape[0] ** 0.5)
    square = weights.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(square, size=(rows, columns), mode="bilinear", align_corners=True)
    return _in_blocks(grid[0].permute(1, 2, 0), visual.config.spatial_merge_size)


def _rotary_angles(visual: Any, rows: int, columns: int, device: torch.device) -> Tensor:
    """``float32[patches, head width]``: a quarter of the width turns with the row, a quarter with the column, and again."""
    half = visual.config.hidden_size // visual.config.num_heads // 2
    frequencies = _ROTARY_BASE ** -(torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    by_row = torch.arange(rows, device=device)[:, None, None] * frequencies
    by_column = torch.arange(columns, device=device)[None, :, None] * frequencies
    shape = (rows, columns, len(frequencies))
    angles = torch.cat([by_row.expand(shape), by_column.expand(shape)], dim=-1)
    return _in_blocks(torch.cat([angles, angles], dim=-1), visual.config.spatial_merge_size)
