"""What `training.py chunk` and `training.py profile` measure: a Qwen-VLA's chunks against their batch size, part by part.

The floor is measured in the same turns: the operations that torch counts in matrix products, convolutions and attention, over the rate
of the product of two large squares in the same precision. On a GPU a part also has to read its weights, at the rate of a large copy,
and the larger of the two is the floor. Times on a CPU are the process's CPU time, so that other work on the machine disturbs less.
"""

from __future__ import annotations

import contextlib
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from machine import DTYPES, Machine, Options, Work, operations
from rich.console import Console
from rich.table import Table
from spread import spread
from torch import Tensor, nn
from torch.profiler import record_function

from vlarig.envs.api import Observation
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.acceleration import kernels_in_use, plain
from vlarig.policies.qwen_vla.backbone import BackboneInputs, Context, embed, hidden_states
from vlarig.policies.qwen_vla.checkpoint import Description, LoadedPolicy
from vlarig.policies.qwen_vla.flow import euler, start_noise
from vlarig.policies.qwen_vla.inputs import InputBuilder, prompted
from vlarig.policies.qwen_vla.model import build
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.normalization import ActionLayout
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.tensors import computing
from vlarig.policies.qwen_vla.tokenizer import add_view_tokens, small_tokenizer, token_ids
from vlarig.policies.qwen_vla.vision import image_features

#: Euler steps that are measured; a chunk takes the first.
STEPS = (4, 10)
#: Height and width of an observation's images: those of the LIBERO evaluators' default protocol.
IMAGE = 224
#: A measurement goes through this many samples at least, so that small batches are not measured by the clock's resolution.
SAMPLES = 16
#: Operators and modules that are printed of a part's profile.
LARGEST = 12


@dataclass(frozen=True)
class Acting(Options):
    """Options of both."""

    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Precisions of the weights."""
    views: Literal[1, 2] = 2
    """Images of a sample."""


@dataclass(frozen=True)
class Chunk(Acting):
    """Observations to actions, and each part of that."""

    batches: tuple[int, ...] = (1, 4, 16, 64)
    """Batch sizes."""
    compile: bool = False
    """Measure it under torch.compile too."""


@dataclass(frozen=True)
class Profile(Acting):
    """Operators and modules that take the most time in each part."""

    batch: int = 16
    """Batch size."""


@dataclass(frozen=True)
class Part:
    """Something to measure, and its measurements.

    Attributes:
        name: What it is.
        samples: Samples that ``work`` goes through.
        work: Does it once, for all its samples.
        flops: Its operations; 0 where it multiplies no matrices.
        read: Bytes of weights that it reads at least.
        milliseconds: Of each turn.
        floors: Milliseconds at the machine's best, of each turn.
    """

    name: str
    samples: int
    work: Work
    flops: float = 0.0
    read: int = 0
    milliseconds: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)

    def measure(self, machine: Machine, peak: tuple[float, float]) -> None:
        self.milliseconds.append(machine.milliseconds(self.work, max(SAMPLES // self.samples, 1)))
        self.floors.append(max(self.flops / peak[0], self.read / peak[1]) * 1e3)


class Batch(NamedTuple):
    """A batch on its way through a model: requests, tensors, the backbone's states, and ``bool[B, H, K]``, the valid entries."""

    requests: list[Request]
    inputs: BackboneInputs
    context: Context
    mask: Tensor


class Subject:
    """A preset with random weights, which computes chunks of the embedded suite's robot."""

    def __init__(self, options: Acting, device: torch.device, dtype: torch.dtype, compiled: bool = False) -> None:
        tokenizer = small_tokenizer()
        add_view_tokens(tokenizer)
        self.device = device
        self.config = PRESETS[options.preset](tokens=token_ids(tokenizer))
        self.model = build(self.config, device=device, dtype=dtype)
        bundle = LoadedPolicy(Description(self.config), self.model, tokenizer, options.preset)
        self.policy = QwenVlaPolicy.of(bundle, compile=str(compiled).lower(), steps=str(STEPS[0]))
        self._builder = InputBuilder(self.config, tokenizer)
        cameras = dict(list(TABLETOP_PANDA.cameras.items())[: options.views])
        self._robot = replace(TABLETOP_PANDA, cameras=cameras)

    @torch.no_grad()
    def batch(self, size: int) -> Batch:
        """Requests of different episodes: other images, the same words."""
        shown = np.random.default_rng(0).integers(0, 256, (size, 1, IMAGE, IMAGE, 3), np.uint8)
        state, horizon = np.zeros(len(self._robot.state_layout), np.float32), self.config.horizon
        requests = []
        for number, frames in enumerate(shown):
            images = dict.fromkeys(self._robot.cameras, frames)
            seen = Observation(images=images, state=state, instruction="put the red cube in the tray")
            requests.append(Request(number, f"episode {number}", 0, number, seen, self._robot, n_action_steps=horizon))
        inputs = self._inputs(requests)
        masks = ActionLayout(horizon, self.config.channels).masks([(horizon, self._robot.action_size)] * size)
        return Batch(requests, inputs, self.model.encode(inputs), torch.from_numpy(masks).to(self.device))

    def _inputs(self, requests: list[Request]) -> BackboneInputs:
        samples = [prompted(each.observation, each.embodiment, self.config.horizon) for each in requests]
        return self._builder.build(samples, self.device)

    @torch.no_grad()
    def parts(self, size: int) -> list[Part]:
        """A chunk, then its parts, each with its inputs at hand: they add up to the chunk, but for those indented under another."""
        requests, inputs, context, mask = self.batch(size)
        model, inner = self.model, self.model.backbone.model
        now = torch.ones(size, device=self.device)
        noise = start_noise(range(size), self.config.horizon, self.config.channels, device=self.device)
        embedding = inner.get_input_embeddings()
        backbone = byte_size(inner) - byte_size(embedding)  # a prompt reads a few rows of the embedding
        expert = byte_size(model.expert)
        with computing(self.device, model.compute):
            embedded = embed(model.backbone, inputs, model.compute, kept_tokens=self.config.kept_tokens)

        def velocity(noisy: Tensor, time: Tensor) -> Tensor:
            return model.velocity(noisy, time, context, mask)

        def vision() -> object:
            with computing(self.device, model.compute):
                return image_features(inner.visual, inputs.pixel_values, inputs.image_grid_thw)

        def language() -> object:
            with computing(self.device, model.compute):
                return hidden_states(model.backbone, inputs, embedded)

        works: list[tuple[str, Work, int]] = [
            ("chunk", lambda: self.policy.act(requests), backbone + STEPS[0] * expert),
            ("inputs", lambda: self._inputs(requests), 0),
            ("backbone", lambda: model.encode(inputs), backbone),
            ("  vision", vision, 0),
            ("  language model", language, 0),
            ("Euler step", lambda: velocity(noise, now), expert),
            *((f"{steps} Euler steps", partial(euler, velocity, noise, steps), steps * expert) for steps in STEPS),
        ]
        return [Part(name, size, work, operations(work, model), read) for name, work, read in works]


