"""What every generator family must be, whatever it computes; a new entry of the registry is tested as it stands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from metagen import paths
from metagen.adapt import Inner, adapt
from metagen.algorithms.query import Query
from metagen.checkpoint import load_checkpoint, save_checkpoint
from metagen.errors import UserError
from metagen.evaluate import Bench, choose_classes, method_of
from metagen.generators import REGISTRY, ArchitectureConfig, Condition, Family
from metagen.policies import Run
from metagen.policies.fixed import Fixed, FixedOptions
from metagen.problem import Look
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode

FAMILIES = sorted(REGISTRY)
FIELDS: dict[str, list[Any]] = {
    "network": ["mlp"],
    "patch": [1, 2, 4],
    "widths": [[32], [24, 40], [16, 32, 64]],
    "blocks": [2],
    "kernel": [1, 3, 5, 7],
    "activation": ["relu", "silu", "gelu", "leaky_relu", "tanh"],
    "normalisation": ["group", "layer", "none"],
    "resampling": ["conv", "pool"],
    "connectivity": ["plain", "residual", "dense"],
    "skips": [True, False],
    "attention": [True, [False, True]],
    "set_conditioning": ["none", "vector", "spatial"],
    "set_width": [2.0],
    "embedding": [8],
}
CHANGES = [f"{name}={str(value).lower()}" for name, values in FIELDS.items() for value in values]


def test_every_field_of_the_architecture_is_tried() -> None:
    assert set(FIELDS) == set(ArchitectureConfig.model_fields)


def _refusal(family_config: Any, family: str, change: str) -> str:
    """What the config says against a choice; nothing if it takes it."""
    try:
        family_config(family, f"generator.architecture.{change}")
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_works_or_is_refused_with_a_reason(family: str, change: str, family_config: Any, case: Any) -> None:
    """Every parameter takes part in the loss, and the choice changes something: what does not is refused."""
    base = case(family)
    name = change.partition("=")[0]
    refusal = _refusal(family_config, family, change)
    if refusal:
        assert f"generator.architecture.{name}" in refusal
        assert f"family {family}" in refusal
        assert "set it to" in refusal
        assert "\n" not in refusal
        return
    changed = case(family, f"generator.architecture.{change}")
    _, gradient = changed.gradient()
    assert torch.isfinite(gradient).all()
    layout = changed.problem.network.layout
    silent = [name for name, part in layout.unflatten(gradient).items() if not part.any()]
    assert not silent, "parameters that the loss does not depend on"
    samples = changed.samples()
    assert samples.shape == (2, 2, 1, 16, 16)
    assert samples.abs().max() <= 1
    before, after = (getattr(c.config.generator.architecture, name) for c in (base, changed))
    if before != after and layout == base.problem.network.layout:
        assert not torch.equal(changed.losses(), base.losses()), "the choice changes nothing"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 28, 32, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_scores_and_samples_of_grey_and_rgb_images(family: str, size: int, channels: int, case: Any) -> None:
    here = case(family, f"data.image_size={size}", f"data.channels={channels}", "generator.architecture.widths=[16]")
    for values in (here.losses(), here.scores()):
        assert values.shape == (4,)
        assert values.dtype == torch.float32
        assert torch.isfinite(values).all()
        assert not values.requires_grad
        assert values.unique().numel() == 4
    samples = here.samples(3)
    assert samples.shape == (2, 3, channels, size, size)
    assert samples.dtype == torch.float32
    assert torch.isfinite(samples).all()
    assert samples.abs().max() <= 1
    assert not samples.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_the_metric_says_what_scores_are(family: str, case: Any) -> None:
    metric = case(family).problem.family.metric
    assert metric == metric.strip() != ""
    assert "\n" not in metric


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_does_not_say_otherwise_is_measured_by_its_losses(family: str, case: Any) -> None:
    here = case(family)
    measured_alike = getattr(type(here.problem.family), "scores", None) is Family.scores
    assert torch.equal(here.scores(), here.losses()) == measured_alike


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_random_is_the_seeds(family: str, case: Any) -> None:
    here, state = case(family), torch.get_rng_state()
    for of in (here.losses, here.scores):
        assert torch.equal(of(seed=1), of(seed=1))
        assert not torch.equal(of(seed=1), of(seed=2))
    assert torch.equal(here.samples(seed=1), here.samples(seed=1))
    assert not torch.equal(here.samples(seed=1), here.samples(seed=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_draw_has_a_row_for_each_loss(family: str, count: int, case: Any) -> None:
    draw = case(family).problem.family.draw(count, torch_generator("draw"))
    assert all(len(values) == count and values.device.type == "cpu" for values in draw.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_several_networks_at_once_give_what_each_gives_alone_or_the_family_says_that_it_cannot(
    family: str, case: Any, family_config: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, rng = case(family), torch_generator("three")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = paths.choose(family_config(family, "phases=[{estimator: reptile, tasks: 4}]", "precision=fp32"))
    if not here.problem.family.batched:
        assert chosen == 1
        return
    looks = [
        Look(here.theta + 0.01 * torch.randn(len(here.theta), generator=rng), here.condition, here.images, draw)
        for draw in (here.problem.family.draw(len(here.images), rng) for _ in range(3))
    ]
    together = dataclasses.replace(here.problem, together=3).gradients(looks)
    for (loss, slope), (one_loss, one) in zip(together, here.problem.gradients(looks), strict=True):
        assert loss == pytest.approx(one_loss, rel=1e-5)
        assert float((slope - one).norm() / one.norm()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_adaptation_is_not_judged_by_noise_that_it_was_fitted_to(family: str, case: Any) -> None:
    """Also where query and support take as many draws, so that one stream would give the same numbers twice."""
    here, rng = case(family), torch_generator("episode")
    pictures = here.images[:3]
    inner = Inner.of(here.problem, Fixed(FixedOptions()), here.theta, pictures)
    query = Query(here.problem, Episode(pictures, pictures, "class", 0), here.problem.draws, rng)
    [look] = inner.looks(here.theta, 0, rng)
    for name, values in look.noise.items():
        if values.is_floating_point():
            assert not torch.isin(values, query.noise[name]).any(), name


@pytest.mark.parametrize("of", ["losses", "scores"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_else_is_in_the_batch_does_not_matter(family: str, of: str, case: Any) -> None:
    here = case(family)
    kind, network, condition = here.problem.family, here.problem.network, here.condition
    network.load(here.theta)
    take, draw = getattr(kind, of), kind.draw(4, torch_generator("draw"))
    with torch.no_grad():
        together = take(network.module, condition, here.images, draw)
        for image in range(4):
            seen = Condition(condition.support, condition.members[image // 2][None])
            single = {name: values[image][None] for name, values in draw.items()}
            alone = take(network.module, seen, here.images[image][None], single)
            assert float(alone) == pytest.approx(float(together[image]), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_support_set_it_still_works(family: str, case: Any) -> None:
    """Also for a set of one image, which in the inner loop has nothing to see but itself."""
    here = case(family)
    empty = dataclasses.replace(
        here, condition=Condition(here.condition.support, torch.zeros_like(here.condition.members))
    )
    single = dataclasses.replace(here, condition=Condition.leave_one_out(here.images[:1]), images=here.images[:1])
    for one in (empty, single):
        loss, gradient = one.gradient()
        assert loss == pytest.approx(float(one.losses().mean()), rel=1e-5)
        assert torch.isfinite(gradient).all()
        assert torch.isfinite(one.scores()).all()
        assert torch.isfinite(one.samples()).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if not getattr(REGISTRY[name], "first_order_only", None)])
def test_the_gradient_matches_finite_differences(family: str, case: Any) -> None:
    """In float64, along random directions. Of two players, each has a loss of its own: ``test_gan.py``."""
    here = case(family, dtype=torch.float64)
    here = dataclasses.replace(here, theta=here.theta.double())
    assert here.losses().dtype == torch.float64
    _, gradient = here.gradient()
    for seed in range(3):
        along = torch.randn(len(gradient), generator=torch_generator("direction", seed), dtype=torch.float64)
        above, below = (
            float(dataclasses.replace(here, theta=here.theta + h * along).losses().mean()) for h in (1e-6, -1e-6)
        )
        assert float(gradient.double() @ along) == pytest.approx((above - below) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_is_near_fp32(family: str, case: Any) -> None:
    full, half = case(family), case(family, dtype=torch.bfloat16)
    assert half.losses().dtype == torch.float32
    assert float(half.losses().mean()) == pytest.approx(float(full.losses().mean()), rel=0.05)
    slope, rough = full.gradient()[1], half.gradient()[1]
    assert float(torch.cosine_similarity(slope, rough, dim=0)) > 0.95
    assert torch.isfinite(half.samples()).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_adapting_lower_the_score(
    family: str, family_config: Any, run_to_end: Any, new_learner: Any, tiny_images: Any
) -> None:
    config = family_config(
        family,
        "phases=[{estimator: joint, steps: 30, items: 1, tasks: 8, "
        "outer: {optimizer: adam, learning_rate: 3.0e-3, warmup: 0, schedule: linear}}]",
        "ema=0",
    )
    learner, parts = new_learner(config)
    state, _ = run_to_end(config)
    bench = Bench(tiny_images, choose_classes(tiny_images, "train", 3, 4, seed=0)[0], shots=3, seed=0)

    def score(theta: torch.Tensor) -> float:
        class_scores = []
        for index in bench.classes:
            episode = bench.episode(index)
            condition = Condition.of_tasks(episode.support[None])
            scores = parts.problem.scores(theta, condition, episode.query, torch_generator("bank"))
            class_scores.append(float(scores.mean()))
        return sum(class_scores) / len(class_scores)

    assert score(state.mean) < score(learner.state.theta)
    support = bench.episode(bench.classes[0]).support
    policy = Fixed(FixedOptions(rule="adam", step_size=1e-3))
    run, rng = Run(torch.zeros(0), parts.problem.network.layers), torch_generator("adapt")
    losses = [step.support_loss for step in adapt(parts.problem, state.mean, support, policy, run, 40, rng)][1:]
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_weights_score_and_draw_alike(family: str, family_config: Any, new_learner: Any, tmp_path: Path) -> None:
    learner, parts = new_learner(family_config(family, "ema=0"))
    save_checkpoint(tmp_path / "c", learner.config, learner.layout, learner.state)
    loaded = method_of(load_checkpoint(tmp_path / "c"))
    images = torch.rand(2, 1, 16, 16, generator=torch_generator("images")) * 2 - 1
    condition = Condition.of_tasks(images[None])

    def outcome(problem: Any, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = problem.scores(theta, condition, images, torch_generator("draw"))
        return scores, problem.family.sample(problem.network.module, condition, 2, torch_generator("sample"))

    for saved, kept in zip(
        outcome(loaded.problem, loaded.theta), outcome(parts.problem, learner.state.theta), strict=True
    ):
        assert torch.equal(saved, kept)


@pytest.mark.ray
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_on_ray_equals_the_serial_run_bit_for_bit(
    family: str, on_ray: Any, family_config: Any, run_to_end: Any, assert_same_state: Any
) -> None:
    config = family_config(family, "phases.0.steps=2", "phases.1.steps=1")
    serial, _ = run_to_end(config)
    parallel, _ = run_to_end(config, on_ray(2))
    assert_same_state(parallel, serial)
