"""``vlarig train``: a stage of the recipe, from its configuration to a policy."""

from __future__ import annotations

import contextlib
import json
import os
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic_core import PydanticUndefined

from ..benchmarks.registry import load_suite
from ..envs.errors import not_importable
from ..harness.children.simulator import WorkerSpec
from ..harness.command_line import parse
from ..harness.screen import Screen
from ..harness.sinks import TrackerName, check_trackers
from ..policies.qwen_vla.named import PRESETS, find_checkpoint
from ..rl.config import PpoConfig, read_ppo_config
from .config import STAGES, Settings, TrainConfig, TrainingError, branch_of, read_config

DESCRIPTION = """Train a Qwen-VLA: a stage of the paper's recipe (t2a, cpt, sft, ppo), or a small backbone before it.

The configuration is the stage's defaults, then --config, then each --override; the whole of it is saved as RUN/config.json. The same
command resumes an interrupted training. On several GPUs: torchrun --nproc-per-node 8 -m -- vlarig.harness train ...

  vlarig train sft --run runs/sft --override model.source=small data.source=my_data:stream
  vlarig train sft --run runs/sft --config sft.toml
  vlarig train ppo --run runs/ppo --config simpler --override model.source=runs/sft/policy rollout.tasks=[put_carrot_on_plate]
"""


@dataclass(frozen=True)
class TrainOptions:
    """The command's options."""

    stage: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STAGE")]
    """backbone, t2a, cpt, sft or ppo."""
    run: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the run; one that was begun is resumed."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Configuration in TOML or JSON, such as another run's config.json; for ppo also paper or simpler, which come with vlarig."""
    track: Annotated[tuple[TrackerName, ...] | None, tyro.conf.arg(metavar="TRACKER...")] = None
    """Trackers of the training's numbers: tensorboard (the default), trackio, wandb."""
    override: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE...")] = ()
    """Single values, such as optimizer.expert.lr=3e-4."""


def show_fields(stage: str | None) -> None:
    """Print the configuration of a stage: what ``--override`` takes."""
    screen = Screen()
    if stage is None:
        screen.print("The configuration of a stage is listed by: vlarig train STAGE --help")
        return
    kind: type[Settings] = PpoConfig if stage == "ppo" else TrainConfig
    own: dict[str, Any] = {"ppo": {}, **STAGES}[stage] | {"stage": stage}
    screen.print(f"The configuration of {stage}, by the names that --override takes:")
    for name, default, described in named_fields(kind, own):
        words = textwrap.fill(described, min(screen.width, 100), initial_indent=" " * 6, subsequent_indent=" " * 6)
        screen.print(f"\n  {name} = {default}\n{words}", soft_wrap=True)


def named_fields(kind: type[Settings], own: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """The path of each value of a tree, as ``optimizer.expert.lr``, its default as JSON, or in brackets, and what it is.

    Args:
        kind: The tree.
        own: Defaults of the stage, in place of the fields' own.
        prefix: Path of the tree, with a dot at its end.
    """
    for name, field in kind.model_fields.items():
        default, branch = own.get(name, field.default), branch_of(field)
        if branch is not None:
            inner = field.default.model_dump() if isinstance(field.default, Settings) else {}
            yield from named_fields(branch, inner | dict(own.get(name) or {}), f"{prefix}{name}.")
        else:
            shown = (
                "(required)"
                if default is PydanticUndefined
                else "(none)"
                if default is None
                else json.dumps(default, default=str)
            )
            # A docstring's words without its markup, on one line.
            words = re.sub(r"(?::\w+:)?`+(?:~?[\w.]*\.)?([^`]+)`+", r"\1", field.description or "").split()
            yield f"{prefix}{name}", shown, " ".join(words)


def check_surroundings(config: TrainConfig | PpoConfig) -> None:
    """Make sure that the policy, the trackers and the simulators of a training are here; PyTorch is not imported, which takes long."""
    check_trackers(config.track)
    if config.model.source not in PRESETS:
        find_checkpoint(config.model.source, weights=False)
    suites = () if config.evaluation is None else config.evaluation.suites
    if isinstance(config, PpoConfig) and config.rollout.placement == "local" and not config.rollout.hosts:
        suites = (*suites, *config.rollout.suites)
    for name in dict.fromkeys(suites):
        WorkerSpec.of(load_suite(name))


def main(arguments: list[str]) -> int:
    try:
        options = parse(TrainOptions, arguments, "vlarig train", DESCRIPTION)
    except SystemExit as end:
        if not end.code:
            show_fields(next((word for word in arguments if word in (*STAGES, "ppo")), None))
        raise
    overrides = (*options.override, *(() if options.track is None else (f"track={list(options.track)}",)))
    config: TrainConfig | PpoConfig
    if options.stage == "ppo":
        config = read_ppo_config(options.config, overrides)
    else:
        config = read_config(options.stage, options.config, overrides)
    check_surroundings(config)
    try:
        import torch

        from ..rl.run import tune
        from .reporting import ConsoleReporter, Reporter
        from .trainer import train
    except ImportError as error:
        raise TrainingError(not_importable("training needs", error, "policy,train")) from None
    if not torch.cuda.is_available():
        torch.set_num_threads(1)  # processes that train share the cores
    first = os.environ.get("RANK", "0") == "0"
    title = f"{config.stage} of {config.model.name}"
    unit = "iteration" if isinstance(config, PpoConfig) else "step"
    shown = ConsoleReporter(Screen(), options.run, config.track, title, unit) if first else contextlib.nullcontext(Reporter())
    with shown as reporter:
        run = options.run
        policy = tune(config, run, reporter) if isinstance(config, PpoConfig) else train(config, run, reporter)
        reporter.note(f"the trained policy: qwen-vla:{policy}")
    return 0
