"""The configuration of a training: one typed tree, with the paper's values as defaults where it prints any.

What the paper does not print is starVLA's, which trains the same pair of a Qwen backbone and a DiT (starVLA/starVLA@46f43d5
examples/simBenchmarks/LIBERO/train_files/starvla_cotrain_libero.yaml, called "starVLA" below), or ours, as each field says.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ..envs.errors import VlarigError, suggestion
from ..harness.sinks import TrackerName

Stage = Literal["backbone", "t2a", "cpt", "sft"]
Part = Literal["vision", "language", "expert", "value_head"]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainingError(VlarigError):
    """A training cannot be, or came to an end that the user has to know of."""


class Settings(BaseModel):
    """A branch of the tree: unknown names are errors, values do not change, a field's docstring is its help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


class OriginSettings(Settings):
    """What a training goes on from."""

    source: str

    @property
    def name(self) -> str:
        """Names it in sentences."""
        return self.source or "the shipped policy"


class ModelSettings(OriginSettings):
    """What is trained."""

    source: str = "4b"
    """Where its weights come from: a preset (``4b``, ``small``, ``tiny``: random), a checkpoint's folder, a hub's owner/name.
    Empty: the shipped policy."""
    backbone: str | None = None
    """Folder or hub id of a trained Qwen3.5 to take the backbone from, in place of a preset's random one or a checkpoint's own."""
    any_checkpoint: bool = False
    """Whether to go on from a checkpoint that is not the stage's before this one (section 3.1: T2A, CPT, SFT, each from the last)."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Seed of a preset's random weights."""
    state: Literal["none", "prompt", "dit"] | None = None
    """Of a preset: where proprioception goes (section 5.2.4): nowhere, into the prompt, or to the action expert."""
    projection: Literal["zero_pad", "multi_mlp", "concat"] | None = None
    """Of a preset: how actions of several robots enter and leave the action expert (section 5.2.2)."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision that matrices are multiplied in; weights are float32."""
    frozen: tuple[Part, ...] = ("value_head",)
    """Parts that are not trained. The value head is the RL stage's."""
    checkpointed: tuple[Part, ...] = ("vision", "language", "expert")
    """Parts whose activations are computed again in the backward pass instead of kept (starVLA: all)."""


class DataSettings(Settings):
    """What it is trained on."""

    source: str
    """``mixture:FILE``, or ``module:NAME`` of a callable that gives a :class:`~.samples.Stream`, called with ``options``."""
    options: dict[str, Any] = {}
    """Keyword arguments of that callable."""
    images: bool = True
    """Whether prompts have their images; the stage T2A has none (section 3.1). Without them an action expert that reads the ends of
    prompts learns from the data's keypoints, blurred (ours)."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make batches, for each process that trains; 0 makes them in between."""


class TimeSettings(Settings):
    """Where flow times come from (section 5.2.1); see :class:`~vlarig.policies.qwen_vla.flow.SigmoidNormal` and ``Beta``."""

    distribution: Literal["sigmoid_normal", "beta"] = "beta"
    """Sigmoid-normal in T2A, Beta in CPT and SFT (section 5.2.1)."""
    mean: float = 0.0
    """Of the sigmoid-normal; not printed, symmetric in time."""
    std: Positive = 1.0
    """Of the sigmoid-normal; not printed."""
    alpha: Positive = 1.5
    """Of Beta; not printed, the field's."""
    beta: Positive = 1.0
    """Of Beta; not printed, the field's."""
    scale: Annotated[float, Field(gt=0, le=1)] = 0.999
    """Of Beta; not printed, the field's."""
    toward: Literal["clean", "noise"] = "clean"
    """The end at which Beta is dense (section 5.2.1: "toward the clean end")."""


class ObjectiveSettings(Settings):
    """The loss (section 2.5)."""

    action_weight: Annotated[float, Field(ge=0)] = 1.0
    """Of the flow-matching loss (section 4.1)."""
    language_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the next-token loss on vision-language samples (section 4.1)."""
    marks_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the loss on marks of images, where the data have any (ours, as the one above)."""
    marks_by: Literal["both", "vision"] = "both"
    """Who learns them: the vision tower and the language model, or the tower alone. Where the tower alone learns and nothing else does,
    the language model does not run."""
    ends_weight: Annotated[float, Field(ge=0)] = 0.1
    """Of the loss on what the ends of prompts hold, where the data say and the action expert reads them (ours, as the one above)."""
    time: TimeSettings = TimeSettings()
    """Where flow times come from."""
    draws: Count = 1
    """Flow times and noises sampled for each chunk of a batch. The backbone reads a prompt once for all of them (ours)."""


