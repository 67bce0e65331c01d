"""What a small vision tower has beside Qwen3.5's: a beginning of convolutions, and a read-out of where an object is.

A tower of 1M parameters that begins at random does not learn in minutes to tell a cube from a cylinder by a linear layer over patches.
Both parts are attributes of transformers' own tower: :class:`ConvStem` in the place of its patch embedding, and ``thing``.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
