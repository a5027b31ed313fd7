from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from metagen.config import RunConfig
from metagen.generators import Family
from metagen.precision import resolve
from metagen.values import read_yaml


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_is_asked_for_is_kept(precision: str, tiny_config: Any) -> None:
    config = tiny_config(f"precision={precision}")
    assert resolve(config) is config


def test_auto_becomes_one_of_the_two_and_changes_nothing_else(tiny_config: Any) -> None:
    config = tiny_config("precision=auto")
    state = torch.get_rng_state()
    resolved = resolve(config)
    assert resolved.precision in ("bf16", "fp32")
    assert resolved.dtype in (torch.bfloat16, torch.float32)
    assert resolved.model_copy(update={"precision": "auto"}) == config
    assert torch.equal(torch.get_rng_state(), state)


class Uncast(Family):
    """As PyTorch users write a network: its input is float32, whatever its weights are."""

    metric = "image error (mean square)"
    batched = False

    def __init__(self, arch: Any, options: None, channels: int, image_size: int) -> None:
        self.channels, self.image_size = channels, image_size

    def build(self) -> nn.Module:
        return nn.Conv2d(self.channels, self.channels, 3, padding=1)

    def draw(self, count: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
        return {}

    def losses(self, network: nn.Module, condition: Any, images: torch.Tensor, draw: Any) -> torch.Tensor:
        return (network(images) - images).square().mean((1, 2, 3))

    def sample(self, network: nn.Module, condition: Any, count: int, rng: torch.Generator) -> torch.Tensor:
        raise NotImplementedError


def test_a_network_that_cannot_compute_in_bf16_computes_in_fp32_and_says_so(
    tiny_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config("precision=auto", f"generator={{family: '{__name__}:Uncast'}}")
    assert resolve(config).precision == "fp32"
    assert "does not compute in bf16" in caplog.text


def test_a_run_writes_down_what_auto_became(tiny_yaml: Path, tmp_path: Path, metagen: Any) -> None:
    """So that a resumed run and every actor compute alike, whatever they would measure."""
    folder = tmp_path / "run"
    assert metagen("train", tiny_yaml, "--steps", 2, "--set", "precision=auto", "--run-dir", folder).code == 0
    assert RunConfig.parse(read_yaml(folder / "config.yaml")).precision in ("bf16", "fp32")
