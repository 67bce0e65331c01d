"""Equal results, as the design defines them: keys, outcomes, metrics, steps, actions and digests; not timings or workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vlarig.harness.sinks import Transition
from vlarig.results.ledger import Ledger


def results(run: Path) -> dict[str, dict[str, Any]]:
    """The comparable part of every finished episode of a run, by key."""
    with Ledger.open_read_only(run) as ledger:
        return {record.key: record.result() for record in ledger.records(with_actions=True)}


def comparable(transition: Transition) -> dict[str, Any]:
    """All of a transition but its timings and its worker."""
    snapshot = transition.result.snapshot
    return {
        "env": transition.request.env,
        "key": transition.request.key,
        "chunk": transition.request.chunk,
        "seed": transition.request.seed,
        "seen": flat(transition.request.observation),
        "actions": flat(transition.reply.actions),
        "steps": transition.result.steps,
        "outcome": snapshot.outcome,
        "metrics": snapshot.metrics,
        "digests": (snapshot.state_digest, snapshot.image_digest),
        "after": flat(transition.observation),
        "next_first": None if transition.next_first is None else flat(transition.next_first),
    }


def flat(value: Any) -> Any:
    """Arrays as bytes with their shapes, so that == compares everything."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {name: flat(each) for name, each in value.items()}
    return value
