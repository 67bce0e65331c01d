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
from torch.utils.data import DataLoader, Dataset

from ..envs.errors import VlarigError
from ..policies.qwen_vla.conversation import Conversation
from ..policies.qwen_vla.end_numbers import blurred, end_numbers, hand_pose
from ..policies.qwen_vla.flow import Beta, SigmoidNormal, TimeSampler
from ..policies.qwen_vla.inputs import InputBuilder, Prompted, Query, Role, prompt_of, state_of
from ..policies.qwen_vla.model import Batch, Chunks
from ..policies.qwen_vla.normalization import ActionLayout, DatasetStatistics, find_statistics, normalize
from ..policies.qwen_vla.tensors import Tensors
from .config import TimeSettings, TrainConfig, TrainingError
from .samples import ActionSample, LanguageSample, Sample, Stream


@dataclass(frozen=True)
class MicroBatch(Tensors):
    """Samples that a process learns from at a time.

    Attributes:
        batch: For the model.
        names: The samples' names.
        chunk_names: The names of those that have a chunk to learn, each ``draws`` times.
        tokens: How many tokens of answers they have to learn.
        marks: How many marks of images.
        ends: How many prompts whose ends have numbers to hold.
    """

    batch: Batch
    names: tuple[str, ...]
    chunk_names: tuple[str, ...]
    tokens: int
    marks: float
    ends: int


def time_sampler(settings: TimeSettings) -> TimeSampler:
    """Where flow times come from."""
    if settings.distribution == "sigmoid_normal":
        return SigmoidNormal(settings.mean, settings.std)
    return Beta(settings.alpha, settings.beta, settings.scale, settings.toward)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """A chunk of a sample: ``[H, K]`` each of what is learned, its mask and its noise, then time, index, state and ends."""

    clean: np.ndarray
    mask: np.ndarray
    noise: np.ndarray
    time: Tensor
    index: int | None
    state: np.ndarray | None
    ends: np.ndarray | None


