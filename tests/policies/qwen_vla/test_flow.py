"""Flow matching: the masked loss, the time samplers, the samplers' marginals and the log-probability that RL needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from vlarig.policies.qwen_vla.flow import (
    Beta,
    DenoisingSteps,
    Draws,
    Prefix,
    Sde,
    SigmoidNormal,
    draw,
    euler,
    interpolate,
    recompute_log_probability,
    sample_chain,
    sde_step,
    start_noise,
    step_time,
    target_velocity,
)
from vlarig.policies.qwen_vla.losses import Loss, action_loss, sample_losses

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


def velocity_loss(predicted: torch.Tensor, target: torch.Tensor, mask: torch.Tensor) -> Loss:
    return action_loss(sample_losses(predicted, target, mask), mask)


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
    torch.testing.assert_close(velocity_loss(predicted, target, mask).mean.double(), (first + second) / 2)


def test_a_sample_counts_the_same_whatever_its_size():
    mask = masks((1, 1), (8, 12))
    target = torch.zeros(2, H, K)
    predicted = torch.ones(2, H, K, requires_grad=True)
    velocity_loss(predicted, target, mask).mean.backward()
    assert predicted.grad is not None
    assert predicted.grad[0].sum() == pytest.approx(predicted.grad[1].sum().item(), rel=1e-6) == pytest.approx(1.0)


def test_masked_entries_get_exactly_zero_gradient():
    mask = masks((4, 3), (8, 7))
    predicted, target = normal(2, H, K, seed=5), normal(2, H, K, seed=6)
    predicted[~mask], target[~mask] = math.inf, math.nan
    predicted.requires_grad_()
    loss = velocity_loss(predicted, target, mask).mean
    loss.backward()
    assert predicted.grad is not None
    assert loss.isfinite()
    assert (predicted.grad[~mask] == 0).all()
    assert (predicted.grad[mask] != 0).all()


def test_two_micro_batches_are_one_batch():
    predicted, target = normal(3, H, K, seed=7), normal(3, H, K, seed=8)
    mask = masks((8, 7), (2, 1), (0, 0))
    whole = velocity_loss(predicted, target, mask)
    halves = velocity_loss(predicted[:1], target[:1], mask[:1]) + velocity_loss(predicted[1:], target[1:], mask[1:])
    torch.testing.assert_close(halves.mean, whole.mean)
    assert halves.count == whole.count == 2


def test_a_sample_without_actions_neither_counts_nor_breaks_the_loss():
    predicted, target = normal(2, H, K, seed=7), normal(2, H, K, seed=8)
    alone = velocity_loss(predicted[:1], target[:1], masks((8, 7))).mean
    torch.testing.assert_close(velocity_loss(predicted, target, masks((8, 7), (0, 0))).mean, alone)


def test_the_loss_of_half_precision_is_computed_in_float32():
    predicted = torch.full((1, H, K), 300.0, dtype=torch.float16)  # its square is beyond float16
    loss = velocity_loss(predicted, torch.zeros(1, H, K), masks((8, 7))).mean
    assert loss.dtype == torch.float32
    assert loss == 90_000


# --- the time samplers ---


def times(sampler, count=200_000, seed=0):
    return sampler.sample(count, np.random.default_rng(seed)).double()


def test_the_sigmoid_normal_is_what_it_says():
    sampled = times(SigmoidNormal())
    assert sampled.mean() == pytest.approx(0.5, abs=0.002)
    assert sampled.logit().std() == pytest.approx(1.0, abs=0.01)
    assert (sampled < 0.25).double().mean() == pytest.approx(0.5 * (1 + math.erf(math.log(1 / 3) / math.sqrt(2))), abs=0.005)
    assert times(SigmoidNormal(mean=1.0, std=0.5)).logit().mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("toward", "mean"), [("clean", 1 - 0.6 / 0.999), ("noise", 0.6 * 0.999 + 0.001)])
def test_the_beta_sampler_is_dense_at_the_end_it_names(toward, mean):
    sampled = times(Beta(toward=toward))
    assert sampled.mean() == pytest.approx(mean, abs=0.003)  # the mean of Beta(1.5, 1) is 0.6
    near_clean, near_noise = (sampled < 0.25).double().mean(), (sampled > 0.75).double().mean()
    dense, sparse = (near_clean, near_noise) if toward == "clean" else (near_noise, near_clean)
    assert dense == pytest.approx(1 - 0.75**1.5, abs=0.01)
    assert sparse == pytest.approx(0.25**1.5, abs=0.01)
    assert 0 <= sampled.min() < sampled.max() <= 1


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


def test_known_entries_are_on_their_way_at_every_step_and_exact_in_the_end():
    clean, noise, seen = normal(3, H, K), normal(3, H, K, seed=1), []
    known = torch.zeros(3, H, K, dtype=torch.bool)
    known[1, :2] = True

    def field(x, t):
        seen.append((x, t))
        return torch.zeros_like(x)

    sampled = euler(field, noise, 4, Prefix(clean, known))
    assert torch.equal(sampled[known], clean[known])
    assert torch.equal(sampled[~known], noise[~known])
    for x, t in seen:
        torch.testing.assert_close(x[known], interpolate(clean, noise, t)[known])
    assert torch.equal(euler(field, noise, 4, Prefix(clean, torch.zeros_like(known))), euler(field, noise, 4))


def gaussian_field(mean, std):
    """The exact velocity for data N(mean, std^2): E[noise - data | chunk]."""

    def field(x, t):
        t = t.double()[:, None, None]
        variance = (1 - t) ** 2 * std**2 + t**2
        return -mean + (x.double() - (1 - t) * mean) * (t - (1 - t) * std**2) / variance

    return field


def marginal(steps, level, index=None, count=400_000):
    """Mean and standard deviation of what N(0.7, 0.4^2) becomes, with the step of that index stochastic, or all of them."""
    sde = Sde(steps, "score_all" if index is None else "noise_one", level=level or 0.5)
    field, start = gaussian_field(0.7, 0.4), normal(1, count, 1, seed=steps)
    if level is None:
        actions = euler(field, start, steps)
    elif steps <= 10:
        step = torch.tensor([list(range(steps)) if index is None else [index]])
        draws = Draws(start, step, normal(1, step.shape[1], count, 1, seed=99), step)
        actions = sample_chain(field, draws, torch.ones(1, count, 1, dtype=torch.bool), sde).actions
    else:  # one step at a time: the noise of all of them would not fit
        actions, generator = start, torch.Generator().manual_seed(99)
        for k in range(steps):
            step = torch.tensor([k])
            mean, std = sde_step(actions, field(actions, step_time(step, steps)), step, sde)
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
    _, std = sde_step(zeros, zeros, step, Sde(steps, level=0.5))
    assert std.shape == (steps, 1, 1)
    assert std.flatten()[: len(stds)].tolist() == pytest.approx(stds, abs=6e-4)
    assert std[-1].item() == pytest.approx(0.5 / math.sqrt(steps * (steps - 1)))
    _, halved = sde_step(zeros, zeros, step, Sde(steps, level=0.5, temperature=0.5))
    torch.testing.assert_close(halved, std / 2)


def test_the_step_is_the_published_one():
    """The form of the field's implementations: both ends of the interpolant, predicted and weighted."""
    steps, level = 5, 0.7
    x, v = normal(steps, H, K, seed=12, dtype=torch.float64), normal(steps, H, K, seed=13, dtype=torch.float64)
    step = torch.arange(steps)
    mean, std = sde_step(x, v, step, Sde(steps, level=level))
    for k in range(steps):
        t, d = 1 - k / steps, 1 / steps
        g = level * math.sqrt(t / (1 - t if k else 1 / steps))
        clean, noise = x[k] - v[k] * t, x[k] + v[k] * (1 - t)
        following = t - d
        torch.testing.assert_close(mean[k], clean * (1 - following) + noise * (following - g * g * d / (2 * t)))
        assert std[k].item() == pytest.approx(g * math.sqrt(d))


