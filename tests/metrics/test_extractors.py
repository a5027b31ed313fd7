from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metagen import tasks
from metagen.errors import UserError
from metagen.metrics import REGISTRY, extractor_of
from metagen.metrics.classifier import FEATURES, WEIGHTS
from metagen.metrics.recognition import recognisability
from metagen.seeding import torch_generator
from metagen.tasks.config import DataConfig
from metagen.tasks.episodes import to_float

ROOT = Path(__file__).parent.parent.parent


class Mean:
    """A user's own extractor."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


@pytest.mark.parametrize("name", list(REGISTRY))
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 40)])
def test_features_are_of_each_image_alone_in_any_form(name: str, channels: int, size: int) -> None:
    images = torch.rand(5, channels, size, size, generator=torch_generator("images")) * 2 - 1
    extract = extractor_of(name)
    features = extract(images)
    assert features.dtype == torch.float32
    assert torch.allclose(extract(images[3:4]), features[3:4], atol=1e-5)
    assert (features.std(0) > 0).any()


def test_an_own_extractor_is_found_by_its_name_and_a_misspelt_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    assert extractor_of("test_extractors:Mean")(torch.ones(2, 3, 4, 4)).shape == (2, 3)
    with pytest.raises(UserError, match="unknown extractor 'stroks'; did you mean 'strokes'"):
        extractor_of("stroks")


def test_the_packaged_network_recognises_classes_that_it_never_saw_as_its_record_says() -> None:
    """On the committed figure's own measure, and better than pixels."""
    record = json.loads((ROOT / "benchmarks" / "results" / "feature_classifier.json").read_text())
    images = tasks.load(DataConfig())
    extract = extractor_of("strokes")
    parts = [to_float(images.class_images(int(index))) for index in images.members("test")]
    both = [features.split(1) for features in extract(torch.cat(parts)).split([len(part) for part in parts])]
    halves = [(torch.cat(x[0::2]), torch.cat(x[1::2])) for x in both]
    share = float(np.mean(recognisability([x for x, _ in halves], [y for _, y in halves])))
    unseen = record["unseen_classes"]["pictograms"]
    assert share == pytest.approx(unseen["strokes"]["share"], abs=0.01)
    assert share > unseen["pyramid"]["share"]
    size = (ROOT / "metagen" / "metrics" / "data" / WEIGHTS).stat().st_size
    assert size == record["bytes"] < 2_000_000


def test_features_have_the_length_that_makes_kids_kernel_a_cosine() -> None:
    features = extractor_of("strokes")(torch.rand(4, 1, 28, 28, generator=torch_generator("images")))
    assert torch.allclose(features.square().sum(1), torch.full((4,), float(FEATURES)), rtol=1e-4)
