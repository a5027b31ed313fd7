from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from metagen import paths, work
from metagen.algorithms.fomaml import Fomaml, FomamlOptions
from metagen.algorithms.maml import Maml, MamlOptions
from metagen.algorithms.reptile import Reptile, ReptileOptions
from metagen.policies.steps import LearnedSteps, LearnedStepsOptions
from metagen.precision import resolve
from metagen.problem import Problem
from metagen.seeding import torch_generator
from metagen.tasks.episodes import Episode

NETWORKS = {
    "unet": {"patch": 2, "widths": [16, 16], "embedding": 16},
    "attention": {"patch": 4, "widths": [16], "embedding": 16, "attention": True},
    "mlp": {
        **{"network": "mlp", "patch": 1, "skips": False, "widths": [16, 16], "embedding": 16},
        **{"set_conditioning": "vector", "connectivity": "dense"},
    },
}
ESTIMATORS = {
    "fomaml": Fomaml(FomamlOptions(query_at={0: 1.0, 3: 1.0})),
    "reptile": Reptile(ReptileOptions(inner_steps=3)),
}


def _problem(tiny_config: Any, network: str, precision: str) -> Problem:
    return work.build_problem(
        tiny_config(f"precision={precision}", f"generator.architecture={json.dumps(NETWORKS[network])}")
    )


def _estimate(problem: Problem, estimator: Any, together: int, tasks: int = 5) -> Any:
    problem = replace(problem, together=together)
    rng = torch_generator("episodes")
    pictures = torch.rand(tasks, 5, 1, 16, 16, generator=rng) * 2 - 1
    episodes = [Episode(p[:3], p[3:], f"class{i}", i) for i, p in enumerate(pictures)]
    theta = problem.network.initial + 0.05 * torch.randn(problem.network.layout.size, generator=rng)
    policy = LearnedSteps(LearnedStepsOptions(rule="sgd", step_size=1e-3, horizon=3))
    vector = policy.initial(problem.network.layout)
    noises = [torch_generator("noise", i) for i in range(tasks)]
    return estimator.estimate(problem, theta, policy, vector, episodes, noises)


@pytest.mark.parametrize("network", sorted(NETWORKS))
@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_tasks_at_once_give_what_a_loop_over_them_gives(name: str, network: str, tiny_config: Any) -> None:
    """To a millionth in fp32; 2 and 3 do not divide 5 tasks."""
    problem = _problem(tiny_config, network, "fp32")
    one = _estimate(problem, ESTIMATORS[name], 1)
    for together in (2, 3, 5):
        some = _estimate(problem, ESTIMATORS[name], together)
        assert float((some.gradient - one.gradient).norm() / one.gradient.norm()) < 1e-5
        assert torch.allclose(some.policy_gradient, one.policy_gradient, rtol=1e-3, atol=1e-6)
        for metric, value in one.metrics.items():
            assert some.metrics[metric] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("network", sorted(NETWORKS))
def test_tasks_at_once_in_bf16_are_within_two_percent_of_the_loop(network: str, tiny_config: Any) -> None:
    problem = _problem(tiny_config, network, "bf16")
    one, some = (_estimate(problem, ESTIMATORS["fomaml"], together) for together in (1, 5))
    assert float(torch.cosine_similarity(some.gradient, one.gradient, dim=0)) > 0.98
    assert some.metrics["loss"] == pytest.approx(one.metrics["loss"], rel=0.02)


@pytest.mark.parametrize("by", ["adjoint", "unroll"])
def test_second_derivatives_in_bf16_are_within_three_percent_where_steps_are_linear_in_the_gradient(
    by: str, tiny_config: Any
) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        maml = Maml(MamlOptions(query_at={3: 1.0}, by=by, derivative="network"))
        found.append(_estimate(_problem(tiny_config, "unet", precision), maml, 1, tasks=2).gradient)
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.03


def _several(tiny_config: Any, *assignments: str) -> Any:
    return tiny_config("together=auto", "phases.1.tasks=4", *assignments)


def test_auto_becomes_a_number_and_changes_nothing_else(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = _several(tiny_config)
    resolved = resolve(config)
    assert resolved.together in (1, 4)
    assert resolved.model_copy(update={"together": "auto"}) == config
    assert resolve(resolved) is resolved


def test_the_fastest_is_taken_if_it_gains_and_remembered(
    tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seconds = {1: 1.0, 4: 0.95, 8: 0.5}
    monkeypatch.setattr(paths, "CANDIDATES", (1, 4, 16))
    monkeypatch.setattr(paths, "_seconds", lambda problem, config, count: seconds[count])
    assert paths.choose(_several(tiny_config)) == 1  # a twentieth is not worth its memory
    assert paths.choose(_several(tiny_config, "phases.1.tasks=8")) == 8
    monkeypatch.setattr(paths, "_seconds", lambda *_: pytest.fail("measured again"))
    assert paths.choose(_several(tiny_config, "phases.1.tasks=8")) == 8
    assert paths.choose(tiny_config()) == 1  # one task an item: there is nothing to measure


def test_a_damaged_memory_is_measured_again(tiny_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "metagen").mkdir()
    (tmp_path / "metagen" / "paths.json").write_text('{"half')
    assert paths.choose(_several(tiny_config)) in (1, 4)
    assert json.loads((tmp_path / "metagen" / "paths.json").read_text())


def test_losses_that_cannot_be_computed_at_once_say_what_to_set(tiny_config: Any, monkeypatch: Any) -> None:
    problem = _problem(tiny_config, "unet", "fp32")
    losses = type(problem.family).losses

    def looked_at(self: Any, network: Any, condition: Any, images: Any, draw: Any) -> Any:
        found = losses(self, network, condition, images, draw)
        return found * (1 if found.mean().item() > 0 else 2)

    monkeypatch.setattr(type(problem.family), "losses", looked_at)
    _estimate(problem, ESTIMATORS["fomaml"], together=1)
    with pytest.raises(RuntimeError, match="vmap") as caught:
        _estimate(problem, ESTIMATORS["fomaml"], together=4)
    assert "set 'batched = False' in Flow, or 'together: 1'" in caught.value.__notes__[0]
