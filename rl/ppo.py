"""Chunk-level PPO of a flow policy (paper, section 4.2): roll out, estimate advantages, take a few epochs of clipped steps, again.

A run's folder is a training's (:mod:`vlarig.training.trainer`): ``config.json``, ``checkpoints/``, ``policy/``, ``best/``,
``evaluations/``, ``tensorboard/``.
"""

from __future__ import annotations

import contextlib
import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
import transformers
from torch import Tensor
from torch.distributed.tensor import DTensor

from ..harness.machines.ray_fleet import connected
from ..harness.machines.ray_replicas import ray_replicas
from ..harness.replicas import replicated_policy
from ..policies.api import Policy
from ..policies.qwen_vla.acceleration import choose_kernels
from ..policies.qwen_vla.checkpoint import LoadedPolicy, load
from ..policies.qwen_vla.description import TrainedStage
from ..policies.qwen_vla.policy import QwenVlaPolicy
from ..policies.qwen_vla.recording import Evaluated, RecordedBatch, evaluate
from ..training.checkpoints import Checkpoints, full_weights, resume
from ..training.config import TrainingError, save_config
from ..training.evaluation import Evaluations, acting_copy, export
from ..training.learner import Learner
from ..training.parallel import Processes, processes
from ..training.trainer import CONFIG_FILE, Reporter, StopSignals, refuse_another, refuse_other_stages
from .collection import Allotment, Collector, Rollout, Saved, allotted
from .config import LearnedModel, PpoConfig, read_ppo_config
from .gae import gae, normalized
from .loss import PolicyLoss, ValueLoss, explained_variance, policy_loss, value_loss

#: Where a run simulates, which may change while it is interrupted: its numbers do not depend on that.
WHERE = ("workers", "placement", "hosts", "hosts_token_file", "hosts_ca_file")


def tune(config: PpoConfig, run: Path, reporter: Reporter) -> Path:
    """Tune a policy, from the newest checkpoint of the run where there is one.

    Args:
        config: The configuration.
        run: The run's folder.
        reporter: Gets the numbers.

    Returns:
        The folder of the tuned policy.

    Raises:
        VlarigError: Something in the configuration cannot be, the run is another training's, or it came to a bad end.
        Stopped: SIGTERM or SIGINT came; the iteration that was under way is made again by the same call.
    """
    with processes(config.shard_over) as group, contextlib.ExitStack() as stack:
        return Ppo(config, run, reporter, group, stack).run()


@dataclass(frozen=True)
class Batch:
    """A rollout as the update sees it; all of it in the order of :attr:`~.collection.Rollout.chunks`, ``C`` in all.

    Attributes:
        rollout: The chunks.
        old: ``float32[C]``, the log-probabilities of the rollout's policy.
        advantages: ``float32[C]``.
        returns: ``float32[C]``.
        values: ``float32[C]``, of the rollout's value head.
        gap: Mean distance of the trainer's log-probabilities from the rollout's, where all were computed again.
    """

    rollout: Rollout
    old: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    gap: float | None = None


class Ppo:
    """One process of a run; what it opens is closed by ``stack``."""

    def __init__(self, config: PpoConfig, run: Path, reporter: Reporter, group: Processes, stack: contextlib.ExitStack) -> None:
        self.config = config
        self.folder = run
        self.reporter = reporter
        self.group = group
        transformers.logging.set_verbosity_error()  # it would warn of each kernel that is not installed; inspect lists them
        check_run(config, run)
        check_stage(config.model)
        if config.rollout.envs % group.world:
            raise TrainingError(
                f"{config.rollout.envs} envs cannot be dealt equally to {group.world} processes; choose a multiple"
            )
        self.checkpoints = Checkpoints(run / "checkpoints", config.checkpoints.keep)
        self.newest = self.checkpoints.newest()
        saved = Saved(Allotment(allotted(config.rollout))) if self.newest is None else self._saved(self.newest)
        self.allotment = saved.allotment
        self.outcomes = saved.outcomes
        """``SUITE/TASK`` to successes and episodes since the allotment, over all processes."""
        self.best = saved.best
        """Success of the best iteration's episodes."""
        self.envs = saved.envs
        """How far each env of this process was when the newest rollout ended; none before the first."""
        compute = torch.bfloat16 if config.model.compute == "bfloat16" else torch.float32
        self.bundle = load(config.model.source, device=group.device, compute=compute)
        model = self.bundle.model
        choose_kernels(model, group.device)
        model.freeze(*config.model.frozen)
        model.checkpoint_activations(*config.model.checkpointed)
        if config.rollout.placement == "ray":
            stack.enter_context(connected())
        replicas = config.rollout.replicas
        self.shared = group.mesh is None and not config.rollout.lag and replicas is None
        """Whether what acts has the tensors of what learns."""
        self.reader = QwenVlaPolicy.of(self.bundle if self.shared or replicas else copied(self.bundle))
        self.policy = self.reader if replicas is None else stack.enter_context(contextlib.closing(self._replicas(replicas)))
        self.thread = stack.enter_context(ThreadPoolExecutor(1, "vlarig-rollouts"))
        self.ahead: Future[Rollout] | None = None
        """The rollout that is collected while the model learns from the one before."""
        self.learner = Learner(model, config.optimizer, config.updates, group)
        self.evaluations = Evaluations(config.evaluation, config.iterations, self._stage, run, self.bundle, reporter)
        self.backbone_learns = not {"vision", "language"} <= set(config.model.frozen)
        self.collector = self._collector()  # refuses what cannot be before anything is written

    def run(self) -> Path:
        """Tune to the end; the folder of the tuned policy."""
        first = 0 if self.newest is None else resume(self.learner, self.newest)
        self.group.wait()  # all have read the run's folder
        if self.group.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.folder / CONFIG_FILE)
            self.reporter.start(first, self.config.iterations)
        with StopSignals() as stop, self.evaluations:
            iteration = first
            while iteration < self.config.iterations:
                iteration = self._iterations(iteration, stop)
        weights = full_weights(self.learner)
        if weights is not None:
            export(self.bundle, weights, self.folder / "policy", self._stage(self.config.iterations))
        self.group.wait()
        return self.folder / "policy"

    def _iterations(self, iteration: int, stop: StopSignals) -> int:
        """Iterate with one allotment of envs; the number of the next iteration."""
        if self.group.first:
            for suite, tasks in self.allotment.envs.items():
                self.reporter.note(f"envs of {suite}: " + ", ".join(f"{task} {count}" for task, count in tasks.items()))
        with self.collector:
            if self.envs:
                self.collector.go_on(self.envs)
            every = self.config.rollout.reallot_every
            while iteration < self.config.iterations:
                if self.ahead is None and every is not None and iteration % every == 0 and self._reallot():
                    break
                with stop.at_once(f"stopped in iteration {iteration + 1}, which the same command makes again"):
                    self._iterate(iteration)
                iteration += 1
        return iteration

    def _replicas(self, count: int) -> Policy:
        """The policy in processes of its own, which take what is learned as files."""
        model = self.config.model
        options = {"dtype": model.compute, "compute": model.compute}
        make = ray_replicas if self.config.rollout.placement == "ray" else replicated_policy
        return make(f"qwen-vla:{model.source}", options, count)

    def _saved(self, checkpoint: Path) -> Saved:
        """This process's envs in a checkpoint.

        Raises:
            TrainingError: Other processes wrote it.
        """
        files = sorted(checkpoint.glob("envs_*.msgpack"))
        if len(files) != self.group.world:
            raise TrainingError(
                f"{checkpoint} is of {len(files)} processes that rolled out, and there are {self.group.world}; start as many"
            )
        return msgspec.msgpack.decode((checkpoint / self._envs_file).read_bytes(), type=Saved)

    def _collector(self) -> Collector:
        config, group = self.config, self.group
        return Collector(
            config.rollout,
            self.allotment,
            self.policy,
            config.ppo.bootstrap,
            self.backbone_learns,
            config.seed,
            group.rank,
            group.world,
            self.folder / "logs",
        )

    def _reallot(self) -> bool:
        """Allot envs by the success since the last time; whether that changes anything. It does not where a task has no episode yet."""
        known = {task: successes / episodes for task, (successes, episodes) in self.outcomes.items()}
        tasks = [f"{suite}/{task}" for suite, own in self.allotment.envs.items() for task in own]
        if any(task not in known for task in tasks):
            return False
        envs = allotted(self.config.rollout, known)
        if envs == self.allotment.envs:
            return False
        first: dict[str, int] = {}
        for part in self.group.gather(self.collector.next_numbers()):
            first = {task: max(number, first.get(task, 0)) for task, number in (first | part).items()}
        self.allotment, self.outcomes, self.envs = Allotment(envs, first), {}, []
        self.collector = self._collector()
        return True

    def _iterate(self, iteration: int) -> None:
        """One iteration of equation 5 to 7."""
        began = time.perf_counter()
        rollout, version, seconds = self._collect(iteration)
        collected = time.perf_counter()
        batch = self._batch(rollout, iteration)
        losses = self._update(batch, iteration)
        after = self._divergence(batch)
        done = time.perf_counter()
        numbers = {
            **self._experience(rollout),
            **losses,
            **after,
            **self._worth(batch),
            **self.learner.rates(),
            "rollout/lag": float(iteration - version),
            "time/sync": seconds,
            "time/collect": collected - began - seconds,
            "time/update": done - collected,
            "time/iteration": done - began,
        }
        if self.group.first:
            self.reporter.report(iteration + 1, numbers)
        self._save(iteration + 1)
        if self.evaluations.due(iteration + 1):
            self.evaluations.evaluate(iteration + 1, full_weights(self.learner))
            self.group.wait()
        self._refuse_collapse(iteration + 1, numbers)

    def _collect(self, iteration: int) -> tuple[Rollout, int, float]:
        """A rollout, the version of its policy, and the seconds in which that took its weights.

        With a lag, the next rollout begins here, by the weights before this one's update.
        """
        if self.ahead is None:
            seconds = self._sync(iteration)
            rollout, version = self.collector.collect(), iteration
        else:
            seconds, rollout, version = 0.0, self.ahead.result(), iteration - 1
        self.envs, self.ahead = self.collector.progress(), None
        if self.config.rollout.lag and iteration + 1 < self.config.iterations:
            seconds += self._sync(iteration)
            self.ahead = self.thread.submit(self.collector.collect)
        return rollout, version, seconds

    def _sync(self, version: int) -> float:
        """Have the acting policy take the weights that were learned, unless they are its own tensors; the seconds that it took."""
        began = time.perf_counter()
        trained = {name: weight for name, weight in self.learner.model.named_parameters() if weight.requires_grad}
        self.policy.load_weights(version, {} if self.shared else {name: whole(weight) for name, weight in trained.items()})
        return time.perf_counter() - began

    def _batch(self, rollout: Rollout, iteration: int) -> Batch:
        """Advantages and returns (section 4.2: over chunks)."""
        settings, rewards = self.config.ppo, rollout.rewards
        if settings.shuffle_rewards:
            rng = np.random.default_rng((self.config.seed, iteration, self.group.rank))
            rewards = rewards.clone()
            rewards[rollout.ended] = torch.from_numpy(rng.permutation(rewards[rollout.ended].numpy()))
        found = gae(rewards, rollout.values, rollout.following, rollout.ended, settings.gamma, settings.decay)
        advantages = found.advantages.flatten()
        if settings.normalize:
            advantages = normalized(advantages, *self._moments(advantages))
        returns, values = found.returns.flatten(), rollout.values.flatten()
        drawn = torch.tensor([chunk.recorded.log_probability for chunk in rollout.chunks])
        if settings.old_log_probabilities == "rollout":
            return Batch(rollout, drawn, advantages, returns, values)
        old = self._log_probabilities(rollout)
        return Batch(rollout, old, advantages, returns, values, float((old - drawn).abs().mean()))

    def _update(self, batch: Batch, iteration: int) -> dict[str, float]:
        """Epochs of minibatches; what the last epoch's were like on average, and the very first ratio."""
        settings, count = self.config.ppo, len(batch.rollout.chunks)
        share = max(1, settings.minibatch // self.group.world)
        step = iteration * self.config.updates_an_iteration
        numbers: dict[str, float] = {}
        for epoch in range(settings.epochs):
            order = np.random.default_rng((self.config.seed, iteration, epoch, self.group.rank)).permutation(count)
            measured: list[dict[str, float]] = []
            for begin in range(0, count, share):
                measured.append(self._minibatch(batch, order[begin : begin + share], iteration, step))
                step += 1
            if epoch == 0:
                numbers["losses/first_ratio"] = measured[0]["losses/ratio"]
                numbers["rollout/log_prob_gap"] = measured[0]["losses/log_prob_distance"] if batch.gap is None else batch.gap
            numbers |= {name: float(np.mean([each[name] for each in measured])) for name in measured[0]}
            numbers["losses/epochs"] = epoch + 1
            bound = settings.target_kl
            if bound is not None and epoch + 1 < settings.epochs and self._divergence(batch)["losses/kl_after"] > bound:
                break
        return numbers

    def _minibatch(self, batch: Batch, chosen: np.ndarray, iteration: int, step: int) -> dict[str, float]:
        """One step of the optimiser (equations 6 and 7)."""
        settings, size = self.config.ppo, len(chosen)
        (total,) = self.group.sum([size])
        acts = iteration >= settings.value_warmup
        parts = [chosen[begin : begin + settings.micro_batch] for begin in range(0, size, settings.micro_batch)]
        sums: dict[str, float] = {}
        for number, part in enumerate(parts):
            policy, value = self._losses(batch, part)
            # 0 times the policy's loss, where only the value head learns: a gradient of zero, not none, so that every weight has a
            # state in the optimiser, which a checkpoint needs.
            loss = settings.value_weight * value.loss + float(acts) * policy.loss
            self.learner.backward(loss * len(part) / total, last=number == len(parts) - 1)
            measured = {
                "losses/policy_loss": policy.loss,
                "losses/value_loss": value.loss,
                "losses/approx_kl": policy.approximate_kl,
                "losses/clipfrac": policy.clip_fraction,
                "losses/dual_clipfrac": policy.dual_clip_fraction,
                "losses/value_clipfrac": value.clip_fraction,
                "losses/ratio": policy.ratio.mean(),
                "losses/log_prob_distance": policy.distance,
            }
            for name, each in measured.items():
                sums[name] = sums.get(name, 0.0) + float(each.detach()) * len(part)
        norms = {f"losses/{name}": float(norm) for name, norm in self.learner.update(step).items()}
        if not all(math.isfinite(each) for each in (*sums.values(), *norms.values())):
            raise TrainingError(
                f"iteration {iteration + 1} has a loss or a gradient that is no number; lower the learning rates"
            )
        means = self.group.sum(list(sums.values()))
        return {name: mean / total for name, mean in zip(sums, means, strict=True)} | norms

    def _losses(self, batch: Batch, part: np.ndarray) -> tuple[PolicyLoss, ValueLoss]:
        settings, device = self.config.ppo, self.group.device
        evaluated = self._evaluate(batch.rollout, part)
        old, advantages, returns, values = (
            tensor[torch.from_numpy(part)].to(device) for tensor in (batch.old, batch.advantages, batch.returns, batch.values)
        )
        policy = policy_loss(evaluated.log_probability, old, advantages, settings.clip, settings.dual_clip)
        return policy, value_loss(evaluated.value, values, returns, settings.value_clip)

    def _evaluate(self, rollout: Rollout, part: np.ndarray) -> Evaluated:
        """Chunks of a rollout under the present weights."""
        chunks = [rollout.chunks[index] for index in part]
        recorded = RecordedBatch.stack([chunk.recorded for chunk in chunks], self.bundle.description.config.channels)
        requests = [chunk.request for chunk in chunks if chunk.request is not None]
        inputs = self.reader.prepare(requests).inputs if self.backbone_learns else None
        return evaluate(self.learner.model, recorded.to(self.group.device), self.config.rollout.sde, inputs)

    @torch.no_grad()
    def _log_probabilities(self, rollout: Rollout) -> Tensor:
        """``float32[C]``, of all chunks under the present weights."""
        size, count = self.config.ppo.micro_batch, len(rollout.chunks)
        parts = [np.arange(begin, min(begin + size, count)) for begin in range(0, count, size)]
        return torch.cat([self._evaluate(rollout, part).log_probability.cpu() for part in parts])

    def _divergence(self, batch: Batch) -> dict[str, float]:
        """How far the policy has come from the rollout's, over all its chunks: the mean over minibatches on the way understates it."""
        difference = self._log_probabilities(batch.rollout) - batch.old
        ratio = difference.exp()
        measured = (ratio - 1 - difference, ((ratio - 1).abs() > self.config.ppo.clip).float())
        kl, clipped, count = self.group.sum([*(float(each.sum()) for each in measured), len(ratio)])
        return {"losses/kl_after": kl / count, "losses/clipfrac_after": clipped / count}

    def _moments(self, values: Tensor) -> tuple[float, float]:
        """Mean and standard deviation over all processes."""
        total, squares, count = self.group.sum([float(values.sum()), float(values.double().square().sum()), len(values)])
        return total / count, math.sqrt(max(squares / count - (total / count) ** 2, 0.0))

    def _worth(self, batch: Batch) -> dict[str, float]:
        """Returns, and what the value head says of them, over all processes."""
        parts = self.group.gather([batch.returns.tolist(), batch.values.tolist(), batch.rollout.rewards.flatten().tolist()])
        returns, values, rewards = (torch.tensor([each for part in parts for each in part[index]]) for index in range(3))
        return {
            "rollout/returns": float(returns.mean()),
            "rollout/values": float(values.mean()),
            "rollout/explained_variance": explained_variance(values, returns),
            "rollout/rewards": float(rewards.mean()),
        }

    def _experience(self, rollout: Rollout) -> dict[str, float]:
        """Success and length of the episodes that ended, over all processes; they also count for the next allotment.

        An episode that a rollout was cut in counts in the iteration that it ends in.
        """
        ends = [(chunk.task, int(chunk.reward), chunk.steps) for chunk in rollout.chunks if chunk.ended]
        every = [each for part in self.group.gather(ends) for each in part]
        numbers = {"env/episodes": float(len(every))}
        if every:
            success = float(np.mean([success for _, success, _ in every]))
            numbers |= {"env/success_once": success, "env/episode_len": float(np.mean([steps for *_, steps in every]))}
            self.best = max(self.best, success)
        for task in sorted({task for task, *_ in every}):
            own = [success for name, success, _ in every if name == task]
            numbers[f"env/success_once/{task}"] = float(np.mean(own))
            successes, episodes = self.outcomes.get(task, (0, 0))
            self.outcomes[task] = successes + sum(own), episodes + len(own)
        return numbers

    def _save(self, iteration: int) -> None:
        if iteration % self.config.checkpoints.every == 0 or iteration == self.config.iterations:
            saved = Saved(self.allotment, self.outcomes, self.envs, self.best)
            self.checkpoints.save(self.learner, iteration, {self._envs_file: msgspec.msgpack.encode(saved)})

    @property
    def _envs_file(self) -> str:
        return f"envs_{self.group.rank}.msgpack"

    def _stage(self, iterations: int) -> TrainedStage:
        return TrainedStage("ppo", iterations, iterations * self.config.rollout.envs * self.config.rollout.chunks)

    def _refuse_collapse(self, iteration: int, numbers: dict[str, float]) -> None:
        """End a run whose policy goes astray.

        Raises:
            TrainingError: It does, by the bound of the configuration.
        """
        most = self.config.collapse.kl
        if most is not None and numbers["losses/kl_after"] > most:
            raise TrainingError(
                f"iteration {iteration} went {numbers['losses/kl_after']:.3g} away from its rollout's policy, more than collapse.kl "
                f"{most:g}; lower optimizer.expert.lr, or set ppo.target_kl"
            )
        least, success = self.config.collapse.success, numbers.get("env/success_once", self.best)
        if least is not None and success < least * self.best:
            raise TrainingError(
                f"iteration {iteration} succeeded in {success:.1%} of its episodes, less than collapse.success {least:g} of the best "
                f"iteration's {self.best:.1%}; lower optimizer.expert.lr, and begin again from {self.folder / 'best'} or a checkpoint"
            )


def whole(weight: Tensor) -> Tensor:
    """A weight of all processes together."""
    own = weight.detach()
    return own.full_tensor() if isinstance(own, DTensor) else own


def copied(bundle: LoadedPolicy) -> LoadedPolicy:
    """The policy with weights of its own, to act while the others are sharded."""
    copy = acting_copy(bundle)
    copy.model.load_state_dict(bundle.model.state_dict())
    return copy


def check_run(config: PpoConfig, run: Path) -> None:
    """Make sure that a run's folder is new or of the same run.

    Raises:
        TrainingError: It is another's.
    """
    saved = run / CONFIG_FILE
    if saved.exists():
        before = read_ppo_config(saved)
        rollout = before.rollout.model_copy(update={name: getattr(config.rollout, name) for name in WHERE})
        free = {name: getattr(config, name) for name in ("checkpoints", "evaluation", "track", "iterations")}
        refuse_another(run, before.model_copy(update=free | {"rollout": rollout}), config)


def check_stage(model: LearnedModel) -> None:
    """Make sure that what is tuned was fine-tuned before.

    Raises:
        TrainingError: It was not.
        PolicyError: There is no such checkpoint.
    """
    if not model.any_checkpoint:
        refuse_other_stages(model.source, ("sft", "ppo"), "PPO goes on from a checkpoint of 'sft'")
