"""Files of the user's own, in the folder where a command is run: policies and suites that no package brings, and what they use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from conftest import Cli

from vlarig.training.samples import find_stream

POLICY = """
import numpy as np
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply

class Mine(Policy):
    needs = Needs(images=False)

    def __init__(self):
        import neighbour_made
        self.gain = neighbour_made.GAIN

    def act(self, requests):
        import neighbour_acting
        gain = self.gain + neighbour_acting.GAIN
        return [Reply(np.full((each.n_action_steps, each.embodiment.action_size), gain, np.float32)) for each in requests]
"""

SUITE = """
from dataclasses import replace
from toy.suite import TOY_SUITE

MINE = replace(TOY_SUITE, name="my_toy")
"""


def write(**modules: str) -> None:
    for name, text in modules.items():
        Path(f"{name}.py").write_text(text)


@pytest.fixture(autouse=True)
def import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's changes of the import path end with it."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.mark.parametrize("words", [(), ("--replicas", "2")])
def test_a_policy_and_a_suite_import_their_neighbours_at_any_time(toy_home: Path, cli: Cli, words: tuple[str, ...]) -> None:
    write(my_policy=POLICY, my_suite=SUITE, neighbour_made="GAIN = 0.1", neighbour_acting="GAIN = 0.1")
    done = cli("sweep", "my_suite:MINE", "--policy", "my_policy:Mine", "--episodes", "1", "--workers", "1", *words)
    assert done.returncode == 0, done.stderr


def test_data_of_a_training_import_their_neighbours_at_any_time(toy_home: Path) -> None:
    write(
        my_data_x="def make():\n    import my_data_helper_x\n    return my_data_helper_x.FOUND\n", my_data_helper_x="FOUND = 7"
    )
    assert find_stream("my_data_x:make", {}) == 7
