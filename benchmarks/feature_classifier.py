"""Train the features that sample metrics compare images by, put them into the package, and say how good they are.

    python benchmarks/feature_classifier.py [--epochs 14] [--seed 0]

Trains ``StrokeNet`` to tell the classes of the packaged set's train split apart, each image altered a little by itself,
and writes metagen/metrics/data/strokes.safetensors and results/feature_classifier.json: how often it names the class of
images of those classes that it did not see, and how often the nearest class mean in its features is right among
classes it never saw (test split; with --omniglot, Omniglot's evaluation alphabets), beside the same in pixels.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from environment import write
from safetensors.torch import save_file
from torch import Tensor, nn

from metagen import tasks
from metagen.metrics import extractor_of
from metagen.metrics.classifier import FEATURES, WEIGHTS, StrokeNet
from metagen.metrics.extractor import Extractor
from metagen.metrics.recognition import recognisability
from metagen.pool import one_thread
from metagen.seeding import seed_for, torch_generator
from metagen.tasks.augment import AugmentConfig, altered
from metagen.tasks.config import DataConfig
from metagen.tasks.episodes import to_float
from metagen.tasks.imageset import ImageSet

TARGET = Path(__file__).parent.parent / "metagen" / "metrics" / "data" / WEIGHTS
HELD_OUT, BATCH, RATE, DECAY, SMOOTHING, SHARPNESS = 2, 128, 4e-3, 0.05, 0.1, 16.0
ALTERED = AugmentConfig(translate=0.07, scale=0.12, shear=0.12, elastic=0.03, stroke=0.5)


class Named(nn.Module):
    """The network with a cosine classifier on top, which training needs and nobody else."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features, self.names = StrokeNet(), nn.Parameter(torch.randn(classes, FEATURES))

    def forward(self, images: Tensor) -> Tensor:
        return SHARPNESS * F.normalize(self.features(images)) @ F.normalize(self.names).T


def labelled(images: ImageSet, split: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """All images of a split float32 ``[N, 1, H, W]``, their classes from 0 ``[N]``, and which are held out ``[N]``."""
    pictures, labels, out = [], [], []
    for label, index in enumerate(images.members(split)):
        own = to_float(images.class_images(int(index)))
        pictures.append(own)
        labels.append(torch.full((len(own),), label))
        rank = torch.randperm(len(own), generator=torch_generator(seed, "held out", images.classes[index]))
        out.append(rank < HELD_OUT)
    return torch.cat(pictures), torch.cat(labels), torch.cat(out)


def train(images: Tensor, labels: Tensor, epochs: int, seed: int) -> Named:
    """Cross-entropy with smoothed labels, AdamW, one cycle of its rate."""
    torch.manual_seed(seed_for(seed, "feature classifier"))  # nothing else runs in this process
    network = Named(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    rng = torch_generator(seed, "feature classifier", "batches")
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        started, losses = time.monotonic(), []
        for rows in torch.randperm(len(images), generator=rng).split(BATCH)[: len(images) // BATCH]:
            batch = altered(images[rows], ALTERED, rng).to(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(batch).float(), labels[rows], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        print(f"epoch {epoch + 1}/{epochs}: loss {np.mean(losses):.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval()


@torch.no_grad()
def accuracy(network: Named, images: Tensor, labels: Tensor) -> float:
    return float((torch.cat([network(part) for part in images.split(BATCH)]).argmax(1) == labels).double().mean())


def recognition(images: ImageSet, split: str, extract: Extractor) -> dict[str, float]:
    """How often the mean of one half of a class's images is the nearest to images of its other half, of all classes."""
    both = [extract(to_float(images.class_images(int(index)))) for index in images.members(split)]
    found = recognisability([x[0::2] for x in both], [x[1::2] for x in both])
    return {"classes": len(both), "share": float(np.mean(found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--omniglot", type=Path, help="omniglot28.npz or the folder of its zips")
    options = parser.parse_args()
    one_thread()
    packaged = tasks.load(DataConfig())
    images, labels, out = labelled(packaged, "train", options.seed)
    started = time.process_time()
    network = train(images[~out], labels[~out], options.epochs, options.seed)
    seconds = time.process_time() - started
    TARGET.parent.mkdir(exist_ok=True)
    state = network.features.state_dict()
    save_file({name: v.half().contiguous() if v.is_floating_point() else v for name, v in state.items()}, TARGET)
    sets = {"pictograms": packaged}
    if options.omniglot:
        sets["omniglot"] = tasks.load(DataConfig(source="omniglot", path=str(options.omniglot)))
    extractors = {name: extractor_of(name) for name in ("strokes", "pyramid")}
    figures = {
        "seed": options.seed,
        "epochs": options.epochs,
        "processor_seconds": seconds,
        "classes": int(labels.max()) + 1,
        "images": int((~out).sum()),
        "parameters": sum(p.numel() for p in network.features.parameters()),
        "bytes": TARGET.stat().st_size,
        "held_out_images": int(out.sum()),
        "held_out_accuracy": accuracy(network, images[out], labels[out]),
        "unseen_classes": {
            name: {kind: recognition(found, "test", extract) for kind, extract in extractors.items()}
            for name, found in sets.items()
        },
    }
    print(figures)
    print(f"wrote {TARGET} and {write('feature_classifier', figures)}")


if __name__ == "__main__":
    main()
