from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launch.preset import load_config, presets
from metagen.config import PhaseConfig, RunConfig
from metagen.errors import UserError
from metagen.values import override, read_yaml


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsiode": {}}, "epsiode: unknown key; did you mean 'episode'?"),
        ({"episode": {"shot": 1}}, "episode.shot: unknown key; did you mean 'shots'?"),
        ({"phases": [{"stepz": 1}]}, "phases.0.stepz: unknown key; did you mean 'steps'?"),
        (
            {"phases": [{}, {"outer": {"learning_rat": 1}}]},
            "phases.1.outer.learning_rat: unknown key; did you mean 'learning_rate'?",
        ),
        ({"generator": {"architecture": {"width": [8]}}}, "generator.architecture.width: unknown key; did you mean"),
        ({"shots": 3}, "shots: unknown key; did you mean 'episode.shots'?"),
        ({"steps": 3}, "steps: unknown key; did you mean 'phases.0.steps'?"),
        ({"actors": 3}, "actors: unknown key; did you mean 'pool.actors' or 'pool.others.0.actors'?"),
        (
            {"generator": {"widths": [8]}},
            "generator.widths: unknown key; did you mean 'generator.architecture.widths'?",
        ),
        (
            {"phases": [{}, {"learning_rate": 1}]},
            "phases.1.learning_rate: unknown key; did you mean 'phases.1.outer.learning_rate'?",
        ),
        ({"pool": {"qqq": 1}}, "pool.qqq: unknown key; known: actors, address,"),
        ({"policy": {"options": {"horizn": 3}}}, "horizn: unknown key; did you mean 'horizon'?"),
        (
            {"phases": [{"estimator": "fomaml", "options": {"query": {}}}]},
            "query: unknown key; did you mean 'query_at'?",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.parse(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "many"}, "seed: "),
        ({"seed": -1}, "seed: "),
        ({"seed": None}, "seed: "),
        ({"seed": 1.5}, "seed: "),
        ({"episode": 5}, "episode: "),
        ({"episode": {"shots": 0}}, "episode.shots: "),
        ({"phases": "joint"}, "phases: "),
        ({"phases": []}, "phases: at least one"),
        ({"phases": [{"steps": 0}]}, "phases.0.steps: "),
        ({"phases": [{"shift": 1.5}]}, "phases.0.shift: "),
        ({"phases": [{"outer": {"optimizer": "adm"}}]}, "phases.0.outer.optimizer: "),
        ({"precision": "fp16"}, "precision: "),
        ({"device": "tpu"}, "device: 'tpu' is not a device"),
        ({"device": "cuda:x"}, "device: 'cuda:x' is not a device"),
        ({"ema": 1.0}, "ema: "),
        ({"pool": {"kind": "threads"}}, "pool.kind: "),
        ({"data": {"channels": 2}}, "data.channels: "),
        ({"data": {"image_size": 30}}, "image_size 30 is not a multiple of 4"),
        ({"data": {"source": "foldr", "path": "x"}}, "unknown source 'foldr'; did you mean 'folder'?"),
        (
            {"data": {"source": "mixture", "parts": [{"source": "omniglott"}]}},
            "unknown source 'omniglott'; did you mean",
        ),
        ({"generator": {"family": "flw"}}, "unknown family 'flw'; did you mean 'flow'?"),
        ({"generator": {"family": "no_such_package.module:Class"}}, "cannot be imported"),
        ({"policy": {"name": "learned-step"}}, "unknown policy 'learned-step'; did you mean 'learned-steps'?"),
        ({"policy": {"options": {"rule": "adm"}}}, "unknown rule 'adm'; did you mean 'adam'?"),
        ({"policy": {"options": {"horizon": 0}}}, "horizon: "),
        ({"phases": [{"estimator": "fomlm"}]}, "unknown estimator 'fomlm'; did you mean 'fomaml'?"),
        ({"phases": [{"estimator": "fomaml", "options": {"query_at": {"-1": 1}}}]}, "query_at: "),
        ({"phases": [{"estimator": "fomaml", "options": {"query_at": {}}}]}, "query_at: "),
        ({"phases": [{"estimator": "fomaml", "options": {"query_at": {"1": 0}}}]}, "query_at: "),
        ({"phases": [{"estimator": "reptile", "options": {"inner_steps": 0}}]}, "inner_steps: "),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.parse(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_of_a_source_of_ones_own_is_read_where_that_is_not_installed() -> None:
    assert RunConfig.parse({"data": {"source": "no_such_package:images"}}).data.source == "no_such_package:images"


def test_an_unknown_rule_of_the_fixed_policy_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown rule 'adm'; did you mean 'adam'"):
        RunConfig.parse({"policy": {"name": "fixed", "options": {"rule": "adm"}}})


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("generator.architecture.widths=64", "generator.architecture.widths: a list, such as [64], is needed (got 64)"),
        ("generator.architecture.widths={a: 1}", "generator.architecture.widths: a list, such as [64, 128], is needed"),
        ("policy.adapt=[]", "policy.adapt: a list of at least 1, such as ['*'], is needed (got [])"),
        ("phases=3", "phases: a list, such as [{estimator: joint}], is needed (got 3)"),
        ("phases=[3]", "phases.0: a mapping, such as {estimator: joint}, is needed (got 3)"),
        ("episode=3", "episode: a mapping, such as {shots: 5}, is needed (got 3)"),
        ("policy.options=3", "policy.options: a mapping, such as {key: value}, is needed (got 3)"),
        ("seed=1.5", "seed: a whole number is needed (got 1.5)"),
        ("seed=-1", "seed: a number of at least 0 is needed (got -1)"),
        ("ema=1.0", "ema: a number below 1 is needed (got 1.0)"),
        ("device=3", "device: text is needed (got 3)"),
        ("mode=x", "mode: 'sync' or 'async' is needed (got 'x')"),
        ("together=x", "together: a whole number, or 'auto' is needed (got 'x')"),
        ("categories.found={mean: [], scale: []}", "categories.found.centroids: a value is needed"),
    ],
)
def test_a_wrong_value_is_told_what_is_needed_in_the_words_of_yaml(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.parse(override({}, [assignment]))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("assignment", "list_of"),
    [
        ("phases.0.steps=3", "phases=[{estimator: joint}]"),
        ("data.parts.0.weight=2", "data.parts=[{source: ...}]"),
        ("generator.architecture.widths.0=32", "generator.architecture.widths=[32]"),
    ],
)
def test_an_entry_of_a_list_that_the_file_leaves_out_cannot_be_changed(assignment: str, list_of: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.parse(override({}, [assignment]))
    key = list_of.partition("=")[0]
    told = f"{key}: there is no list with entries of these numbers: write it whole, such as '{list_of}'"
    assert str(caught.value) == told


def test_a_mapping_with_numbers_where_a_list_is_wanted_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^phases: there is no list .* such as 'phases=\[\{estimator: joint\}\]'$"):
        RunConfig.parse({"phases": {0: {"steps": 5}}})


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(UserError, match=r"episode\.shots: .*; sed: unknown key"):
        RunConfig.parse({"sed": 1, "episode": {"shots": "x"}})


def test_a_config_is_frozen() -> None:
    config = RunConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize("preset", sorted(presets()))
def test_yaml_round_trip_of_every_preset(preset: str, tmp_path: Path) -> None:
    config = load_config(preset, [], None, None)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = RunConfig.parse(read_yaml(path))
    assert again == config
    assert again.identity == config.identity
    assert again.to_yaml() == config.to_yaml()


def test_keys_that_are_numbers_survive_the_round_trip(tmp_path: Path) -> None:
    fomaml = {"estimator": "fomaml", "options": {"query_at": {0: 1.0, 5: 1.0, 10: 2.0}}}
    config = RunConfig.parse({"phases": [fomaml]})
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    again = RunConfig.parse(read_yaml(path))
    assert again.identity == config.identity
    assert RunConfig.parse(config.model_dump(mode="json")).identity == config.identity


@pytest.mark.parametrize(
    ("assignment", "changes"),
    [
        ("name=other", False),
        ("log.checkpoint_every=7", False),
        ("pool.kind=ray", False),
        ("pool.actors=3", False),
        ("seed=4", True),
        ("ema=0.25", True),
        ("precision=bf16", True),
        ("phases.0.steps=4", True),
        ("phases.1.outer.clip=2.0", True),
        ("policy.options.horizon=3", True),
        ("data.polarity=invert", True),
    ],
)
def test_the_identity_changes_with_all_that_changes_a_result_and_nothing_else(
    assignment: str, changes: bool, tiny_config: Any
) -> None:
    assert (tiny_config(assignment).identity != tiny_config().identity) == changes


def test_phases_follow_one_another(tiny_config: Any) -> None:
    config = tiny_config()
    assert [config.phase_at(step) for step in range(config.steps)] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    with pytest.raises(IndexError):
        config.phase_at(config.steps)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=6), st.integers(1, 5000))
