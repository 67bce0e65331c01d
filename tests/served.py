"""A policy server in a thread of the test's own process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toy.env import TOY_POINT

from vlarig.envs.embodiments import Embodiment
from vlarig.policies.api import Policy
from vlarig.policies.remote.openpi_layouts import find_layout
from vlarig.policies.remote.serving import PolicyServer, ServerConfig


@contextmanager
def served(policy: Policy, embodiment: Embodiment = TOY_POINT, layout: str = "vlarig", **config: Any) -> Iterator[PolicyServer]:
    """The policy behind a free port of this machine, for as long as the context lasts."""
    server = PolicyServer(policy, embodiment, find_layout(layout), ServerConfig(**{"port": 0} | config))
    started, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        async with server:
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        assert not thread.is_alive()
        loop.close()
