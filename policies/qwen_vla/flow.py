"""Flow matching over action chunks: what is learned and at which times, Euler sampling, and the SDE whose steps have a log-probability.

Flow time runs from 0, the clean chunk, to 1, the noise (paper, section 2.5). A velocity field is any callable from a noisy chunk and
its time to the velocity; this module contains no model.

Shapes: ``B`` samples, ``H`` steps of a chunk, ``K`` padded channels, ``F`` denoising steps, of which a sample has ``Z`` with
noise and ``E`` scored.

Everything random comes from numpy's generators, one a sample, so that its noise depends neither on the other samples of the batch nor
on the device. Torch's would not do: its CPU generator keeps 32 bits of a seed, and its numbers depend on how many are sampled at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from .tensors import precise

Velocity: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``velocity(noisy[B, H, K], time[B]) -> [B, H, K]``, the direction from the clean chunk to the noise."""


def interpolate(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """The noisy chunk at a time: ``(1 - time) clean + time noise`` (paper, section 2.5).

    Args:
        clean: The chunks to learn, ``[B, H, K]``.
        noise: Standard normal noise, ``[B, H, K]``.
        time: ``[B]`` in 0 to 1.
    """
    share = time[:, None, None]
    return (1 - share) * clean + share * noise


def target_velocity(clean: Tensor, noise: Tensor) -> Tensor:
    """What the velocity field has to predict anywhere between the two: ``noise - clean`` (paper, equation 1)."""
    return noise - clean


def start_noise(
    seeds: Sequence[int], horizon: int, channels: int, temperature: float = 1.0, device: str | torch.device = "cpu"
) -> Tensor:
    """What Euler sampling starts from: for each seed a Gaussian chunk, ``float32[B, H, K]``.

    Args:
        seeds: One a sample, of 64 bits.
        horizon: ``H``.
        channels: ``K``.
        temperature: Standard deviation of the Gaussian; 0 starts at the centre of the distribution.
        device: Where to put it; the numbers are the same on each.
    """
    chunks = [np.random.default_rng(seed).standard_normal((horizon, channels), dtype=np.float32) for seed in seeds]
    return temperature * torch.from_numpy(np.stack(chunks)).to(device)


@dataclass(frozen=True)
class Prefix:
    """What is known of chunks before they are sampled.

    Attributes:
        clean: The known entries of the clean chunks, ``[B, H, K]``; zero elsewhere.
        known: Which they are, ``bool[B, H, K]``.
    """

    clean: Tensor
    known: Tensor


@torch.no_grad()
def euler(velocity: Velocity, start: Tensor, steps: int, prefix: Prefix | None = None) -> Tensor:
    """The clean chunks that the velocity field leads to, ``[B, H, K]``: equal Euler steps from time 1 to 0 (paper, section 2.5).

    Args:
        velocity: The field.
        start: Noise, ``[B, H, K]``, from :func:`start_noise`; the steps are taken in its precision.
        steps: ``F``; the published ones of the field are 4 to 10.
        prefix: Entries that are known: before each step they are put where they would be at its time, so that the others are sampled
            beside them (inpainting, as of images by diffusion; Lugmayr et al., RePaint, 2022, without resampling). Real-time chunking
            (Black et al., 2025) guides the flow by them instead.
    """
    chunk = start
    for index in range(steps):
        step = torch.full((len(start),), index, device=start.device)
        time = step_time(step, steps)
        if prefix is not None:
            chunk = torch.where(prefix.known, interpolate(prefix.clean, start, time).to(chunk.dtype), chunk)
        chunk = chunk - velocity(chunk, time).to(chunk.dtype) / steps
    return chunk if prefix is None else torch.where(prefix.known, prefix.clean.to(chunk.dtype), chunk)


def step_time(step: Tensor, steps: int) -> Tensor:
    """The time at which a denoising step starts, ``float32[...]``: 1 for step 0, ``1 / F`` for the last one.

    Args:
        step: Index of the step in 0 to ``F - 1``, integers of any shape.
        steps: ``F``.
    """
    return 1 - step.float() / steps


@dataclass(frozen=True)
class Sde:
    """How the ODE is made an SDE, so that a chunk has a log-probability (paper, section 4.2).

    ============= ==================== ================= ========================================
    form          noise                scored            passes of the expert: act, score again
    ============= ==================== ================= ========================================
    ``score_one`` at every step        one, sampled      ``F``, 1
    ``noise_one`` at one step, sampled that one          ``F``, 1
    ``score_all`` at every step        all of them       ``F``, ``F``
    ============= ==================== ================= ========================================

    ``score_one`` is the paper's, by its words: "injecting controlled noise at each Euler denoising step" and "randomly select a single
    denoising step per rollout for the log-probability estimate". ``noise_one`` is RLinf's, with which the paper ran. Then everything
    that was sampled after the start is scored, so the ratio is the exact one of the chunk given its start. ``score_all`` is the exact
    one too, at ``F`` passes for each update.

    Attributes:
        steps: ``F``, denoising steps of a chunk.
        form: Where noise is, and what is scored.
        level: Noise level ``a`` of ``g(t) = a sqrt(t / (1 - t))``. 0.5 is RLinf's (RLinf/RLinf
            rlinf/models/embodiment/openpi/openpi_action_model.py@a3816b5), Flow-GRPO's is 0.7 (yifan123/flow_grpo
            flow_grpo/diffusers_patch/sd3_sde_with_logprob.py@54809b5).
        temperature: Scales every Gaussian: the start, and the noise of a step; 1.0 is the paper's in rollouts.
        reduction: Whether the log-probability of a chunk is the ``sum`` over its scored entries (the density itself, RLinf's) or their
            ``mean`` (Flow-GRPO's).
    """

    steps: Annotated[int, Meta(ge=1)] = 4
    form: Literal["score_one", "noise_one", "score_all"] = "score_one"
    level: Annotated[float, Meta(gt=0)] = 0.5
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    reduction: Literal["sum", "mean"] = "sum"


def sde_step(chunk: Tensor, velocity: Tensor, step: Tensor, sde: Sde) -> tuple[Tensor, Tensor]:
    """The Gaussian of the chunk after one step of the SDE that has the ODE's marginals: its mean and its standard deviation.

    With the time ``t``, the step's length ``d = 1 / S`` and the score ``-(x + (1 - t) v) / t`` of the interpolant::

        mean = x - d v - d g^2 / (2 t) (x + (1 - t) v)        std = g sqrt(d)        g^2 = a^2 t / (1 - t)

    ``g`` has a pole at t = 1; there ``1 - t`` of the next time, ``1 / S``, is in the denominator, so the first step's standard
    deviation is ``a``. With t = 1 - k / S this becomes, without a division by t::

        mean = x - v / S - a^2 / (2 max(k, 1)) (x + k / S v)        std = a sqrt((S - k) / (max(k, 1) S))

    Source: the flow SDE of Flow-GRPO and RLinf (files at :class:`Sde`). Computed in float32 at least, since a ratio of
    densities needs it.

    Args:
        chunk: The chunk ``x`` before the step, ``[B, H, K]``.
        velocity: The field there, ``[B, H, K]``.
        step: Index ``k`` of the step, integers ``[B]``.
        sde: Number of steps, level and temperature.

    Returns:
        The mean ``[B, H, K]`` and the standard deviation ``[B, 1, 1]``.
    """
    chunk, velocity, steps = precise(chunk), precise(velocity), sde.steps
    index = step.to(chunk.dtype)[:, None, None]
    divisor = index.clamp(min=1)
    drift = sde.level**2 / (2 * divisor) * (chunk + index / steps * velocity)
    std = sde.temperature * sde.level * ((steps - index) / (divisor * steps)).sqrt()
    return chunk - velocity / steps - drift, std


def gaussian_log_density(value: Tensor, mean: Tensor, std: Tensor, mask: Tensor) -> Tensor:
    """The log-density of each step of a chunk under independent Gaussians, ``[B, H]``: summed over the mask alone.

    Padding is left out because its velocities are trained by nothing and drift: its noise would only blur a ratio.

    Args:
        value: ``[B, H, K]``.
        mean: ``[B, H, K]``.
        std: Broadcast to ``[B, H, K]``.
        mask: Valid entries, ``bool[B, H, K]``.
    """
    deviation = torch.where(mask, precise(value) - mean, 0.0) / std
    density = -0.5 * deviation.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(mask, density, 0.0).sum(2)


@dataclass(frozen=True)
class Draws:
    """Everything random of a stochastic sampling.

    Attributes:
        start: Where sampling starts, ``float32[B, H, K]``, the temperature applied.
        noisy: Indices of the steps with noise, ``int64[B, Z]``.
        noise: Standard normal noise of those steps, ``float32[B, Z, H, K]``.
        scored: Indices of the steps that the log-probability is of, ``int64[B, E]``.
    """

    start: Tensor
    noisy: Tensor
    noise: Tensor
    scored: Tensor


def draw(seeds: Sequence[int], horizon: int, channels: int, sde: Sde, device: str | torch.device = "cpu") -> Draws:
    """The random numbers that :func:`sample_chain` needs; it starts where :func:`start_noise` does for the same seeds.

    Args:
        seeds: One a sample, of 64 bits.
        horizon: ``H``.
        channels: ``K``.
        sde: Which steps are noisy and scored, and the temperature of the start.
        device: Where to put it; the numbers are the same on each.
    """
    every = np.arange(sde.steps)
    starts, noisy, noises, scored = [], [], [], []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        starts.append(generator.standard_normal((horizon, channels), dtype=np.float32))
        one = generator.integers(sde.steps, size=1)
        scored.append(every if sde.form == "score_all" else one)
        noisy.append(one if sde.form == "noise_one" else every)
        noises.append(generator.standard_normal((len(noisy[-1]), horizon, channels), dtype=np.float32))
    start, with_noise, noise, chosen = (
        torch.from_numpy(np.stack(arrays)).to(device) for arrays in (starts, noisy, noises, scored)
    )
    return Draws(sde.temperature * start, with_noise, noise, chosen)


@dataclass(frozen=True)
class DenoisingSteps:
    """The scored steps of a sampling, kept to compute later how probable they are under changed weights.

    Attributes:
        before: Chunks before the steps, ``[B, E, H, K]``.
        after: Chunks after them, ``[B, E, H, K]``.
        step: Indices of the steps, ``int64[B, E]``.
    """

    before: Tensor
    after: Tensor
    step: Tensor


@dataclass(frozen=True)
class Chain:
    """Chunks sampled with the SDE.

    Attributes:
        actions: Clean chunks, ``float32[B, H, K]``; outside the mask they mean nothing.
        denoising_steps: The scored steps.
        log_density: Of those steps together, of each step of the chunk, ``float32[B, H]``.
        log_probability: Of those steps together, ``float32[B]``: the sum of it or, for that reduction, the mean over scored entries.
    """

    actions: Tensor
    denoising_steps: DenoisingSteps
    log_density: Tensor
    log_probability: Tensor


@torch.no_grad()
def sample_chain(velocity: Velocity, draws: Draws, scored: Tensor, sde: Sde) -> Chain:
    """Samples chunks in ``F`` steps; those without noise are Euler's.

    Args:
        velocity: The field.
        draws: From :func:`draw`, for the same ``sde``.
        scored: Entries that the log-probability is of, ``bool[B, H, K]``: valid ones of executed steps.
        sde: Number of steps, level, temperature and reduction.
    """
    chunk = precise(draws.start)
    kept = (*draws.scored.shape, *chunk.shape[1:])
    before, after = chunk.new_zeros(kept), chunk.new_zeros(kept)
    log_density = torch.zeros(chunk.shape[:2], device=chunk.device)
    for index in range(sde.steps):
        step = torch.full((len(chunk),), index, device=chunk.device)
        direction = precise(velocity(chunk, step_time(step, sde.steps)))
        noisy = (draws.noisy == index)[:, :, None, None]  # [B, Z, 1, 1], at most one of Z
        mean, std = sde_step(chunk, direction, step, sde)
        noise = torch.where(noisy, draws.noise, 0.0).sum(1)
        following = torch.where(noisy.any(1), mean + std * noise, chunk - direction / sde.steps)
        chosen = (draws.scored == index)[:, :, None, None]  # [B, E, 1, 1], at most one of E
        before = torch.where(chosen, chunk[:, None], before)
        after = torch.where(chosen, following[:, None], after)
        log_density = log_density + gaussian_log_density(following, mean, std, scored & chosen.any(1))
        chunk = following
    log_probability = _reduce(log_density.sum(1), scored, draws.scored, sde)
    return Chain(chunk, DenoisingSteps(before, after, draws.scored), log_density, log_probability)


def recompute_log_probability(velocity: Velocity, stored: DenoisingSteps, scored: Tensor, sde: Sde) -> Tensor:
    """The log-probability of stored steps under a velocity field, ``float32[B]``: one pass of the field for each of the ``E``.

    With the weights that sampled them it is what :func:`sample_chain` returned. Gradients flow into the field.

    Args:
        velocity: The field, of the same samples in the same order.
        stored: Steps of an earlier sampling.
        scored: That sampling's, ``bool[B, H, K]``.
        sde: That sampling's.
    """
    total = torch.zeros(scored.shape[:2], device=scored.device)
    for n in range(stored.step.shape[1]):
        before, step = stored.before[:, n], stored.step[:, n]
        mean, std = sde_step(before, velocity(before, step_time(step, sde.steps)), step, sde)
        total = total + gaussian_log_density(stored.after[:, n], mean, std, scored)
    return _reduce(total.sum(1), scored, stored.step, sde)


def _reduce(total: Tensor, scored: Tensor, step: Tensor, sde: Sde) -> Tensor:
    """The sum itself, or divided by the scored entries of all scored steps."""
    return total if sde.reduction == "sum" else total / (scored.sum((1, 2)) * step.shape[1]).clamp(min=1)


@dataclass(frozen=True)
class SigmoidNormal:
    """Times that are the sigmoid of a normal variable: most of them between clean and noise (paper, section 5.2.1: stage T2A).

    Attributes:
        mean: Mean of the normal; the paper prints none, 0 is symmetric in time.
        std: Its standard deviation; the paper prints none.
    """

    mean: float = 0.0
    std: float = 1.0

    def sample(self, count: int, generator: np.random.Generator) -> Tensor:
        """``float32[count]`` times; the first ones are the same whatever the count."""
        return torch.from_numpy(generator.normal(self.mean, self.std, count)).sigmoid().float()


@dataclass(frozen=True)
class Beta:
    """Times from a Beta distribution, dense towards one end (paper, section 5.2.1: stages CPT and SFT, towards the clean end).

    The paper prints no parameters. Those of the field are alpha 1.5, beta 1 and scale 0.999, in two directions: with
    ``u ~ Beta(alpha, beta)``, ``clean`` is ``(scale - u) / scale``, cut off at 0 (starVLA/starVLA
    starVLA/model/modules/action_model/GR00T_ActionHeader.py@0ed0aad, ``sample_time``, read in the paper's time), and ``noise`` is
    ``scale u + 1 - scale`` (Physical-Intelligence/openpi src/openpi/models/pi0.py@15a9616, ``compute_loss``).

    Attributes:
        alpha: First parameter of the distribution.
        beta: Second parameter.
        scale: Keeps the sampled time off the far end, in 0 to 1.
        toward: The end near which most times lie.
    """

    alpha: float = 1.5
    beta: float = 1.0
    scale: float = 0.999
    toward: Literal["clean", "noise"] = "clean"

    def sample(self, count: int, generator: np.random.Generator) -> Tensor:
        """``float32[count]`` times; the first ones are the same whatever the count."""
        sampled = generator.beta(self.alpha, self.beta, count)
        times = (self.scale - sampled) / self.scale if self.toward == "clean" else self.scale * sampled + 1 - self.scale
        return torch.from_numpy(times.clip(0, 1)).float()


TimeSampler: TypeAlias = SigmoidNormal | Beta
"""Where training times come from."""
