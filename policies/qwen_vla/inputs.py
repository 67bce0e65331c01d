"""From prompts and pictures to the tensors that the backbone takes.

Samples of one batch may differ in their text, their views and the length of a view's history; shorter sequences are padded on the
right. The text of a task comes back with every chunk of its episodes, so its ids are kept.

Shapes: ``B`` samples, ``S`` tokens of the longest sequence, ``I`` pictures of the whole batch, ``Q`` patches of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ..api import PolicyError
from ..images import fit_image
from .backbone import BackboneInputs, positions_of
from .config import ModelConfig
from .prompt import chat_text, embodiment_prompt
from .tokenizer import TokenIds, encode, rows_needed, token_ids
from .vision import image_grids, patchify

#: Prompts whose ids are kept; a sweep has some hundreds.
_KEPT_PROMPTS = 4096


@dataclass(frozen=True, eq=False)
class Prompted:
    """One sample as the model is to see it.

    Attributes:
        text: The embodiment prompt.
        views: For each picture, in order: its view tag and ``uint8[h, w, 3]`` of any size.
    """

    text: str
    views: tuple[tuple[str, np.ndarray], ...] = ()


def prompted(observation: Observation, embodiment: Embodiment, chunk_size: int, state: Sequence[int] | None = None) -> Prompted:
    """The sample that an observation makes: views in the order of the embodiment's cameras, each view's frames oldest first.

    Args:
        observation: What the policy sees; an embodiment's view that it lacks is left out.
        embodiment: The robot that acts.
        chunk_size: Steps to predict.
        state: The bins of the state, where it goes into the prompt.

    Raises:
        PolicyError: The observation has a view that the embodiment has not, or the prompt cannot be made.
    """
    images = observation["images"]
    for tag, frames in images.items():
        if tag not in embodiment.cameras:
            raise PolicyError(f"{embodiment.name} has no view {tag!r}; it has {', '.join(embodiment.cameras)}")
        if frames.ndim != 4:
            raise PolicyError(f"the view {tag!r} has shape {list(frames.shape)}; expected frames, [M, height, width, 3]")
    text = embodiment_prompt(embodiment, observation["instruction"], chunk_size, state)
    return Prompted(text, tuple((tag, frame) for tag in embodiment.cameras if tag in images for frame in images[tag]))


class InputBuilder:
    """Makes batches for one model with one tokenizer.

    Raises:
        PolicyError: The tokenizer lacks a token, has other ids than the model's configuration, or more entries than the model has
            steps.
    """

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokens = token_ids(tokenizer)
        _check_fits(config, self._tokens, rows_needed(tokenizer))
        self._config = config
        self._image_tokens = config.image_tokens()
        self._encoded = functools.lru_cache(maxsize=_KEPT_PROMPTS)(functools.partial(encode, tokenizer))

    def build(self, samples: Sequence[Prompted], device: torch.device | str = "cpu") -> BackboneInputs:
        """The batch of ``samples``, on ``device`` but for the grids.

        Pictures go there as bytes and are cut into patches there: a patch row is 8 times as large as the picture it is made of.

        Raises:
            PolicyError: There are no samples, or a picture is none.
        """
        if not samples:
            raise PolicyError("there are no samples; give one or more")
        sequences = [torch.tensor(self.ids(sample.text, [tag for tag, _ in sample.views])) for sample in samples]
        input_ids = pad_sequence(sequences, batch_first=True, padding_value=self._tokens.pad)
        valid = torch.arange(input_ids.shape[1]) < torch.tensor([len(each) for each in sequences])[:, None]
        config, vision = self._config, self._config.vision
        patch, merge, frames = vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]
        images = [fit_image(image, *config.image_size, config.image_fit) for sample in samples for _, image in sample.views]
        pixels, grids = None, None
        if images:
            grids = image_grids(len(images), *config.image_size, patch)
            pixels = patchify(torch.from_numpy(np.stack(images)).to(device), patch, merge, frames)
        positions = positions_of(input_ids, valid, grids, self._tokens.image_pad, merge)
        return BackboneInputs(input_ids, valid, positions, pixels, grids).to(device)

    def ids(self, text: str, tags: Sequence[str]) -> list[int]:
        """The ids of a prompt with pictures of these views."""
        return self._encoded(chat_text(text, [(tag, self._image_tokens) for tag in tags]))

    def text(self, sample: Prompted) -> str:
        """The whole sequence of a sample in words."""
        return chat_text(sample.text, [(tag, self._image_tokens) for tag, _ in sample.views])


def _check_fits(config: ModelConfig, tokens: TokenIds, rows: int) -> None:
    """Make sure that the model and the tokenizer use the same ids."""
    for name, ours in (
        ("image_token_id", tokens.image_pad),
        ("video_token_id", tokens.video_pad),
        ("vision_start_token_id", tokens.vision_start),
        ("vision_end_token_id", tokens.vision_end),
    ):
        if config.backbone[name] != ours:
            raise PolicyError(
                f"the model's {name} is {config.backbone[name]}, the tokenizer's is {ours}; take the model's own tokenizer"
            )
    if rows > config.text["vocab_size"]:
        raise PolicyError(
            f"the tokenizer needs {rows} rows, the model's embedding has {config.text['vocab_size']}; resize the embedding"
        )
