"""Which benchmarks there are, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metagen.errors import UserError

SCRIPTS = Path(__file__).parent.parent.parent / "benchmarks"
"""Where scripts lie in a checkout. An installed package has none."""


@dataclass(frozen=True)
class Script:
    """A benchmark that is a script of the repository."""

    file: str
    about: str
    seeds: bool = False
    """Whether it takes ``--seeds`` (a list, 0,1,2) and ``--run-dir``."""

    def path(self) -> Path:
        """Where it lies; raises ``UserError`` where there is no checkout."""
        path = SCRIPTS / self.file
        if not path.is_file():
            raise UserError(
                f"benchmarks/{self.file} is not here: it is no part of the installed package. Clone the repository "
                "and 'pip install -e .' in it"
            )
        return path


SCRIPTED: dict[str, Script] = {
    "quickstart": Script("quickstart.py", "What the quickstart takes, and gives on unseen classes."),
    "policy": Script("policy.py", "Learned policies against the best fixed choices.", seeds=True),
    "policy-transfer": Script("policy_transfer.py", "A learned optimiser on networks that are new to it."),
    "scaling": Script("scaling.py", "Ray actors against one process."),
    "inner-loop": Script("inner_loop.py", "The inner loop against other libraries."),
    "second-order": Script("second_order.py", "Time and memory of exact meta-gradients."),
    "commands": Script("commands.py", "How long a user waits for a command."),
    "bandwidth": Script("bandwidth.py", "Results a second over a bounded link, against the model."),
    "families": Script("families.py", "Every generator family after ten minutes of training."),
    "gan-stability": Script("gan_stability.py", "A meta-trained GAN against one from scratch.", seeds=True),
    "sweep": Script("sweep.py", "What a sweep finds, what it costs, and inherited weights."),
    "cluster-start": Script("cluster_start.py", "How long a cluster of three hosts takes."),
}
"""Beside these, ``few-shot`` is in the package (``commands.py``)."""
