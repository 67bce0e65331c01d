"""Before a run begins: its configuration completed by the policy, and what of it may have changed since the run began."""

from __future__ import annotations

from pathlib import Path

from ..benchmarks.registry import load_suite
from ..policies.qwen_vla.checkpoint import describe_checkpoint
from ..policies.qwen_vla.named import PRESETS, find_checkpoint
from ..training.config import EvaluationSettings, TrainingError
from ..training.trainer import CONFIG_FILE, refuse_another, refuse_other_stages
from .config import LearnedModel, PpoConfig, read_ppo_config

#: Where a run simulates, which may change while it is interrupted: its numbers do not depend on that.
WHERE = ("workers", "placement", "hosts", "hosts_token_file", "hosts_ca_file")

#: What else may change then: how long it is, what is measured and kept, and what a run that went astray needs.
FREE = ("checkpoints", "evaluation", "track", "iterations", "optimizer", "collapse")


def with_action_steps(config: PpoConfig) -> PpoConfig:
    """The configuration with the steps of a chunk that are run: where it names none, the policy's own number, or all of a chunk."""
    if config.rollout.n_action_steps is not None:
        return config
    source = config.model.source
    model = PRESETS[source]() if source in PRESETS else describe_checkpoint(find_checkpoint(source, weights=False)).config
    steps = model.n_action_steps or model.horizon
    if config.rollout.steps < steps:
        raise TrainingError(
            f"rollout.steps is {config.rollout.steps}, less than the {steps} steps of a chunk that are run; make it larger, or set "
            "rollout.n_action_steps"
        )
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"n_action_steps": steps})})


def evaluated(config: PpoConfig) -> EvaluationSettings | None:
    """How the policy is measured: as many steps of a chunk run, and in the tasks that it learns, unless others are named."""
    settings, rollout = config.evaluation, config.rollout
    if settings is None:
        return None
    options: dict[str, object] = {"n_action_steps": rollout.n_action_steps}
    if rollout.tasks and set(settings.suites) <= set(rollout.suites):
        options["tasks"] = list(rollout.tasks)
    return settings.model_copy(update={"options": options | settings.options})


def averaging(config: PpoConfig, horizon: int) -> list[str]:
    """A warning for each suite whose evaluations run averages of the policy's overlapping chunks, which rollouts do not."""
    settings = evaluated(config)
    if settings is None:
        return []
    name, steps = settings.options.get("protocol"), settings.options["n_action_steps"]
    suites = [load_suite(suite) for suite in settings.suites if suite in config.rollout.suites]
    return [
        f"warning: evaluations of {suite.name} play by its protocol {protocol.name!r}, which averages overlapping chunks, so they do "
        f"not show what is learned; set evaluation.options.protocol to one that does not ({', '.join(suite.without_ensemble)})"
        for suite in suites
        if (protocol := suite.protocol(name)).derive(n_action_steps=steps).combines(horizon)
    ]


def check_run(config: PpoConfig, run: Path) -> None:
    """Make sure that a run's folder is new or of the same run."""
    saved = run / CONFIG_FILE
    if saved.exists():
        before = read_ppo_config(saved)
        rollout = before.rollout.model_copy(update={name: getattr(config.rollout, name) for name in WHERE})
        free = {name: getattr(config, name) for name in FREE}
        refuse_another(run, before.model_copy(update=free | {"rollout": rollout}), config)


def check_stage(model: LearnedModel) -> None:
    """Make sure that what is tuned was fine-tuned before, or is the shipped policy."""
    if model.source and not model.any_checkpoint:
        refuse_other_stages(model, ("sft", "ppo"), "PPO goes on from a checkpoint of 'sft'")


def check_processes(config: PpoConfig, world: int) -> None:
    if config.rollout.envs % world:
        raise TrainingError(f"{config.rollout.envs} envs cannot be dealt equally to {world} processes; choose a multiple")
    if config.ppo.value_fit and (world > 1 or config.model.backbone_learns):
        raise TrainingError(
            "ppo.value_fit needs one process and a frozen backbone, whose states it is fitted to; leave it out, or set "
            "model.frozen=['vision','language']"
        )
