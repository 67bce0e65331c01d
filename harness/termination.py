"""SIGTERM ends a command as Ctrl-C does: processes are ended, and measured episodes are kept.

This holds at any time, before an event loop runs and after it, and for the first process of a container too, to which the kernel
delivers only signals with a handler.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

#: Exit statuses of a command that was interrupted, as shells count them: 128 and the signal's number.
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def exit_status(interrupt: KeyboardInterrupt) -> int:
    return TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Have SIGTERM raise :class:`Terminated` in the main thread; does nothing in another."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


async def until_sigterm(work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``, which SIGTERM cancels; for the first coroutine of an event loop, inside :func:`sigterm_interrupts`.

    Raises:
        Terminated: SIGTERM came, and ``work`` has ended.
    """
    import asyncio  # here: the command line's root imports this module, and is light

    loop, task, came = asyncio.get_running_loop(), asyncio.current_task(), False
    assert task is not None

    def end() -> None:
        nonlocal came
        came = True
        task.cancel()

    handled = False
    with suppress(NotImplementedError, RuntimeError, ValueError):  # not on every system, not in a thread of the user's
        loop.add_signal_handler(signal.SIGTERM, end)
        handled = True
    try:
        return await work
    except asyncio.CancelledError:
        if came:
            raise Terminated from None
        raise
    finally:
        if handled:
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def exits_refused() -> Iterator[None]:
    """As long as it lasts, ``os._exit`` raises ``SystemExit`` in this process.

    A policy that calls it would else end the program with a status of its choice and no word. Forked processes end as usual.
    """
    own, leave = os.getpid(), os._exit

    def refuse(status: int) -> NoReturn:
        if os.getpid() != own:
            leave(status)
        raise SystemExit(status)

    os._exit = refuse
    try:
        yield
    finally:
        os._exit = leave


def stop_on_signals() -> asyncio.Event:
    """An event of the running loop that SIGTERM or SIGINT sets; a second signal ends the process at once, also during work."""
    import asyncio  # as above

    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():  # a policy's call may never return, and its thread cannot be ended
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    return stop


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated
