"""What is committed of sweeps: what every episode came to, so that a part can be played again and compared; and actions that succeed.

After a full sweep by hand: ``python -m vlarig.contract digest RUN FILE.json``. Its member ``promises`` is then filled in: for
each suite the ``least`` and ``most`` share of successes in every task (of those in ``swept``, where not all were), and what is played
``again``, a number of first initial states, of which ``tasks`` (all when empty). Actions for the comparison with upstream's loop:
``python -m vlarig.contract record RUN FILE.npz``.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..benchmarks.registry import load_suite
from ..benchmarks.suite import Suite
from ..harness.evaluator import evaluate
from ..results.ledger import Ledger
from ..results.manifest import Manifest
from ..results.records import EpisodeRecord


def processor() -> str:
    """The machine's processor and its instruction sets, by which libraries choose their code: its last bits may be its own."""
    lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    facts = {name.strip(): value.strip() for name, _, value in reversed(lines)}
    sets = hashlib.sha256(" ".join(sorted(facts.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{facts.get('model name', '')}, family {facts.get('cpu family', '')}, model {facts.get('model', '')}, flags {sets}"


def digest(run: Path) -> dict[str, Any]:
    """The run's identity, and for each episode its success, steps and state digest."""
    manifest = Manifest.load(run)
    with Ledger.open_read_only(run) as ledger:
        episodes = {record.key: [record.success, record.steps, record.state_digest[:16]] for record in ledger.records()}
    return {
        "command": f"vlarig sweep {' '.join(manifest.record.config['suites'])} --policy {manifest.identity.policy}",
        "promises": {suite.name: {"least": 0.0, "most": 1.0, "again": 1, "tasks": []} for suite in manifest.identity.suites},
        "git_revision": manifest.record.git_revision,
        "runtimes": manifest.identity.runtimes,
        "processor": processor(),
        "episodes": episodes,
    }


def holds_what_it_promises(file: Path, suite: Suite) -> None:
    """Every task of the suite, or of those that it names as ``swept``, has a share of successes between the bounds."""
    swept = json.loads(file.read_text())
    promise, tasks = swept["promises"][suite.name], defaultdict[str, Counter[bool]](Counter)
    for key, (success, _, _) in swept["episodes"].items():
        name, _, task, *_ = key.split("/")
        if name == suite.name:
            tasks[task][success] += 1
    wanted = set(promise.get("swept") or (task.name for task in suite.tasks))
    assert tasks.keys() == wanted, f"{file.name} lacks {sorted(wanted - tasks.keys())}"
    for task, counts in tasks.items():
        rate = counts[True] / counts.total()
        assert promise["least"] <= rate <= promise["most"], f"{file.name}: {task} has {counts[True]} of {counts.total()}"


def play_again(file: Path, place: str, folder: Path) -> list[EpisodeRecord]:
    """Play a part of the sweep of a suite again, and compare every outcome, and on the same processor every digest; its episodes.

    ``place`` is the suite's name, or where it is, as ``module:NAME``.
    """
    full = json.loads(file.read_text())
    suite = load_suite(place)
    promise, policy = full["promises"][suite.name], full["command"].split()[-1]
    evaluation = evaluate(place, policy, run=folder, episodes=promise["again"], tasks=tuple(promise["tasks"]))
    assert evaluation.complete, f"{folder}: the sweep is not complete"
    records = evaluation.records()
    assert len(records) == promise["again"] * (len(promise["tasks"]) or len(suite.tasks))
    same_processor = full["processor"] == processor()
    for record in records:
        success, steps, state = full["episodes"][record.key]
        assert record.success == success, f"{record.key}: success is {record.success}, and was {success}"
        if same_processor:  # on other machines the last bits may differ, and contacts amplify them
            assert (record.steps, record.state_digest[:16]) == (steps, state), f"{record.key} came out otherwise"
    return records


def recorded_keys(recorded: Path | None, suite: str) -> Iterator[tuple[str, list[str]]]:
    """The keys of a recording that are of the suite, each with its parts: an episode's key, with ``|`` for ``/``."""
    if recorded is not None:
        with np.load(recorded) as actions:
            yield from ((key, key.split("|")) for key in actions.files if key.startswith(f"{suite}|"))


def write_digest(run: Path, file: Path) -> None:
    """Write the digest of a run, a line for each episode."""
    members = digest(run)
    episodes = ",\n".join(f"  {json.dumps(key)}: {json.dumps(each)}" for key, each in members.pop("episodes").items())
    head = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
    file.write_text(f'{{\n{head},\n "episodes": {{\n{episodes}\n }}\n}}\n')


def write_recording(run: Path, file: Path) -> None:
    """Write the actions of the first initial state that was solved of every task of a run, by the keys of :func:`recorded_keys`."""
    with Ledger.open_read_only(run) as ledger:
        solved = [episode for episode in ledger.records(with_actions=True) if episode.success]
    solved.sort(key=lambda episode: episode.initial_state, reverse=True)
    first = {(episode.suite, episode.task): episode for episode in solved}
    np.savez_compressed(file, **{each.key.replace("/", "|"): each.actions for each in first.values()}, allow_pickle=False)
