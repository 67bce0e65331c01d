"""The backbone's vision tower, run over whole batches of images.

Transformers' own forward pass splits its attention into one call for each image, 24 layers deep; all images of a policy have one size,
so here they go through each block together, and the patch embedding is a matrix product instead of a convolution. The weights and the
arithmetic are those of transformers' ``Qwen3_5VisionModel`` (models/qwen3_5/modeling_qwen3_5.py, v5.23.0), and a test compares results.

Shapes: ``I`` images of ``gh x gw`` patches, ``Q`` patches in all, ``D`` the tower's width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..api import PolicyError

#: Base of the tower's rotary embedding (transformers modeling_rope_utils.py, ``default_theta``, v5.23.0).
_ROTARY_BASE = 10_000.0


def patchify(images: Tensor, patch: int = 16, merge: int = 2, frames: int = 2) -> Tensor:
    """Images as rows of pixels, as transformers' ``Qwen2VLImageProcessor`` makes them.

    Patches are in the order of their merge blocks, so that the ``merge x merge`` patches of one token are neighbours; a single
    image is repeated over the patch's ``frames``. Pixels are scaled to -1 to 1.

    Args:
        images: ``uint8[I, h, w, 3]``, sides in multiples of ``patch * merge``.
        patch: Side of a patch.
        merge: Side of a merge block, in patches.
        frames: Frames of a patch.

    Returns:
        ``float32[I * gh * gw, 3 * frames * patch * patch]``.

    Raises:
        PolicyError: The images have another type or shape.
    """
    unit = patch * merge
    if (
        images.dtype != torch.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or images.shape[1] % unit
        or images.shape[2] % unit
    ):
        raise PolicyError(
            f"images are {str(images.dtype).removeprefix('torch.')}{list(images.shape)}, expected uint8[I, h, w, 3] with sides in "
            f"multiples of {unit}; resize them first"
        )
    count, height, width, colours = images.shape
    rows, columns = height // patch, width // patch
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    blocks = pixels.reshape(count, colours, rows // merge, merge, patch, columns // merge, merge, patch)
    # To: image, block row, block column, row, column, colour, frame, y, x.
    ordered = blocks.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    repeated = ordered.expand(*ordered.shape[:6], frames, *ordered.shape[7:])
    return repeated.reshape(count * rows * columns, colours * frames * patch * patch)


def image_grids(count: int, height: int, width: int, patch: int = 16) -> Tensor:
    """``int64[I, 3]``: frames, rows and columns of patches of ``count`` images of that size."""
    return torch.tensor([[1, height // patch, width // patch]]).expand(count, 3).contiguous()


def image_features(visual: Any, pixel_values: Tensor, grids: Tensor) -> Tensor:
    """One state for each merge block of each image, in the order of the images.

    Args:
        visual: The backbone's vision tower, ``Qwen3_5VisionModel``.
        pixel_values: ``[Q, 3 * frames * patch * patch]`` from :func:`patchify`, image after image.
        grids: ``int64[I, 3]``; best left on the CPU, where reading it waits for nothing.

    Returns:
        ``[Q / merge^2, D_lm]``.

    Raises:
        PolicyError: The patches are not as many as the grids say, or an image has several frames.
    """
    sizes = [tuple(size) for size in grids.tolist()]
    lengths = [frames * rows * columns for frames, rows, columns in sizes]
    if sum(lengths) != len(pixel_values) or any(frames != 1 for frames, _, _ in sizes):
        raise PolicyError(
            f"image grids {sizes} (frames, rows, columns) do not fit {len(pixel_values)} patches; expected one frame an image "
            "and as many patches as rows x columns"
        )
    images = pixel_values.split(lengths)
    features: dict[int, Tensor] = {}
    for size in dict.fromkeys(sizes):  # one with a policy's own pictures
        same = [index for index, other in enumerate(sizes) if other == size]
        together = _equal_images(visual, torch.stack([images[index] for index in same]), size[1], size[2])
        features.update(zip(same, together, strict=True))
    return torch.cat([features[index] for index in range(len(sizes))])


def _equal_images(visual: Any, patches: Tensor, rows: int, columns: int) -> Tensor:
    """States ``[I, blocks, D_lm]`` of the patches ``[I, rows * columns, pixels]`` of images of one size."""
    count = len(patches)
    embed = visual.patch_embed.proj  # a 3-D convolution over single patches: a matrix product, and faster as one
    hidden = functional.linear(patches.to(embed.weight.dtype), embed.weight.flatten(1), embed.bias)
    hidden = hidden + _position_embedding(visual, rows, columns).to(hidden.dtype)
    cos, sin = _rotary_table(visual, rows, columns, hidden.device)
    for block in visual.blocks:
        if visual.training and getattr(block, "gradient_checkpointing", False):
            hidden = checkpoint(_block, block, hidden, cos, sin, use_reentrant=False)
        else:
            hidden = _block(block, hidden, cos, sin)
    return visual.merger(hidden).reshape(count, -1, visual.config.out_hidden_size)


def _block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Any:
    """One transformer block over ``hidden[I, patches, D]``; attention stays within an image."""
    count, length, width = hidden.shape
    attention = block.attn
    qkv = attention.qkv(block.norm1(hidden)).reshape(count, length, 3, attention.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = functional.scaled_dot_product_attention(_rotate(query, cos, sin), _rotate(key, cos, sin), value)
    hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(count, length, width))
    return hidden + block.mlp(block.norm2(hidden))


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``heads[I, heads, patches, width]`` in float32."""
    precise = heads.float()
    first, second = precise.chunk(2, dim=-1)
    return (precise * cos + torch.cat((-second, first), dim=-1) * sin).to(heads.dtype)


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


def _rotary_table(visual: Any, rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``float32[patches, head width]``: a quarter turns with the row, a quarter with the column, and again."""
    half = visual.config.hidden_size // visual.config.num_heads // 2
    frequencies = _ROTARY_BASE ** -(torch.arange(0, half, 2, device=device, dtype=torch.float32) / half)
    by_row = torch.arange(rows, device=device)[:, None, None] * frequencies
    by_column = torch.arange(columns, device=device)[None, :, None] * frequencies
    shape = (rows, columns, len(frequencies))
    angles = torch.cat([by_row.expand(shape), by_column.expand(shape)], dim=-1)
    angles = _in_blocks(torch.cat([angles, angles], dim=-1), visual.config.spatial_merge_size)
    return angles.cos(), angles.sin()
