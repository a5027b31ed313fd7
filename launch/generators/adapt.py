"""``metagen adapt`` and ``metagen sample``."""

from __future__ import annotations

from pathlib import Path

import click

from launch.options import checkpoint_argument


@click.command()
@checkpoint_argument
@click.argument("images_dir", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=0), default=10, show_default=True, help="Inner steps.")
@click.option("--samples", type=click.IntRange(min=1), default=16, show_default=True, help="New images to make.")
@click.option("--out", type=click.Path(path_type=Path), help="[default: NAME-generated here]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def adapt(checkpoint: Path, images_dir: Path, steps: int, samples: int, out: Path | None, seed: int) -> None:
    """Adapt to a handful of your images of one class and make more of them.

    IMAGES_DIR holds images of one class. Writes the new images and grid.png, the old beside the new, by default to a
    folder of its name with -generated, where you are.

    \b
    Example:
      metagen adapt runs/quickstart my_images --samples 32 --out new_images
    """
    from launch.generators.generation import adapt_to_folder

    adapt_to_folder(checkpoint, images_dir, steps, samples, out, seed)


@click.command()
@checkpoint_argument
@click.option("--split", type=click.Choice(["train", "valid", "test", "all"]), default="test", show_default=True)
@click.option("--classes", type=click.IntRange(min=1), default=8, show_default=True, help="Classes to draw.")
@click.option("--samples", type=click.IntRange(min=1), default=10, show_default=True, help="Images of each.")
@click.option("--shots", type=click.IntRange(min=1), help="Images shown of each class.  [default: as trained]")
@click.option("--steps", type=click.IntRange(min=0), default=0, show_default=True, help="Inner steps before drawing.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("samples.png"), show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def sample(
    checkpoint: Path, split: str, classes: int, samples: int, shots: int | None, steps: int, out: Path, seed: int
) -> None:
    """Draw what a checkpoint makes of classes of the data set it was trained on.

    \b
    Example:
      metagen sample runs/quickstart --classes 12 --steps 10 --out unseen.png
    """
    from launch.generators.generation import sample_classes_to_file

    sample_classes_to_file(checkpoint, split, classes, samples, shots, steps, out, seed)
