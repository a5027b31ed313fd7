from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.errors import UserError
from metagen.generators import Condition
from metagen.generators.logistic import log_probability
from metagen.generators.network import context_of
from metagen.generators.vae import Normal, VaeOptions
from metagen.seeding import torch_generator

LEVELS = torch.arange(256) / 127.5 - 1


@pytest.mark.parametrize("location", [-1.0, -0.3, 0.0, 1.4])
@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 5.0])
def test_the_probabilities_of_the_256_levels_sum_to_one(location: float, log_scale: float) -> None:
    of = torch.ones(256, dtype=torch.float64)
    log = log_probability(LEVELS.double(), location * of, log_scale * of)
    assert torch.isfinite(log).all()
    assert float(log.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_a_level_has_the_logistics_mass_between_its_edges() -> None:
    location, scale = 0.2, 0.1
    edges = torch.tensor([-1.0, 1.0]) / 255 + LEVELS[100]
    low, high = ((edges.double() - location) / scale).sigmoid()
    log = log_probability(LEVELS[100:101].double(), torch.tensor([location]).double(), torch.tensor([scale]).log())
    assert float(log.exp()) == pytest.approx(float(high - low), rel=1e-6)


def test_the_likelihood_loses_no_digits_far_from_the_location() -> None:
    log = log_probability(torch.tensor([0.5]), torch.tensor([-1.0]), torch.tensor([-7.0]))
    exact = log_probability(torch.tensor([0.5]).double(), torch.tensor([-1.0]).double(), torch.tensor([-7.0]).double())
    assert float(log) == pytest.approx(float(exact), rel=1e-4)
    assert float(log) < -1000


def test_an_image_between_two_levels_counts_as_the_nearer() -> None:
    of = torch.zeros(1)
    exact, near = (log_probability(LEVELS[70:71] + shift / 127.5, of, of) for shift in (0.0, 0.4))
    assert torch.equal(exact, near)


def test_the_divergence_is_torchs() -> None:
    rng = torch_generator("normals")
    one, other = (Normal(torch.randn(3, 5, generator=rng), torch.randn(3, 5, generator=rng)) for _ in range(2))
    p, q = (torch.distributions.Normal(n.mean, n.log_std.exp()) for n in (one, other))
    assert torch.allclose(one.divergence(other), torch.distributions.kl_divergence(p, q).sum(1), rtol=1e-5)
    z = torch.randn(3, 5, generator=rng)
    assert torch.allclose(one.log(z), p.log_prob(z).sum(1), rtol=1e-5)
    assert not one.divergence(one).any()


def _parts(here: Any, network: Any, draw: Tensor) -> tuple[Tensor, Tensor]:
    """Log weights ``[B]`` of one latent, and the KL, with torch's distributions."""
    context = context_of(network, here.condition)
    prior, posterior = network.prior(context, 4), network.posterior(here.images, context)
    p, q = (torch.distributions.Normal(n.mean, n.log_std.exp()) for n in (prior, posterior))
    z = q.loc + q.scale * draw
    likelihood = log_probability(here.images, *network.decode(z, context)).sum((1, 2, 3))
    return likelihood + (p.log_prob(z) - q.log_prob(z)).sum(1), likelihood - torch.distributions.kl_divergence(
        q, p
    ).sum(1)


def test_losses_and_scores_are_the_bounds_in_bits_a_dimension(case: Any) -> None:
    here = case("vae", "generator.options.importance=5")
    family, network = here.problem.family, here.problem.network
    network.load(here.theta)
    draw = family.draw(4, torch_generator("draw"))
    bits = 16 * 16 * math.log(2)
    with torch.no_grad():
        parts = [_parts(here, network.module, noise) for noise in draw["noise"].unbind(1)]
        losses = family.losses(network.module, here.condition, here.images, draw)
        scores = family.scores(network.module, here.condition, here.images, draw)
    assert torch.allclose(losses, -parts[0][1] / bits, rtol=1e-4)
    iwae = torch.logsumexp(torch.stack([weight for weight, _ in parts]), 0) - math.log(5)
    assert torch.allclose(scores, -iwae / bits, rtol=1e-4)


def test_more_importance_samples_tighten_the_bound(case: Any) -> None:
    bounds = []
    for count in (1, 4, 64):
        here = case("vae", f"generator.options.importance={count}")
        bounds.append(sum(float(here.scores(seed).mean()) for seed in range(5)))
        assert f"{count} samples" in here.problem.family.metric
    assert bounds[0] > bounds[1] > bounds[2]


def test_a_network_that_says_nothing_needs_the_bits_of_its_fixed_logistic(case: Any) -> None:
    """All weights zero: prior and posterior are one, and each pixel is a logistic at 0 of scale 1."""
    here = case("vae")
    nothing = torch.zeros_like(here.theta)
    of = torch.zeros_like(here.images)
    expected = -log_probability(here.images, of, of).mean((1, 2, 3)) / math.log(2)
    for take in (here.problem.loss, here.problem.scores):
        bits = take(nothing, here.condition, here.images, torch_generator("draw"))
        assert torch.allclose(bits, expected, rtol=1e-4)


def test_samples_follow_the_support_set_through_the_prior(case: Any) -> None:
    here = case("vae")
    network = here.problem.network
    network.load(here.theta)
    with torch.no_grad():
        mine, others = (
            network.module.prior(context_of(network.module, Condition(support, here.condition.members)), 4)
            for support in (here.condition.support, -here.condition.support)
        )
    assert not torch.allclose(mine.mean, others.mean, atol=1e-3)
    still = case("vae", "generator.options.temperature=0").samples(2)
    assert torch.allclose(still[:, 0], still[:, 1], atol=1e-6)
    assert not torch.allclose(still[0], still[1], atol=1e-3)


def test_skips_lead_the_latent_past_the_coarsest_level(case: Any) -> None:
    """With nothing coming up from below, images depend on the latent where there are skips, and only there."""
    for skips in ("true", "false"):
        here = case("vae", f"generator.architecture.skips={skips}", "generator.architecture.set_conditioning=none")
        network = here.problem.network
        network.load(here.theta)
        with torch.no_grad():
            for parameter in network.module.decoder.ups.parameters():
                parameter.zero_()
            samples = here.problem.family.sample(network.module, here.condition, 2, torch_generator("sample"))
        assert torch.equal(samples[0, 0], samples[0, 1]) == (skips == "false")


@pytest.mark.parametrize("values", [{"latent": 0}, {"importance": 0}, {"temperature": -1}])
def test_impossible_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(values))):
        VaeOptions.parse(values)
