"""The loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading

import pytest

from vlarig.envs.background import BackgroundLoop, run_to_end


def test_work_runs_to_its_end_also_below_a_running_loop() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    async def notebook() -> int:
        return run_to_end(answer())

    assert run_to_end(answer()) == 42
    assert asyncio.run(notebook()) == 42


def test_it_runs_coroutines_in_its_thread_until_it_is_closed() -> None:
    async def thread_name() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def fail() -> None:
        raise KeyError("raised in the caller")

    loop = BackgroundLoop("for-a-test")
    assert loop.run(thread_name()) == "for-a-test"
    with pytest.raises(KeyError, match="raised in the caller"):
        loop.run(fail())
    assert not loop.closed
    for _ in range(2):  # a second call does nothing
        loop.close()
        assert loop.closed
    assert "for-a-test" not in [thread.name for thread in threading.enumerate()]


def test_what_is_under_way_is_cancelled_and_awaited_at_its_end() -> None:
    ended: list[str] = []

    async def begin() -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                ended.append("tidied")

        kept.append(asyncio.create_task(work()))
        await asyncio.sleep(0)

    kept: list[asyncio.Task[None]] = []
    loop = BackgroundLoop("for-a-test")
    loop.run(begin())
    loop.close()
    assert ended == ["tidied"]
    assert kept[0].cancelled()
