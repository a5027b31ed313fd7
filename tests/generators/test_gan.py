from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metagen import work
from metagen.flat import FlatNetwork
from metagen.generators import ArchitectureConfig, Condition
from metagen.generators.adversarial import pairing, wasserstein
from metagen.generators.family import Draw
from metagen.generators.gan import SCORED, Gan, GanOptions
from metagen.generators.network import pool
from metagen.metrics.energy import energy_score
from metagen.policies.rules import Sign
from metagen.seeding import torch_generator

TASKS, SHOTS, QUERIES = 2, 3, 2
ARCH: dict[str, Any] = {"patch": 4, "widths": [16], "embedding": 16}


def _gan(arch: dict[str, Any] | None = None, **options: Any) -> Gan:
    values = {"latent": 6, **options}
    return Gan(ArchitectureConfig.parse({**ARCH, **(arch or {})}), GanOptions.parse(values), channels=1, image_size=16)


def _network(gan: Gan, dtype: torch.dtype = torch.float32) -> FlatNetwork:
    """Weights away from their zeros, so that every layer is at work."""
    network = FlatNetwork(work.initialised(gan, 0), torch.device("cpu"), dtype)
    network.load(network.initial + 0.05 * torch.randn(network.layout.size, generator=torch_generator("weights")))
    return network


def _batch() -> tuple[Condition, Tensor]:
    support = torch.rand(TASKS, SHOTS, 1, 16, 16, generator=torch_generator("support")) * 2 - 1
    return Condition.of_tasks(support), torch.rand(TASKS * QUERIES, 1, 16, 16, generator=torch_generator("x")) * 2 - 1