@example([45, 45, 4, 3, 3], 5)
def test_with_steps_scales_every_phase_and_keeps_at_least_one_step_of_each(lengths: list[int], steps: int) -> None:
    config = RunConfig(phases=tuple(PhaseConfig(steps=length) for length in lengths))
    if steps < len(lengths):
        with pytest.raises(UserError, match=f"steps: {steps} is too few"):
            config.with_steps(steps)
        return
    scaled = config.with_steps(steps)
    counts = [phase.steps for phase in scaled.phases]
    assert scaled.steps == sum(counts) == steps
    assert min(counts) >= 1
    assert all(phase.outer.warmup <= phase.steps // 10 for phase in scaled.phases)
    exact = [length * steps / sum(lengths) for length in lengths]
    assert all(abs(count - share) <= len(lengths) for count, share in zip(counts, exact, strict=True))


def test_with_steps_as_they_are_changes_nothing_but_a_warmup_too_long_to_be_one() -> None:
    config = RunConfig(phases=(PhaseConfig(steps=600), PhaseConfig(steps=600, estimator="reptile")))
    assert config.with_steps(1200) == config


def test_set_reaches_keys_lists_and_new_mappings() -> None:
    values = {"seed": 0, "phases": [{"steps": 1}, {"steps": 2}], "data": {"path": None}}
    changed = override(
        values,
        ["seed=5", "phases.1.steps=7", "phases.0.outer.clip=0.5", "data.path=a=b", "name=", "x.y.z=[1, two]", "e=1e-3"],
    )
    assert changed == {
        "seed": 5,
        "phases": [{"steps": 1, "outer": {"clip": 0.5}}, {"steps": 7}],
        "data": {"path": "a=b"},
        "name": None,
        "x": {"y": {"z": [1, "two"]}},
        "e": "1e-3",
    }
    assert values == {"seed": 0, "phases": [{"steps": 1}, {"steps": 2}], "data": {"path": None}}


def test_a_float_without_a_dot_is_still_a_float() -> None:
    config = RunConfig.parse(override({}, ["policy.options.step_size=1e-3", "phases=[{outer: {learning_rate: 1e-2}}]"]))
    assert config.phases[0].outer.learning_rate == 0.01


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed", "write key=value"),
        ("=3", "write key=value"),
        ("phases.two.steps=3", "'two' is not an index below 1"),
        ("phases.1.steps=3", "'1' is not an index below 1"),
        ("phases.-1.steps=3", "'-1' is not an index below 1"),
        ("seed.inner=3", "'seed' has no keys of its own"),
        ("seed=[1, 2", "the value is not valid YAML"),
        ("seed=!!python/object/apply:os.getcwd []", "the value is not valid YAML"),
    ],
)
def test_a_set_that_leads_nowhere_says_why(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override({"seed": 0, "phases": [{}]}, [assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1, 2", "not valid YAML"),
        ("- 1\n- 2\n", "expected keys and values"),
        ("", "expected keys and values"),
        ("just words", "expected keys and values"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_one_line_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml: cannot be read"):
        read_yaml(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x9c")
    with pytest.raises(UserError, match=r"binary\.yaml: not valid YAML"):
        read_yaml(tmp_path / "binary.yaml")


@pytest.mark.parametrize("text", ["seed: 2024-01-01", "2024-01-01: 1", "phases: &a [*a]", "{seed: 1, ? [a] : 2}"])
def test_yaml_that_is_no_plain_value_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(path), [], None, None)
    assert "\n" not in str(caught.value)


def test_a_name_that_looks_like_a_date_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: 2024-01-01")
    assert load_config(str(path), [], None, None).name == "2024-01-01"
