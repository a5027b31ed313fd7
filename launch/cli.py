"""The ``metagen`` command. Commands are imported when called: ``--help`` loads neither torch nor ray."""

from __future__ import annotations

import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from metagen import __version__
from metagen.errors import UserError, nearest

COMMANDS = {
    "train": ("launch.training.train:train", "Meta-train a generator from a preset or a config file."),
    "resume": ("launch.training.train:resume", "Continue an interrupted run, bit for bit."),
    "top": ("launch.training.top:top", "Watch a run: steps, losses, actors, faults."),
    "replay": ("launch.training.replay:replay", "Do the work of a non-finite result again."),
    "describe": (
        "launch.generators.describe:describe",
        "Show a config's network, and what it costs, before training it.",
    ),
    "evaluate": ("launch.generators.evaluate:evaluate", "Measure a checkpoint on classes it has never seen."),
    "adapt": ("launch.generators.adapt:adapt", "Adapt to a handful of your images and make more of them."),
    "sample": ("launch.generators.adapt:sample", "Draw what a checkpoint makes of classes of its data set."),
    "policy": ("launch.policies.commands:policy", "Look at what an optimisation policy has learned."),
    "sweep": ("launch.sweeps.commands:sweep", "Search for the best network, and how it is trained."),
    "cluster": ("launch.clusters.commands:cluster", "Start, watch and stop a Ray cluster anywhere."),
    "doctor": ("launch.clusters.doctor:doctor", "Look for what would keep a run from working."),
    "submit": ("launch.jobs.commands:submit", "Train on a cluster."),
    "jobs": ("launch.jobs.commands:jobs", "List, follow and stop the jobs of a cluster."),
    "fetch": ("launch.jobs.commands:fetch", "Bring a run home from a cluster."),
    "tensorboard": ("launch.jobs.commands:tensorboard", "TensorBoard of a run on a cluster."),
    "benchmark": ("launch.benchmarks.commands:benchmark", "Measure what metagen does, against what it must beat."),
    "tasks": ("launch.tasks.commands:tasks", "List, show and sort the image sets that tasks are drawn from."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell that completes wants no error
                return None
            raise click.UsageError(f"no such command '{cmd_name}'{nearest(cmd_name, COMMANDS)}", ctx)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="metagen")
def metagen() -> None:
    """Meta-train image generators: actors adapt, a central learner learns.

    \b
    Start here:
      metagen train quickstart          five minutes on two cores
      metagen evaluate runs/quickstart  how good is it on unseen classes?
      metagen adapt runs/quickstart my_images/
    """


def main() -> None:
    """Run the command line."""
    run_command(metagen, "metagen")


def run_command(command: click.Command, program: str | None = None) -> None:
    """Run a command; a mistake in the input is one line on stderr and exit code 2. SIGTERM is as Ctrl-C.

    ``program`` is what the user calls it, if that is not what was run.
    """
    before = signal.signal(signal.SIGTERM, _as_ctrl_c)  # so that what was started is ended
    try:
        # Without standalone mode click gives the code of an Exit back instead of raising it.
        with _heard_in_the_end():
            code = command(prog_name=program, standalone_mode=False)
        if code:
            sys.exit(code)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.show()
        else:
            click.echo(f"error: {_in_one_line(error, program)}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        from metagen.files import unanswered

        if unanswered():  # pyarrow would wait for it at the process's end
            sys.stdout.flush()
            os._exit(130)
        sys.exit(130)
    except UserError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:
        # Merely asking whether such a path exists raises: it is the user's, whichever command asks.
        if error.errno not in (errno.EACCES, errno.ENAMETOOLONG) or error.filename is None:
            raise
        click.echo(f"error: {error.filename!r}: {error.strerror}: give another path", err=True)
        sys.exit(2)
    finally:
        signal.signal(signal.SIGTERM, before)


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C would do now; raise where it is ignored, as in a job in the background."""
    heard = signal.getsignal(signal.SIGINT)
    (heard if callable(heard) else signal.default_int_handler)(signal.SIGINT, frame)


AGAIN_SECONDS = 0.05
"""How long after a signal that was lost the same one comes again."""


@contextmanager
def _heard_in_the_end() -> Iterator[None]:
    """Have a signal that comes where nothing can be raised come again.

    While Ray starts its processes, most that come within a fork do: Python runs their handler in a callback that it
    calls after the fork, prints what that raises, and goes on.
    """
    before, thread = sys.unraisablehook, threading.main_thread().ident

    def hook(failed: Any) -> None:
        if failed.exc_type is not KeyboardInterrupt or thread is None:
            before(failed)
            return
        again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (thread, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _in_one_line(error: click.ClickException, program: str | None) -> str:
    """What click says of a wrong request, and the help that has the rest."""
    message = " ".join(error.format_message().split()).rstrip(".").replace(". (", " (")
    message = f"{message[:1].lower()}{message[1:]}"
    if not isinstance(error, click.UsageError):
        return message
    kind = getattr(getattr(error, "param", None), "type", None)
    if isinstance(kind, click.IntRange | click.FloatRange):
        message = NO_NUMBER.sub(f"is not {_numbers(kind)}", message)
    path = error.ctx.command_path if error.ctx else "COMMAND"  # of an option without its value click does not say
    if program and path.split()[0] != program:  # nor of a command within another, such as what 'submit' sends
        path = f"{program} {path}"
    return f"{message} (see '{path} --help')"


NO_NUMBER = re.compile(r"is not (a valid (integer|float) range|in the range .*)")


def _numbers(kind: click.IntRange | click.FloatRange) -> str:
    """The numbers of a range in words."""
    number = "a whole number" if isinstance(kind, click.IntRange) else "a number"
    low, high = kind.min, kind.max
    if low is not None and high is not None:
        return f"{number} from {low} to {high}"
    return f"{number} of at least {low}" if high is None else f"{number} of at most {high}"


if __name__ == "__main__":
    main()