def byte_size(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def table(parts: Sequence[Part]) -> Table:
    """Each part's time, and how many times the floor that is."""
    found = Table("part", "batch", "ms", "min to max", "samples/s", "GFLOP a sample", "/ floor", "min to max")
    for part in parts:
        ratios = [spent / floor for spent, floor in zip(part.milliseconds, part.floors, strict=True) if floor]
        found.add_row(
            part.name,
            str(part.samples),
            *spread(part.milliseconds, 1),
            f"{part.samples / statistics.median(part.milliseconds) * 1e3:.1f}",
            *((f"{part.flops / part.samples / 1e9:.3g}", *spread(ratios, 2)) if ratios else ()),
        )
    return found


def show_chunk(console: Console, machine: Machine, options: Chunk, dtype: str) -> None:
    """Measure chunks and their parts: as the model is, compiled, and with torch's own kernels where there are others."""
    subject = Subject(options, machine.device, DTYPES[dtype], options.compile)
    ways: dict[str, Any] = {"eager": partial(torch.compiler.set_stance, "force_eager" if options.compile else "default")}
    if options.compile:
        ways["compiled"] = contextlib.nullcontext
    if any(kernels_in_use().values()):
        ways["eager, torch's kernels"] = partial(plain, subject.model)
    parts = {way: [part for size in options.batches for part in subject.parts(size)] for way in ways}
    with torch.no_grad():
        for turn in range(-2, options.turns):  # the first call compiles, the second may compile again for batches of any size
            peak = machine.peak(DTYPES[dtype])
            for way, entered in ways.items():
                with entered():
                    for part in parts[way]:
                        part.work() if turn < 0 else part.measure(machine, peak)
    console.print(f"{options.views} views, {subject.batch(1).inputs.input_ids.shape[1]} tokens, {STEPS[0]} Euler steps a chunk")
    for way in ways:
        console.print(way, table(parts[way]), sep="\n")


def label(model: nn.Module) -> None:
    """Have the profiler see each call of a module under the name of its class."""
    ranges: list[record_function] = []

    def enter(module: nn.Module, _: object) -> None:
        ranges.append(record_function(type(module).__name__))
        ranges[-1].__enter__()

    def leave(*_: object) -> None:
        ranges.pop().__exit__(None, None, None)

    for module in model.modules():
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def show_profile(console: Console, machine: Machine, options: Profile, dtype: str) -> None:
    """Print what takes the most time in each part: operators by their own time, then they and modules with all that they call."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler reports its own initial states and stops
    unit = "device" if machine.gpu else "cpu"
    subject = Subject(options, machine.device, DTYPES[dtype])
    parts = subject.parts(options.batch)
    label(subject.model)
    for part in parts:
        with torch.no_grad(), torch.profiler.profile() as seen:
            for _ in range(options.turns):
                part.work()
        for time_of in (f"self_{unit}_time_total", f"{unit}_time_total"):
            console.print(f"{part.name.strip()}, {dtype}, batch {options.batch}, {options.turns} turns")
            print(seen.key_averages().table(sort_by=time_of, row_limit=LARGEST, max_name_column_width=50))


def show(options: Chunk | Profile) -> None:
    """Measure in each precision, and print."""
    machine, console = Machine(options.device, options.threads), Console(width=130)
    console.print(f"{machine.name}; {options.turns} turns")
    show_in: Any = {Chunk: show_chunk, Profile: show_profile}[type(options)]
    # bfloat16 first: a policy in float32 puts torch's own kernels in for the whole process
    for dtype in sorted(options.dtypes):
        console.rule(f"{options.preset}, {dtype}")
        show_in(console, machine, options, dtype)
    for dtype, peaks in machine.peaks.items():
        rate, extent = spread([peak / 1e9 for peak in peaks], 0)
        console.print(f"product of two large squares in {dtype}: {rate} GFLOP/s ({extent})")
