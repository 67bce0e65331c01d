"""From prompts, conversations and images to the tensors that the backbone takes.

Samples of one batch may differ in kind, text, and number and size of their images; shorter sequences are padded on the right. The
prompt of a task comes back with every chunk of its episodes, so its ids are kept.

Shapes: ``B`` samples, ``S`` tokens of the longest sequence, ``I`` images of the whole batch, ``Q`` patches of them, ``Y`` tokens to
learn.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerFast

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ..api import PolicyError
from ..conventions import fit_image
from .backbone import BackboneInputs, positions_of
from .config import TOKEN_FIELDS, ModelConfig
from .conversation import NO_REASONING, NOTHING, Conversation, Limits, Still, Video, fitted, segments
from .end_numbers import NUMBERS, hand_pose
from .losses import Marks
from .normalization import Statistics, normalize_state, state_bins
from .prompt import chat_text, embodiment_prompt
from .tokenizer import TokenIds, encode, rows_needed, token_ids
from .vision import patchify

#: Prompts whose ids are kept; a sweep has some hundreds.
_KEPT_PROMPTS = 4096


@dataclass(frozen=True, eq=False)
class Prompted:
    """One sample as the model sees it.

    Attributes:
        text: The embodiment prompt.
        views: For each image, in order: its view tag and ``uint8[h, w, 3]`` of any size.
        ends: What its end is to learn to hold, the numbers of :func:`~.end_numbers.end_numbers`.
    """

    text: str
    views: tuple[tuple[str, np.ndarray], ...] = ()
    ends: np.ndarray | None = None


def prompted(
    observation: Observation,
    embodiment: Embodiment,
    chunk_size: int,
    state: Sequence[int] | None = None,
    task_family: str | None = None,
) -> Prompted:
    """The sample that an observation makes: views in the order of the embodiment's cameras, each view's frames oldest first.

    Args:
        observation: What the policy sees; an embodiment's view that it lacks is left out.
        embodiment: The robot that acts.
        chunk_size: Steps to predict.
        state: The bins of the state, where it goes into the prompt.
        task_family: The task identifier, where the prompt states it.
    """
    images = observation["images"]
    for tag, frames in images.items():
        if tag not in embodiment.cameras:
            raise PolicyError(f"{embodiment.name} has no view {tag!r}; it has {', '.join(embodiment.cameras) or 'none'}")
        if frames.ndim != 4:
            raise PolicyError(f"the view {tag!r} has shape {list(frames.shape)}; expected frames, [M, height, width, 3]")
    text = embodiment_prompt(embodiment, observation["instruction"], chunk_size, state, task_family)
    return Prompted(text, tuple((tag, frame) for tag in embodiment.cameras if tag in images for frame in images[tag]))


class _Word(NamedTuple):
    """A word of :class:`~.losses.Marks`, said of a token of the sample's images."""

    token: int
    word: int
    share: float
    by_language: bool


class _Centre(NamedTuple):
    """A centre of :class:`~.losses.Marks`."""

    token: int
    centre: tuple[float, float]
    object: bool


@dataclass(frozen=True, eq=False)
class _Sequence:
    """One sample as tokens and images.

    Attributes:
        ids: Its tokens.
        learned: What is learned: a place, and the token that the state there is to say.
        images: ``uint8[1, h, w, 3]`` of each still, ``uint8[frames, h, w, 3]`` of each temporal patch of a video.
        last: Place of its prompt's last token.
        marked: What the vision tower's tokens of its images have to say.
        ends: What the prompt's end has to hold.
    """

    ids: list[int]
    learned: list[tuple[int, int]]
    images: list[np.ndarray]
    last: int
    marked: list[_Word | _Centre] = field(default_factory=list)
    ends: np.ndarray | tuple[float, ...] | None = None


