"""``vlarig data check``: what a model would misread in a mixture, before a GPU is spent on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from ...envs.errors import VlarigError
from ...policies.qwen_vla.config import ModelConfig
from ...policies.qwen_vla.conversation import Still, Video
from ...policies.qwen_vla.flow import Beta
from ...policies.qwen_vla.inputs import InputBuilder
from ..batches import Collator
from ..samples import ActionSample, LanguageSample, Sample
from .dataset import Dataset, spread
from .mixture import Mixture

#: An action is far out where it lies beyond the quantiles by their whole range. Of correct statistics 2 % lie beyond them at all.
FAR_OUT = 3.0
#: Share of a channel's values over all looked-at samples that may be far out.
_MOST_FAR_OUT = 0.05
#: An image whose numbers vary less than this (of 255) shows nothing.
_LEAST_CONTRAST = 1.0
#: Longest prompt that is not worth a word, in tokens.
_LONGEST_PROMPT = 8192


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: the sample, or the dataset."""

    where: str
    sentence: str


def check(mixture: Mixture, config: ModelConfig, tokenizer: PreTrainedTokenizerFast, samples: int) -> Iterator[Problem]:
    """The problems of a mixture for a model, as they are found, in so many samples of each dataset, spread over it."""
    collator = Collator(InputBuilder(config, tokenizer), mixture.statistics, Beta(), seed=0)
    for dataset in mixture.datasets:
        for each in dataset.embodiments:
            try:
                config.check_embodiment(each.name, each.action_size)
            except VlarigError as error:
                yield Problem(dataset.name, str(error))
        yield from _check_dataset(dataset, collator, samples)


def _check_dataset(dataset: Dataset, collator: Collator, samples: int) -> Iterator[Problem]:
    far_out: dict[str, list[np.ndarray]] = {}
    for index in spread(dataset, samples):
        try:
            sample = dataset[index]
            prompts = collator([(index, sample)]).batch.inputs
        except VlarigError as error:
            yield Problem(f"{dataset.name}/{index}", str(error))
            continue
        length = 0 if prompts is None else prompts.valid.numel()
        if length > _LONGEST_PROMPT:
            yield Problem(sample.name, f"its prompt has {length} tokens; expected {_LONGEST_PROMPT} at most")
        for name, image in _images(sample):
            if image.std() < _LEAST_CONTRAST:
                yield Problem(sample.name, f"its image {name!r} is of one colour; the frame was lost, or the camera is covered")
        if isinstance(sample, ActionSample):
            statistics = dataset.statistics[sample.embodiment.statistics_key].actions
            low, high = np.array(statistics.q01), np.array(statistics.q99)
            scaled = 2 * (np.asarray(sample.actions, np.float64) - low) / np.where(high > low, high - low, 1.0) - 1
            far_out.setdefault(sample.embodiment.name, []).append(np.abs(np.where(high > low, scaled, 0.0)) > FAR_OUT)
    for robot, found in far_out.items():
        embodiment = next(each for each in dataset.embodiments if each.name == robot)
        for channel, share in zip(embodiment.channels, np.concatenate(found).mean(0), strict=True):
            if share > _MOST_FAR_OUT:
                yield Problem(
                    dataset.name,
                    f"{share:.0%} of channel {channel.name!r} ({channel.unit}) of {robot} lies far beyond its statistics; the data "
                    "have another unit or order of channels, or the statistics are another dataset's",
                )


def _images(sample: Sample) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(sample, LanguageSample):
        for number, item in enumerate(sample.conversation.seen()):
            if isinstance(item, Still):
                yield item.view or str(number), item.image
            elif isinstance(item, Video):
                yield f"video {number}", item.frames
    else:
        yield from sample.observation["images"].items()
