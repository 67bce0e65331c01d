"""The data behind the pages of a task and of an episode."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Any

import numpy as np

from ...benchmarks.registry import load_suite
from ...envs.errors import VlarigError
from ..records import Attempt, EpisodeRecord
from . import addresses
from .reading import Listed, RunReader

#: Outcomes of an episode, by their numbers in a task's list.
OUTCOMES = ("failure", "success", "error")


def run_data(reader: RunReader, run: str, notes: Sequence[str]) -> dict[str, Any]:
    """The data about a run, whose id in the site is ``run``, on the pages of its tasks and episodes."""
    table = reader.table()
    tasks = [
        {"suite": suite.suite, "protocol": suite.protocol, "task": row.task, "variant": row.variant, "label": row.label,
         "expected": row.tally.expected, "finished": row.tally.finished, "successes": row.tally.successes,
         "errors": row.tally.errors, "interval": row.tally.interval, "rule": suite.rule}
        for suite in table.suites
        for row in suite.rows
    ]  # fmt: skip
    return {
        "id": run,
        "name": reader.name,
        "page": addresses.run_page(run),
        "policy": reader.manifest.identity.policy_label,
        "notes": list(notes),
        "outcomes": OUTCOMES,
        "chunk": addresses.CHUNK,
        "tasks": tasks,
        "channels": {suite.suite: _channels(suite.suite) for suite in table.suites},
    }


def run_summary(reader: RunReader, run: str) -> dict[str, Any]:
    """The data about a run on the pages of other runs' episodes: its name, and its tasks."""
    return {"id": run, "name": reader.name, "tasks": ["/".join(key) for key in reader.tasks]}


def _channels(suite: str) -> list[dict[str, Any]] | None:
    """The action channels; ``None`` where the suite is not installed here."""
    try:
        return [asdict(channel) for channel in load_suite(suite).embodiment.channels]
    except VlarigError:
        return None


def task_data(reader: RunReader, listed: Sequence[Listed], films: bool) -> dict[str, Any]:
    """The list of a task's episodes, as columns; ``films`` is whether the site has films."""
    numbers = {text: number for number, text in enumerate(dict.fromkeys(episode.instruction for episode in listed))}
    return {
        "instructions": list(numbers),
        "instruction": [numbers[episode.instruction] for episode in listed],
        "initial_state": [episode.initial_state for episode in listed],
        "repeat": [episode.repeat for episode in listed],
        "outcome": [2 if episode.success is None else int(episode.success) for episode in listed],
        "steps": [episode.steps for episode in listed],
        "seconds": [round(episode.seconds, 2) for episode in listed],
        "failed": [episode.failed_attempts for episode in listed],
        "film": [_shown(reader, episode.key) if films else 0 for episode in listed],
    }


def _shown(reader: RunReader, key: str) -> int:
    """0 where an episode has no film, 1 where it has, 2 where that has a poster."""
    return 2 if reader.poster(key) else 1 if reader.film(key) else 0


def chunk_data(reader: RunReader, run: str, number: int, listed: Sequence[Listed], films: bool) -> dict[str, Any]:
    """All about some episodes of the task at place ``number`` in the manifest, by key; ``films`` is whether the site has films."""
    episodes: dict[str, Any] = {}
    for episode in listed:
        attempts = [_attempt(attempt) for attempt in reader.ledger.attempts(episode.key)] if episode.failed_attempts else []
        if episode.success is None:
            episodes[episode.key] = {"outcome": "error", "attempts": attempts}
            continue
        record = reader.ledger.record(episode.key)
        place = (run, number, record.initial_state, record.repeat)
        film = addresses.film(*place) if films and reader.film(record.key) else None
        poster = addresses.film(*place, "jpg") if film and reader.poster(record.key) else None
        episodes[episode.key] = _episode(record) | {"attempts": attempts, "film": film, "poster": poster}
    return episodes


def _episode(record: EpisodeRecord) -> dict[str, Any]:
    outcome = record.outcome
    return {
        "instruction": record.instruction,
        "outcome": "success" if record.success else "failure",
        "first": outcome.first,
        "final": None if outcome.cut_short else outcome.final,
        "held": None if outcome.cut_short else outcome.longest_streak,
        "reward": record.reward,
        "steps": record.steps,
        "primitives": record.primitives,
        "chunks": [(rows, len(list(alike))) for rows, alike in groupby(record.chunks)],
        "actions": packed(record.actions),
        "metrics": record.metrics,
        "seconds": {name: round(value, 4) for name, value in record.seconds.items()},
        "state_digest": record.state_digest,
        "image_digest": record.image_digest if record.saw_images else None,
        "worker": record.worker,
        "written": record.written,
    }


def packed(actions: np.ndarray) -> dict[str, Any]:
    """``actions``, ``float32[H, A]``, for a script: the numbers of one channel after the other in half precision, zlib, base64.

    Half precision has three digits, which is more than an image shows, and halves the size of a site.
    """
    with np.errstate(over="ignore"):  # beyond 65,504 it says infinite
        data = actions.T.astype("<f2").tobytes()
    return {"shape": actions.shape, "data": base64.b64encode(zlib.compress(data, 6)).decode("ascii")}


def _attempt(attempt: Attempt) -> dict[str, Any]:
    fields = asdict(attempt)
    del fields["key"]
    return fields
