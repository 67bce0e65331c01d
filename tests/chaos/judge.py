"""The conditions that a run must meet after every storm."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from comparing import results

from chaos.blows import CHARGED, Blow
from vlarig.harness.durable_env import MOST_LOSSES
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt
from vlarig.results.schema import LEDGER_NAME


def finished(run: Path) -> dict[str, dict[str, Any]]:
    """The comparable part of every finished episode, by key; each key is there once, by the table's primary key."""
    return results(run)


def sound(run: Path) -> str:
    """SQLite's own verdict on the ledger: ``ok``, or what is wrong."""
    with closing(sqlite3.connect(f"file:{run / LEDGER_NAME}?mode=ro", uri=True)) as connection:
        return " ".join(row[0] for row in connection.execute("PRAGMA integrity_check"))


def compare(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What differs, an episode a line."""
    unknown = [f"{key} is no episode of the run" for key in found.keys() - expected.keys()]
    return unknown + [
        f"{key} differs in {[name for name in expected[key] if found[key][name] != expected[key][name]]}"
        for key in sorted(found.keys() & expected.keys())
        if found[key] != expected[key]
    ]


def attempts_of(run: Path) -> list[Attempt]:
    """The run's failed attempts."""
    with Ledger.open_read_only(run) as ledger:
        return ledger.attempts()


def without_cause(attempts: Sequence[Attempt], landed: Sequence[Blow]) -> list[str]:
    """Failed attempts beyond those that the blows explain, in words.

    A blow that kills or blocks a simulator causes at most one failed attempt; any other blow none.
    """
    due = Counter(CHARGED[blow.kind] for blow in landed if blow.target == "simulator" and blow.kind in CHARGED)
    due["crash"] += len(landed) // MOST_LOSSES  # an episode that is lost so often counts as the cause
    excess = Counter(attempt.kind for attempt in attempts) - due
    return [
        f"{attempt.kind}, {due[attempt.kind]} times due: {attempt.key}: {attempt.message}"
        for attempt in attempts
        if attempt.kind in excess
    ]
