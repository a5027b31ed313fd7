"""Something done now and then beside a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def now_and_then(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Have a thread call ``call`` every so many seconds while the block runs; the last call has ended when this does.

    What it raises would end the thread: it has to deal with its errors itself.
    """
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
