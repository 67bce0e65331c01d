"""From samples to batches of tensors, and which positions of the stream each process takes.

A step takes ``batch_size`` positions in their order, whatever the number of processes, which share them out in micro-batches. Flow time
and noise of a sample follow from the training's seed and its position. So the same step learns from the same on any machine.

Shapes: ``C`` samples with a chunk, ``H`` steps of the longest, ``K`` channels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerFast

from ..envs.errors import VlarigError
from ..policies.qwen_vla.backbone import BackboneInputs
from ..policies.qwen_vla.config import ModelConfig
from ..policies.qwen_vla.flow import Beta, SigmoidNormal, TimeSampler
from ..policies.qwen_vla.inputs import InputBuilder
from ..policies.qwen_vla.layout import ActionLayout
from ..policies.qwen_vla.model import Batch, Chunks
from ..policies.qwen_vla.moments import Moment, Role, prompt_of, state_of
from ..policies.qwen_vla.normalization import DatasetStatistics, find_statistics, normalize
from ..policies.qwen_vla.tensors import changed
from .config import TimeSettings, TrainConfig, TrainingError
from .samples import ActionSample, LanguageSample, Sample, Stream
from .states import KeyedPrompt, keyed


@dataclass(frozen=True)
class MicroBatch:
    """Samples that a process learns from at a time.

    Attributes:
        prompts: For the backbone: tensors, or the prompts themselves where its states are kept (:mod:`.states`).
        chunks: The chunks of those that have one.
        names: The samples' names.
        chunk_names: The names of those that have a chunk to learn, once for each draw.
        tokens: How many tokens of answers they have to learn.
        marks: How many marks of pictures.
    """

    prompts: BackboneInputs | tuple[KeyedPrompt, ...]
    chunks: Chunks | None
    names: tuple[str, ...]
    chunk_names: tuple[str, ...]
    tokens: int
    marks: float

    @property
    def batch(self) -> Batch:
        """For the model.

        Raises:
            TypeError: States are kept, which have to be found first.
        """
        if isinstance(self.prompts, tuple):
            raise TypeError("the states of these prompts are kept; find them first")
        return Batch(self.prompts, self.chunks)

    def pin_memory(self) -> MicroBatch:
        """The same in pinned memory; a DataLoader calls it."""
        prompts = self.prompts if isinstance(self.prompts, tuple) else self.prompts.pin_memory()
        return dataclasses.replace(self, prompts=prompts, chunks=changed(self.chunks, Tensor.pin_memory))


def time_sampler(settings: TimeSettings) -> TimeSampler:
    """Where flow times come from."""
    if settings.distribution == "sigmoid_normal":
        return SigmoidNormal(settings.mean, settings.std)
    return Beta(settings.alpha, settings.beta, settings.scale, settings.toward)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """A chunk of a sample: ``[H, K]`` each of what is learned, its mask and its noise, then time, index and state."""

    clean: np.ndarray
    mask: np.ndarray
    noise: np.ndarray
    time: Tensor
    index: int | None
    state: np.ndarray | None


class Collator:
    """Makes batches for one model; it pickles.

    Args:
        config: The model's.
        tokenizer: The model's.
        statistics: The stream's.
        times: Where flow times come from.
        seed: The training's.
        pictures: Whether prompts have their pictures.
        draws: Flow times and noises that are drawn for each chunk.
        keep_states: Whether a frozen backbone's states are kept, so that only prompts that are new to it become tensors, and later.
        answers: Whether conversations have their answers.
        by_language: Whether the language model learns their marks, too.
    """

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: PreTrainedTokenizerFast,
        statistics: Mapping[str, DatasetStatistics],
        times: TimeSampler,
        seed: int,
        pictures: bool = True,
        draws: int = 1,
        keep_states: bool = False,
        answers: bool = True,
        by_language: bool = True,
    ) -> None:
        self._config = config
        self._inputs = InputBuilder(config, tokenizer)
        self._statistics = dict(statistics)
        self._times = times
        self._seed = seed
        self._pictures = pictures
        self._draws = draws
        self._keep_states = keep_states
        self._answers = answers
        self._by_language = by_language

    def __call__(self, samples: Sequence[tuple[int, Sample]]) -> MicroBatch:
        """The batch of samples with their positions.

        Raises:
            TrainingError: A sample does not fit the model; the sentence names it.
        """
        prompts, chunks = [], []
        for index, (position, sample) in enumerate(samples):
            try:
                if isinstance(sample, LanguageSample):
                    if self._keep_states:
                        raise TrainingError("it is vision-language data, which teach a frozen backbone nothing; leave them out")
                    prompts.append(sample.conversation)
                    continue
                moment = self._moment(sample)
                prompts.append(prompt_of(moment, self._config, self._pictures))
                chunks += [(index, chunk) for chunk in self._chunks(moment, sample.actions, position)]
            except VlarigError as error:
                raise TrainingError(f"the sample {sample.name!r} does not fit: {error}") from None
        named = tuple(sample.name for _, sample in samples)
        chunk_names = tuple(samples[index][1].name for index, _ in chunks)
        learned = self._together(chunks) if chunks else None
        if self._keep_states:
            return MicroBatch(tuple(map(keyed, prompts)), learned, named, chunk_names, 0, 0.0)
        inputs = self._inputs.build(prompts, answers=self._answers, by_language=self._by_language)
        tokens = 0 if inputs.targets is None else len(inputs.targets)
        marks = 0.0 if inputs.marked is None else float(inputs.marked.words.shares.sum())
        return MicroBatch(inputs, learned, named, chunk_names, tokens, marks)

    def _moment(self, sample: ActionSample) -> Moment:
        embodiment = sample.embodiment
        known = find_statistics(self._statistics, embodiment.statistics_key)
        role = Role(embodiment, known.actions, known.state, self._config.embodiment_index(embodiment.name))
        return Moment(sample.observation, role, sample.horizon or len(sample.actions))

    def _chunks(self, moment: Moment, actions: np.ndarray, position: int) -> Iterator[_Chunk]:
        """The chunk of a sample, once for each draw."""
        if not np.isfinite(actions).all():  # before the normalisation, which clips an infinity
            raise TrainingError("its actions hold a number that is not finite; drop the trajectory that it comes from")
        layout = ActionLayout(moment.steps, self._config.channels)
        clean, mask = layout.place(normalize(np.asarray(actions, np.float32), moment.role.actions))
        state = state_of(moment, self._config) if self._config.state == "dit" else None
        generator = np.random.default_rng([self._seed, position])
        for _ in range(self._draws):
            time = self._times.sample(1, generator)
            noise = generator.standard_normal(clean.shape, dtype=np.float32)
            yield _Chunk(clean, mask, noise, time, moment.role.index, state)

    def _together(self, chunks: Sequence[tuple[int, _Chunk]]) -> Chunks:
        each = [chunk for _, chunk in chunks]

        def padded(name: str) -> Tensor:
            return pad_sequence([torch.from_numpy(getattr(chunk, name)) for chunk in each], batch_first=True)

        states = [chunk.state for chunk in each if chunk.state is not None]
        return Chunks(
            samples=torch.tensor([index for index, _ in chunks]),
            clean=padded("clean"),
            mask=padded("mask"),
            noise=padded("noise"),
            time=torch.cat([chunk.time for chunk in each]),
            embodiment=None if each[0].index is None else torch.tensor([chunk.index for chunk in each]),
            state=torch.from_numpy(np.stack(states)) if states else None,
        )


class _MicroBatches(Dataset[MicroBatch | VlarigError]):
    """Micro-batches by their positions. What is wrong with a sample is handed on as it is, not in a DataLoader's own words."""

    def __init__(self, stream: Stream, collator: Collator) -> None:
        self._stream = stream
        self._collator = collator

    def __getitem__(self, positions: Sequence[int]) -> MicroBatch | VlarigError:
        try:
            return self._collator([(position, self._stream[position]) for position in positions])
        except VlarigError as error:
            return error


class _Plan(Sampler[list[int]]):
    """The positions of this process, micro-batch after micro-batch, from a step on; within a step in the order of their buckets."""

    def __init__(self, config: TrainConfig, stream: Stream, rank: int, world: int, first_step: int) -> None:
        self._config = config
        self._stream = stream
        self._rank = rank
        self._world = world
        self._first_step = first_step

    def __iter__(self) -> Iterator[list[int]]:
        size, batch = self._config.micro_batch_size, self._config.batch_size
        for step in range(self._first_step, self._config.steps):
            positions = sorted(range(step * batch, (step + 1) * batch), key=self._stream.bucket)
            for begin in range(self._rank * size, batch, self._world * size):
                yield positions[begin : begin + size]


def _leave_group(worker: int) -> None:
    """Ctrl-C, and what else is sent to the training's process group, is the trainer's: it saves, and needs batches until then."""
    os.setpgrp()


def micro_batches_a_step(config: TrainConfig, world: int) -> int:
    """How many micro-batches each of so many processes has in a step.

    Raises:
        TrainingError: They cannot be shared out evenly.
    """
    share, rest = divmod(config.batch_size // config.micro_batch_size, world)
    if rest or not share:
        raise TrainingError(
            f"batch_size {config.batch_size} makes {config.batch_size // config.micro_batch_size} micro-batches of "
            f"{config.micro_batch_size}, which {world} processes cannot share out evenly; change one of the three"
        )
    return share


def micro_batches(
    config: TrainConfig, stream: Stream, collator: Collator, rank: int, world: int, first_step: int
) -> Iterator[MicroBatch]:
    """This process's micro-batches from a step on, :func:`micro_batches_a_step` for each step.

    Raises:
        VlarigError: A sample does not fit the model, or cannot be had.
    """
    workers = config.data.workers
    loader = DataLoader(
        _MicroBatches(stream, collator),
        sampler=_Plan(config, stream, rank, world, first_step),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=_leave_group,
        multiprocessing_context="spawn" if workers else None,  # a fork of this process would have its threads' locks
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, VlarigError):
            raise batch
        yield batch
