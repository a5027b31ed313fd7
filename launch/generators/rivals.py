"""Whom ``metagen evaluate`` compares the meta-trained method with."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from metagen.checkpoint import Checkpoint, load_checkpoint
from metagen.errors import UserError
from metagen.evaluate import MIN_QUERIES, Bench, Method, choose_classes, method_of
from metagen.tasks.imageset import ImageSet

TUNING_CLASSES = 8


@dataclass(frozen=True)
class Rival:
    """What the meta-trained method is compared with: a starting point, fine-tuned by Adam tuned on ``tuning``."""

    name: str
    start: Method
    tuning: Bench


def rivals_of(
    meta: Method, saved: Checkpoint, joint: Path | None, own: ImageSet, other: ImageSet | None, shots: int, seed: int
) -> list[Rival]:
    """The baselines that there are for a checkpoint: ``own`` images it was trained on, ``other`` it is tested on."""
    # Tuning reads validation classes of the data the model was trained on: what a user has before the new task.
    tuning = _tuning_bench(own, shots, seed)
    rivals = [Rival("finetune", meta, tuning)]
    if other is not None and len(other.members("valid", shots + MIN_QUERIES)):
        # And what fine-tuning could do at best: tuned on validation classes of the very data set tested on.
        rivals.append(Rival("finetune_oracle", meta, _tuning_bench(other, shots, seed)))
    baseline = _joint(joint, saved, meta)
    if baseline is not None:
        rivals.append(Rival("joint", baseline, tuning))
    return rivals


def _tuning_bench(images: ImageSet, shots: int, seed: int) -> Bench:
    """Validation classes; raises ``UserError`` if there are none."""
    if not len(images.members("valid", shots + MIN_QUERIES)):
        raise UserError(
            f"{images.name}: no validation class with {shots + MIN_QUERIES} images ({shots} shots and {MIN_QUERIES} to "
            "test on) to tune the baseline's step size on: put some classes into the split valid, give their "
            "classes more images, or take fewer --shots"
        )
    return Bench(images, choose_classes(images, "valid", shots, TUNING_CLASSES, seed)[0], shots, seed)


def _joint(path: Path | None, saved: Checkpoint, meta: Method) -> Method | None:
    """The unconditioned baseline: the one asked for, else the packaged one if it fits the data and the metric."""

    def form(checkpoint: Checkpoint) -> tuple[int, int]:
        return checkpoint.config.data.image_size, checkpoint.config.data.channels

    metric = meta.problem.family.metric
    if path is not None:
        joint = load_checkpoint(path)
        if form(joint) != form(saved):
            raise UserError(
                f"{path}: draws images of (size, channels) {form(joint)}, the checkpoint to evaluate {form(saved)}: "
                "train the baseline on images of the same form"
            )
        method = method_of(joint)
        if method.problem.family.metric != metric:
            raise UserError(
                f"{path}: is measured in {method.problem.family.metric}, the checkpoint to evaluate in {metric}, and "
                "the two do not compare: train the baseline with the same generator.family and options"
            )
        if (seen := joint.config.generator.architecture.set_conditioning) != "none":
            raise UserError(
                f"{path}: is no unconditioned baseline (generator.architecture.set_conditioning is {seen}): train one "
                "with none"
            )
        return method
    with resources.as_file(resources.files("launch") / "baselines" / "joint") as packaged:
        joint = load_checkpoint(packaged)
    if (joint.config.data.source, *form(joint)) != (saved.config.data.source, *form(saved)):
        print("note: the packaged joint baseline was trained on other data: give yours with --joint", file=sys.stderr)
        return None
    method = method_of(joint)
    if method.problem.family.metric != metric:
        print(
            f"note: the packaged joint baseline is of family '{joint.config.generator.family}' and measured in "
            f"{method.problem.family.metric}, not {metric}: give yours with --joint",
            file=sys.stderr,
        )
        return None
    return method
