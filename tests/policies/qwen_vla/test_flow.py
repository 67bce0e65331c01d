"""Flow matching: the masked loss, the time samplers, the samplers' marginals and the log-probability that RL needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla.flow import (
    Beta,
    DenoisingSteps,
    Draws,
    SdeNoise,
    SigmoidNormal,
    draw,
    euler,
    interpolate,
    masked_velocity_loss,
    recompute_log_probability,
    sample_chain,
    sample_losses,
    sde_step,
    start_noise,
    step_time,
    target_velocity,
)

H, K = 8, 12


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def masks(*shapes):
    mask = torch.zeros(len(shapes), H, K, dtype=torch.bool)
    for index, (steps, size) in enumerate(shapes):
        mask[index, :steps, :size] = True
    return mask


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- the loss ---


def test_the_interpolant_is_the_clean_chunk_at_0_and_the_noise_at_1():
    clean, noise = normal(3, H, K, seed=1), normal(3, H, K, seed=2)
    chunks = interpolate(clean, noise, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(chunks[0], clean[0])
    assert torch.equal(chunks[1], noise[1])
    torch.testing.assert_close(chunks[2], 0.75 * clean[2] + 0.25 * noise[2])
    torch.testing.assert_close(clean + target_velocity(clean, noise), noise)


def test_the_loss_averages_over_steps_then_channels_then_samples():
    mask = masks((4, 3), (8, 7))
    mask[0, 2:, 1] = False  # channel 1 is valid in two steps only: it still counts as much as the others
    predicted, target = normal(2, H, K, seed=3), normal(2, H, K, seed=4)
    error = (predicted - target).double().square()
    first = (error[0, :4, 0].mean() + error[0, :2, 1].mean() + error[0, :4, 2].mean()) / 3
    second = error[1, :8, :7].mean()
    torch.testing.assert_close(sample_losses(predicted, target, mask).double(), torch.stack((first, second)))
    torch.testing.assert_close(masked_velocity_loss(predicted, target, mask).double(), (first + second) / 2)


def test_a_sample_counts_the_same_whatever_its_size():
    mask = masks((1, 1), (8, 12))
    target = torch.zeros(2, H, K)
    predicted = torch.ones(2, H, K, requires_grad=True)
    masked_velocity_loss(predicted, target, mask).backward()
    assert predicted.grad is not None
    assert predicted.grad[0].sum() == pytest.approx(predicted.grad[1].sum().item(), rel=1e-6) == pytest.approx(1.0)


def test_masked_entries_get_exactly_zero_gradient():
    mask = masks((4, 3), (8, 7))
    predicted, target = normal(2, H, K, seed=5), normal(2, H, K, seed=6)
    predicted[~mask], target[~mask] = math.inf, math.nan
    predicted.requires_grad_()
    loss = masked_velocity_loss(predicted, target, mask)
    loss.backward()
    assert predicted.grad is not None
    assert loss.isfinite()
    assert (predicted.grad[~mask] == 0).all()
    assert (predicted.grad[mask] != 0).all()


def test_a_sample_without_actions_neither_counts_nor_breaks_the_loss():
    predicted, target = normal(2, H, K, seed=7), normal(2, H, K, seed=8)
    alone = masked_velocity_loss(predicted[:1], target[:1], masks((8, 7)))
    torch.testing.assert_close(masked_velocity_loss(predicted, target, masks((8, 7), (0, 0))), alone)


def test_the_loss_of_half_precision_is_computed_in_float32():
    predicted = torch.full((1, H, K), 300.0, dtype=torch.float16)  # its square is beyond float16
    loss = masked_velocity_loss(predicted, torch.zeros(1, H, K), masks((8, 7)))
    assert loss.dtype == torch.float32
    assert loss == 90_000


# --- the time samplers ---


def times(sampler, count=200_000, seed=0):
    return sampler.sample(count, np.random.default_rng(seed)).double()


def test_the_sigmoid_normal_is_what_it_says():
    drawn = times(SigmoidNormal())
    assert drawn.mean() == pytest.approx(0.5, abs=0.002)
    assert drawn.logit().std() == pytest.approx(1.0, abs=0.01)
    assert (drawn < 0.25).double().mean() == pytest.approx(0.5 * (1 + math.erf(math.log(1 / 3) / math.sqrt(2))), abs=0.005)
    assert times(SigmoidNormal(mean=1.0, std=0.5)).logit().mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("toward", "mean"), [("clean", 1 - 0.6 / 0.999), ("noise", 0.6 * 0.999 + 0.001)])
def test_the_beta_sampler_is_dense_at_the_end_it_names(toward, mean):
    drawn = times(Beta(toward=toward))
    assert drawn.mean() == pytest.approx(mean, abs=0.003)  # the mean of Beta(1.5, 1) is 0.6
    near_clean, near_noise = (drawn < 0.25).double().mean(), (drawn > 0.75).double().mean()
    dense, sparse = (near_clean, near_noise) if toward == "clean" else (near_noise, near_clean)
    assert dense == pytest.approx(1 - 0.75**1.5, abs=0.01)
    assert sparse == pytest.approx(0.25**1.5, abs=0.01)
    assert 0 <= drawn.min() < drawn.max() <= 1


def test_times_come_from_the_generator_alone_and_the_first_ones_do_not_depend_on_the_count():
    for sampler in (SigmoidNormal(), Beta()):
        torch.testing.assert_close(times(sampler, 5, seed=3), times(sampler, 40, seed=3)[:5], rtol=0, atol=0)
        assert not torch.equal(times(sampler, 5, seed=3), times(sampler, 5, seed=4))
        assert sampler.sample(2, np.random.default_rng(0)).dtype == torch.float32


# --- the samplers ---


def test_a_perfect_velocity_field_integrates_to_the_data():
    clean = normal(4, H, K, seed=9).mul(64).round() / 64  # few digits, so that every sum is exact
    noise = normal(4, H, K, seed=10).mul(64).round() / 64
    for steps in (1, 2, 4, 16):
        assert torch.equal(euler(lambda x, t: noise - clean, noise, steps), clean)
    # The field of one point of data is a function of chunk and time, not of the noise.
    field = lambda x, t: (x - clean) / t[:, None, None]  # noqa: E731
    torch.testing.assert_close(euler(field, normal(4, H, K, seed=11), 10), clean, rtol=0, atol=1e-6)


def test_the_field_is_evaluated_at_the_times_from_noise_to_clean():
    times = []
    euler(lambda x, t: times.append(t) or x, torch.zeros(3, H, K), 4)
    assert torch.stack(times).tolist() == [[time] * 3 for time in (1.0, 0.75, 0.5, 0.25)]
    assert step_time(torch.tensor([0, 3]), 4).tolist() == [1.0, 0.25]


def gaussian_field(mean, std):
    """The exact velocity for data N(mean, std^2): E[noise - data | chunk]."""

    def field(x, t):
        t = t.double()[:, None, None]
        variance = (1 - t) ** 2 * std**2 + t**2
        return -mean + (x.double() - (1 - t) * mean) * (t - (1 - t) * std**2) / variance

    return field


def marginal(steps, level, index=None, count=400_000):
    """Mean and standard deviation of what N(0.7, 0.4^2) becomes, with the step of that index stochastic, or all of them."""
    sde = SdeNoise(level or 0.5, "all" if index is None else "one")
    field, start = gaussian_field(0.7, 0.4), normal(1, count, 1, seed=steps)
    if level is None:
        actions = euler(field, start, steps)
    elif steps <= 10:
        step = torch.tensor([list(range(steps)) if index is None else [index]])
        draws = Draws(start, step, normal(1, step.shape[1], count, 1, seed=99))
        actions = sample_chain(field, draws, torch.ones(1, count, 1, dtype=torch.bool), steps, sde).actions
    else:  # one step at a time: the noise of all of them would not fit
        actions, generator = start, torch.Generator().manual_seed(99)
        for k in range(steps):
            step = torch.tensor([k])
            mean, std = sde_step(actions, field(actions, step_time(step, steps)), step, steps, sde)
            actions = mean.float() + std.float() * torch.randn(actions.shape, generator=generator)
    return actions.mean().item(), actions.std().item()


@pytest.mark.parametrize(
    ("steps", "level", "expected", "tolerance"),
    [
        (500, None, 0.4, 0.005),
        (500, 0.5, 0.4, 0.005),
        (500, 0.2, 0.4, 0.005),
        (4, None, 0.259, 0.002),
        (4, 0.5, 0.326, 0.002),
        (10, 0.5, 0.367, 0.002),
        (10, 0.2, 0.344, 0.002),
    ],
)
def test_the_marginals_of_ode_and_sde_agree_with_many_steps_and_are_known_with_few(steps, level, expected, tolerance):
    mean, std = marginal(steps, level, count=20_000 if steps == 500 else 400_000)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert std == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("index", "expected"), [(0, 0.277), (1, 0.295), (2, 0.291), (3, 0.278)])
def test_one_stochastic_step_of_four_stays_close_to_the_ode(index, expected):
    assert marginal(4, 0.5, index)[1] == pytest.approx(expected, abs=0.002)


@pytest.mark.parametrize(("steps", "stds"), [(4, (0.5, 0.433, 0.25, 0.144)), (10, (0.5, 0.474, 0.316))])
def test_the_steps_standard_deviations_have_the_closed_form(steps, stds):
    step = torch.arange(steps)
    zeros = torch.zeros(steps, 1, 1)
    _, std = sde_step(zeros, zeros, step, steps, SdeNoise(0.5))
    assert std.shape == (steps, 1, 1)
    assert std.flatten()[: len(stds)].tolist() == pytest.approx(stds, abs=6e-4)
    assert std[-1].item() == pytest.approx(0.5 / math.sqrt(steps * (steps - 1)))
    _, halved = sde_step(zeros, zeros, step, steps, SdeNoise(0.5, temperature=0.5))
    torch.testing.assert_close(halved, std / 2)


def test_the_step_is_the_published_one():
    """The form of the field's implementations: both ends of the interpolant, predicted and weighted."""
    steps, level = 5, 0.7
    x, v = normal(steps, H, K, seed=12, dtype=torch.float64), normal(steps, H, K, seed=13, dtype=torch.float64)
    step = torch.arange(steps)
    mean, std = sde_step(x, v, step, steps, SdeNoise(level))
    for k in range(steps):
        t, d = 1 - k / steps, 1 / steps
        g = level * math.sqrt(t / (1 - t if k else 1 / steps))
        clean, noise = x[k] - v[k] * t, x[k] + v[k] * (1 - t)
        following = t - d
        torch.testing.assert_close(mean[k], clean * (1 - following) + noise * (following - g * g * d / (2 * t)))
        assert std[k].item() == pytest.approx(g * math.sqrt(d))