def _linear(weight: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: (weight * images).sum((1, 2, 3))


def _pictures(name: str) -> Tensor:
    return torch.randn(5, 2, 4, 4, dtype=torch.float64, generator=torch_generator(name))


# The games


def test_pairing_of_a_linear_critic_is_the_formula() -> None:
    w, x, y = _pictures("w")[0].requires_grad_(), _pictures("x"), _pictures("y")
    field = pairing(_linear(w), x, y, penalty=3.0)
    lead = (w * (x - y)).sum((1, 2, 3))
    assert torch.allclose(field.critic, torch.log1p(torch.exp(-lead)) + 3.0 * w.square().sum())
    assert torch.allclose(field.pull, -(lead.exp() / (1 + lead.exp()))[:, None, None, None] * w)
    (slope,) = torch.autograd.grad(field.critic.sum(), w)
    expected = -(lead.neg().sigmoid()[:, None, None, None] * (x - y)).sum(0) + 5 * 6.0 * w
    assert torch.allclose(slope, expected)


def test_wasserstein_of_a_linear_critic_is_the_formula() -> None:
    w, x, y = _pictures("w")[0].requires_grad_(), _pictures("x"), _pictures("y")
    field = wasserstein(_linear(w), x, y, torch.rand(5, dtype=torch.float64), penalty=10.0)
    assert torch.allclose(field.critic, (w * (y - x)).sum((1, 2, 3)) + 10 * (w.norm() - 1) ** 2)
    assert torch.allclose(field.pull, -w.expand(5, -1, -1, -1))


def test_the_gradient_penalty_is_taken_between_the_pair_over_all_the_pixels_of_an_image() -> None:
    """For ``D(u) = |u|^2 / 2`` the gradient at ``u`` is ``u`` itself."""
    x, y, mix = _pictures("x"), _pictures("y"), torch.rand(5, dtype=torch.float64, generator=torch_generator("mix"))
    field = wasserstein(lambda u: 0.5 * u.square().sum((1, 2, 3)), x, y, mix, penalty=10.0)
    between = mix[:, None, None, None] * x + (1 - mix[:, None, None, None]) * y
    penalty = 10 * (between.flatten(1).norm(dim=1) - 1).square()
    lead = 0.5 * (x.square() - y.square()).sum((1, 2, 3))
    assert torch.allclose(field.critic, penalty - lead)


def test_zero_centred_penalties_are_taken_at_both_images_of_the_pair() -> None:
    x, y = _pictures("x"), _pictures("y")
    field = pairing(lambda u: 0.5 * u.square().sum((1, 2, 3)), x, y, penalty=0.7)
    lead = 0.5 * (x.square() - y.square()).sum((1, 2, 3))
    steep = x.square().sum((1, 2, 3)) + y.square().sum((1, 2, 3))
    assert torch.allclose(field.critic, F.softplus(-lead) + 0.35 * steep)


# The field


@pytest.mark.parametrize("loss", ["pairing", "wasserstein"])
@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_one_backward_gives_each_player_the_gradient_of_its_own_loss(loss: str, rate: float) -> None:
    """Against two separate losses, each with the other player held fixed; in float64."""
    gan = _gan(loss=loss, penalty=2.0, energy=0.3, critic_rate=rate, translate=2)
    network = _network(gan)
    module, (condition, images) = network.module.double(), _batch()
    condition, images = Condition(condition.support.double(), condition.members.double()), images.double()
    draw = {name: v.double() if v.is_floating_point() else v for name, v in gan.draw(4, torch_generator(0)).items()}
    field = torch.autograd.grad(gan.losses(module, condition, images, draw).mean(), list(module.parameters()))
    field = torch.autograd.grad(gan.losses(module, condition, images, draw).mean(), list(module.parameters()))

    generator, critic = module.generator, module.critic
    with torch.no_grad():
        for p in critic.parameters():
            p.mul_(rate)
    context = pool(generator.encode(condition.support), condition.members)
    made = generator(draw["latent"][:, :2].flatten(0, 1), context).unflatten(0, (4, 2))
    judged = pool(critic.set(condition.support), condition.members)

    def moved(x: Tensor) -> Tensor:
        pad = F.pad(x, (2,) * 4, value=-1.0)
        return torch.stack(
            [p[:, 2 - r : 18 - r, 2 - c : 18 - c] for p, (r, c) in zip(pad, draw["shift"].tolist(), strict=True)]
        )

    x, y = moved(images), moved(made[:, 0])
    if loss == "pairing":
        against, pull = (
            pairing(lambda u: critic(u, judged), x, y, 2.0)[0],
            F.softplus(critic(x, judged) - critic(y, judged)),
        )
    else:
        against = wasserstein(lambda u: critic(u, judged), x, y, draw["mix"], 2.0)[0]
        pull = -critic(y, judged)
    own = torch.autograd.grad(
        (pull + 0.3 * energy_score(images, made)).mean(), list(generator.parameters()), retain_graph=True
    )
    other = torch.autograd.grad(against.mean(), list(critic.parameters()))
    for found, expected in zip(field, [*own, *(rate * slope for slope in other)], strict=True):
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", ["pairing", "wasserstein"])
@pytest.mark.parametrize("every", [2, 3, 7])
def test_a_penalty_on_some_of_the_pairs_is_on_average_that_on_all_of_them(loss: str, every: int) -> None:
    """Over the pairs where it can begin, in float64; also where there are fewer pairs than that."""
    (condition, images), whole = _batch(), _gan(loss=loss, penalty=2.0)
    network = _network(whole)
    module = network.module.double()
    condition, images = Condition(condition.support.double(), condition.members.double()), images.double()
    drawn = whole.draw(len(images), torch_generator("draw"))
    draw = {name: value.double() if value.is_floating_point() else value for name, value in drawn.items()}

    def field(gan: Gan, draw: Draw) -> Tensor:
        slopes = torch.autograd.grad(gan.losses(module, condition, images, draw).mean(), list(module.parameters()))
        return torch.cat([slope.flatten() for slope in slopes])

    some = _gan(loss=loss, penalty=2.0, penalty_every=every)
    each = [draw | {"bears": (torch.arange(len(images)) + begin) % every == 0} for begin in range(every)]
    assert torch.allclose(torch.stack([field(some, one) for one in each]).mean(0), field(whole, draw), rtol=1e-9)


def test_every_so_many_pairs_bear_the_penalty_from_any_one_on() -> None:
    gan = _gan(penalty_every=3)
    seen = {tuple(gan.draw(7, torch_generator(seed))["bears"].tolist()) for seed in range(30)}
    assert seen == {tuple((pair + begin) % 3 == 0 for pair in range(7)) for begin in range(3)}


@pytest.mark.parametrize("loss", ["pairing", "wasserstein"])
def test_the_value_is_the_energy_score_with_and_without_a_gradient(loss: str) -> None:
    gan = _gan(loss=loss)
    network, (condition, images) = _network(gan), _batch()
    draw = gan.draw(len(images), torch_generator("draw"))
    value = gan.losses(network.module, condition, images, draw)
    with torch.no_grad():
        assert torch.equal(gan.losses(network.module, condition, images, draw), value)
        for parameter in network.module.critic.parameters():
            parameter.mul_(3)
    assert torch.equal(gan.losses(network.module, condition, images, draw), value)
    assert value.dtype == torch.float32


AUGMENT = {"translate": 0.1, "scale": 0.2, "shear": 0.2, "elastic": 0.05, "stroke": 0.5}


@pytest.mark.parametrize("name", sorted(AUGMENT))
def test_the_critic_sees_real_and_generated_images_altered_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every alteration; and the generator's gradient goes back through it."""
    gan, plain = _gan(augment={name: AUGMENT[name]}, energy=0.0, penalty=0.0), _gan()
    (condition, images), network = _batch(), _network(gan)
    draw = gan.draw(len(images), torch_generator("draw"))
    made = torch.tanh(torch.randn(images.shape, generator=torch_generator("made"))).requires_grad_()
    assert not torch.equal(gan._shown(images, draw), images)
    assert torch.equal(plain._shown(images, plain.draw(len(images), torch_generator("draw"))), images)
    seen: list[Tensor] = []

    def recording(scores: Any, real: Tensor, fake: Tensor, penalty: float) -> Any:
        seen.extend((real, fake))
        return pairing(scores, real, fake, penalty)

    monkeypatch.setattr("metagen.generators.gan.pairing", recording)
    monkeypatch.setattr(gan, "_generated", lambda *_: torch.stack([made, made], dim=1))
    losses = gan.losses(network.module, condition, made.detach(), draw)
    assert torch.equal(seen[0], seen[1]), "the same image, real and generated, is seen as the same"
    (slope,) = torch.autograd.grad(losses.sum(), made)
    assert torch.isfinite(slope).all()
    assert slope.any()


def test_a_loss_and_a_score_do_not_depend_on_what_else_is_in_the_batch() -> None:
    gan = _gan(translate=1, augment=AUGMENT, penalty_every=2)
    network, (condition, images) = _network(gan), _batch()
    draw = gan.draw(len(images), torch_generator("draw"))
    together = [f(network.module, condition, images, draw) for f in (gan.losses, gan.scores)]
    for image in range(len(images)):
        alone = Condition(condition.support, condition.members[image // QUERIES][None])
        part = {name: value[image : image + 1] for name, value in draw.items()}
        for whole, f in zip(together, (gan.losses, gan.scores), strict=True):
            found = f(network.module, alone, images[image : image + 1], part)
            assert torch.allclose(found, whole[image : image + 1], rtol=1e-4)


@pytest.mark.parametrize("rate", [1.0, 4.0])
def test_a_step_moves_the_critic_critic_rate_times_as_far(rate: float) -> None:
    """What it computes at the start is the same; a sign step of 0.01 moves its effective weights by 0.01 * rate."""
    gan, plain = _gan(critic_rate=rate), _gan()
    network, reference = (FlatNetwork(work.initialised(g, 0), torch.device("cpu"), torch.float32) for g in (gan, plain))
    condition, images = _batch()
    draw = gan.draw(len(images), torch_generator("draw"))

    def field(g: Gan, n: FlatNetwork) -> Tensor:
        return n.gradient(g.losses(n.module, condition, images, draw).mean())

    gradient, expected = field(gan, network), field(plain, reference)
    share = torch.ones_like(gradient)
    share[sum(p.numel() for p in network.module.generator.parameters()) :] = rate
    assert torch.allclose(gradient, share * expected, rtol=1e-3, atol=1e-6)
    step = 0.01 * Sign()({}, gradient, 0, network.layers)
    moved = share * (network.initial - step) - reference.initial
    assert torch.allclose(moved, -share * step, atol=1e-6)


@pytest.mark.parametrize("loss", ["pairing", "wasserstein"])
def test_bf16_is_near_fp32(loss: str) -> None:
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        gan = _gan(loss=loss, penalty=2.0)
        network, (condition, images) = _network(gan, dtype), _batch()
        draw = gan.draw(len(images), torch_generator("draw"))
        gradients.append(network.gradient(gan.losses(network.module, condition, images, draw).mean()))
    exact, rounded = gradients
    split = sum(p.numel() for p in _network(_gan()).module.generator.parameters())
    for part in (slice(0, split), slice(split, None)):
        assert float((rounded[part] - exact[part]).norm() / exact[part].norm()) < 0.05


CHOICES = [
    {},
    {"normalisation": "none", "activation": "leaky_relu"},
    {"normalisation": "layer", "activation": "tanh", "connectivity": "plain"},
    {"connectivity": "dense", "resampling": "pool", "patch": 1},
    {"attention": True},
    {"set_conditioning": "vector", "blocks": 2},
    {"set_conditioning": "none", "activation": "gelu"},
    {"widths": [16, 24], "patch": 2, "kernel": 5},
]


@pytest.mark.parametrize("loss", ["pairing", "wasserstein"])
@pytest.mark.parametrize("arch", CHOICES, ids=lambda v: "-".join(f"{k}={x}" for k, x in v.items()) or "base")
def test_every_choice_builds_and_every_parameter_of_both_players_learns(arch: dict[str, Any], loss: str) -> None:
    gan = _gan(arch, loss=loss)
    network, (condition, images) = _network(gan), _batch()
    draw = gan.draw(len(images), torch_generator("draw"))
    gradient = network.gradient(gan.losses(network.module, condition, images, draw).mean())
    assert torch.isfinite(gradient).all()
    silent = [name for name, part in network.layout.unflatten(gradient).items() if not part.any()]
    assert not silent, "parameters that the loss does not depend on"
    made = gan.sample(network.module, condition, 3, torch_generator("sample"))
    assert made.shape == (TASKS, 3, 1, 16, 16)
    assert made.abs().max() <= 1


# What it makes


def test_the_score_is_the_energy_score_of_so_many_generated_images() -> None:
    gan = _gan()
    network, (condition, images) = _network(gan), _batch()
    draw = gan.draw(len(images), torch_generator("draw"))
    assert draw["latent"].shape == (len(images), SCORED, 6)
    context = pool(network.module.generator.encode(condition.support), condition.members)
    with torch.no_grad():
        made = network.module.generator(draw["latent"].flatten(0, 1), context).unflatten(0, (len(images), SCORED))
    assert torch.allclose(gan.scores(network.module, condition, images, draw), energy_score(images, made), rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["vector", "spatial"])
def test_what_is_made_depends_on_the_set_and_on_the_latent(conditioning: str) -> None:
    gan = _gan({"set_conditioning": conditioning})
    network, (condition, _) = _network(gan), _batch()
    here = gan.sample(network.module, condition, 2, torch_generator("sample"))
    there = gan.sample(
        network.module, Condition(condition.support.flip(0), condition.members), 2, torch_generator("sample")
    )
    assert torch.equal(here, gan.sample(network.module, condition, 2, torch_generator("sample")))
    assert not torch.allclose(here, there, rtol=1e-3)
    assert not torch.allclose(here[:, 0], here[:, 1], rtol=1e-3)


@pytest.mark.parametrize("estimator", ["joint", "fomaml", "reptile"])
def test_first_order_estimators_train_it(estimator: str, tiny_config: Any, run_to_end: Any) -> None:
    config = tiny_config(
        "generator.family=gan",
        "generator.options={latent: 8}",
        f"phases=[{{estimator: {estimator}, steps: 2, items: 1, tasks: 1}}]",
    )
    state, reports = run_to_end(config)
    assert all(torch.isfinite(torch.tensor(report.loss)) for report in reports)
    assert state.version == 2


def test_a_gan_says_that_its_gradient_is_a_field() -> None:
    assert "two players" in Gan.first_order_only
