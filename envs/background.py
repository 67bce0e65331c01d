"""Coroutines for callers that are not asynchronous: an event loop in a thread of its own, in which connections stay alive meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

#: Seconds that cancelled work gets to end.
_CANCEL_SECONDS = 5.0


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` and return its result, also where the caller's thread has a running event loop, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    loop = BackgroundLoop("run to end")
    try:
        return loop.run(work)
    finally:
        loop.close()


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side to their ends, also where one raises; then raise the first exception, if there is one."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]


class BackgroundLoop:
    """Runs coroutines for callers that are not asynchronous. Close it after use."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        return self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run ``work`` to its end and return its result; an interrupt of the caller cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self, farewell: Callable[[], Coroutine[Any, Any, object]] | None = None) -> None:
        """Cancel what is still under way, after ``farewell`` has run, then end the loop and its thread; a second call does nothing."""
        if self.closed:
            return
        try:
            if farewell is not None:
                self.run(farewell())
        finally:
            self.run(_cancel_rest())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    if rest:
        await asyncio.wait(rest, timeout=_CANCEL_SECONDS)
    await asyncio.sleep(0)  # transports that were aborted close their sockets in the loop's next round
