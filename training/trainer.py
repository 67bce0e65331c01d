"""The supervised loop: batches, losses, updates, reports, checkpoints, evaluations; the same call resumes it.

A run's folder holds ``config.json``, ``checkpoints/``, ``policy/`` (the trained policy, for ``qwen-vla:RUN/policy``), ``best/`` (the
one that did best where it was evaluated), ``evaluations/`` and what the trackers write.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import transformers
from torch import Tensor

from ..envs.embodiments import Embodiment
from ..policies.qwen_vla.acceleration import attention_for_training, choose_kernels
from ..policies.qwen_vla.backbone import load_backbone
from ..policies.qwen_vla.checkpoint import LoadedPolicy, load
from ..policies.qwen_vla.config import ModelConfig
from ..policies.qwen_vla.inputs import InputBuilder
from ..policies.qwen_vla.inspection import describe
from ..policies.qwen_vla.named import PRESETS, TrainedStage
from .batches import Collator, MicroBatch, micro_batches, micro_batches_a_step, time_sampler
from .checkpoints import Checkpoints, full_weights, resume
from .config import (
    BEFORE,
    ModelSettings,
    OriginSettings,
    Settings,
    Stage,
    TrainConfig,
    TrainingError,
    differences,
    read_config,
    save_config,
)
from .data.mixture_file import find_stream
from .evaluation import Evaluations, export
from .learner import Learner
from .parallel import Processes, processes
from .reporting import Reporter
from .samples import Stream
from .stopping import Stopped, StopSignals

CONFIG_FILE = "config.json"

#: What may change while a training is interrupted, beside ``data.workers``: how long it is, and what is measured, said and kept.
FREE = ("steps", "checkpoints", "evaluation", "track", "report_every")

#: Numbers of a state for which a preset has room that is trained without robots: of an arm's joints or its hand, and of its fingers.
STATE_SIZE = 16

#: The terms of the objective, in the order of their weights and sums.
LOSSES: tuple[str, ...] = ("action", "language", "marks", "ends")


@dataclass(frozen=True)
class Measured:
    """What a step measured, still on the device, for which no process waits yet.

    Attributes:
        waited: Seconds that were spent on waiting for batches, in this step and all before it.
        given: The time at which the step was given to the device.
    """

    step: int
    names: tuple[str, ...]
    chunk_names: tuple[str, ...]
    tokens: int
    waited: float
    given: float
    each: Tensor
    totals: Tensor
    norms: dict[str, Tensor]
    rates: dict[str, float]


def train(config: TrainConfig, run: Path, reporter: Reporter, stream: Stream | None = None) -> Path:
    """Train in the folder ``run``, from its newest checkpoint where there is one; the folder of the trained policy.

    ``stream`` has the samples; it is found by the configuration if not given.

    Raises:
        Stopped: SIGTERM or SIGINT came, and the training was saved.
    """
    with processes(config.shard_over) as group:
        stream = stream if stream is not None else find_stream(config.data.source, config.data.options)
        return Trainer(config, run, reporter, stream, group).run()


class Trainer:
    """One process of a training."""

    def __init__(self, config: TrainConfig, run: Path, reporter: Reporter, stream: Stream, group: Processes) -> None:
        self.config = config
        self.folder = run
        self.reporter = reporter
        self.stream = stream
        self.group = group
        transformers.logging.set_verbosity_error()  # it would warn of each kernel that is not installed; inspect lists them
        check_run(config, run)
        micro_batches_a_step(config, group.world)  # before minutes of loading
        check_stage(config)
        check_architecture(config.model)
        bundle = loaded(config.model, stream.embodiments, group.device)
        self.bundle = described(bundle, stream)
        times = time_sampler(config.objective.time)
        self.collator = Collator(
            InputBuilder(self.bundle.description.config, self.bundle.tokenizer),
            dict(stream.statistics),
            times,
            config.seed,
            config.data.images,
            config.objective.draws,
            answers=config.objective.language_weight > 0,
            by_language=config.objective.marks_by == "both",
        )
        if self.collator.blur and not {"vision", "language"} <= set(config.model.frozen):
            raise TrainingError(
                "without images the action expert alone learns, as it reads the ends of prompts; add vision and language to "
                "model.frozen, or give data.images=true"
            )
        model = bundle.model
        choose_kernels(model, group.device)
        model.freeze(*config.model.frozen)
        model.checkpoint_activations(*config.model.checkpointed)
        if config.vision_alone:
            model.learn_vision_alone()
        self.learner = Learner(model, config.optimizer, config.steps, group)
        self.checkpoints = Checkpoints(run / "checkpoints", config.checkpoints.keep)
        self.evaluations = Evaluations(config.evaluation, config.steps, self._stage, run, self.bundle, reporter)
        self.measured: Measured | None = None
        self._waited = 0.0
        self._reported = (0, 0.0, 0.0)
        """The step of the last report, its time, and the seconds waited for batches until then."""
        self._weights = [getattr(config.objective, f"{name}_weight") for name in LOSSES]

    def run(self) -> Path:
        """Train to the end; the folder of the trained policy."""
        config = self.config
        newest = self.checkpoints.newest()
        first = 0 if newest is None else resume(self.learner, newest)
        if first > config.steps:
            raise TrainingError(f"{self.folder} has made {first} steps, and steps is {config.steps}; name as many or more")
        self.group.wait()  # all have read the run's folder
        if self.group.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(config, self.folder / CONFIG_FILE)
            self.reporter.start(first, config.steps)
            if self.learner.steps != config.steps:
                self.reporter.note(f"learning rates fall over {self.learner.steps} steps, as when the run began, and then stay")
            for sentence in self.stream.notes:
                self.reporter.note(sentence)
        batches = micro_batches(config, self.stream, self.collator, self.group.rank, self.group.world, first)
        with StopSignals() as stop, self.evaluations:
            if first:
                self._evaluate(first, stop)  # what was under way when it ended; a whole evaluation is not repeated
            self._reported = (first, time.perf_counter(), self._waited)
            self._steps(first, batches, stop)
        weights = full_weights(self.learner)
        if weights is not None:
            export(self.bundle, weights, self.folder / "policy", self._stage(config.steps))
        self.group.wait()
        return self.folder / "policy"

    def _stage(self, steps: int) -> TrainedStage:
        return TrainedStage(self.config.stage, steps, steps * self.config.batch_size)

    def _steps(self, first: int, batches: Iterator[MicroBatch], stop: StopSignals) -> None:
        config = self.config
        share = micro_batches_a_step(config, self.group.world)
        for step in range(first, config.steps):
            began = time.perf_counter()
            micro = [next(batches) for _ in range(share)]
            *counts, stopping = self.group.sum(
                [
                    sum(len(each.chunk_names) for each in micro),
                    sum(each.tokens for each in micro),
                    sum(each.marks for each in micro),
                    sum(each.ends for each in micro),
                    stop.requested,
                ]
            )
            self._waited += time.perf_counter() - began
            if stopping:
                self._stop(step)
            with attention_for_training(self.group.device, self.learner.model.compute):
                measured = self._step(step, micro, counts)
            # The step before this one: by now it is done, so that reading it stops nothing.
            self._check()
            self.measured = measured
            done = step + 1
            if done % config.checkpoints.every == 0 or done == config.steps or self.evaluations.due(done):
                self._check()
                self.checkpoints.save(self.learner, done)
                self._evaluate(done, stop)

    def _step(self, step: int, micro: Sequence[MicroBatch], counts: Sequence[float]) -> Measured:
        """Gradients of all micro-batches, then the update; ``counts`` are the terms of each of :data:`LOSSES`, in all micro-batches."""
        device = self.group.device
        weights = torch.tensor(self._weights, device=device)
        shares = 1 / torch.tensor(counts, device=device).clamp(min=1)
        totals, each, length = torch.zeros(len(LOSSES), device=device), [], 0
        for index, one in enumerate(micro):
            losses = self.learner.model(one.batch.to(device, non_blocking=True))
            means = torch.stack([getattr(losses, name).sum for name in LOSSES]) * shares
            self.learner.backward((weights * means).sum(), last=index == len(micro) - 1)
            totals += means.detach()
            each.append(losses.each)
            length += 0 if one.batch.inputs is None else one.batch.inputs.valid.numel()
        norms = self.learner.update(step)
        return Measured(
            step=step,
            names=tuple(name for one in micro for name in one.names),
            chunk_names=tuple(name for one in micro for name in one.chunk_names),
            tokens=length,
            waited=self._waited,
            given=time.perf_counter(),
            each=torch.cat(each),
            totals=self.group.sum_tensor(totals),
            norms=norms,
            rates=self.learner.rates(),
        )

    def _evaluate(self, step: int, stop: StopSignals) -> None:
        """Evaluate where that is due. A checkpoint is there, so a signal ends it at once."""
        if self.evaluations.due(step):
            with stop.at_once(f"stopped while step {step} was evaluated; the same command goes on"):
                self.evaluations.evaluate(step, full_weights(self.learner))
                self.group.wait()

    def _check(self) -> None:
        """Read what the last step measured, report it, and stop where it is not a finite number."""
        measured, self.measured = self.measured, None
        if measured is None:
            return
        means = dict(zip(LOSSES, measured.totals.tolist(), strict=True))
        norms = {name: float(norm) for name, norm in measured.norms.items()}
        if not all(map(math.isfinite, (*means.values(), norms["gradient_norm"]))):
            self._refuse(measured, means)
        done = measured.step + 1
        if self.group.first and (done % self.config.report_every == 0 or done == self.config.steps):
            step, began, before = self._reported
            self._reported = (done, measured.given, measured.waited)
            seconds, waited = (
                (end - begin) / (done - step) for begin, end in ((began, measured.given), (before, measured.waited))
            )
            numbers = {
                "loss": sum(weight * mean for weight, mean in zip(self._weights, means.values(), strict=True)),
                **{f"loss/{name}": mean for name, mean in means.items()},
                **norms,
                **measured.rates,
                "samples_per_second": self.config.batch_size / seconds,
                "tokens_per_second": self.group.world * measured.tokens / seconds,
                "time/step": seconds,
                "time/data": waited,
                "wait": waited / seconds,
            }
            self.reporter.report(done, {f"train/{name}": value for name, value in numbers.items()})

    def _refuse(self, measured: Measured, means: Mapping[str, float]) -> None:
        """Stop, with the names of the samples whose loss is not a finite number, or of all samples."""
        broken = [
            name for name, loss in zip(measured.chunk_names, measured.each.tolist(), strict=True) if not math.isfinite(loss)
        ]
        gathered = self.group.gather((broken, list(measured.names)))
        names = [name for some, _ in gathered for name in some] or [name for _, every in gathered for name in every]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        newest = self.checkpoints.newest()
        kept = f"the newest checkpoint is {newest}" if newest else "there is no checkpoint yet"
        losses = ", ".join(f"the {name} loss {mean:g}" for name, mean in means.items())
        raise TrainingError(
            f"step {measured.step + 1} has {losses} and a gradient of norm {float(measured.norms['gradient_norm']):g} with the samples "
            f"{shown}; {kept}: mend the data or lower the learning rates"
        )

    def _stop(self, step: int) -> None:
        self._check()
        newest = self.checkpoints.newest()
        if step and (newest is None or newest.name != f"step-{step:08d}"):
            self.checkpoints.save(self.learner, step)
        done = f"stopped and saved after step {step}" if step else "stopped before the first step"
        raise Stopped(f"{done}; the same command goes on")


def check_run(config: TrainConfig, run: Path) -> None:
    """Make sure that a run's folder is new or of the same training."""
    saved = run / CONFIG_FILE
    if saved.exists():
        before = read_config(config.stage, saved)
        free = {name: getattr(config, name) for name in FREE}
        free["data"] = before.data.model_copy(update={"workers": config.data.workers})
        refuse_another(run, before.model_copy(update=free), config)


