"""Waiting has an end, and time in which this process did not run does not count."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time

import pytest

from vlarig.harness.children.liveness import within


async def a_moment(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "done"


def test_work_that_ends_in_time_gives_its_result() -> None:
    assert asyncio.run(within(a_moment(0.3), 5.0)) == "done"


def test_work_that_does_not_end_is_cancelled() -> None:
    async def run() -> None:
        waited_for = asyncio.ensure_future(a_moment(3600))
        with pytest.raises(asyncio.TimeoutError):
            await within(waited_for, 0.3)
        assert waited_for.cancelled()

    asyncio.run(run())


def test_a_failure_is_passed_on() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        asyncio.run(within(fail(), 1.0))


def test_a_stall_of_ours_counts_as_one_tick() -> None:
    async def run() -> str:
        asyncio.get_running_loop().call_soon(time.sleep, 1.5)
        return await within(a_moment(0.1), 1.0)

    assert asyncio.run(run()) == "done"


def test_a_caller_that_is_cancelled_cancels_what_it_waits_for() -> None:
    async def run() -> None:
        inner = asyncio.ensure_future(a_moment(3600))
        outer = asyncio.ensure_future(within(inner, 3600))
        await asyncio.sleep(0)
        outer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await outer
        assert inner.cancelled()

    asyncio.run(run())


def test_what_fails_while_it_is_given_up_is_not_reported_as_never_retrieved() -> None:
    reported: list[dict] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

        async def fails() -> None:
            tasks.pop().cancel()
            raise ValueError("too late")

        tasks = [asyncio.create_task(within(fails(), 5.0))]
        (waiting,) = tasks
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        waiting = None
        gc.collect()

    asyncio.run(run())
    gc.collect()
    assert reported == []
