from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from cluster.jobs import interruptible


async def _turned_into_an_error() -> None:
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        raise RuntimeError("connection closed") from None


def test_ctrl_c_while_a_log_is_followed_stays_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), interruptible():
        asyncio.run(_turned_into_an_error())
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_that_a_library_answers_with_an_error_stays_ctrl_c() -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("connection closed") from None

    with pytest.raises(KeyboardInterrupt), interruptible():
        interrupted()


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="closed"), interruptible():
        raise RuntimeError("closed")
