"""A sweep gives the same results under any settings of speed, resumes, and refuses a folder of another run."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chaos.processes import children
from comparing import results
from rich.console import Console
from sample_runs import make_run
from toy.policies import ImageReader, Shouting, SlowImageReader, Wandering, WithOptions

from vlarig.envs.errors import VlarigError
from vlarig.envs.snapshot import Needs
from vlarig.harness import evaluate
from vlarig.harness.cli import main
from vlarig.harness.run import Evaluation
from vlarig.policies.api import PolicyError
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest


@pytest.fixture(scope="module")
def results_of() -> dict[str, dict]:
    """Undisturbed results by suite, for the whole module."""
    return {}


@pytest.fixture
def undisturbed(results_of: dict[str, dict], toy_home: Path) -> dict:
    if "toy" not in results_of:
        results_of["toy"] = results(evaluate("toy", ImageReader(), workers=1, num_envs=1, run=Path("undisturbed")).run)
    return results_of["toy"]


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "envs", "batch"), [(1, 8, None), (2, 1, 1), (2, 8, 3), (4, 1, None), (4, 8, 32)])
def test_workers_envs_and_batches_do_not_change_results(undisturbed: dict, workers: int, envs: int, batch: int | None) -> None:
    policy = ImageReader()
    run = evaluate("toy", policy, workers=workers, num_envs=workers * envs, batch=batch, run=Path("other")).run
    assert results(run) == undisturbed
    assert len(undisturbed) == 40
    assert max(policy.batches) <= (batch or workers * envs)


def test_a_sweep_from_initial_states_for_training_says_so(toy_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--policy", "random", "--initial-states", "training", "--episodes", "2", "--workers", "1", "--run", "trained"]
    assert main(["sweep", "toy", *words]) == 0
    assert "reach_red (training)" in capsys.readouterr().out
    assert {key.split("/")[3] for key in results(Path("trained"))} == {"training"}


def test_a_notebook_sweeps_below_its_running_event_loop(undisturbed: dict) -> None:
    async def cell() -> Path:
        return evaluate("toy", ImageReader(), workers=1, num_envs=2, run=Path("notebook")).run

    assert results(asyncio.run(cell())) == undisturbed


@pytest.mark.slow
def test_a_policy_that_changes_the_working_directory_loses_nothing(toy_home: Path) -> None:
    here, options = Path.cwd(), {"tasks": ("reach_red",), "episodes": 1, "workers": 1, "num_envs": 1}
    near = evaluate("toy", ImageReader(), run=Path("near"), **options)
    try:
        far = evaluate("toy", Wandering(), run=Path("far"), video="all", **options)
    finally:
        os.chdir(here)
    assert far.complete
    assert far.run == here / "far"
    assert results(far.run) == results(near.run)
    assert len(list((here / "far" / "videos").glob("*.mp4"))) == 1
    assert (here / "far" / "logs" / "events.jsonl").is_file()


@pytest.mark.slow
def test_actions_beyond_the_bounds_are_warned_of_once(toy_home: Path) -> None:
    output = io.StringIO()
    assert evaluate("toy", Shouting(), episodes=3, workers=1, num_envs=1, console=Console(file=output, width=500)).complete
    (warning,) = [line for line in output.getvalue().splitlines() if "beyond the bounds" in line]
    match = re.fullmatch(
        r"the policy's actions lie beyond the bounds of toy_point: dx from 50 to 50 \(bounds -1 to 1\) in (\d+) of (\d+) steps .*",
        warning,
    )
    assert match is not None and match[1] == match[2]
    quiet = io.StringIO()
    evaluate("toy", ImageReader(), episodes=1, console=Console(file=quiet, width=500))
    assert "beyond the bounds" not in quiet.getvalue()


def test_strict_sends_the_policy_one_request_at_a_time_and_changes_nothing(undisturbed: dict) -> None:
    policy = ImageReader()
    run = evaluate("toy", policy, workers=2, num_envs=4, strict=True, run=Path("strict")).run
    assert set(policy.batches) == {1}
    assert results(run) == undisturbed


def test_without_strict_the_effect_of_batching_is_measured_and_reported(toy_home: Path) -> None:
    class Rounding(SlowImageReader):
        batch_sensitive = True

    output = io.StringIO()
    evaluate("toy", Rounding(), workers=2, num_envs=8, episodes=2, console=Console(file=output, width=200))
    assert "batching moved the policy's answers by 0.0e+00 at most" in output.getvalue()
    assert "were computed alone too); --strict makes them exact" in output.getvalue()


def test_a_policy_with_a_short_horizon_gets_a_protocol_of_its_own(toy_home: Path) -> None:
    run = evaluate("toy", ImageReader(horizon=3), episodes=1).run
    assert {key.split("/")[1] for key in results(run)} == {"standard-n_action_steps3@1"}


@pytest.mark.slow
def test_a_policys_own_number_of_steps_is_run_unless_the_user_names_another(toy_home: Path) -> None:
    policy = ImageReader(horizon=4)
    policy.n_action_steps = 2
    output = io.StringIO()
    run = evaluate("toy", policy, episodes=1, console=Console(file=output, width=200)).run
    assert {key.split("/")[1] for key in results(run)} == {"standard-n_action_steps2@1"}
    assert "(the policy's own number; --n-action-steps gives another)" in output.getvalue()
    chosen = evaluate("toy", policy, episodes=1, n_action_steps=3).run
    assert {key.split("/")[1] for key in results(chosen)} == {"standard-n_action_steps3@1"}
    with pytest.raises(
        PolicyError, match=r"n_action_steps is 5, and the policy '.*' predicts 4 steps at a time .*choose 4 or fewer"
    ):
        evaluate("toy", policy, episodes=1, n_action_steps=5)
    policy.n_action_steps = 0
    with pytest.raises(PolicyError, match=r"has the n_action_steps 0; expected a number of steps, or None"):
        evaluate("toy", policy, episodes=1)


@pytest.mark.slow
def test_a_policy_that_needs_the_simulators_truth_is_marked_in_its_run(toy_home: Path) -> None:
    class Knowing(ImageReader):
        needs = Needs(privileged=True)

    for policy, knows in ((ImageReader(), False), (Knowing(), True)):
        manifest = Manifest.load(evaluate("toy", policy, episodes=1, run=Path(f"knows-{knows}")).run)
        assert manifest.identity.policy_privileged is knows
        assert any("acts on the simulator's own truth" in note for note in manifest.notes()) is knows


def test_what_a_policy_says_of_its_numbers_is_noted_in_its_run(toy_home: Path) -> None:
    policy = ImageReader()
    policy.table_note = "zero-shot: of its own"
    output = io.StringIO()
    run = evaluate("toy", policy, episodes=1, workers=1, console=Console(file=output, width=200)).run
    assert "toy: zero-shot: of its own" in Manifest.load(run).notes()
    assert "toy: zero-shot: of its own" in output.getvalue()


def test_the_ledger_has_the_instructions(toy_home: Path) -> None:
    run = evaluate("toy", ImageReader(), episodes=1, workers=1).run
    with Ledger.open_read_only(run) as ledger:
        instructions = {record.task: record.instruction for record in ledger.records()}
    assert instructions["reach_red"] == "move the point to the red goal"


@pytest.mark.slow
def test_a_protocol_is_chosen_by_name(toy_home: Path) -> None:
    chosen = evaluate("two_ways", ImageReader(), protocol="quick", episodes=1)
    assert {key.split("/")[1] for key in results(chosen.run)} == {"quick@1"}
    assert chosen.run.name.startswith("two_ways-quick-")
    default = evaluate("two_ways", ImageReader(), episodes=1)
    assert {key.split("/")[1] for key in results(default.run)} == {"standard@1"}
    assert default.run != chosen.run


@pytest.mark.slow
def test_steps_to_execute_are_derived_from_the_chosen_protocol(toy_home: Path, cli) -> None:
    words = ["--policy", "toy.policies:ImageReader", "--episodes", "1", "--protocol", "quick"]
    derived = cli("sweep", "two_ways", *words, "--n-action-steps", "2")
    assert "runs under protocol quick-n_action_steps2@1, not quick@1: 2 of 4 steps are executed" in derived.stdout
    assert "(as requested)\n" in derived.stdout, "the policy predicts ten steps"
    assert "runs under protocol" not in cli("sweep", "two_ways", *words).stdout


def test_a_sweep_names_its_folder_as_the_user_does(toy_home: Path, cli) -> None:
    shown = cli("sweep", "toy", "--policy", "random", "--episodes", "1").stdout
    assert re.search(r"^toy, policy random, seed 0, runs/toy-random-\w+$", shown, re.MULTILINE)
    assert str(Path.cwd()) not in shown


def test_the_same_command_goes_on_and_runs_nothing_twice(toy_home: Path) -> None:
    first = evaluate("toy", ImageReader(), episodes=2)
    before = results(first.run)
    again = ImageReader()
    assert evaluate("toy", again, episodes=2).run == first.run
    assert again.batches == []
    assert results(first.run) == before
    with Ledger.open_read_only(first.run) as ledger:
        assert len(ledger.sessions()) == 2


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"n_action_steps": 4}, "n_action_steps"),
        ({"episodes": 3}, "episodes was 4, now 6"),
        ({"strict": True}, "strict"),
    ],
)
def test_a_run_of_another_identity_is_refused_naming_the_difference(toy_home: Path, changed: dict, named: str) -> None:
    options = {"episodes": 2, "run": Path("run")}
    evaluate("toy", "random", **options)
    before = results(Path("run"))
    with pytest.raises(VlarigError, match=named):
        evaluate("toy", "random", **(options | changed))
    assert results(Path("run")) == before


@pytest.mark.slow
def test_policy_options_belong_to_the_run_except_those_that_change_no_answer(toy_home: Path) -> None:
    WithOptions.closed.clear()
    first = evaluate("toy", "toy.policies:WithOptions", episodes=1, policy_options=("horizon=4", "patience=2"))
    assert {record.key.split("/")[1] for record in first.records()} == {"standard-n_action_steps4@1"}
    again = evaluate("toy", "toy.policies:WithOptions", episodes=1, policy_options=("patience=3", "horizon=4"))
    assert again.run == first.run
    assert evaluate("toy", "toy.policies:WithOptions", episodes=1, policy_options=("horizon=5",)).run != first.run
    assert WithOptions.closed == ["2", "3", "1"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("horizon",), r"the policy option 'horizon' is no name=value"),
        (("horizon=4", "horizon=5"), r"the policy option 'horizon' is given twice"),
        (("horizn=4",), r"the policy 'toy.policies:WithOptions' has no option 'horizn'; did you mean horizon"),
    ],
)
def test_options_that_a_policy_does_not_take_are_refused(toy_home: Path, options: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(VlarigError, match=sentence):
        evaluate("toy", "toy.policies:WithOptions", policy_options=options)


def test_an_evaluation_has_the_rates_of_its_table(toy_home: Path) -> None:
    evaluation = evaluate(["toy", "two_ways"], ImageReader(), episodes=2)
    records = evaluation.records()
    assert evaluation.success_rate == sum(record.success for record in records) / 8
    assert evaluation.interval[0] < evaluation.success_rate < evaluation.interval[1]
    by_task = evaluation.by_task()
    assert list(by_task) == [f"{suite}/{task}" for suite in ("toy", "two_ways") for task in ("reach_red", "reach_blue")]
    red = [record.success for record in records if record.suite == "toy" and record.task == "reach_red"]
    assert (by_task["toy/reach_red"].rate, by_task["toy/reach_red"].finished) == (sum(red) / 2, 2)


def test_rates_are_of_finished_episodes_alone(tmp_path: Path) -> None:
    evaluation = Evaluation(make_run(tmp_path / "run", per_task=6, finished=4, errors=1), complete=False, errors=3)
    assert evaluation.success_rate == 0.75
    stack = evaluation.by_task()["stack"]
    assert (stack.rate, stack.expected, stack.finished, stack.errors, stack.missing) == (0.75, 6, 4, 1, 1)
    nothing = Evaluation(make_run(tmp_path / "nothing", finished=0), complete=False, errors=0)
    assert (nothing.success_rate, nothing.interval) == (None, (0.0, 1.0))


@pytest.mark.parametrize(
    ("options", "offered"),
    [({"taks": "reach_red"}, "'taks'; did you mean tasks"), ({"episode": 1}, "'episode'; did you mean episodes")],
)
def test_an_option_that_does_not_exist_gets_the_nearest_one(toy_home: Path, options: dict, offered: str) -> None:
    with pytest.raises(VlarigError, match=f"evaluate has no option {offered}"):
        evaluate("toy", "random", **options)


def test_one_text_counts_as_a_list_of_one(toy_home: Path) -> None:
    evaluation = evaluate("toy", "toy.policies:WithOptions", tasks="reach_red", policy_options="horizon=4", episodes=1)
    assert list(evaluation.by_task()) == ["reach_red"]
    assert {record.protocol for record in evaluation.records()} == {"standard-n_action_steps4@1"}
    with pytest.raises(VlarigError, match="no machine:1"):
        evaluate("toy", "random", hosts="no machine:1")


def test_more_episodes_than_initial_states_are_repeats(toy_home: Path) -> None:
    run = evaluate("toy", "random", tasks=("reach_red",), episodes=22).run
    keys = {key.removeprefix("toy/standard@1/reach_red/base/") for key in results(run)}
    assert keys == {f"{initial_state}/0" for initial_state in range(20)} | {"0/1", "1/1"}


@pytest.mark.parametrize(
    "first", [[], ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]], ids=["", "as process 1"]
)
def test_sigterm_ends_a_sweep_whose_policy_loads(toy_home: Path, first: list[str]) -> None:
    if first and subprocess.run([*first, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no process namespaces here")
    words = [*first, sys.executable, "-m", "vlarig.harness", "sweep", "toy", "--policy", "toy.policies:NeverLoads"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        os.kill(children(process.pid)[0] if first else process.pid, signal.SIGTERM)
        try:
            _, error = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (process.returncode, error) == (143, "vlarig: interrupted\n")


@pytest.mark.slow
def test_interrupting_leaves_a_run_that_resumes(toy_home: Path, cli, undisturbed: dict) -> None:
    words = [sys.executable, "-m", "vlarig.harness", "sweep", "toy", "--policy", "toy.policies:SlowImageReader", "--run", "r"]
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        finished = count = len(results(Path("r"))) if Path("r/ledger.sqlite").exists() else 0
        for _ in itertools.takewhile(lambda _: count < finished + 3, range(1000)):
            time.sleep(0.02)
            count = len(results(Path("r"))) if Path("r/ledger.sqlite").exists() else 0
        process.send_signal(interrupt)
        _, error = process.communicate(timeout=20)
        assert process.returncode == 128 + interrupt
        assert "resumes there" in error
        assert "Traceback" not in error
        assert not children(process.pid)
    done = cli("sweep", "toy", "--policy", "toy.policies:SlowImageReader", "--run", "r")
    assert done.returncode == 0, done.stderr
    assert results(Path("r")) == undisturbed
