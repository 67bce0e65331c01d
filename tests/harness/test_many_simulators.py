"""One command sweeps suites of several simulators, each in its own runtime, into one table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlarig.envs.runtimes.runtime import Runtime

#: A task of each suite, with the simulators that run them: two builds of MuJoCo, and SAPIEN.
TASKS = {
    "tabletop": "stack",
    "libero_object": "pick_up_the_ketchup_and_place_it_in_the_basket",
    "simpler_widowx": "put_carrot_on_plate",
    "simpler_ood": "PutFront",
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_table(tabletop: Runtime, libero: Runtime, simpler: Runtime, cli, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["sweep", *TASKS, "--policy", "expert", "--episodes", 1, "--tasks", *TASKS.values()]
    done = cli(*words, "--run", run, "--workers", 1, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "simpler_ood: initial states, instructions, step limit and success thresholds are vlarig's own" in done.stdout
    table = cli("table", run, "--format", "json")
    (block,) = json.loads(table.stdout)
    found = {
        suite["suite"]: [(task["task"], task["n"], task["successes"]) for task in suite["tasks"]] for suite in block["suites"]
    }
    assert found == {suite: [(task, 1, 1)] for suite, task in TASKS.items()}
    assert any(note.startswith("simpler_ood: ") and "vlarig's own" in note for note in block["notes"])
    runtimes = json.loads((run / "manifest.json").read_text())["identity"]["runtimes"]
    assert set(runtimes) == {"tabletop", "libero", "simpler"}
    assert all(runtime.lock_sha256 == runtimes[runtime.name] for runtime in (tabletop, libero, simpler))