class GroupSettings(Settings):
    """The learning rate of one group of weights over the training."""

    lr: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Peak."""
    warmup: Share = 0.05
    """Share of all steps in which it rises from 0 (starVLA: 5,000 of 100,000)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After the warm-up; cosine is the paper's (section 4)."""
    final: Share = 0.1
    """Share of the peak where the cosine ends; ours."""


class OptimizerSettings(Settings):
    """AdamW, with a learning rate for each group of weights (section 4: "separate group-wise schedules")."""

    backbone: GroupSettings = GroupSettings(lr=1e-5)
    """Vision tower and language model (starVLA)."""
    expert: GroupSettings = GroupSettings(lr=1e-4)
    """The action expert (starVLA)."""
    value_head: GroupSettings = GroupSettings(lr=1e-4)
    """The value head, trained in RL alone (section 4.2)."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Of AdamW (starVLA)."""
    eps: Positive = 1e-8
    """Of AdamW (starVLA)."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-8
    """Of matrices; vectors have none (starVLA)."""
    clip: Positive = 1.0
    """Largest norm of the whole gradient (starVLA)."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, which then is evaluated and exported; less in the first steps.
    ``None``: no average."""


class CheckpointSettings(Settings):
    """What is kept on the disk."""

    every: Count = 500
    """Steps between two checkpoints."""
    keep: Count = 2
    """Newest checkpoints that are kept."""


class EvaluationSettings(Settings):
    """Periodic evaluation in simulators, see :class:`~vlarig.harness.evaluator.Evaluator`."""

    suites: Annotated[tuple[str, ...], Field(min_length=1)]
    """Suites to sweep."""
    every: Count = 1000
    """Steps between two evaluations; the last step is evaluated too."""
    options: dict[str, Any] = {}
    """Of ``vlarig sweep``, such as ``episodes = 5`` or ``workers = 4``."""
    policy_options: dict[str, str] = {}
    """Of the policy, such as ``temperature = "0.6"``."""


class TrainConfig(Settings):
    """A training; saved whole with its run."""

    stage: Stage
    """Stage of the recipe (section 3.1)."""
    model: ModelSettings = ModelSettings()
    """What is trained."""
    data: DataSettings
    """What it is trained on."""
    objective: ObjectiveSettings = ObjectiveSettings()
    """The loss."""
    optimizer: OptimizerSettings = OptimizerSettings()
    """How it is minimised."""
    steps: Count
    """Steps of the optimiser."""
    batch_size: Count = 1024
    """Samples of a step, over all processes and micro-batches; not printed, ours."""
    micro_batch_size: Count = 16
    """Samples that a process takes at a time (starVLA: 16 a device)."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of flow times and noise, which follow from it and a sample's position alone."""
    shard_over: Count | None = None
    """Processes over which weights are sharded; groups of so many then hold copies. Default: all."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """What is kept on the disk."""
    evaluation: EvaluationSettings | None = None
    """Periodic evaluation; none by default."""
    track: tuple[TrackerName, ...] = ("tensorboard",)
    """Trackers that get the training's numbers."""
    report_every: Count = 10
    """Steps between two reports."""

    @property
    def vision_alone(self) -> bool:
        """Whether nothing is learned but marks by the vision tower, so that the language model need not run."""
        objective = self.objective
        others = objective.action_weight or objective.language_weight or objective.ends_weight
        return objective.marks_by == "vision" and not others

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of micro_batch_size {self.micro_batch_size}")
        if {"vision", "language", "expert", "value_head"} <= set(self.model.frozen):
            raise ValueError("model.frozen names every part; leave one to train")
        objective = self.objective
        if not (objective.action_weight or objective.language_weight or objective.marks_weight or objective.ends_weight):
            raise ValueError("the objective's weights are all 0; there is nothing to learn")
        return self


#: What each stage has of its own (sections 3.1, 4.1, 5.2.1). Steps of CPT and SFT are not printed: starVLA's 100,000, and ours. The
#: stage ``backbone`` is ours: the paper's backbone is trained already, and no such one has the size of ``small``.
STAGES: dict[Stage, dict[str, Any]] = {
    "backbone": {
        "steps": 3000,
        "batch_size": 32,
        "model": {"frozen": ["expert", "value_head"]},
        "objective": {"action_weight": 0.0, "language_weight": 1.0, "marks_weight": 1.0, "ends_weight": 1.0},
        "optimizer": {"backbone": {"lr": 1e-3}},
    },
    "t2a": {
        "steps": 2000,
        "model": {"frozen": ["vision", "language", "value_head"]},
        "data": {"images": False},
        "objective": {
            "language_weight": 0.0,
            "marks_weight": 0.0,
            "ends_weight": 0.0,
            "time": {"distribution": "sigmoid_normal"},
        },
    },
    "cpt": {"steps": 100_000},
    "sft": {"steps": 30_000, "batch_size": 256},
}


