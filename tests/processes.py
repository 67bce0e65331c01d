"""Processes of this machine, for tests that kill some of them, or want none left."""

from __future__ import annotations

from chaos.processes import children


def workers_of(pid: int) -> list[int]:
    """The living workers or replicas of a driver: the children of its launchers."""
    return [worker for launcher in children(pid) for worker in children(launcher)]
