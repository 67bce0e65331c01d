"""Runs over real suites with made-up results, for tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sample_runs import hasty_ledger, make_record

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Episode
from vlarig.results.manifest import Identity, Manifest, Surroundings
from vlarig.results.planning import episodes_digest, suite_plans
from vlarig.results.records import Attempt


def play(
    run_dir: Path,
    *suites: str,
    protocol: str = "starvla",
    tasks: tuple[str, ...] = (),
    per_task: int | None = None,
    training: bool = False,
    success: Callable[[int], bool] = lambda number: number % 4 != 0,
    finished: Callable[[Episode], bool] = lambda episode: True,
    given_up: Callable[[Episode], bool] = lambda episode: False,
    record: dict[str, Any] | None = None,
    surroundings: dict[str, Any] | None = None,
    **identity: Any,
) -> Path:
    """A run over suites; ``success`` gets the index of the episode in its suite."""
    planned = {name: _episodes(name, protocol, tasks, per_task, training) for name in suites}
    every = [episode for episodes in planned.values() for episode in episodes]
    fields: dict[str, Any] = {
        "suites": suite_plans(every),
        "episodes": len(every),
        "episodes_digest": episodes_digest(every),
        "seed": 0,
        "policy": "expert",
        "policy_revision": "expert 1",
        "renderer": "osmesa",
        "vlarig_version": "0.1.0",
    }
    Manifest(identity=Identity(**fields | identity), record=Surroundings(**surroundings or {})).save(run_dir)
    with hasty_ledger(run_dir) as ledger:
        for episodes in planned.values():
            for number, episode in enumerate(episodes):
                if given_up(episode):
                    ledger.write_attempt(Attempt(episode.key, 1, "crash", "signal 11", "worker 0", gave_up=True))
                elif finished(episode):
                    names = {
                        "key": episode.key, "suite": episode.suite, "variant": episode.variant,
                        "protocol": f"{episode.protocol.name}@{episode.protocol.version}", "repeat": episode.repeat,
                    }  # fmt: skip
                    made = make_record(episode.initial_state, episode.task, success(number), **names | (record or {}))
                    ledger.write_episode(made)
    return run_dir


def _episodes(name: str, protocol: str, tasks: tuple[str, ...], per_task: int | None, training: bool) -> list[Episode]:
    suite = load_suite(name)
    if training:
        return suite.training_episodes(tasks, per_task or 1, suite.protocol(protocol))
    return suite.episodes(tasks, per_task, suite.protocol(protocol))