#: The stage whose checkpoint each goes on from (section 3.1); T2A also begins with a preset and a trained backbone.
BEFORE: dict[Stage, Stage | None] = {"backbone": None, "t2a": "backbone", "cpt": "t2a", "sft": "cpt"}


def read_config(stage: str, file: Path | None = None, overrides: Iterable[str] = ()) -> TrainConfig:
    """The configuration of a stage: its defaults, then a file, then single values.

    Args:
        stage: One of :data:`STAGES`.
        file: TOML, or JSON such as a run's own ``config.json``.
        overrides: ``NAME=VALUE``, names with dots, values as in TOML or bare text, in lists too: ``optimizer.expert.lr=3e-4``,
            ``model.frozen=[vision, language]``.
    """
    if stage not in STAGES:
        raise TrainingError(f"unknown stage {stage!r}; {suggestion(stage, STAGES)}")
    return read_settings(TrainConfig, {"stage": stage, "data": {}, **STAGES[stage]}, file, overrides)


def read_settings(kind: type[S], own: Mapping[str, Any], file: Path | None, overrides: Iterable[str]) -> S:
    """A configuration of a kind: the defaults of its fields, those that the stage has of its own, then a file, then single values."""
    defaults = {name: field.default for name, field in kind.model_fields.items()}
    whole = {name: value.model_dump() for name, value in defaults.items() if isinstance(value, Settings)}
    data, stage = _merged(whole, own), own["stage"]
    if file is not None:
        given = _read(file)
        if given.get("stage", stage) != stage:
            raise TrainingError(
                f"{file} is the configuration of the stage {given['stage']!r}, not of {stage!r}; name that stage"
            )
        data = _merged(data, given)
    for override in overrides:
        data = _merged(data, _override(override))
    return _checked(kind, data, str(file) if file else "the configuration")


def save_config(config: Settings, file: Path) -> None:
    """Write the whole tree as JSON, which :func:`read_config` reads."""
    file.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    """The names of values in which two trees of plain data differ, with both values: ``seed (0 and 1)``."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = dict.fromkeys((*one, *other))
        return [each for name in names for each in differences(one.get(name), other.get(name), f"{path}.{name}".strip("."))]
    return [] if one == other else [f"{path} ({one!r} and {other!r})"]


def _checked(kind: type[S], data: Mapping[str, Any], where: str) -> S:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a wrong name also leaves one out
        path = [str(part) for part in first["loc"]]
        name = ".".join(path)
        if first["type"] == "missing":
            raise TrainingError(f"{where} does not say {name}; add it, such as --override {name}=...") from None
        if first["type"] == "extra_forbidden":
            raise TrainingError(
                f"{where} has an unknown name {name!r}; {suggestion(path[-1], _names(kind, path[:-1]))}"
            ) from None
        reason = first["msg"].removeprefix("Value error, ")
        if first["type"] == "tuple_type":
            reason = f"expected a list, such as [{first['input']}]"
        raise TrainingError(f"{where}: {name} is {first['input']!r}: {reason}" if name else f"{where}: {reason}") from None


def _names(tree: type[Settings], path: Iterable[str]) -> list[str]:
    """The names of the branch at a path."""
    for name in path:
        below = branch_of(tree.model_fields[name])
        assert below is not None
        tree = below
    return list(tree.model_fields)


def branch_of(field: FieldInfo) -> type[Settings] | None:
    """The tree below a field; ``None`` where the field is a value."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Settings)), None)


def _override(words: str) -> dict[str, Any]:
    name, equals, text = words.partition("=")
    if not equals or not all(name.split(".")):
        raise TrainingError(f"the override {words!r} is no NAME=VALUE; write for instance optimizer.expert.lr=3e-4")
    try:
        value: Any = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = None if text.lower() == "none" else text
        if re.fullmatch(r"\[[\w\s,./:-]*\]", text):  # a list whose quotes the shell has taken
            value = [word.strip() for word in text[1:-1].split(",") if word.strip()]
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        data = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise TrainingError(f"there is no file {file}; name a configuration in TOML or JSON") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{file} does not read as {'JSON' if file.suffix == '.json' else 'TOML'} ({error})") from None
    if not isinstance(data, dict):
        raise TrainingError(f"{file} holds no map of names to values; see docs/training.md")
    return data


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A tree with the values of another one in place of its own."""
    merged = dict(base)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged
