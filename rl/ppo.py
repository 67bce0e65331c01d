"""Chunk-level PPO of a flow policy (paper, section 4.2): the advantages of a rollout, then a few epochs of clipped steps.

What is rolled out, and what becomes of a run, is in :mod:`.run`.

Shapes: ``N`` envs, ``T`` chunks of each, ``C = N T``; all of a rollout is in the order of :attr:`~.collection.Rollout.chunks`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..policies.api import Request
from ..policies.qwen_vla.flow import Sde
from ..policies.qwen_vla.policy import QwenVlaPolicy
from ..policies.qwen_vla.recording import Evaluated, RecordedBatch, evaluate
from ..training.config import TrainingError
from ..training.learner import Learner
from ..training.parallel import Processes
from .advantages import fit, gae, normalized, over_states
from .collection import Rollout
from .config import PpoConfig
from .loss import explained_variance, policy_loss, value_loss

#: What a minibatch measures, beside the norms of its step.
MEASURED = (
    "policy_loss", "value_loss", "approx_kl", "clipfrac", "dual_clipfrac", "value_clipfrac", "ratio", "log_prob_distance",
)  # fmt: skip

#: Groups of weights that act.
ACTORS = ("backbone", "expert")


@dataclass(frozen=True)
class Batch:
    """A rollout as the update sees it.

    Attributes:
        recorded: What the policy sampled, ``C`` samples on the CPU.
        requests: ``[C]``, what it answered, where the backbone learns; else empty.
        old: ``float32[C]``, the log-probabilities of the rollout's policy.
        advantages: ``float32[C]``.
        returns: ``float32[C]``.
        values: ``float32[C]``, of the rollout's value head, or of one that was fitted to it.
        sde: How its chunks were sampled.
        acts: Whether the policy learns of it, or the value head alone.
        gap: Mean distance of the trainer's log-probabilities from the rollout's, where all were computed again.
    """

    recorded: RecordedBatch
    requests: list[Request]
    old: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    sde: Sde
    acts: bool
    gap: float | None = None


class Ppo:
    """The update of one process.

    Args:
        config: The run's.
        learner: What learns.
        reader: Makes the prompts' tensors of requests.
        group: The processes that train.
    """

    def __init__(self, config: PpoConfig, learner: Learner, reader: QwenVlaPolicy, group: Processes) -> None:
        self.config = config
        self.learner = learner
        self.reader = reader
        self.group = group
        begin = config.ppo.value_warmup * config.updates_an_iteration
        learner.begins.update(dict.fromkeys(ACTORS, begin))

    def batch(self, rollout: Rollout, iteration: int) -> Batch:
        """Advantages and returns (section 4.2: over chunks).

        Without any reward good actions cannot be distinguished from others, and the policy does not learn: advantages are the value
        head's errors then, which a normalisation would make as large as those that rewards give.
        """
        settings, rewards = self.config.ppo, rollout.rewards
        (rewarded,) = self.group.sum([float(rewards.sum())])
        recorded = RecordedBatch.stack([each.recorded for each in rollout.chunks], self.learner.model.config.channels)
        if settings.shuffle_rewards:
            rng = np.random.default_rng((self.config.seed, iteration, self.group.rank))
            rewards = rewards.clone()
            rewards[rollout.ended] = torch.from_numpy(rng.permutation(rewards[rollout.ended].numpy()))
        values, following = rollout.values, rollout.following
        if settings.value_fit:
            returns = gae(rewards, values, following, rollout.ended, settings.gamma, decay=1.0) + values
            values = self._fit(recorded, returns)
            following = torch.where(rollout.ended, following, torch.cat([values[:, 1:], following[:, -1:]], dim=1))
        found = gae(rewards, values, following, rollout.ended, settings.gamma, settings.decay)
        advantages = (found if settings.baseline == "value" else self._over_states(rollout, rewards)).flatten()
        if settings.normalize:
            advantages = normalized(advantages, *self._moments(advantages))
        requests = [each.request for each in rollout.chunks if each.request is not None]
        acts = iteration >= settings.value_warmup and rewarded > 0
        device = self.group.device
        batch = Batch(
            recorded,
            requests,
            old=recorded.log_probability.to(device),
            advantages=advantages.to(device),
            returns=(found + values).flatten().to(device),
            values=values.flatten().to(device),
            sde=rollout.sde,
            acts=acts,
        )
        if settings.old_log_probabilities == "rollout":
            return batch
        old = self._log_probabilities(batch)
        return replace(batch, old=old, gap=float((old - batch.old).abs().mean()))

    def _over_states(self, rollout: Rollout, rewards: Tensor) -> Tensor:
        """What episodes achieved beside others from the same initial state, ``float32[N, T]``."""
        states = [(chunk.task, chunk.state) for chunk in rollout.chunks]
        ends = [
            (*states[index], int(rewards.flatten()[index])) for index in rollout.ended.flatten().nonzero().flatten().tolist()
        ]
        totals: dict[tuple[str, int], tuple[int, int]] = {}
        for task, state, success in (each for part in self.group.gather(ends) for each in part):
            solved, played = totals.get((task, state), (0, 0))
            totals[task, state] = solved + success, played + 1
        return over_states(states, rewards, rollout.ended, totals)

    @torch.no_grad()
    def _fit(self, recorded: RecordedBatch, returns: Tensor) -> Tensor:
        """Fit the value head to returns ``float32[N, T]``; the values by which the policy is judged, likewise."""
        head, context = self.learner.model.value_head, recorded.context
        assert context is not None  # a run refuses to fit where the backbone learns
        features = head.features(context.states, context.valid, recorded.state)
        found = fit(features, returns.flatten(), torch.arange(len(returns)).repeat_interleave(returns.shape[1]))
        head.readout.weight.copy_(found.weight[None])
        head.readout.bias.fill_(found.bias)
        return found.values.reshape(returns.shape)

    def update(self, batch: Batch, iteration: int) -> dict[str, float]:
        """Epochs of minibatches; what the last epoch's were like on average, and the very first ratio."""
        settings, count = self.config.ppo, len(batch.old)
        share = max(1, settings.minibatch // self.group.world)
        step = iteration * self.config.updates_an_iteration
        measured: list[Tensor] = []  # on the device; the host waits for them once, at the end
        first = epoch = 0
        for epoch in range(settings.epochs):
            order = torch.from_numpy(
                np.random.default_rng((self.config.seed, iteration, epoch, self.group.rank)).permutation(count)
            )
            first = len(measured)
            for chosen in order.split(share):
                measured.append(self._minibatch(batch, chosen, step))
                step += 1
            bound = settings.target_kl
            if bound is not None and epoch + 1 < settings.epochs and self.divergence(batch)["losses/kl_after"] > bound:
                break
        every = torch.stack(measured).tolist()
        if not all(math.isfinite(number) for each in every for number in each):
            raise TrainingError(
                f"iteration {iteration + 1} has a loss or a gradient that is no number; lower the learning rates"
            )
        means = np.mean(every[first:], axis=0).tolist()
        *summed, ratio, distance = self.group.sum([*means, *every[0][len(MEASURED) - 2 : len(MEASURED)]])
        names = (*MEASURED, "gradient_norm", "weight_norm")
        return {
            **{f"losses/{name}": total / self.group.world for name, total in zip(names, summed, strict=True)},
            "losses/first_ratio": ratio / self.group.world,
            "losses/epochs": epoch + 1.0,
            "rollout/log_prob_gap": distance / self.group.world if batch.gap is None else batch.gap,
        }

    def _minibatch(self, batch: Batch, chosen: Tensor, step: int) -> Tensor:
        """One step of the optimiser (equations 6 and 7); what is :data:`MEASURED`, then the norms of gradient and weights."""
        settings = self.config.ppo
        sums = torch.zeros(len(MEASURED), device=self.group.device)
        for part, recorded in self._parts(batch, chosen):
            evaluated = self._evaluate(batch, part, recorded)
            old, advantages, returns, values = (
                each[part.to(each.device)] for each in (batch.old, batch.advantages, batch.returns, batch.values)
            )
            policy = policy_loss(evaluated.log_probability, old, advantages, settings.clip, settings.dual_clip)
            value, value_clipped = value_loss(evaluated.value, values, returns, settings.value_clip)
            # 0 times the policy's loss, where only the value head learns: a gradient of zero, not none, so that every weight has a
            # state in the optimiser, which a checkpoint needs.
            loss = (0.0 if settings.value_fit else settings.value_weight) * value + float(batch.acts) * policy.loss
            share = len(part) / len(chosen)
            self.learner.backward(loss * share / self.group.world, last=bool(part[-1] == chosen[-1]))
            measured = (
                policy.loss, value, policy.approximate_kl, policy.clip_fraction, policy.dual_clip_fraction,
                value_clipped, policy.ratio.mean(), policy.distance,
            )  # fmt: skip
            sums += share * torch.stack([each.detach() for each in measured])
        norms = self.learner.update(step, held=() if batch.acts else ACTORS)
        return torch.cat([sums, torch.stack([norms["gradient_norm"], norms["weight_norm"]]).to(sums)])

    def _parts(self, batch: Batch, chosen: Tensor) -> Iterator[tuple[Tensor, RecordedBatch]]:
        """Chunks in micro-batches, which go to the device together."""
        recorded = batch.recorded.of(chosen)
        if self.group.device.type == "cuda":
            recorded = recorded.pin_memory()
        recorded = recorded.to(self.group.device, non_blocking=True)
        places = torch.arange(len(chosen), device=self.group.device)
        size = self.config.ppo.micro_batch
        for part, own in zip(chosen.split(size), places.split(size), strict=True):
            yield part, recorded.of(own)

    def _evaluate(self, batch: Batch, part: Tensor, recorded: RecordedBatch) -> Evaluated:
        """Chunks of a rollout under the present weights."""
        requests = [batch.requests[index] for index in part.tolist()] if batch.requests else []
        inputs = self.reader.prepare(requests).inputs if requests else None
        return evaluate(self.learner.model, recorded, batch.sde, inputs)

    @torch.no_grad()
    def _log_probabilities(self, batch: Batch) -> Tensor:
        """``float32[C]``, of all chunks under the present weights."""
        parts = (
            part
            for chosen in torch.arange(len(batch.old)).split(self.config.ppo.minibatch)
            for part in self._parts(batch, chosen)
        )
        return torch.cat([self._evaluate(batch, *part).log_probability for part in parts])

    def divergence(self, batch: Batch) -> dict[str, float]:
        """How far the policy has come from the rollout's, over all its chunks: the mean over minibatches on the way understates it."""
        difference = self._log_probabilities(batch) - batch.old
        ratio = difference.exp()
        apart, clipped = (ratio - 1 - difference).sum(), ((ratio - 1).abs() > self.config.ppo.clip).sum()
        kl, share, count = self.group.sum([*torch.stack([apart, clipped.to(apart)]).tolist(), len(ratio)])
        return {"losses/kl_after": kl / count, "losses/clipfrac_after": share / count}

    def _moments(self, values: Tensor) -> tuple[float, float]:
        """Mean and standard deviation over all processes."""
        total, squares, count = self.group.sum([float(values.sum()), float(values.double().square().sum()), len(values)])
        return total / count, math.sqrt(max(squares / count - (total / count) ** 2, 0.0))

    def worth(self, batch: Batch, rollout: Rollout) -> dict[str, float]:
        """Returns, and what the value head says of them, over all processes."""
        parts = self.group.gather([batch.returns.tolist(), batch.values.tolist(), rollout.rewards.flatten().tolist()])
        returns, values, rewards = (torch.tensor([each for part in parts for each in part[index]]) for index in range(3))
        return {
            "rollout/returns": float(returns.mean()),
            "rollout/values": float(values.mean()),
            "rollout/explained_variance": explained_variance(values, returns),
            "rollout/rewards": float(rewards.mean()),
        }
