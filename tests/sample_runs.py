"""Records and manifests to fill ledgers with, for tests; a pure function of the arguments, in every process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vlarig.envs.api import Camera, Episode, Outcome, Protocol
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Identity, Manifest, Surroundings
from vlarig.results.planning import episodes_digest, suite_plans
from vlarig.results.records import Attempt, EpisodeRecord

PROTOCOL = Protocol(name="standard", version=1, step_limit=60, cameras=(Camera("ego", 64, 64),), n_action_steps=8)
TASKS = ("stack", "push_to", "open_drawer")


def make_episode(initial_state: int, task: str = "stack", suite: str = "tabletop", variant: str = "base") -> Episode:
    return Episode(suite, PROTOCOL, task, variant, initial_state, payload={"goal": [initial_state, 0.5]})


def make_record(initial_state: int = 0, task: str = "stack", success: bool = True, **changes) -> EpisodeRecord:
    """A record whose actions and numbers depend only on its initial state."""
    steps = 10 + initial_state % 20
    rng = np.random.default_rng(abs(initial_state))
    fields = {
        "key": make_episode(initial_state, task).key,
        "suite": "tabletop",
        "protocol": "standard@1",
        "task": task,
        "variant": "base",
        "initial_state": initial_state,
        "repeat": 0,
        "success": success,
        "outcome": Outcome(first=success, final=success, streak=int(success), longest_streak=int(success), cut_short=success),
        "reward": float(rng.normal()),
        "steps": steps,
        "primitives": 2 * steps,
        "chunks": (8, steps - 8),
        "actions": rng.normal(size=(steps, 7)).astype(np.float32),
        "metrics": {"distance": float(rng.normal()), "height": 0.1},
        "state_digest": f"{abs(initial_state):064x}",
        "image_digest": f"{abs(initial_state) + 1:064x}",
        "seconds": {"simulate": 0.5, "render": 0.25, "policy": 0.1, "wait": 0.0, "total": 0.85},
        "worker": "worker 0",
        "instruction": f"{task} number {initial_state}",
    }
    return EpisodeRecord(**(fields | changes))


def make_manifest(per_task: int = 10, tasks: tuple[str, ...] = TASKS, **changes) -> Manifest:
    episodes = [make_episode(initial_state, task) for task in tasks for initial_state in range(per_task)]
    fields = {
        "suites": suite_plans(episodes),
        "episodes": len(episodes),
        "episodes_digest": episodes_digest(episodes),
        "seed": 0,
        "policy": "expert",
        "policy_revision": "expert 1",
        "runtimes": {"tabletop": "a" * 64},
        "renderer": "osmesa",
        "vlarig_version": "0.1.0",
    }
    return Manifest(identity=Identity(**(fields | changes)), record=Surroundings(host="here", command=["vlarig", "sweep"]))


@contextmanager
def hasty_ledger(run_dir: Path) -> Iterator[Ledger]:
    """A new ledger that does not wait for the disk after each record: for runs that are made to be read."""
    with Ledger.create(run_dir) as ledger:
        ledger._connection.execute("PRAGMA synchronous = OFF")
        yield ledger


def make_run(run_dir: Path, per_task: int = 10, finished: int = 10, errors: int = 0, **changes) -> Path:
    """A run of which ``finished`` episodes of each task are done: three in four with success; ``errors`` of each were given up."""
    make_manifest(per_task, **changes).save(run_dir)
    with hasty_ledger(run_dir) as ledger:
        for task in TASKS:
            for initial_state in range(finished):
                ledger.write_episode(make_record(initial_state, task, success=initial_state % 4 != 0))
            for initial_state in range(finished, finished + errors):
                ledger.write_attempt(Attempt(make_episode(initial_state, task).key, 1, "crash", "signal 11", "worker 0"))
                ledger.write_attempt(
                    Attempt(make_episode(initial_state, task).key, 2, "crash", "signal 11", "worker 1", gave_up=True)
                )
    return run_dir