class InputBuilder:
    """Makes batches for one model with one tokenizer.

    Args:
        config: The model's architecture.
        tokenizer: The model's tokenizer.
        limits: Bounds of conversations. By default those of :class:`~.conversation.Limits`, but images as small as the policy's own
            keep their size: what questions teach about an image then holds for the policy's prompts, too.
    """

    def __init__(self, config: ModelConfig, tokenizer: PreTrainedTokenizerFast, limits: Limits | None = None) -> None:
        self._tokens = token_ids(tokenizer)
        _check_fits(config, self._tokens, rows_needed(tokenizer))
        self.config, self._tokenizer = config, tokenizer
        self._limits = limits or Limits(min_pixels=min(Limits.min_pixels, math.prod(config.image_size)))
        self._image_tokens = config.image_tokens()
        self._encode = functools.partial(encode, tokenizer)
        self._encoded = functools.lru_cache(maxsize=_KEPT_PROMPTS)(self._encode)

    def __reduce__(self) -> tuple[type[InputBuilder], tuple[ModelConfig, PreTrainedTokenizerFast, Limits]]:
        """Pickled as its arguments, for the workers of a DataLoader; the prompts that it keeps stay behind."""
        return type(self), (self.config, self._tokenizer, self._limits)

    def build(
        self,
        samples: Sequence[Prompted | Conversation],
        device: torch.device | str = "cpu",
        answers: bool = True,
        by_language: bool = True,
    ) -> BackboneInputs:
        """The batch of ``samples``, on ``device`` but for the grids.

        Images go there as bytes and are cut into patches there: a patch row is 8 times as large as the image it is made of.

        Args:
            samples: What is in it.
            device: Where to.
            answers: Whether conversations have their last answers, and their answers are learned.
            by_language: Whether the language model's states learn the marks, too, or only the vision tower's.
        """
        if not samples:
            raise PolicyError("there are no samples; give one or more")
        sequences = [
            self._conversed(each, answers, by_language) if isinstance(each, Conversation) else self._prompted(each)
            for each in samples
        ]
        return self._batch(sequences, answers and any(isinstance(each, Conversation) for each in samples), device)

    def unanswered(
        self, conversations: Sequence[Conversation], device: torch.device | str = "cpu"
    ) -> list[tuple[list[int], BackboneInputs]]:
        """Conversations up to where their last answers begin, those of one length as one batch, so that nothing is padded.

        Returns:
            For each batch the indices of its conversations, and the inputs, with nothing to learn.
        """
        sequences = [self._conversed(each, answered=False) for each in conversations]
        of_length: dict[int, list[int]] = {}
        for index, each in enumerate(sequences):
            of_length.setdefault(len(each.ids), []).append(index)
        return [(same, self._batch([sequences[i] for i in same], False, device)) for same in of_length.values()]

    def _batch(self, sequences: list[_Sequence], learns: bool, device: torch.device | str) -> BackboneInputs:
        input_ids = pad_sequence([torch.tensor(each.ids) for each in sequences], True, self._tokens.pad)
        valid = torch.arange(input_ids.shape[1]) < torch.tensor([len(each.ids) for each in sequences])[:, None]
        images = [image for each in sequences for image in each.images]
        vision, tokens = self.config.vision, self._tokens
        patch, merge = vision["patch_size"], vision["spatial_merge_size"]
        grids = torch.tensor([[1, each.shape[1] // patch, each.shape[2] // patch] for each in images]) if images else None
        pixels = self._patches(images, device) if images else None
        kept_tokens = self.config.kept_tokens
        positions = positions_of(input_ids, valid, grids, tokens.image_pad, tokens.video_pad, merge, kept_tokens)
        labelled, targets = None, None
        if learns:
            learned = [
                (row * input_ids.shape[1] + place, word) for row, each in enumerate(sequences) for place, word in each.learned
            ]
            labelled = torch.tensor([place for place, _ in learned])
            targets = torch.tensor([word for _, word in learned])
        last = torch.tensor([each.last for each in sequences])
        seen = [sum(each.shape[1] * each.shape[2] for each in one.images) // (patch * merge) ** 2 for one in sequences]
        marks, ends = _together(sequences, seen), _ends(sequences)
        return BackboneInputs(input_ids, valid, positions, pixels, grids, labelled, targets, marks, last, ends).to(device)

    def _prompted(self, sample: Prompted) -> _Sequence:
        config = self.config
        images = [fit_image(image, *config.image_size, config.image_fit)[None] for _, image in sample.views]
        ids = self.ids(sample.text, [tag for tag, _ in sample.views])
        return _Sequence(ids, [], images, len(ids) - 1, ends=sample.ends)

    def _conversed(self, sample: Conversation, answered: bool = True, by_language: bool = True) -> _Sequence:
        """The sequence of a conversation, with its last answer or up to where that begins, and its marks, see :meth:`build`."""
        vision = self.config.vision
        unit, frames = vision["patch_size"] * vision["spatial_merge_size"], vision["temporal_patch_size"]
        seen = [fitted(item, self._limits, unit, frames) for item in sample.seen()]
        grids = [(images[0].shape[1] // unit, images[0].shape[2] // unit) for images in seen]
        tokens = [self.config.tokens_of(*grid) for grid in grids]
        ids: list[int] = []
        learned: list[tuple[int, int]] = []
        end = 0
        parts = list(segments(sample, tokens, frames))
        for text, taught in parts if answered else parts[:-2]:  # the last two are the answer and what ends the sequence
            part = self._encode(text)
            end = len(ids) - 1 if text == NO_REASONING else end
            learned += [(len(ids) + index - 1, word) for index, word in enumerate(part)] if taught else ()
            ids += part
        if len(ids) > self._limits.max_tokens:
            raise PolicyError(
                f"a conversation has {len(ids)} tokens, {ids.count(self._tokens.image_pad)} of them for images and "
                f"{ids.count(self._tokens.video_pad)} for videos; the limit is {self._limits.max_tokens}, see Limits"
            )
        marked = list(self._marked(sample.seen(), grids, [len(images) for images in seen], by_language))
        return _Sequence(ids, learned, [image for images in seen for image in images], end, marked, sample.ends)

    def _marked(
        self, seen: Sequence[Still | Video], grids: Sequence[tuple[int, int]], counts: Sequence[int], by_language: bool
    ) -> Iterator[_Word | _Centre]:
        """What the images' marks teach.

        Args:
            seen: The images and videos.
            grids: Rows and columns of tokens of an image or of a temporal patch.
            counts: Temporal patches; 1 of an image.
            by_language: Whether the language model's states learn them, too.
        """
        begin = 0
        for item, (rows, columns), count in zip(seen, grids, counts, strict=True):
            known: set[int] = set()
            for mark in item.marks if isinstance(item, Still) else ():
                token = begin + int(mark.y * rows) * columns + int(mark.x * columns)
                yield from self._words(mark.name, token, by_language=False)
                if token not in known:  # a token has one role and one centre
                    yield from self._words(mark.role or mark.name, token, by_language=True) if by_language else ()
                    yield _Centre(token, ((mark.x - 0.5) * columns, (mark.y - 0.5) * rows), mark.name != NOTHING)
                known.add(token)
            begin += rows * columns * count

    def _words(self, said: str, token: int, by_language: bool) -> Iterator[_Word]:
        words = [word for part in said.split() for word in self._encoded(f" {part}")]
        return (_Word(token, word, 1 / len(words), by_language) for word in words)

    def _patches(self, images: list[np.ndarray], device: torch.device | str) -> Tensor:
        """``float32[Q, pixels]`` of all images in their order; those of one shape are cut together."""
        vision = self.config.vision
        patch, merge, frames = vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]
        cut: dict[tuple[int, ...], Iterator[Tensor]] = {}
        for shape in dict.fromkeys(each.shape for each in images):
            same = np.stack([each for each in images if each.shape == shape])
            patches = patchify(torch.from_numpy(same).to(device), patch, merge, frames)
            if len(same) == len(images):
                return patches
            cut[shape] = iter(patches.chunk(len(same)))
        return torch.cat([next(cut[each.shape]) for each in images])

    def ids(self, text: str, tags: Sequence[str]) -> list[int]:
        """The ids of a prompt with images of these views."""
        return self._encoded(chat_text(text, [(tag, self._image_tokens) for tag in tags]))


def _check_fits(config: ModelConfig, tokens: TokenIds, rows: int) -> None:
    """Make sure that the model and the tokenizer use the same ids."""
    known = tokens.image_pad, tokens.video_pad, tokens.vision_start, tokens.vision_end
    for name, ours in zip(TOKEN_FIELDS, known, strict=True):
        if config.backbone[name] != ours:
            raise PolicyError(
                f"the model's {name} is {config.backbone[name]}, the tokenizer's is {ours}; take the model's own tokenizer"
            )
    if rows > config.text["vocab_size"]:
        raise PolicyError(
            f"the tokenizer needs {rows} rows, the model's embedding has {config.text['vocab_size']}; resize the embedding"
        )


def _together(sequences: Sequence[_Sequence], seen: Sequence[int]) -> Marks | None:
    """The marks of a batch; ``seen`` is how many tokens the vision tower gives for the images of each sequence."""
    begins = itertools.accumulate(seen, initial=0)
    found = [
        each._replace(token=begin + each.token) for begin, one in zip(begins, sequences, strict=False) for each in one.marked
    ]
    words = [each for each in found if isinstance(each, _Word)]
    if not words:
        return None
    centres = [each for each in found if isinstance(each, _Centre)]
    return Marks(
        *(torch.tensor(column) for column in zip(*words, strict=True)),
        *(torch.tensor(column) for column in zip(*centres, strict=True)),
    )


def _ends(sequences: Sequence[_Sequence]) -> Tensor | None:
    """``float32[B, 27]``, what the ends of a batch's prompts are to hold."""
    if all(each.ends is None for each in sequences):
        return None
    nothing = np.full(NUMBERS, np.nan, np.float32)
    return torch.from_numpy(
        np.stack([nothing if each.ends is None else np.asarray(each.ends, np.float32) for each in sequences])
    )


@dataclass(frozen=True)
class Role:
    """A robot, as one model plays it.

    Attributes:
        embodiment: The robot of the prompt.
        actions: Statistics of its actions.
        state: Statistics of its state, where there are any.
        index: Its index in the action projections, where they have weights for each embodiment.
    """

    embodiment: Embodiment
    actions: Statistics
    state: Statistics | None
    index: int | None


@dataclass(frozen=True, eq=False)
class Query:
    """What a chunk is predicted from.

    Attributes:
        observation: What is seen, read and felt; views that the robot has not are left out.
        role: The robot.
        steps: Steps of the chunk.
    """

    observation: Observation
    role: Role
    steps: int


def prompt_of(query: Query, config: ModelConfig, images: bool = True) -> Prompted:
    """The prompt of a time step, with its images or without."""
    observation, embodiment = query.observation, query.role.embodiment
    bins = None
    if config.state == "prompt":
        bins = state_bins(observation["state"], _state_statistics(query.role)).tolist()
    seen = {tag: frames for tag, frames in observation["images"].items() if images and tag in embodiment.cameras}
    return prompted({**observation, "images": seen}, embodiment, query.steps, bins)


def state_of(query: Query, config: ModelConfig) -> np.ndarray:
    """The normalised state in the leading numbers of ``float32[state_numbers]``, for the state mode ``dit``.

    The hand's pose is in the last ones, where the action expert reads the ends of prompts.
    """
    role = query.role
    state = normalize_state(query.observation["state"], _state_statistics(role))
    if len(state) > config.state_size:
        raise PolicyError(
            f"the state of {role.embodiment.name!r} has {len(state)} numbers, the model reads {config.state_size}; "
            "it was trained for others"
        )
    padded = np.zeros(config.state_numbers, np.float32)
    padded[: len(state)] = state
    if config.state_numbers > config.state_size:
        padded[config.state_size :] = hand_pose(query.observation["state"], role.embodiment.state_layout)
    return padded


def _state_statistics(role: Role) -> Statistics:
    if role.state is None:
        raise PolicyError(
            f"the model reads the state, and the checkpoint has no statistics of the state of {role.embodiment.name!r}"
        )
    return role.state