def refuse_another(run: Path, before: Settings, config: Settings) -> None:
    """Refuse a folder whose configuration differs."""
    found = differences(before.model_dump(mode="json"), config.model_dump(mode="json"))
    if found:
        raise TrainingError(f"{run} is another training: it differs in {', '.join(found)}; name another folder")


def check_stage(config: TrainConfig) -> None:
    """Make sure that the checkpoint that a training goes on from is that of the stage before; a preset may be trained by any."""
    model, before = config.model, BEFORE[config.stage]
    if model.source in PRESETS or model.any_checkpoint:
        return
    wanted = f"a checkpoint of {before!r} or a preset" if before else "a preset"
    refuse_other_stages(model, (before,), f"{config.stage!r} goes on from {wanted}")


def refuse_other_stages(model: OriginSettings, stages: Sequence[Stage | Literal["ppo"] | None], wanted: str) -> None:
    """Refuse a checkpoint that none of these stages made last; ``wanted`` says in words what goes on from them."""
    trained = describe(model.source).trained
    if not trained or trained[-1].stage not in stages:
        made = f"by the stage {trained[-1].stage!r}" if trained else "by no stage of vlarig train"
        raise TrainingError(f"{model.name} was made {made}, and {wanted}; name one, or set model.any_checkpoint=true")


