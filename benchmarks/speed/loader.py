"""Samples a second that the data of a training gives, beside a bare decode loop of the same frames, and how long the model waits.

``samples`` compares, in turns: a LeRobotDataset's samples in order and at random, a mixture with its collator (prompts to tokens,
images to size and into patches, chunks to their places), and the trainer's DataLoader with so many workers. A bare loop decodes the
same frames of the same films in the same order with PyAV, in one thread, and makes arrays of them, no more. There are two such loops:
one calls ``frame.to_ndarray(format="rgb24")``, which makes a colour converter for each frame, and one keeps its converter. The second
is the faster one, and so the one that a reader of films should come near. What one process does is measured by its CPU time, which
other work on the machine disturbs less; a DataLoader by the wall clock, and so are the loops beside it.

``waits`` trains (SFT of a preset with random weights) and prints the trainer's own metric: the share of the wall time in which it waits
for batches.

    python benchmarks/speed/loader.py samples
    python benchmarks/speed/loader.py samples --folder demos --turns 9
    python benchmarks/speed/loader.py waits --workers 0 1 2

Without ``--folder`` the dataset is made up first (``demos.py``), as ``vlarig data record`` would write it.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import av
import numpy as np
import torch
import tyro
from av.video.reformatter import VideoReformatter
from demos import make_demos
from rich.console import Console
from rich.table import Table
from spread import spread

from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.inputs import InputBuilder
from vlarig.training.batches import Collator, micro_batches, time_sampler
from vlarig.training.config import TrainConfig, read_config
from vlarig.training.data.lerobot import open_lerobot
from vlarig.training.data.lerobot_files import Meta, read_meta
from vlarig.training.data.mixture import Mixture, mix
from vlarig.training.parallel import Processes
from vlarig.training.reporting import Reporter
from vlarig.training.trainer import Trainer

#: Actions of a sample.
HORIZON = 16
#: Micro-batches that a worker of torch's DataLoader has under way (its ``prefetch_factor``).
AHEAD = 2

Clock = Callable[[], float]


@dataclass(frozen=True)
class Options:
    """Options of both."""

    folder: Path | None = None
    """A LeRobotDataset that says which robot it is of; one is made up where none is named."""
    episodes: int = 30
    """Episodes that are made up."""
    size: int = 224
    """Height and width of their images."""
    preset: Literal["4b", "small", "tiny"] = "small"
    """Sizes of the model, whose images and tokens the collator makes."""
    micro_batch: int = 16
    """Samples that are collated together."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Processes that make batches; 0 makes them in the same process."""
    turns: int = 5
    """How often everything is measured; medians are printed."""


@dataclass(frozen=True)
class Samples(Options):
    """Measure samples a second."""

    samples: int = 128
    """Samples of a measurement."""


@dataclass(frozen=True)
class Waits(Options):
    """Measure the share of training time in which the model waits."""

    batch: int = 32
    """Samples of a step."""
    steps: int = 6
    """Steps of a turn, of which the first ones, in which workers start, do not count."""