def test_the_step_is_computed_in_float32():
    half = torch.ones(1, H, K, dtype=torch.bfloat16)
    mean, std = sde_step(half, half, torch.tensor([1]), 4, SdeNoise())
    assert mean.dtype == std.dtype == torch.float32


# --- the log-probability ---


class Field(torch.nn.Module):
    """A small real network: two layers over the whole chunk and its time."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = torch.nn.Sequential(torch.nn.Linear(H * K + 1, 64), torch.nn.SiLU(), torch.nn.Linear(64, H * K))

    def forward(self, noisy, time):
        return self.layers(torch.cat((noisy.flatten(1), time[:, None]), 1)).view(noisy.shape)


MASK = masks((8, 7), (5, 3), (1, 1), (8, 12))
SEEDS = (2**63 + 1, 7, 8, 9)


@pytest.mark.parametrize("noisy", ["one", "all"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_log_probability_is_that_of_torch_distributions(noisy, temperature, reduction):
    field, sde = Field(), SdeNoise(0.5, noisy, temperature, reduction)
    chain = sample_chain(field, draw(SEEDS, H, K, 4, sde), MASK, 4, sde)
    expected = torch.zeros(len(SEEDS), dtype=torch.float64)
    for index, valid in enumerate(MASK):
        for n, k in enumerate(chain.denoising_steps.step[index].tolist()):
            x, after = chain.denoising_steps.before[index, n], chain.denoising_steps.after[index, n]
            t = 1 - k / 4
            v = field(x[None], torch.tensor([t]))[0].detach()
            g = 0.5 * math.sqrt(t / (1 - t if k else 1 / 4))
            mean = x - v / 4 - g * g / 4 / (2 * t) * (x + (1 - t) * v)
            normal_ = torch.distributions.Normal(mean.double(), temperature * g * math.sqrt(1 / 4))
            expected[index] += normal_.log_prob(after.double())[valid].sum()
        if reduction == "mean":
            expected[index] /= valid.sum() * chain.denoising_steps.step.shape[1]
    torch.testing.assert_close(chain.log_probability.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("noisy", ["one", "all"])
def test_unchanged_weights_give_the_ratio_1_and_changed_ones_do_not(noisy):
    field, sde = Field(), SdeNoise(noisy=noisy)
    chain = sample_chain(field, draw(SEEDS, H, K, 4, sde), MASK, 4, sde)
    again = recompute_log_probability(field, chain.denoising_steps, MASK, 4, sde)
    ratio = (again - chain.log_probability).exp()
    assert (ratio - 1).abs().max() < 1e-5
    assert again.requires_grad
    other = recompute_log_probability(Field(seed=1), chain.denoising_steps, MASK, 4, sde)
    assert ((other - chain.log_probability).exp() - 1).abs().min() > 1e-3


def test_a_step_in_the_direction_of_the_gradient_makes_the_chunk_more_probable():
    field, sde = Field(), SdeNoise()
    chain = sample_chain(field, draw(SEEDS, H, K, 4, sde), MASK, 4, sde)
    recompute_log_probability(field, chain.denoising_steps, MASK, 4, sde).sum().backward()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 1e-4 * parameter.grad
    assert recompute_log_probability(field, chain.denoising_steps, MASK, 4, sde).sum() > chain.log_probability.sum()


def test_padded_entries_do_not_move_the_log_probability():
    field, sde = Field(), SdeNoise(noisy="all")
    stored = sample_chain(field, draw(SEEDS, H, K, 4, sde), MASK, 4, sde).denoising_steps
    padding = ~MASK[:, None].expand_as(stored.after)
    drifting = lambda x, t: torch.where(MASK, field(x, t), math.nan)  # noqa: E731
    moved = DenoisingSteps(stored.before, torch.where(padding, 1e6, stored.after), stored.step)
    recomputed = recompute_log_probability(field, stored, MASK, 4, sde)
    assert torch.equal(recompute_log_probability(drifting, moved, MASK, 4, sde), recomputed)
    wider = recompute_log_probability(field, stored, torch.ones_like(MASK), 4, sde)
    assert (wider - recomputed).abs()[:3].min() > 1  # so there was something to leave out


def test_the_one_stochastic_step_is_the_one_drawn_and_the_others_are_eulers():
    field, sde, steps = Field(), SdeNoise(), 4
    draws = draw(SEEDS, H, K, steps, sde)
    quiet = Draws(draws.start, torch.tensor([[0], [1], [2], [3]]), draws.noise)
    chain = sample_chain(field, quiet, MASK, steps, sde)
    chunk = draws.start
    for k in range(steps):
        # Until its own step a sample is where Euler's steps bring it.
        torch.testing.assert_close(chain.denoising_steps.before[k, 0], chunk[k])
        chunk = chunk - field(chunk, torch.full((4,), 1 - k / steps)).detach() / steps
    torch.testing.assert_close(chain.denoising_steps.after[3, 0], chain.actions[3])
    assert not torch.allclose(chain.actions[3], chunk[3])
    torch.testing.assert_close(euler(field, draws.start, steps), chunk)


def test_a_chain_of_all_steps_joins_on():
    sde = SdeNoise(noisy="all")
    chain = sample_chain(Field(), draw(SEEDS, H, K, 4, sde), MASK, 4, sde)
    stored = chain.denoising_steps
    assert stored.step.tolist() == [[0, 1, 2, 3]] * 4
    assert torch.equal(stored.after[:, :-1], stored.before[:, 1:])
    assert torch.equal(stored.after[:, -1], chain.actions)


# --- chance ---


@pytest.mark.parametrize("noisy", ["one", "all"])
def test_a_draw_depends_on_its_seed_alone(noisy):
    sde = SdeNoise(noisy=noisy, temperature=0.6)
    together, alone = draw(SEEDS, H, K, 4, sde), draw(SEEDS[2:3], H, K, 4, sde)
    for name in ("start", "step", "noise"):
        assert torch.equal(getattr(together, name)[2:3], getattr(alone, name))
    assert torch.equal(together.start, start_noise(SEEDS, H, K, temperature=0.6))
    assert len({tuple(step) for step in together.start[:, 0].tolist()}) == 4


def test_seeds_that_agree_in_their_lower_half_are_different_seeds():
    start = start_noise((5, 5 + 2**32), H, K)
    assert not torch.equal(start[0], start[1])


def test_the_noise_is_standard_normal_and_the_step_uniform():
    draws = draw(range(2000), H, K, 4, SdeNoise())
    for noise in (draws.start, draws.noise):
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.std() == pytest.approx(1, abs=0.01)
    shares = torch.bincount(draws.step.flatten(), minlength=4) / 2000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)
    assert torch.corrcoef(torch.stack((draws.start.flatten(), draws.noise.flatten())))[0, 1].abs() < 0.01


def test_the_temperature_scales_the_start():
    torch.testing.assert_close(start_noise(SEEDS, H, K, 0.6), 0.6 * start_noise(SEEDS, H, K))
    assert not start_noise(SEEDS, H, K, temperature=0).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SdeNoise(level=0), "noise level is 0"),
        (lambda: SdeNoise(temperature=0), "temperature is 0"),
        (lambda: SdeNoise(noisy="two"), "noisy steps are 'two', expected 'one' or 'all'"),  # type: ignore[arg-type]
        (lambda: Beta(toward="left"), "expected 'clean' or 'noise'"),  # type: ignore[arg-type]
        (lambda: SigmoidNormal(std=0), "std is 0"),
        (lambda: euler(Field(), torch.zeros(1, H, K), 0), "0 denoising steps"),
        (lambda: start_noise((1,), H, K, temperature=-1), "temperature is -1"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(make, words):
    with pytest.raises(PolicyError, match=words):
        make()