@dataclass(frozen=True)
class Collator:
    """Makes batches for one model; it pickles.

    Attributes:
        inputs: Makes the prompts' tensors, for the model's architecture.
        statistics: The stream's.
        times: Where flow times come from.
        seed: The training's.
        images: Whether prompts have their images.
        draws: Flow times and noises that are sampled for each chunk.
        answers: Whether conversations have their answers.
        by_language: Whether the language model learns their marks, too.
    """

    inputs: InputBuilder
    statistics: Mapping[str, DatasetStatistics]
    times: TimeSampler
    seed: int
    images: bool = True
    draws: int = 1
    answers: bool = True
    by_language: bool = True

    @property
    def blur(self) -> bool:
        """Whether the action expert learns from the samples' keypoints, blurred, in place of what the backbone says."""
        return self.inputs.config.reads_ends and not self.images

    def __call__(self, samples: Sequence[tuple[int, Sample]]) -> MicroBatch:
        """The batch of samples with their positions."""
        prompts: list[Prompted | Conversation] = []
        chunks = []
        for index, (position, sample) in enumerate(samples):
            try:
                if isinstance(sample, LanguageSample):
                    prompts.append(sample.conversation)
                    continue
                query, ends = self._query(sample), self._ends(sample)
                if not self.blur:
                    prompts.append(dataclasses.replace(prompt_of(query, self.inputs.config, self.images), ends=ends))
                chunks += [(index, chunk) for chunk in self._chunks(query, sample.actions, position, ends)]
            except VlarigError as error:
                raise TrainingError(f"the sample {sample.name!r} does not fit: {error}") from None
        named = tuple(sample.name for _, sample in samples)
        chunk_names = tuple(samples[index][1].name for index, _ in chunks)
        learned = self._together(chunks) if chunks else None
        if self.blur:
            return MicroBatch(Batch(None, learned), named, chunk_names, 0, 0.0, 0)
        inputs = self.inputs.build(prompts, answers=self.answers, by_language=self.by_language)
        tokens = 0 if inputs.targets is None else len(inputs.targets)
        marks = 0.0 if inputs.marks is None else float(inputs.marks.shares.sum())
        ends_known = 0 if inputs.ends is None else int((~inputs.ends.isnan()).any(1).sum())
        return MicroBatch(Batch(inputs, learned), named, chunk_names, tokens, marks, ends_known)

    def _ends(self, sample: ActionSample) -> np.ndarray | None:
        """What the end of a sample's prompt is to hold."""
        if sample.keypoints is None:
            if self.blur:
                raise TrainingError(
                    "it has no keypoints, which training without images needs; record them with an expert that gives them"
                )
            return None
        return end_numbers(sample.keypoints, hand_pose(sample.observation["state"], sample.embodiment.state_layout))

    def _query(self, sample: ActionSample) -> Query:
        embodiment = sample.embodiment
        known = find_statistics(self.statistics, embodiment.statistics_key)
        role = Role(embodiment, known.actions, known.state, self.inputs.config.embodiment_index(embodiment.name))
        return Query(sample.observation, role, sample.horizon or len(sample.actions))

    def _chunks(self, query: Query, actions: np.ndarray, position: int, ends: np.ndarray | None) -> Iterator[_Chunk]:
        """The chunk of a sample, ``draws`` times."""
        if not np.isfinite(actions).all():  # before the normalisation, which clips an infinity
            raise TrainingError("its actions hold a number that is not finite; drop the trajectory that it comes from")
        layout = ActionLayout(query.steps, self.inputs.config.channels)
        clean, mask = layout.place(normalize(np.asarray(actions, np.float32), query.role.actions))
        state = state_of(query, self.inputs.config) if self.inputs.config.state == "dit" else None
        generator = np.random.default_rng([self.seed, position])
        for _ in range(self.draws):
            time = self.times.sample(1, generator)
            noise = generator.standard_normal(clean.shape, dtype=np.float32)
            read = blurred(ends, generator) if self.blur and ends is not None else None
            yield _Chunk(clean, mask, noise, time, query.role.index, state, read)

    def _together(self, chunks: Sequence[tuple[int, _Chunk]]) -> Chunks:
        each = [chunk for _, chunk in chunks]

        def padded(name: str) -> Tensor:
            return pad_sequence([torch.from_numpy(getattr(chunk, name)) for chunk in each], batch_first=True)

        states = [chunk.state for chunk in each if chunk.state is not None]
        ends = [chunk.ends for chunk in each if chunk.ends is not None]
        return Chunks(
            samples=torch.tensor([index for index, _ in chunks]),
            clean=padded("clean"),
            mask=padded("mask"),
            noise=padded("noise"),
            time=torch.cat([chunk.time for chunk in each]),
            embodiment=None if each[0].index is None else torch.tensor([chunk.index for chunk in each]),
            state=torch.from_numpy(np.stack(states)) if states else None,
            ends=torch.from_numpy(np.stack(ends)) if ends else None,
        )


class _MicroBatches(Dataset[MicroBatch | VlarigError]):
    """Micro-batches by their positions. An error in a sample is passed on as it is, not in a DataLoader's own words."""

    def __init__(self, stream: Stream, collator: Collator) -> None:
        self._stream = stream
        self._collator = collator

    def __getitem__(self, positions: Sequence[int]) -> MicroBatch | VlarigError:
        try:
            return self._collator([(position, self._stream[position]) for position in positions])
        except VlarigError as error:
            return error


def _plan(config: TrainConfig, stream: Stream, rank: int, world: int, first_step: int) -> Iterator[list[int]]:
    """The positions of this process, micro-batch after micro-batch, from a step on; within a step in the order of their buckets."""
    size, batch = config.micro_batch_size, config.batch_size
    for step in range(first_step, config.steps):
        positions = sorted(range(step * batch, (step + 1) * batch), key=stream.bucket)
        for begin in range(rank * size, batch, world * size):
            yield positions[begin : begin + size]


def _leave_group(worker: int) -> None:
    """Ctrl-C, and what else is sent to the training's process group, is the trainer's: it saves, and needs batches until then."""
    os.setpgrp()


def micro_batches_a_step(config: TrainConfig, world: int) -> int:
    """How many micro-batches each of so many processes has in a step."""
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
    """This process's micro-batches from a step on, :func:`micro_batches_a_step` for each step."""
    workers = config.data.workers
    loader = DataLoader(
        _MicroBatches(stream, collator),
        sampler=_plan(config, stream, rank, world, first_step),
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
