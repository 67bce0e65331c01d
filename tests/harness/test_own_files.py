"""Files of the user's own, in the folder where a command is run: policies and suites that no package brings, and what they use."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import results
from conftest import Cli
from rich.console import Console

from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.harness.commands import policy as policy_command
from vlarig.harness.run import Evaluation
from vlarig.policies.remote.serving import PolicyServer
from vlarig.training.data.mixture_file import find_stream

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

LOADING = """
from pathlib import Path
import numpy as np
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply

class Loading(Policy):
    needs = Needs(images=False)
    transport_options = frozenset({"log"})

    def __init__(self, checkpoint: Path, log: str = ""):
        file = checkpoint / "w.npy" if checkpoint.is_dir() else checkpoint
        self.gain = np.load(file)

    def act(self, requests):
        return [Reply(np.full((each.n_action_steps, each.embodiment.action_size), self.gain, np.float32)) for each in requests]
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


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--replicas", "2")])
def test_a_policy_and_a_suite_import_their_neighbours_at_any_time(toy_home: Path, cli: Cli, words: tuple[str, ...]) -> None:
    write(my_policy=POLICY, my_suite=SUITE, neighbour_made="GAIN = 0.1", neighbour_acting="GAIN = 0.1")
    done = cli("sweep", "my_suite:MINE", "--policy", "my_policy:Mine", "--episodes", "1", "--workers", "1", *words)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", ["w.npy", "folder"])
def test_a_checkpoint_that_is_overwritten_in_place_is_played_again(toy_home: Path, checkpoint: str) -> None:
    write(my_loading_x=LOADING)
    Path("folder").mkdir()
    Path("log.txt").write_text("1")
    file = Path("folder", "w.npy") if checkpoint == "folder" else Path(checkpoint)

    def sweep(gain: float, **options: Any) -> Evaluation:
        np.save(file, np.float32(gain), allow_pickle=False)
        words = (f"checkpoint={checkpoint}", "log=log.txt")
        return evaluate("toy", "my_loading_x:Loading", policy_options=words, episodes=1, workers=1, **options)

    first = sweep(0.1)
    Path("log.txt").write_text("2")
    assert sweep(0.1).played == 0
    output = io.StringIO()
    second = sweep(-0.1, console=Console(file=output, width=500))
    assert f"{checkpoint} changed since the run {first.run.relative_to(Path.cwd())} (2 of 2 finished)" in output.getvalue()
    assert results(first.run) != results(second.run)
    with pytest.raises(VlarigError, match=f"was started with another identity: {checkpoint} has changed"):
        sweep(0.2, run=first.run)


def test_a_server_announces_the_checkpoint_that_an_option_names(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(my_served_x=LOADING)
    revisions: list[str] = []

    async def announced(server: PolicyServer) -> None:
        revisions.append(server.announcement.revision)

    monkeypatch.setattr(policy_command, "_serve", announced)
    words = ["--policy", "my_served_x:Loading", "--policy-options", "checkpoint=w.npy", "--embodiment", "libero_panda"]
    for gain in (0.1, 0.2):
        np.save("w.npy", np.float32(gain), allow_pickle=False)
        assert policy_command.serve_policy(words) == 0
    assert revisions[0] != revisions[1]
    assert all(" checkpoint=w.npy " in each and " w.npy=" in each for each in revisions)


LEAVING = """
import os
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy

class Leaving(Policy):
    needs = Needs(images=False)

    def act(self, requests):
        os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--replicas", "1")])
def test_a_policy_that_ends_its_own_process_is_reported(toy_home: Path, cli: Cli, options: tuple[str, ...]) -> None:
    write(leaving=LEAVING)
    done = cli("sweep", "toy", "--policy", "leaving:Leaving", "--episodes", "1", "--workers", "1", *options)
    assert done.returncode != 0
    said = (
        r"replica 0 of the policy 'leaving:Leaving' (is dead|died \d+ times).*it exited with status 0"
        if options
        else r"tried to exit while it acted .*: status 0"
    )
    assert re.search(said, (done.stdout + done.stderr).replace("\n", " ")), done.stdout + done.stderr
    assert "resumable" in cli("runs", "list").stdout


def test_data_of_a_training_import_their_neighbours_at_any_time(toy_home: Path) -> None:
    write(
        my_data_x="def make():\n    import my_data_helper_x\n    return my_data_helper_x.FOUND\n", my_data_helper_x="FOUND = 7"
    )
    assert find_stream("my_data_x:make", {}) == 7
