"""The configuration of the RL stage: the paper's recipe (section 4.2) by default, and a name for each choice that it leaves open.

What the paper does not print is RLinf's, whose stock recipe for flow policies has the paper's numbers (RLinf/RLinf@a3816b5
examples/embodiment/config/libero_spatial_ppo_openpi.yaml and config/model/pi0.yaml, called "RLinf" below), or ours, as each field says.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..harness.sinks import TrackerName
from ..training.config import (
    CheckpointSettings,
    Count,
    EvaluationSettings,
    GroupSettings,
    OptimizerSettings,
    OriginSettings,
    Part,
    Positive,
    Settings,
    Share,
    read_settings,
)

if TYPE_CHECKING:
    from ..policies.qwen_vla.flow import Sde


class LearnedModel(OriginSettings):
    """What is tuned."""

    source: str = ""
    """A checkpoint's folder, or a hub's owner/name; the paper's is that of SFT. Empty: the shipped policy."""
    any_checkpoint: bool = False
    """Whether it may be another stage's than SFT's."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision that matrices are multiplied in; weights are float32."""
    frozen: tuple[Part, ...] = ("vision", "language")
    """Parts that are not trained. With a frozen backbone its states are kept from the rollout, and an update is one pass of the expert
    for each chunk, as section 4.2 counts it (RLinf: ``train_expert_only``)."""
    checkpointed: tuple[Part, ...] = ()
    """Parts whose activations are computed again in the backward pass instead of kept."""

    @property
    def backbone_learns(self) -> bool:
        return not {"vision", "language"} <= set(self.frozen)


class RolloutSettings(Settings):
    """How experience is collected."""

    suites: tuple[str, ...] = ("simpler_widowx",)
    """Suites to play; each of their tasks gets an env at the least."""
    tasks: tuple[str, ...] = ()
    """Only these tasks. Default: all."""
    envs: Count = 128
    """Envs of all tasks together (section 4.2: N = 128)."""
    success: dict[str, Share] | Path | None = None
    """By which success the envs are allotted, the harder task the more (section 4.2): SUITE/TASK to a rate, or the folder of a sweep of
    the policy that is tuned; ``None``: equally."""
    states: Count | None = None
    """Initial states of each task that are played again and again (ours, :mod:`.allotment`); ``None``: each of endless ones once
    (RLinf's ``use_fixed_reset_state_ids`` plays a set)."""
    states_by: Literal["turns", "success"] = "turns"
    """How they are sampled: by turns, or the more often the nearer to one half their success so far is (ours)."""
    reallot_every: Count | None = None
    """Iterations after which envs are allotted again by the success of rollouts since; ``None``: never (the paper names none)."""
    epochs: Count = 8
    """Rollout epochs of an iteration (section 4.2)."""
    steps: Count = 128
    """Steps of each env in an epoch (section 4.2)."""
    n_action_steps: Count | None = None
    """Steps of each chunk that are run; by default the policy's own number, or all that it predicts (section 4.2: H = 16)."""
    protocols: dict[str, str] = {}
    """Suite to the name of a protocol; by default the one that the suite has for RL, or its first. Episodes end at success, unless the
    protocol scores their end."""
    form: Literal["score_one", "noise_one", "score_all"] = "score_one"
    """Where noise is and what is scored, see :class:`~vlarig.policies.qwen_vla.flow.Sde`; the paper's (section 4.2)."""
    denoising_steps: Count = 4
    """Not printed, "a few"; RLinf."""
    noise_level: Positive = 0.5
    """Not printed; RLinf."""
    noise_final: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of ``noise_level`` in the last iteration, to which it falls in equal steps; 1: it stays (RLinf: ``noise_anneal``)."""
    temperature: Positive = 1.0
    """Section 4.2."""
    reduction: Literal["sum", "mean"] = "sum"
    """Of a chunk's log-probability over its entries; not printed, RLinf."""
    groups: Count = 2
    """Groups of envs that act by turns, so that one simulates while another's actions are computed; batches are always of one whole
    group, so that nothing depends on timing (ours; RLinf: ``pipeline_stage_num``)."""
    replicas: Count | None = None
    """Processes of the policy that act side by side; by default the training's own process acts."""
    lag: Annotated[int, Field(ge=0, le=1)] = 0
    """Updates by which a rollout's policy may be behind (ours): with 1, the next rollout is collected while the model learns from this
    one. A run that was interrupted then goes on with a rollout of the newest weights, so not to the bit."""
    workers: Count | None = None
    """Simulator processes of each process that trains; one a core by default, over all of those."""
    placement: Literal["local", "ray"] = "local"
    """Where simulators and replicas run: on this machine (simulators also on ``hosts``), or on the Ray cluster of ``RAY_ADDRESS``."""
    hosts: tuple[str, ...] = ()
    """Machines on which to simulate instead of this one, each with ``vlarig serve envs`` (section 4.2: the remote benchmark server)."""
    hosts_token_file: Path | None = None
    """File with the token that they require."""
    hosts_ca_file: Path | None = None
    """Certificates of the authorities to trust for wss://."""

    @property
    def chunks(self) -> int:
        """Chunks of each env in an iteration, where ``n_action_steps`` is known."""
        assert self.n_action_steps is not None
        return self.epochs * (self.steps // self.n_action_steps)

    def sde(self, progress: float = 0.0) -> Sde:
        """How chunks are sampled.

        Args:
            progress: 0 in the first iteration, 1 in the last.
        """
        from ..policies.qwen_vla.flow import Sde  # torch; the command's help does without

        return Sde(
            steps=self.denoising_steps,
            form=self.form,
            level=self.noise_level * (1 + progress * (self.noise_final - 1)),
            temperature=self.temperature,
            reduction=self.reduction,
        )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.steps < (self.n_action_steps or 1):
            raise ValueError(f"an epoch of {self.steps} steps has no chunk of {self.n_action_steps}; make steps larger")
        if self.placement == "ray" and self.hosts:
            raise ValueError("hosts are named beside placement=ray, which finds its own; leave out one of them")
        return self


class PpoSettings(Settings):
    """The update (equations 5 to 7)."""

    gamma: Share = 0.99
    """Discount for each chunk (section 4.2)."""
    decay: Share = 0.95
    """GAE's lambda (section 4.2)."""
    bootstrap: Literal["cut", "truncated", "always"] = "cut"
    """Beyond which ends of a sequence the value is expected: where a rollout is cut in mid-episode alone; at a time limit too (RLinf:
    ``standard``); at every end. Reward is at the episode's end (section 4.2), so a timeout is a failure."""
    baseline: Literal["value", "states"] = "value"
    """What an episode is compared with: the value head (the paper's, by GAE), or the mean success of the rollout's other episodes from
    the same of ``rollout.states`` (RLOO; RLinf and SimpleVLA-RL: GRPO). The value head learns in either case."""
    normalize: bool = True
    """Whether advantages have mean 0 and deviation 1 over the rollout; not printed, RLinf."""
    epochs: Count = 4
    """Passes over a rollout (section 4.2)."""
    minibatch: Count = 2048
    """Chunks of a step of the optimiser; not printed, RLinf."""
    micro_batch: Count = 128
    """Chunks that a process takes at a time; RLinf."""
    clip: Positive = 0.2
    """Of the ratio (section 4.2)."""
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """Bound of the loss where the advantage is negative, see :func:`~.loss.policy_loss`; not printed, RLinf."""
    value_clip: Positive | None = 0.2
    """Of the value (section 4.2: "clipped"); RLinf's number."""
    value_weight: Annotated[float, Field(ge=0)] = 1.0
    """c_v (section 4.2)."""
    target_kl: Positive | None = None
    """Divergence from the rollout's policy, measured over all its chunks after each epoch, beyond which no further epoch follows; not
    printed, RLinf has none."""
    value_fit: bool = False
    """Whether the value head is fitted to each rollout before the policy learns of it (ours, :mod:`.advantages`), in place of its
    steps."""
    value_warmup: Annotated[int, Field(ge=0)] = 0
    """Iterations in which the value head alone learns; not printed, RLinf: 0."""
    shuffle_rewards: bool = False
    """A control: rewards are assigned to the ends of the rollout's episodes at random. Below a ``gamma`` of 1 they still tell which
    episodes ended sooner, which are those that succeed."""
    old_log_probabilities: Literal["rollout", "trainer"] = "rollout"
    """Whose log-probabilities a ratio's denominator is: as they were when the chunk was sampled, or computed again by the trainer
    before the first epoch. They differ by rounding where rollout and training compute in other precisions or batches."""


class Collapse(Settings):
    """When a run that goes wrong ends."""

    kl: Positive | None = None
    """Divergence after an iteration, over all its chunks."""
    success: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Success of an iteration's episodes, as a share of the best iteration's, below which the run ends."""

    def reached(self, kl: float, success: float, best: float) -> str:
        """Why a run with these numbers, and this success of its best iteration, is to end; empty where it goes on."""
        if self.kl is not None and kl > self.kl:
            return f"went {kl:.3g} away from its rollout's policy, more than collapse.kl {self.kl:g}"
        if self.success is not None and success < self.success * best:
            share = f"less than collapse.success {self.success:g} of the best iteration's {best:.1%}"
            return f"succeeded in {success:.1%} of its episodes, {share}"
        return ""


class PpoConfig(Settings):
    """An RL stage; saved whole with its run."""

    stage: Literal["ppo"] = "ppo"
    """The stage."""
    model: LearnedModel = LearnedModel()
    """What is tuned."""
    rollout: RolloutSettings = RolloutSettings()
    """How experience is collected."""
    ppo: PpoSettings = PpoSettings()
    """The update."""
    optimizer: OptimizerSettings = OptimizerSettings(
        backbone=GroupSettings(lr=5e-6, warmup=0.0),
        expert=GroupSettings(lr=5e-6, warmup=0.0),
        value_head=GroupSettings(lr=1e-4, warmup=0.0),
        betas=(0.9, 0.95),
        eps=1e-8,
        weight_decay=0.0,
        clip=1.0,
    )
    """Adam: actor 5e-6, value head 1e-4, cosine (section 4.2); the rest as RLinf has it."""
    iterations: Count = 100
    """Rollouts, each with its update; not printed, ours. A run that was begun may get more: its learning rates fall as they were to,
    and then stay."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the policy's sampling, of initial states, and of the order of chunks."""
    collapse: Collapse = Collapse()
    """When a run that goes wrong ends; never by default."""
    shard_over: Count | None = None
    """Processes over which weights are sharded; groups of so many then hold copies. Default: all."""
    checkpoints: CheckpointSettings = CheckpointSettings(every=1)
    """What is kept on the disk; ``every`` counts iterations."""
    evaluation: EvaluationSettings | None = None
    """Periodic evaluation; ``every`` counts iterations."""
    track: tuple[TrackerName, ...] = ("tensorboard",)
    """Trackers that get the training's numbers."""

    @property
    def updates_an_iteration(self) -> int:
        """Steps of the optimiser in an iteration."""
        return self.ppo.epochs * -(-self.rollout.envs * self.rollout.chunks // self.ppo.minibatch)

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.ppo.value_fit and self.rollout.envs < 2:
            raise ValueError("ppo.value_fit takes an env's values from the others, and rollout.envs is 1; choose 2 or more")
        if self.ppo.value_fit and (self.ppo.old_log_probabilities == "trainer" or self.ppo.value_warmup):
            raise ValueError("ppo.value_fit goes with neither old_log_probabilities=trainer nor value_warmup; choose one")
        if self.rollout.states is None and (self.ppo.baseline == "states" or self.rollout.states_by == "success"):
            raise ValueError(
                "ppo.baseline=states and rollout.states_by=success need states that come again; set rollout.states"
            )
        if "expert" in self.model.frozen and not self.model.backbone_learns:
            raise ValueError("model.frozen leaves nothing that acts; leave the expert out of it")
        if "value_head" in self.model.frozen:
            raise ValueError("model.frozen names value_head, which PPO needs; leave it out")
        return self


#: Configurations that come with vlarig, by their names.
NAMED = Path(__file__).parent / "configs"


def read_ppo_config(file: Path | None = None, overrides: Iterable[str] = ()) -> PpoConfig:
    """The configuration: the paper's, then a file, then single values.

    Args:
        file: As :func:`~vlarig.training.config.read_config` takes it, or the name of one of :data:`NAMED`.
        overrides: ``NAME=VALUE``.
    """
    if file is not None and not file.exists() and (NAMED / f"{file}.toml").exists():
        file = NAMED / f"{file}.toml"
    own: dict[str, Any] = {"stage": "ppo", "model": {}}
    return read_settings(PpoConfig, own, file, overrides)
