"""No suite and no task is left out of the contract's tests."""

from __future__ import annotations

import json
from pathlib import Path

from contract.check_all import built_in, tasks_of

from vlarig.benchmarks.registry import load_suite

HERE = Path(__file__).parent


def test_every_task_of_every_suite_was_checked() -> None:
    """By hand; see check_all.py."""
    checked = json.loads((HERE / "checked.json").read_text())
    assert {name: (found["tasks"], found["failed"]) for name, found in checked.items()} == {
        name: (len(tasks_of(load_suite(name))), []) for name in built_in()
    }


def test_every_runtime_has_its_file() -> None:
    runtimes = {load_suite(name).runtime for name in built_in()}
    assert {file.parent.name for file in HERE.parent.glob("simulators/*/test_contract.py")} == runtimes
