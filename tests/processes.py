"""Processes of this machine, for tests that kill some of them, or want none left."""

from __future__ import annotations

import os
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Living processes that were started by ``pid``."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                children.append(int(entry.name))
    return [child for child in children if child != os.getpid()]


def workers_of(pid: int) -> list[int]:
    """The living workers or replicas of a driver: the children of its launchers."""
    return [worker for launcher in children_of(pid) for worker in children_of(launcher)]