class Films:
    """The bare loop: frames of some cameras by their times, with PyAV alone; ``keeps``: with one colour converter."""

    def __init__(self, meta: Meta, cameras: Sequence[str], keeps: bool) -> None:
        self._meta, self._cameras, self._keeps = meta, cameras, keeps
        self._ends = np.cumsum(meta.lengths)
        self._open: dict[str, tuple[av.container.InputContainer, av.VideoStream]] = {}
        self._converter = VideoReformatter()

    def in_order(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Consecutive frames, all of a camera and then those of the next: films are read on without a jump."""
        for camera in self._cameras:
            steps = [self._step(camera, index) for index in indices]
            for _, group in itertools.groupby(steps, key=lambda each: each[0]):
                frames = list(group)
                yield from (image for _, image in zip(frames, self._decode(*frames[0]), strict=False))

    def at_random(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames one by one, all cameras of each: from the key frame before it on."""
        for index in indices:
            for camera in self._cameras:
                yield next(self._decode(*self._step(camera, index)))

    def _step(self, camera: str, index: int) -> tuple[str, float]:
        place = int(np.searchsorted(self._ends, index, side="right"))
        path, begin = self._meta.film(camera, place)
        return path, begin + (index - self._ends[place] + self._meta.lengths[place]) / self._meta.fps

    def _decode(self, path: str, second: float) -> Iterator[np.ndarray]:
        """Frames from a time on, ``uint8[h, w, 3]``."""
        if path not in self._open:
            container = av.open(path)
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            self._open[path] = container, stream
        container, stream = self._open[path]
        assert stream.time_base is not None
        begin = round(second / stream.time_base)
        container.seek(begin, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= begin:
                if self._keeps:
                    yield self._converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
                else:
                    yield frame.to_ndarray(format="rgb24")


class Subject:
    """What is measured, by its name in the table: so many samples a turn of a mixture of one dataset, in order or at random."""

    loop: Literal["in_order", "at_random"] = "at_random"
    clock: Clock = staticmethod(time.process_time)

    def __init__(self, name: str, mixture: Mixture, samples: int) -> None:
        self.name, self.mixture, self.samples = name, mixture, samples
        self.dataset = mixture.datasets[0]

    def indices(self, turn: int) -> list[int]:
        """The dataset's samples of a turn; other turns have others."""
        return [self.mixture.place(position)[1] for position in range(turn * self.samples, (turn + 1) * self.samples)]

    def prepare(self) -> None:
        """What is done before the clock runs."""

    def close(self) -> None:
        """Nothing more is measured."""

    def work(self, turn: int) -> None:
        """What is measured."""
        for index in self.indices(turn):
            self.dataset[index]


class InOrder(Subject):
    """Consecutive samples."""

    loop = "in_order"

    def indices(self, turn: int) -> list[int]:
        begin = turn * self.samples % max(len(self.dataset) - self.samples, 1)
        return list(range(begin, min(begin + self.samples, len(self.dataset))))


class Collated(Subject):
    """Micro-batches, made in this process."""

    def __init__(self, name: str, mixture: Mixture, samples: int, collator: Collator, size: int) -> None:
        super().__init__(name, mixture, samples)
        self._collator, self._size = collator, size

    def work(self, turn: int) -> None:
        positions = range(turn * self.samples, (turn + 1) * self.samples)
        for begin in range(0, self.samples, self._size):
            self._collator([(position, self.mixture[position]) for position in positions[begin : begin + self._size]])


class Loaded(Subject):
    """Micro-batches of the trainer's DataLoader. Those that are ready when a turn begins are taken before its clock runs."""

    clock: Clock = staticmethod(time.perf_counter)

    def __init__(self, name: str, mixture: Mixture, samples: int, collator: Collator, size: int, workers: int) -> None:
        super().__init__(name, mixture, samples)
        self._ahead, self._size = AHEAD * workers, size
        values = {"batch_size": size, "micro_batch_size": size, "data.workers": workers, "steps": 10**9}
        self._batches = micro_batches(configuration(values), mixture, collator, 0, 1, 0)

    def indices(self, turn: int) -> list[int]:
        begin = turn * (self.samples + self._ahead * self._size) + self._ahead * self._size
        return [self.mixture.place(position)[1] for position in range(begin, begin + self.samples)]

    def prepare(self) -> None:
        for _ in range(self._ahead):
            next(self._batches)

    def work(self, turn: int) -> None:
        """Take as many as a turn has."""
        for _ in range(self.samples // self._size):
            next(self._batches)

    def close(self) -> None:
        self._batches.close()


@dataclass
class Rates:
    """Samples a second of each turn: of a subject, and of the bare loops beside it."""

    ours: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)

    def ratios(self, loop: Literal["kept", "plain"]) -> list[float]:
        """Ours to a loop's, turn by turn."""
        return [ours / theirs for ours, theirs in zip(self.ours, getattr(self, loop), strict=True)]


def compare(subject: Subject, meta: Meta, cameras: Sequence[str], turns: int) -> Rates:
    """Measure a subject and both bare loops over the same frames, in turns. The first turn, which warms all of them, is not kept."""
    rates, loops = Rates(), {"kept": Films(meta, cameras, True), "plain": Films(meta, cameras, False)}
    for turn in range(turns + 1):
        indices = subject.indices(turn)
        for name in ("kept", "ours", "plain") if turn % 2 else ("plain", "ours", "kept"):
            if name == "ours":
                subject.prepare()
            began = subject.clock()
            if name == "ours":
                subject.work(turn)
            else:
                deque(getattr(loops[name], subject.loop)(indices), maxlen=0)
            if turn:
                getattr(rates, name).append(len(indices) / (subject.clock() - began))
    return rates


def subjects(options: Samples, mixture: Mixture) -> Iterator[Subject]:
    """All that is measured, one after another; the workers of each end before the next."""
    samples, size = options.samples, options.micro_batch
    bundle, objective = load(options.preset), configuration({}).objective
    collator = Collator(
        InputBuilder(bundle.description.config, bundle.tokenizer), mixture.statistics, time_sampler(objective.time), seed=0
    )
    yield InOrder("dataset, in order", mixture, samples)
    yield Subject("dataset, at random", mixture, samples)
    yield Collated("mixture, collated", mixture, samples, collator, size)
    for workers in options.workers:
        yield Loaded(f"DataLoader, {workers} workers", mixture, samples, collator, size, workers)


def show_samples(console: Console, options: Samples, folder: Path) -> None:
    dataset, meta = open_lerobot(folder, horizon=HORIZON), read_meta(folder)
    mixture = mix([dataset], [1.0])
    cameras = [name for name in meta.films if name.rpartition(".")[2] in dataset.embodiments[0].cameras]
    began = time.process_time()
    episodes = sum(1 for _ in dataset.trajectories("actions"))
    each = (time.process_time() - began) / episodes * 1e3
    console.print(
        f"{len(dataset)} samples of {episodes} episodes with {len(cameras)} films; {options.turns} turns of {options.samples}"
    )
    console.print(f"reading an episode's numbers, once: {each:.1f} ms, {each * episodes / len(dataset):.3f} ms a sample")
    for begin in meta.lengths.cumsum() - meta.lengths:
        dataset[int(begin)]  # its episode's numbers are kept from now on
    table = Table("", "samples/s", "against a loop that keeps its converter", "against to_ndarray", "clock")
    for subject in subjects(options, mixture):
        rates = compare(subject, meta, cameras, options.turns)
        subject.close()
        cells = [rates.ours, rates.ratios("kept"), rates.ratios("plain")]
        texts = ["{} ({})".format(*spread(values, digits)) for values, digits in zip(cells, (0, 2, 2), strict=True)]
        table.add_row(subject.name, *texts, "CPU" if subject.clock is time.process_time else "wall")
    console.print(table)


class Enough(Exception):
    """All steps are measured."""


class Listener(Reporter):
    """The training's reporter: keeps the seconds of steps in which every worker is at work, and ends the training after the last."""

    def __init__(self, first: int, last: int) -> None:
        self.seconds: list[tuple[float, float]] = []
        self._first, self._last = first, last

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self._first:
            self.seconds.append((numbers["train/time/data"], numbers["train/time/step"]))
        if step == self._last:
            raise Enough


def waits(options: Waits, mixture: Mixture, workers: int) -> tuple[float, float]:
    """Train; the share of the time in which it waits, and samples a second."""
    values: dict[str, Any] = {
        "model.source": options.preset, "model.compute": "float32", "data.workers": workers, "steps": 10**6, "report_every": 1,
        "batch_size": options.batch, "micro_batch_size": options.micro_batch, "checkpoints.every": 10**6, "track": [],
    }  # fmt: skip
    first = 2 + max(workers, 1)  # what workers made ahead while the first step was computed is used up
    listener = Listener(first, first + options.steps - 1)
    with TemporaryDirectory() as place, suppress(Enough):
        group = Processes(0, 1, torch.device("cpu"), None)
        Trainer(configuration(values), Path(place) / "run", listener, mixture, group).run()
    data, whole = (sum(each) for each in zip(*listener.seconds, strict=True))
    return data / whole, options.batch * len(listener.seconds) / whole


def show_waits(console: Console, options: Waits, folder: Path) -> None:
    """Measure the share of waiting and print; the numbers of workers take turns."""
    mixture = mix([open_lerobot(folder, horizon=HORIZON)], [1.0])
    found: dict[int, list[tuple[float, float]]] = {workers: [] for workers in options.workers}
    for _ in range(options.turns):
        for workers, turns in found.items():
            turns.append(waits(options, mixture, workers))
    table = Table("workers", "waits for data, % of the wall time", "samples/s")
    for workers, turns in found.items():
        shares, rates = zip(*turns, strict=True)
        shown = spread([100 * share for share in shares], 1), spread(rates, 1)
        table.add_row(str(workers), *("{} ({})".format(*each) for each in shown))
    console.print(f"{options.preset}, steps of {options.batch} in micro-batches of {options.micro_batch}, one thread")
    console.print(table)


def configuration(values: dict[str, Any]) -> TrainConfig:
    """That of a fine-tuning."""
    return read_config("sft", None, [f"{name}={json.dumps(value)}" for name, value in {"data.source": "a:b", **values}.items()])


@contextmanager
def demos(options: Options) -> Iterator[Path]:
    if options.folder is not None:
        yield options.folder
        return
    with TemporaryDirectory() as place:
        make_demos(Path(place), options.episodes, options.size)
        yield Path(place)


def main(options: Samples | Waits) -> None:
    torch.set_num_threads(1)
    console = Console(width=130)
    with demos(options) as folder:
        if isinstance(options, Samples):
            show_samples(console, options, folder)
        else:
            show_waits(console, options, folder)


if __name__ == "__main__":
    main(tyro.cli(Samples | Waits, description=__doc__))
