"""Every change that can change a number changes the identity of its run, and the same identity is not played twice."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import results
from conftest import TESTS, Cli
from rich.console import Console
from toy.policies import ImageReader
from toy.suite import TOY_SUITE

from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes import spec as runtime_spec
from vlarig.envs.snapshot import Needs
from vlarig.envs.sources import CodeChangedError
from vlarig.harness import Evaluator, evaluate
from vlarig.harness.children.simulator import WorkerSpec
from vlarig.harness.children.supervisor import SimulatorFault
from vlarig.harness.replay import replay_run
from vlarig.harness.workers import local_workers
from vlarig.policies.api import Policy, PolicyError, Reply, Request
from vlarig.results import merging
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest
from vlarig.results.runs import list_runs

POLICY = """
import numpy as np
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply
import gain

class Mine(Policy):
    name, revision, needs = "mine", "1", Needs(images=False)

    def act(self, requests):
        return [Reply(np.full((each.n_action_steps, each.embodiment.action_size), gain.GAIN, np.float32)) for each in requests]
"""


class Biased(ImageReader):
    """A policy with weights."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.bias = np.full(3, bias, np.float32)

    def _sample(self, request: Any) -> np.ndarray:
        return np.clip(super()._sample(request) + self.bias, -1, 1)


@pytest.mark.slow
def test_an_edited_helper_of_a_policy_or_an_edited_adapter_begins_another_run(toy_home: Path, cli: Cli, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for folder in ("toy", "toy.dist-info"):
        shutil.copytree(TESTS / folder, site / folder)
    Path("my_policy.py").write_text(POLICY)
    Path("gain.py").write_text("GAIN = 0.1\n")

    def sweep(*words: str) -> str:
        words = ("sweep", "toy", "--policy", "my_policy:Mine", "--episodes", "1", "--workers", "1", *words)
        done = cli(*words, PYTHONPATH=str(site))
        return done.stdout + done.stderr

    sweep()
    sweep("--run", "named")
    (first,) = Path("runs").iterdir()
    Path("gain.py").write_text("GAIN = -0.1\n")
    assert f"gain.py changed since the run {first} (2 of 2 finished), so this is another run" in sweep()
    assert "the run named was started with another identity: gain.py has changed" in sweep("--run", "named")
    (second,) = set(Path("runs").iterdir()) - {first}
    assert results(first) != results(second)
    with (site / "toy" / "env.py").open("a") as file:
        file.write("# changed\n")
    assert f"toy changed since the run {second}" in sweep()


def test_a_worker_that_is_started_again_over_edited_code_ends_the_sweep(
    toy_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = tmp_path / "edited_adapter_x.py"
    adapter.write_text("from toy.env import ToyEnv\n\n\nclass EditedEnv(ToyEnv):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    suite = replace(TOY_SUITE, adapter="edited_adapter_x:EditedEnv")
    packages = WorkerSpec.packages
    monkeypatch.setattr(
        WorkerSpec, "packages", lambda self: packages(self) | {"toy": str(TESTS / "toy" / "__init__.py")}
    )  # which is not installed in the runtime
    episode = suite.episodes(per_task=1)[0]

    async def play() -> None:
        async with local_workers(WorkerSpec.of(suite), 1, Path("logs")) as (worker,):
            await (await worker.running()).start(0, episode, Needs())
            with adapter.open("a") as file:
                file.write("# repaired\n")
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            with pytest.raises(CodeChangedError, match=r"edited_adapter_x\.py has changed since the run began"):
                while True:
                    try:
                        await (await worker.running()).start(0, episode, Needs())
                    except SimulatorFault:
                        await asyncio.sleep(0.1)

    asyncio.run(play())


@pytest.mark.slow
def test_a_policy_object_in_a_loop_is_played_each_time_that_its_weights_changed(toy_home: Path) -> None:
    first = evaluate("toy", Biased(0.0), episodes=1)
    trained = evaluate("toy", Biased(0.9), episodes=1)
    again = evaluate("toy", Biased(0.0), episodes=1)
    assert (first.played, trained.played, again.played) == (2, 2, 0)
    assert first.run == again.run != trained.run
    assert results(first.run) != results(trained.run)
    assert Manifest.load(first.run).identity.policy_state != Manifest.load(trained.run).identity.policy_state
    with pytest.raises(VlarigError, match="the policy object has another state"):
        evaluate("toy", Biased(0.5), episodes=1, run=first.run)


#: What a script trains beside its policy.
TRAINED = {"bias": np.zeros(3, np.float32), "updates": 0}


class Elsewhere(Policy):
    """A policy whose weights are not its own."""

    needs = Needs(images=False)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(np.tile(TRAINED["bias"], (request.n_action_steps, 1))) for request in requests]


class Counted(Elsewhere):
    """The same, by the number of its updates."""

    @property
    def revision(self) -> str:  # type: ignore[override]
        return f"update {TRAINED['updates']}"


def test_a_policy_object_whose_weights_are_elsewhere_needs_a_revision(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyError, match=r"the policy 'Elsewhere' holds no weights, .*'revision' as a property"):
        evaluate("toy", Elsewhere(), episodes=1)
    assert not Path("runs").exists()
    first = evaluate("toy", Counted(), episodes=1)
    monkeypatch.setitem(TRAINED, "bias", np.full(3, 0.5, np.float32))
    monkeypatch.setitem(TRAINED, "updates", 1)
    second = evaluate("toy", Counted(), episodes=1)
    assert (first.played, second.played) == (2, 2)
    assert results(first.run) != results(second.run)


@pytest.mark.slow
def test_more_episodes_play_what_is_missing_and_fewer_play_nothing(toy_home: Path, cli: Cli) -> None:
    undisturbed = results(evaluate("toy", "random", episodes=3, run=Path("undisturbed")).run)
    two = evaluate("toy", "random", episodes=2)
    three = evaluate("toy", "random", episodes=3)
    assert (two.played, three.played) == (4, 2)
    assert results(three.run) == undisturbed
    assert evaluate("toy", "random", tasks=("reach_blue",)).played == 20 - 3
    fewer = evaluate("toy", "random", episodes=1, tasks=("reach_blue",))
    assert (fewer.played, fewer.complete) == (0, True)
    assert evaluate("toy", "random", episodes=2, seed=1).played == 4
    fresh = evaluate("toy", "random", episodes=3, fresh=True)
    assert (fresh.run, fresh.played) == (three.run, 6)
    assert results(fresh.run) == undisturbed == results(three.run.with_name(f"{three.run.name}-old-1"))
    assert {three.run.name, f"{three.run.name}-old-1"} < {run.name for run in list_runs()}
    output = cli("sweep", "toy", "--policy", "random", "--episodes", "3").stdout
    run = three.run.relative_to(Path.cwd())
    assert f"nothing was played: the 6 episodes of {run} were there already; --fresh plays them again" in output


@pytest.mark.slow
def test_a_program_that_gets_earlier_results_is_warned(toy_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that is started again would print the first loop's numbers without a word."""

    def warnings() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name.startswith("vlarig.harness")]
        caplog.clear()
        return found

    first = evaluate("toy", Biased(0.0), episodes=1)
    assert warnings() == []
    evaluate("toy", Biased(0.0), episodes=1)
    says = "nothing was played: the 2 episodes of {} were there already; fresh=True plays them again"
    assert warnings() == [says.format(first.run)]
    shown = Console(file=io.StringIO())
    evaluate("toy", Biased(0.0), episodes=1, console=shown)
    assert warnings() == []
    with Evaluator("toy", Path("steps"), episodes=1, workers=1) as evaluator:
        evaluator("random", 3)
        assert warnings() == []
        again = evaluator("random", 3)
    assert warnings() == [says.format(again.run)]


def test_a_fresh_run_that_was_interrupted_is_resumed_without_what_it_was_not_to_take(toy_home: Path) -> None:
    evaluate("toy", "random", episodes=2)
    begun = evaluate("toy", "random", episodes=1, fresh=True)
    assert begun.played == 2
    with Ledger.open(begun.run) as ledger:
        ledger._connection.execute("DELETE FROM episodes")  # as if it had been interrupted
    assert evaluate("toy", "random", episodes=1).played == 2


def test_a_kill_while_episodes_are_taken_over_loses_nothing(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = evaluate("toy", "random", episodes=2)

    def killed(*_: object) -> dict:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_add_sessions", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate("toy", "random", episodes=3)
    (run,) = (folder for folder in Path("runs").iterdir() if folder.name != before.run.name)
    assert results(run) == {}
    assert evaluate("toy", "random", episodes=3).played == 2
    with Ledger.open_read_only(run) as ledger:
        assert len(ledger.finished_keys()) == 6


RENDERERS = """
title = "a toy"
python = ">=3.11"
imports = []

[[renderers]]
name = "better"
libraries = ["better"]
apt = ["libbetter1"]
environment = { TOY_RENDERER = "better" }

[[renderers]]
name = "plain"
libraries = ["plain"]
apt = ["libplain1"]
environment = { TOY_RENDERER = "plain" }
"""


@pytest.fixture
def here(toy_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The libraries that this machine has: those of the toy's renderers."""
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "toy.toml").write_text(RENDERERS)
    libraries = {"plain"}
    monkeypatch.setattr(
        runtime_spec, "runtime_files", lambda: {path.stem: path for path in (tmp_path / "locks").glob("*.toml")}
    )
    monkeypatch.delenv("VLARIG_RENDERER", raising=False)
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: f"lib{name}.so" if name in libraries else None)
    return libraries


@pytest.mark.slow
def test_a_run_keeps_its_renderer_or_says_what_is_missing(here: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate("toy", ImageReader(), episodes=1)
    here.add("better")
    again = evaluate("toy", ImageReader(), episodes=1)
    assert (again.run, again.played) == (first.run, 0)
    assert Manifest.load(again.run).identity.renderer == "plain"
    replays: list[Any] = []
    replay_run(first.run, list(results(first.run)), replays.append)
    assert [each.verdict for each in replays] == ["equal"] * 2
    here.remove("plain")
    name = first.run.name
    missing = (
        rf"the run {name} is rendered by plain, which is not here any more \(libplain is missing\); .*install -y libplain1"
    )
    with pytest.raises(VlarigError, match=missing):
        evaluate("toy", ImageReader(), episodes=1)
    with pytest.raises(VlarigError, match=missing):
        replay_run(first.run, list(results(first.run)), replays.append)
    fresh = evaluate("toy", ImageReader(), episodes=1, fresh=True)
    assert (fresh.run, Manifest.load(fresh.run).identity.renderer) == (first.run, "better")
    here.add("plain")
    monkeypatch.setenv("VLARIG_RENDERER", "plain")
    with pytest.raises(VlarigError, match="is rendered by better, and VLARIG_RENDERER requests plain"):
        evaluate("toy", ImageReader(), episodes=1, run=fresh.run)
    assert evaluate("toy", ImageReader(), episodes=1).run != fresh.run


def test_a_worker_renders_with_the_runs_renderer(here: set[str]) -> None:
    here.add("better")
    worker_spec = WorkerSpec.of(TOY_SUITE)
    assert worker_spec.environment()["TOY_RENDERER"] == "better"
    assert worker_spec.rendered_by(["plain"], "run").environment()["TOY_RENDERER"] == "plain"


def test_a_replay_in_another_runtime_says_which_packages_changed(toy_home: Path) -> None:
    run = evaluate("toy", "random", episodes=1).run
    path = run / "manifest.json"
    data = json.loads(path.read_text())
    assert data["record"]["runtime_packages"]["toy"]["numpy"] == np.__version__
    data["identity"]["runtimes"]["toy"] = "0" * 64
    data["record"]["runtime_packages"]["toy"] |= {"numpy": "1.0", "gone": "2"}
    path.write_text(json.dumps(data))
    message = rf"\(gone 2 -> absent, numpy 1\.0 -> {np.__version__}\).*restore these packages in {sys.executable}"
    with pytest.raises(VlarigError, match=message):
        replay_run(run, list(results(run)), print)
    with pytest.raises(VlarigError, match=rf"runtimes\.toy was .*numpy 1\.0 -> {np.__version__}"):
        evaluate("toy", "random", episodes=1, run=run)
