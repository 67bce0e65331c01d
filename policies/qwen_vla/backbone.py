"""The vision-language backbone: Qwen3.5 through transformers' classes, its inputs, and its multi-section RoPE positions.

Positions are computed here and always passed on: transformers computes them in a Python loop that waits for the device, and keeps what
it found in the module (``rope_deltas``), where the next call may use it. No cache is kept; the action expert reads hidden states.

Shapes: ``B`` samples, ``S`` tokens (padded on the right), ``I`` images of the whole batch, ``Q`` patches in all, ``D`` the backbone's
width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

from ..api import PolicyError
from .config import BACKBONE_4B
from .vision import image_features


@dataclass(frozen=True)
class BackboneInputs:
    """A batch of prompts with their images.

    Attributes:
        input_ids: ``int64[B, S]``, padded on the right with any legal id.
        valid: ``bool[B, S]``, false at padding.
        positions: ``int64[3, B, S]`` from :func:`positions_of`: frame, row and column of each token.
        pixel_values: ``float32[Q, 1536]`` of all images, sample after sample; ``None`` where there is none.
        image_grid_thw: ``int64[I, 3]``, frames, rows and columns of patches of each image; stays on the CPU.
    """

    input_ids: Tensor
    valid: Tensor
    positions: Tensor
    pixel_values: Tensor | None = None
    image_grid_thw: Tensor | None = None

    def to(self, device: torch.device | str) -> BackboneInputs:
        """The same on a device, but for the grids, which are read on the CPU."""
        return BackboneInputs(
            input_ids=self.input_ids.to(device),
            valid=self.valid.to(device),
            positions=self.positions.to(device),
            pixel_values=None if self.pixel_values is None else self.pixel_values.to(device),
            image_grid_thw=self.image_grid_thw,
        )


def positions_of(input_ids: Tensor, valid: Tensor, image_grid_thw: Tensor | None, image_token: int, merge: int = 2) -> Tensor:
    """Multi-section RoPE positions, as transformers' ``Qwen3_5Model.get_rope_index`` gives them.

    Text counts on by one in all three sections. An image's tokens have its row and its column counted from the position at which it
    starts, and the text after it goes on past its longer side. A run of image tokens is an image: between two of them is text.

    Args:
        input_ids: ``int64[B, S]``.
        valid: ``bool[B, S]``; padding gets position 0.
        image_grid_thw: ``int64[I, 3]``, the images in the order of their tokens, or ``None``.
        image_token: Id of ``<|image_pad|>``.
        merge: Side of a merge block, in patches.

    Returns:
        ``int64[3, B, S]``.

    Raises:
        PolicyError: The image tokens are not those of the grids (checked on the CPU alone, where the check is free).
    """
    image = (input_ids == image_token) & valid  # [B, S]
    begins = image & ~functional.pad(image, (1, 0))[:, :-1]
    grids = torch.zeros((0, 3), dtype=torch.int64) if image_grid_thw is None else image_grid_thw
    if input_ids.device.type == "cpu":
        _check_images(image, begins, grids, merge)
    grids = functional.pad(grids.to(input_ids.device), (0, 0, 0, 1), value=merge)  # one grid more, for the tokens that are text
    number = (begins.flatten().cumsum(0) - 1).reshape(image.shape)
    grid = grids[torch.where(image, number, len(grids) - 1)]  # [B, S, 3]
    rows, columns = grid[..., 1] // merge, grid[..., 2] // merge

    # How far each token moves the count: text by one, an image's first token by the image's longer side, its others not at all.
    step = torch.where(image, begins * torch.maximum(rows, columns), 1) * valid
    before = step.cumsum(dim=1) - step
    index = torch.arange(image.shape[1], device=image.device).expand_as(image)
    first = torch.where(begins, index, 0).cummax(dim=1).values  # where the image of this token begins
    start = torch.where(image, before.gather(1, first), before)
    within = torch.where(image, index - first, 0)
    offsets = torch.stack([within // (rows * columns), within // columns % rows, within % columns])
    return (start + offsets) * valid


def _check_images(image: Tensor, begins: Tensor, grids: Tensor, merge: int) -> None:
    expected = (grids.prod(dim=1) // merge**2).tolist()
    run = begins.flatten().cumsum(0)[image.flatten()]
    found = torch.bincount(run, minlength=1)[1:].tolist()
    if found != expected:
        raise PolicyError(
            f"the prompts hold images of {found} tokens and the image grids are those of {expected}; expected the same, in order"
        )


def make_backbone(backbone: dict[str, Any]) -> Qwen3_5ForConditionalGeneration:
    """A backbone of this configuration with weights from torch's current generators.

    Args:
        backbone: :attr:`~.config.ModelConfig.backbone`.
    """
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(**backbone))


def read_backbone_config(source: str | Path) -> dict[str, Any]:
    """The configuration of a Qwen3.5 in a local directory or of a hub's repository, for :attr:`~.config.ModelConfig.backbone`.

    Raises:
        PolicyError: There is none or it cannot be read.
    """
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

    Raises:
        PolicyError: There is none, it cannot be loaded, lacks weights, or is another model than expected.
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


def hidden_states(backbone: Qwen3_5ForConditionalGeneration, inputs: BackboneInputs) -> Tensor:
    """Last hidden states ``[B, S, D]``; at padding they are zero.

    No attention mask is passed: every layer is causal, so padding on the right cannot reach a valid token, and without a mask the
    attention takes its fastest path.
    """
    model = backbone.model
    embedded = model.get_input_embeddings()(inputs.input_ids)
    if inputs.pixel_values is not None and inputs.image_grid_thw is not None and len(inputs.image_grid_thw):
        features = image_features(model.visual, inputs.pixel_values, inputs.image_grid_thw).to(embedded.dtype)
        image = (inputs.input_ids == backbone.config.image_token_id) & inputs.valid
        embedded = embedded.masked_scatter(image.unsqueeze(-1), features)
    output = model.language_model(inputs_embeds=embedded, position_ids=inputs.positions, use_cache=False)
    return output.last_hidden_state.masked_fill(~inputs.valid.unsqueeze(-1), 0.0)


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
