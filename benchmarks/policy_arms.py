"""The policies that are compared: what each may learn, and from which tasks. All share a generator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.preset import load_config
from metagen import tasks, work
from metagen.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from metagen.config import RunConfig
from metagen.evaluate import Method, method_of
from metagen.learner import Learner
from metagen.pool import SerialPool
from metagen.state import initial_state
from metagen.tasks.categories import with_found
from metagen.train import train

PRESET = "policy"
PPO = (
    "phases.0.estimator=ppo",
    "phases.0.options={query_at: {5: 1, 10: 1, 20: 1}, rollouts: 2, meta_gradient: false}",
    "phases.0.outer.policy_epochs=4",
    # Rewards say less than slopes: twice the steps and tasks, and larger steps, until there is something to compare.
    "phases.0.steps=32",
    "phases.0.items=4",
    "phases.0.outer.policy_learning_rate=0.03",
)
SIZES = "{adam: 5e-5, sgd: 0.03, momentum: 0.003, sign: 1e-5, muon: 1e-4}"
INVERTED = "[{source: pictograms}, {source: pictograms, polarity: invert, name: inverted, weight: 0.25}]"
AUGMENT = "{translate: 0.05, scale: 0.1, shear: 0.1, elastic: 0.02, stroke: 0.3}"

ARMS: dict[str, tuple[str, ...]] = {
    "recipe": (),
    "steps": ("policy={name: learned-steps, options: {rule: sign, step_size: 8e-5, decay: 2.5, start_weight: 0.1}}",),
    "chosen sizes": (f"policy={{name: stochastic, options: {{step_sizes: {SIZES}, chooses: [size]}}}}", *PPO),
    "chosen rule": (f"policy={{name: stochastic, options: {{step_sizes: {SIZES}, chooses: [rule]}}}}", *PPO),
    "chosen rule and sizes": (f"policy={{name: stochastic, options: {{step_sizes: {SIZES}}}}}", *PPO),
    "learned optimiser": (
        "policy={name: learned-optimiser, options: {step_size: 5e-5}}",
        "phases.0.estimator=es",
        "phases.0.options={query_at: {5: 1, 10: 1, 20: 1}, sigma: 0, policy_sigma: 0.1, pairs: 1}",
        "phases.0.steps=32",
        "phases.0.items=4",
        "phases.0.outer.policy_learning_rate=0.01",
    ),
    "recipe with adam for longer": (
        "policy.options={rule: adam, step_size: 5e-5, decay: 1.5, horizon: 20, start_weight: 0.3, start_novelty: 0.3}",
        "phases.0.steps=40",
        "phases.0.shift=0.75",
    ),
    "recipe untrained": ("phases.0.steps=1", "phases.0.outer.policy_learning_rate=1e-12"),
    "recipe from nothing": (
        *(f"policy.options.{name}=0" for name in ("decay", "start_weight", "start_novelty")),
        "phases.0.outer.policy_learning_rate=0.03",
    ),
    "recipe at a higher rate": ("phases.0.outer.policy_learning_rate=0.06",),
    "recipe without votes": ("phases.0.options.equal_votes=false",),
    "recipe all shifted": ("phases.0.shift=1.0",),
    "recipe without categories": ("categories.most=0",),
    "recipe with balance": ("phases.0.balance=1.0",),
    "recipe without shift": ("phases.0.shift=0.0",),
    "recipe without relocation": ("episode.relocate=false",),
    "recipe with augmentation": (f"phases.0.augment={AUGMENT}",),
    "recipe with mixture": (f"data={{source: mixture, parts: {INVERTED}}}",),
    "recipe with interpolation": ("phases.0.interpolate=0.5",),
}
"""What each changes of the preset's second phase, by name. ``recipe`` and ``steps`` learn step sizes by gradients; what
is chosen is learned from rewards. Without categories there is no novelty either. ``from nothing`` starts with one step
size for all tasks and steps."""


def base_config(seed: int, steps: int | None) -> RunConfig:
    """The generator alone: the preset's first phase."""
    plain = ["policy={name: fixed}", "categories.most=0", "episode.relocate=false"]
    config = load_config(PRESET, plain, None, seed)
    config = config.model_copy(update={"name": "base", "phases": config.phases[:1]})
    return config if steps is None else config.with_steps(steps)


def arm_config(arm: str, base: Checkpoint, steps: int | None) -> RunConfig:
    """The preset's second phase with the changes of ``arm``, on the generator and in the precision of ``base``."""
    second = load_config(PRESET, [], None, None).phases[1]
    phases = f"phases=[{second.model_dump(mode='json')}]"
    return load_config(PRESET, [phases, *ARMS[arm], f"precision={base.config.precision}"], steps, base.config.seed)


def trained(arm: str, base: Path, folder: Path, steps: int | None) -> Method:
    """The generator of ``base`` with the policy of ``arm``, trained on it unless ``folder`` holds it."""
    if not folder.exists():
        start = load_checkpoint(base)
        config = arm_config(arm, start, steps)
        images = tasks.load(config.data)
        config = with_found(config, images)
        parts = work.build(config, images)
        layout = parts.problem.network.layout
        start.fits(layout)
        learner = Learner(config, layout, initial_state(start.state.mean, parts.policy, layout))
        for report in train(learner, SerialPool(parts)):
            print(f"{arm}, seed {config.seed}: step {report.step}/{report.steps}, loss {report.loss:.4f}", flush=True)
        save_checkpoint(folder, config, layout, learner.state)
    method = method_of(load_checkpoint(folder))
    return replace(method, theta=method_of(load_checkpoint(base)).theta)
