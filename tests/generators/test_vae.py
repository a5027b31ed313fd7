from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from metagen.errors import UserError
from metagen.generators import Condition
from metagen.generators.logistic import log_probability
from metagen.generators.network import pool, shown
from metagen.generators.vae import Mixture, Normal, VaeOptions
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


def _mixture(here: Any, network: Any) -> tuple[torch.distributions.Distribution, list[Tensor]]:
    """The prior of each image of ``here`` as torch has it, and the pooled context."""
    features = shown(network, here.condition)
    prior = network.prior(features, here.condition.members)
    each = len(here.images) // len(prior.members)
    mean, std = (part.repeat_interleave(each, 0) for part in (prior.parts.mean, prior.parts.log_std.exp()))
    of = torch.distributions.Categorical(prior.members.repeat_interleave(each, 0))
    normals = torch.distributions.Independent(torch.distributions.Normal(mean, std), 1)
    return torch.distributions.MixtureSameFamily(of, normals), pool(features, here.condition.members)


def _weights(here: Any, network: Any, noise: Tensor) -> Tensor:
    """Log weights ``[B]`` of one latent, with torch's distributions."""
    prior, context = _mixture(here, network)
    posterior = network.posterior(here.images, context)
    q = torch.distributions.Normal(posterior.mean, posterior.log_std.exp())
    z = q.loc + q.scale * noise
    likelihood = log_probability(here.images, *network.decode(z, context)).sum((1, 2, 3))
    return likelihood + prior.log_prob(z) - q.log_prob(z).sum(1)


def test_losses_and_scores_are_the_bounds_in_bits_a_dimension(case: Any) -> None:
    here = case("vae", "generator.options.importance=5")
    family, network = here.problem.family, here.problem.network
    network.load(here.theta)
    draw = family.draw(4, torch_generator("draw"))
    bits = 16 * 16 * math.log(2)
    with torch.no_grad():
        weights = torch.stack([_weights(here, network.module, noise) for noise in draw["noise"].unbind(1)])
        losses = family.losses(network.module, here.condition, here.images, draw)
        scores = family.scores(network.module, here.condition, here.images, draw)
    assert torch.allclose(losses, -weights[0] / bits, rtol=1e-4)
    iwae = torch.logsumexp(weights, 0) - math.log(5)
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


def test_the_prior_has_a_part_for_each_image_that_is_shown(case: Any) -> None:
    here = case("vae")
    network = here.problem.network
    network.load(here.theta)
    support = torch.rand(3, *here.condition.support.shape[1:], generator=torch_generator("support"))
    members = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    with torch.no_grad():
        prior = network.module.prior(shown(network.module, Condition(support, members)), members)
        alone = network.module.prior(shown(network.module, Condition(support[2:], members[1:2, 2:])), members[1:2, 2:])
    z = torch.randn(3, prior.parts.mean.shape[-1], generator=torch_generator("z"))
    both = torch.stack([Normal(prior.parts.mean[0, k], prior.parts.log_std[0, k]).log(z[0]) for k in (0, 1)])
    unit = torch.distributions.Normal(0.0, 1.0).log_prob(z[2]).sum()
    expected = torch.stack([both.logsumexp(0) - math.log(2), alone.log(z[1:2])[0], unit])
    assert torch.allclose(prior.log(z), expected, rtol=1e-4)


def test_latents_are_drawn_around_the_images_shown_in_turn() -> None:
    mean = torch.arange(4.0).expand(2, 4)[:, :, None].expand(2, 4, 3)
    mixture = Mixture(Normal(mean, torch.zeros_like(mean)), torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0]]))
    drawn = mixture.draw(6, 0.0, torch_generator("turns"))
    assert drawn.shape == (2, 6, 3)
    assert sorted(drawn[0, :3, 0].tolist()) == [0.0, 2.0, 3.0]
    assert torch.equal(drawn[0, :3], drawn[0, 3:])
    assert (drawn[1] == 1.0).all()
    wide = mixture.draw(4000, 0.5, torch_generator("spread"))[1]
    assert float(wide.std()) == pytest.approx(0.5, abs=0.02)


def test_samples_follow_the_support_set_through_the_prior(case: Any) -> None:
    here = case("vae")
    network = here.problem.network
    network.load(here.theta)
    with torch.no_grad():
        mine, others = (
            network.module.prior(
                shown(network.module, Condition(support, here.condition.members)), here.condition.members
            )
            for support in (here.condition.support, -here.condition.support)
        )
    assert not torch.allclose(mine.parts.mean, others.parts.mean, atol=1e-3)
    seen = int(here.condition.members[0].sum())
    still = case("vae", "generator.options.temperature=0").samples(2 * seen)
    assert torch.allclose(still[:, :seen], still[:, seen:], atol=1e-6)
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
