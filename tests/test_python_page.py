"""The page about Python runs as it stands, as one script, on a tiny config in the place of the preset."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from PIL import Image

from metagen.tasks import ImageSet

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
SHORT = '"phases.0.steps=2", "categories.most=3"'
"""Changes of the config: a short run, which sorts tasks as that of the preset ``policy`` does."""
CHECKS = """
assert made.shape == (8, 1, 16, 16)
assert learned.shape == adam.shape
assert len(result.gradient) == len(parameters) == learner.layout.size
assert len(gradient) == problem.network.layout.size
assert not theta.equal(problem.network.initial)
assert family.sample(problem.network.module, condition, 2, rng).shape == (1, 2, 1, 16, 16)
"""


def test_the_blocks_run_one_after_the_other(tiny_yaml: Path, tiny_images: ImageSet, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    text = "".join(blocks).replace('"quickstart"', repr(str(tiny_yaml)))
    text = text.replace('"phases.0.steps=100"', SHORT) + CHECKS
    (tmp_path / "page.py").write_text(text)
    (tmp_path / "my_images").mkdir()
    for number, image in enumerate(tiny_images.class_images(0)[:5]):
        Image.fromarray(image[0]).save(tmp_path / "my_images" / f"{number}.png")
    done = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.format == "PNG"