def test_the_step_is_computed_in_float32():
    half = torch.ones(1, H, K, dtype=torch.bfloat16)
    mean, std = sde_step(half, half, torch.tensor([1]), Sde())
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
FORMS = ("score_one", "noise_one", "score_all")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_log_probability_is_that_of_torch_distributions(form, temperature, reduction):
    field, sde = Field(), Sde(form=form, temperature=temperature, reduction=reduction)
    chain = sample_chain(field, draw(SEEDS, H, K, sde), MASK, sde)
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


@pytest.mark.parametrize("form", FORMS)
def test_unchanged_weights_give_the_ratio_1_and_changed_ones_do_not(form):
    field, sde = Field(), Sde(form=form)
    chain = sample_chain(field, draw(SEEDS, H, K, sde), MASK, sde)
    again = recompute_log_probability(field, chain.denoising_steps, MASK, sde)
    ratio = (again - chain.log_probability).exp()
    assert (ratio - 1).abs().max() < 1e-5
    assert again.requires_grad
    other = recompute_log_probability(Field(seed=1), chain.denoising_steps, MASK, sde)
    assert ((other - chain.log_probability).exp() - 1).abs().min() > 1e-3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_gradient_is_that_of_torch_distributions_and_of_finite_differences(form, reduction):
    """In float64: weight by weight against autograd through torch's own density, and along random directions against differences."""
    field, sde = Field().double(), Sde(form=form, reduction=reduction)
    single = sample_chain(Field(), draw(SEEDS, H, K, sde), MASK, sde).denoising_steps
    stored = DenoisingSteps(single.before.double(), single.after.double(), single.step)
    names, weights = zip(*field.named_parameters(), strict=True)

    def log_probability(*values):
        return recompute_log_probability(
            lambda x, t: functional_call(field, dict(zip(names, values, strict=True)), (x, t.double())), stored, MASK, sde
        )

    assert torch.autograd.gradcheck(log_probability, weights, fast_mode=True)
    expected = 0.0
    for n in range(stored.step.shape[1]):
        x, t = stored.before[:, n], 1 - stored.step[:, n].double() / 4
        g = 0.5 * (t / (1 - t).clamp(min=1 / 4)).sqrt()
        v, g, t = field(x, t), g[:, None, None], t[:, None, None]
        mean = x - v / 4 - g * g / 4 / (2 * t) * (x + (1 - t) * v)
        density = torch.distributions.Normal(mean, g / 2).log_prob(stored.after[:, n])
        expected = expected + torch.where(MASK, density, 0).sum((1, 2))
    if reduction == "mean":
        expected = expected / (MASK.sum((1, 2)) * stored.step.shape[1])
    for found, wanted in zip(
        torch.autograd.grad(log_probability(*weights).sum(), weights), torch.autograd.grad(expected.sum(), weights), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_a_step_in_the_direction_of_the_gradient_makes_the_chunk_more_probable():
    field, sde = Field(), Sde()
    chain = sample_chain(field, draw(SEEDS, H, K, sde), MASK, sde)
    recompute_log_probability(field, chain.denoising_steps, MASK, sde).sum().backward()
    with torch.no_grad():
        for parameter in field.parameters():
            parameter += 1e-4 * parameter.grad
    assert recompute_log_probability(field, chain.denoising_steps, MASK, sde).sum() > chain.log_probability.sum()


def test_padded_entries_do_not_move_the_log_probability():
    field, sde = Field(), Sde(form="score_all")
    stored = sample_chain(field, draw(SEEDS, H, K, sde), MASK, sde).denoising_steps
    padding = ~MASK[:, None].expand_as(stored.after)
    drifting = lambda x, t: torch.where(MASK, field(x, t), math.nan)  # noqa: E731
    moved = DenoisingSteps(stored.before, torch.where(padding, 1e6, stored.after), stored.step)
    recomputed = recompute_log_probability(field, stored, MASK, sde)
    assert torch.equal(recompute_log_probability(drifting, moved, MASK, sde), recomputed)
    wider = recompute_log_probability(field, stored, torch.ones_like(MASK), sde)
    assert (wider - recomputed).abs()[:3].min() > 1  # so there was something to leave out


def test_the_one_stochastic_step_is_the_one_sampled_and_the_others_are_eulers():
    sde, steps = Sde(form="noise_one"), 4
    field, draws = Field(), draw(SEEDS, H, K, sde)
    step = torch.tensor([[0], [1], [2], [3]])
    chain = sample_chain(field, Draws(draws.start, step, draws.noise, step), MASK, sde)
    chunk = draws.start
    for k in range(steps):
        # Until its own step a sample is where Euler's steps bring it.
        torch.testing.assert_close(chain.denoising_steps.before[k, 0], chunk[k])
        chunk = chunk - field(chunk, torch.full((4,), 1 - k / steps)).detach() / steps
    torch.testing.assert_close(chain.denoising_steps.after[3, 0], chain.actions[3])
    assert not torch.allclose(chain.actions[3], chunk[3])
    torch.testing.assert_close(euler(field, draws.start, steps), chunk)


def test_a_chain_of_all_steps_joins_on():
    sde = Sde(form="score_all")
    chain = sample_chain(Field(), draw(SEEDS, H, K, sde), MASK, sde)
    stored = chain.denoising_steps
    assert stored.step.tolist() == [[0, 1, 2, 3]] * 4
    assert torch.equal(stored.after[:, :-1], stored.before[:, 1:])
    assert torch.equal(stored.after[:, -1], chain.actions)


def test_one_of_all_noisy_steps_is_scored():
    """The paper's words: the chunk is that of noise at every step, the log-probability that of the one step sampled."""
    field, paper, joint = Field(), Sde(form="score_one"), Sde(form="score_all")
    draws = draw(SEEDS, H, K, paper)
    assert draws.noisy.tolist() == [[0, 1, 2, 3]] * 4
    whole = sample_chain(field, draw(SEEDS, H, K, joint), MASK, joint)
    one = sample_chain(field, draws, MASK, paper)
    torch.testing.assert_close(one.actions, whole.actions)
    for index, (step,) in enumerate(draws.scored.tolist()):
        torch.testing.assert_close(one.denoising_steps.before[index, 0], whole.denoising_steps.before[index, step])
        torch.testing.assert_close(one.denoising_steps.after[index, 0], whole.denoising_steps.after[index, step])


def test_steps_that_are_not_executed_are_not_scored():
    field, sde = Field(), Sde()
    draws = draw(SEEDS, H, K, sde)
    executed = MASK & (torch.arange(H) < 3)[:, None]
    chain = sample_chain(field, draws, executed, sde)
    stored = chain.denoising_steps
    later = DenoisingSteps(stored.before, torch.where(executed[:, None], stored.after, 9.0), stored.step)
    torch.testing.assert_close(recompute_log_probability(field, later, executed, sde), chain.log_probability)
    assert (sample_chain(field, draws, MASK, sde).log_probability - chain.log_probability).abs()[0] > 1


@pytest.mark.parametrize("form", FORMS)
def test_an_update_costs_as_many_passes_as_the_table_says(form):
    calls = []
    sde, field = Sde(steps=5, form=form), Field()
    spy = lambda x, t: calls.append(t) or field(x, t)  # noqa: E731
    chain = sample_chain(spy, draw(SEEDS, H, K, sde), MASK, sde)
    assert len(calls) == 5
    recompute_log_probability(spy, chain.denoising_steps, MASK, sde)
    assert len(calls) == 5 + (5 if form == "score_all" else 1)


# --- chance ---


def test_a_step_is_sampled_for_each_sample():
    assert set(draw(range(40), H, K, Sde()).scored.flatten().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("form", FORMS)
def test_a_draw_depends_on_its_seed_alone(form):
    sde = Sde(form=form, temperature=0.6)
    together, alone = draw(SEEDS, H, K, sde), draw(SEEDS[2:3], H, K, sde)
    for name in ("start", "noisy", "noise", "scored"):
        assert torch.equal(getattr(together, name)[2:3], getattr(alone, name))
    assert torch.equal(together.start, start_noise(SEEDS, H, K, temperature=0.6))
    assert len({tuple(step) for step in together.start[:, 0].tolist()}) == 4


def test_seeds_that_agree_in_their_lower_half_are_different_seeds():
    start = start_noise((5, 5 + 2**32), H, K)
    assert not torch.equal(start[0], start[1])


def test_the_noise_is_standard_normal_and_the_step_uniform():
    draws = draw(range(2000), H, K, Sde())
    for noise in (draws.start, draws.noise):
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.std() == pytest.approx(1, abs=0.01)
    shares = torch.bincount(draws.scored.flatten(), minlength=4) / 2000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)
    assert torch.corrcoef(torch.stack((draws.start.flatten(), draws.noise[:, 0].flatten())))[0, 1].abs() < 0.01


def test_the_temperature_scales_the_start():
    torch.testing.assert_close(start_noise(SEEDS, H, K, 0.6), 0.6 * start_noise(SEEDS, H, K))
    assert not start_noise(SEEDS, H, K, temperature=0).any()
