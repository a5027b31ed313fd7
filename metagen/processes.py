"""One function over many arguments, side by side in processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Event, Thread
from typing import Any, Generic, Protocol, TypeVar

from metagen.errors import UserError
from metagen.pool import one_thread

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")


class Each(Protocol):
    """Applies a function to every item, and gives the results in their order: as the built-in ``map``."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


class Shared(Generic[T]):
    """A value that many calls need: pickled once, and unpickled once in each process."""

    def __init__(self, value: T) -> None:
        self.value = value
        self._pickled = b""

    def __reduce__(self) -> tuple[Callable[[bytes], Shared[Any]], tuple[bytes]]:
        self._pickled = self._pickled or pickle.dumps(self.value)
        return _shared, (self._pickled,)


@lru_cache(maxsize=4)
def _shared(pickled: bytes) -> Shared[Any]:
    return Shared(pickle.loads(pickled))


@contextmanager
def side_by_side(count: int) -> Iterator[Each]:
    """``each``, which works in ``count`` processes of one thread; in this one if that is 1.

    The function and its items must be such as can be pickled, and give the same wherever they are called. What it
    raises is raised here; ``UserError`` if a process dies.
    """
    if count == 1:
        yield map
        return
    with executor(count, _begin) as pool:

        def each(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
            under_way: deque[Future[bytes]] = deque()
            for item in items:
                # Pickled here: left to the executor, every tensor would take up a file descriptor and shared memory.
                under_way.append(pool.submit(_call, pickle.dumps((function, item))))
                if len(under_way) == 2 * count:
                    yield pickle.loads(under_way.popleft().result())
            while under_way:
                yield pickle.loads(under_way.popleft().result())

        yield each


class _Executor(ProcessPoolExecutor):
    """One whose processes begin nothing more once they were told to stop: they hold calls that nobody can take back."""

    def submit(self, function: Callable[..., B], /, *arguments: Any, **named: Any) -> Future[B]:
        return super().submit(_unless_stopped, function, *arguments, **named)


_stopped = Event()


def _unless_stopped(function: Callable[..., B], *arguments: Any, **named: Any) -> B:
    if _stopped.is_set():
        raise KeyboardInterrupt
    try:
        return function(*arguments, **named)
    except KeyboardInterrupt:
        _stopped.set()
        raise


@contextmanager
def executor(count: int, begin: Callable[[], None] | None = None) -> Iterator[ProcessPoolExecutor]:
    """``count`` processes that end with this one, and call ``begin`` first; ``UserError`` if one of them dies.

    What is raised within, Ctrl-C too, is a SIGTERM for them: a training stops after its step with a checkpoint.
    """
    before = active_children()
    pool = _Executor(count, get_context("spawn"), _end_with_parent, (begin,))
    # Started all at once by as many calls, and one more: the executor watches only those that there were when it last
    # woke, which a call makes it do before it starts a process. Without, the death of the newest could go unseen.
    for _ in range(count + 1):
        pool.submit(os.getpid)
    try:
        yield pool
    except BrokenProcessPool:
        raise UserError(
            f"one of {count} processes was killed, for want of memory perhaps: try --workers {count // 2}"
        ) from None
    except BaseException:
        for process in set(active_children()) - set(before):
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent(begin: Callable[[], None] | None) -> None:
    """Have this process end when the one that started it does, however that ends, and call ``begin``."""

    def wait(parent: BaseProcess) -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, args=(parent_process(),), daemon=True).start()
    if begin is not None:
        begin()


def _begin() -> None:
    """What a process does first. Ctrl-C is for the one that waits for it."""
    one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _call(pickled: bytes) -> bytes:
    function, item = pickle.loads(pickled)
    return pickle.dumps(function(item))