def loaded(settings: ModelSettings, robots: Sequence[Embodiment], device: torch.device) -> LoadedPolicy:
    """The policy that is trained; with another backbone than a checkpoint's, only the checkpoint's expert goes on (Fig. 7b)."""
    preset = settings.source in PRESETS
    bundle = load(
        settings.source,
        seed=settings.seed,
        backbone=settings.backbone if preset else None,
        device=device,
        compute=torch.bfloat16 if settings.compute == "bfloat16" else torch.float32,
        adapt=lambda architecture: adapted(architecture, settings, robots),
    )
    if settings.backbone is not None and not preset:
        other = load_backbone(settings.backbone, torch.float32, bundle.description.config.backbone)
        bundle.model.backbone.load_state_dict(other.state_dict())
    return bundle


def adapted(architecture: ModelConfig, settings: ModelSettings, robots: Sequence[Embodiment]) -> ModelConfig:
    """A preset's architecture with the state and the projection that the settings name, for the stream's robots."""
    if settings.state is not None:
        size = max((len(each.state_layout) for each in robots), default=STATE_SIZE) if settings.state == "dit" else 0
        architecture = dataclasses.replace(architecture, state=settings.state, state_size=size)
    if settings.projection is not None:
        own = () if settings.projection == "zero_pad" else tuple((each.name, each.action_size) for each in robots)
        architecture = dataclasses.replace(architecture, projection=settings.projection, projection_embodiments=own)
    return architecture


def check_architecture(settings: ModelSettings) -> None:
    """Make sure that a checkpoint has the state and the projection that the settings name, which only a preset takes on."""
    if settings.source in PRESETS or (settings.state is None and settings.projection is None):
        return
    architecture = describe(settings.source).config
    for name in ("state", "projection"):
        wanted, found = getattr(settings, name), getattr(architecture, name)
        if wanted not in (None, found):
            raise TrainingError(
                f"model.{name} is {wanted!r}, and {settings.source} was made with {found!r}; begin with a preset, or leave it out"
            )


def described(bundle: LoadedPolicy, stream: Stream) -> LoadedPolicy:
    """A policy that knows the robots of a stream, and their statistics, besides those that it knows already."""
    before = bundle.description
    description = dataclasses.replace(
        before,
        statistics=before.statistics | dict(stream.statistics),
        embodiments=before.embodiments | {each.name: each for each in stream.embodiments},
        eigengrasps=before.eigengrasps if stream.eigengrasps is None else stream.eigengrasps,
    )
    for embodiment in stream.embodiments:
        before.config.check_embodiment(embodiment.name, embodiment.action_size)
    return LoadedPolicy(description, bundle.model, bundle.tokenizer, bundle.revision)
