"""Two runs compared: what flipped, what is refused, and that nothing missing is averaged away."""

import json
import math
from dataclasses import replace
from itertools import product

import pytest
from sample_runs import hasty_ledger, make_episode, make_manifest, make_record

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import tables
from vlarig.results.comparison import Pairs, compare_runs
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest
from vlarig.results.measures import Incomplete, read_run, suite_mean
from vlarig.results.records import Attempt
from vlarig.results.statistics import tango_interval

TASKS = tuple(f"task{number}" for number in range(8))


def save_run(folder, won, per_task=10, tasks=TASKS, skipped=(), given_up=(), change=None, **changes):
    """A run whose episode ``(task, initial state)`` succeeds where ``won`` says so; some were never run, some were given up."""
    make_manifest(per_task, tasks=tasks, **changes).save(folder)
    with hasty_ledger(folder) as ledger:
        for task in tasks:
            for initial_state in range(per_task):
                if (task, initial_state) in given_up:
                    ledger.write_attempt(
                        Attempt(make_episode(initial_state, task).key, 1, "crash", "signal 9", "worker 0", gave_up=True)
                    )
                elif (task, initial_state) not in skipped:
                    more = change(task, initial_state) if change else {}
                    ledger.write_episode(make_record(initial_state, task, success=bool(won(task, initial_state)), **more))
    return folder


def half(task, initial_state):
    return initial_state % 2 == 0


def more_than_half(task, initial_state):
    """What ``half`` wins except initial state 0 of every task, and also 1, 3 and 5."""
    return initial_state != 0 and (initial_state % 2 == 0 or initial_state < 6)


@pytest.fixture
def runs(tmp_path):
    return save_run(tmp_path / "before", half), save_run(tmp_path / "after", more_than_half, policy="other", seed=7)


def test_flips_are_found_and_counted(runs):
    (suite,) = compare_runs(*runs).suites
    assert suite.pairs == Pairs(both=32, gained=24, lost=8, neither=16)
    assert suite.pairs.rates == (0.5, 0.7)
    assert suite.pairs.difference == pytest.approx(0.2)
    assert suite.interval() == tango_interval(24, 8, 80)
    assert suite.p_value() == pytest.approx(0.0070, abs=5e-5)
    assert suite.lost == [make_episode(0, task).key for task in TASKS]
    assert suite.gained[:3] == [make_episode(initial_state).key.replace("stack", "task0") for initial_state in (1, 3, 5)]
    assert [part.pairs for part in suite.each_task()] == [Pairs(4, 3, 1, 2)] * 8


def test_the_other_way_round_the_signs_change(runs):
    (there,), (back,) = compare_runs(*runs).suites, compare_runs(*reversed(runs)).suites
    low, high = there.interval()
    assert back.interval() == (-high, -low)
    assert back.p_value() == there.p_value()
    assert (back.gained, back.lost) == (there.lost, there.gained)
    assert back.on_tasks_like_these().value == -there.on_tasks_like_these().value


def test_tasks_that_differ_widen_what_is_expected_of_others(tmp_path):
    first = save_run(tmp_path / "first", lambda task, initial_state: initial_state < 5)
    second = save_run(tmp_path / "second", lambda task, initial_state: initial_state < (10 if task in TASKS[:3] else 4))
    (suite,) = compare_runs(first, second).suites
    low, high = suite.interval()
    wide = suite.on_tasks_like_these()
    assert (wide.value, wide.clusters) == (pytest.approx(suite.pairs.difference), 8)
    assert wide.interval[0] < low < high < wide.interval[1]
    assert low > 0 > wide.interval[0]


def test_five_tasks_cannot_speak_for_others(tmp_path):
    runs = [save_run(tmp_path / name, won, tasks=TASKS[:5]) for name, won in (("a", half), ("b", more_than_half))]
    (suite,) = compare_runs(*runs).suites
    assert suite.on_tasks_like_these().interval is None
    assert suite.interval() is not None


def test_what_is_missing_or_an_error_is_never_averaged_away(tmp_path, runs):
    lacking = save_run(tmp_path / "lacking", more_than_half, skipped={("task1", 4)}, given_up={("task1", 2), ("task6", 0)})
    (suite,) = compare_runs(runs[0], lacking).suites
    assert suite.gaps == (None, Incomplete(80, 77, errors=2))
    assert str(suite.gaps[1]) == "incomplete: 77 of 80 episodes finished, 2 errors, 1 missing"
    assert (suite.interval(), suite.p_value(), suite.on_tasks_like_these(), suite.metric("steps")) == (None,) * 4
    assert suite.detectable_difference() is None
    parts = suite.each_task()
    assert [part.complete for part in parts] == [task not in ("task1", "task6") for task in TASKS]
    assert parts[0].interval() == tango_interval(3, 1, 10)
    assert parts[1].interval() is None


def test_a_suite_has_a_mean_or_says_what_it_lacks(tmp_path, runs):
    mean = suite_mean(read_run(runs[1]), "tabletop")
    assert (mean.value, mean.n, mean.clusters) == (pytest.approx(0.7), 80, 8)
    steps = suite_mean(read_run(runs[1]), "tabletop", "steps", "initial_state")
    assert steps.value == pytest.approx(14.5)  # 10 + start
    assert steps.interval[0] < 14.5 < steps.interval[1]
    lacking = save_run(tmp_path / "lacking", half, given_up={("task1", 2)})
    assert suite_mean(read_run(lacking), "tabletop") == Incomplete(80, 79, errors=1)
    shard = make_manifest(10, tasks=TASKS).model_copy(
        update={"record": make_manifest(10, tasks=TASKS).record.model_copy(update={"shard": "1/80"})}
    )
    shard.save(tmp_path / "shard")
    with Ledger.create(tmp_path / "shard") as ledger:
        ledger.write_episode(make_record(0, "task0"))
    assert suite_mean(read_run(tmp_path / "shard"), "tabletop") == Incomplete(80, 1)
    with pytest.raises(VlarigError, match=r"unknown suite 'tabletops' in the run after"):
        suite_mean(read_run(runs[1]), "tabletops")
    with pytest.raises(VlarigError, match=r"unknown metric 'distances' in the run after; .*distance"):
        suite_mean(read_run(runs[1]), "tabletop", "distances")


def test_a_metric_that_is_nan_once_has_no_mean(tmp_path, runs):
    def change(task, initial_state):
        return {"metrics": {"distance": math.nan if (task, initial_state) == ("task3", 3) else 1.0}}

    run = read_run(save_run(tmp_path / "nan", half, change=change))
    missing = suite_mean(run, "tabletop", "distance")
    assert missing == Incomplete(80, 80, unmeasured=(make_episode(3, "task3").key,))
    assert str(missing).endswith(
        "80 of 80 episodes finished, 1 without a finite number, such as tabletop/standard@1/task3/base/3/0"
    )
    assert suite_mean(run, "tabletop", "reward").n == 80
    (suite,) = compare_runs(runs[0], tmp_path / "nan", "distance").suites
    found = suite.metric("distance")
    assert found.first.n == 80
    assert found.second == found.by_initial_state == found.by_task == missing


def test_a_metric_is_compared_episode_by_episode(tmp_path):
    """Each is worth two more: a difference beyond doubt, though the episodes differ a lot among themselves."""

    def change(task, initial_state):
        return {"reward": 2.0 + make_record(initial_state).reward + 0.01 * (TASKS.index(task) + initial_state % 3)}

    first, second = save_run(tmp_path / "first", half), save_run(tmp_path / "second", half, change=change)
    (suite,) = compare_runs(first, second, "reward").suites
    found = suite.metric("reward")
    assert found.by_initial_state.value == pytest.approx(found.second.value - found.first.value)
    low, high = found.by_initial_state.interval
    assert 2.0 < low < found.by_initial_state.value < high < 2.1
    assert found.first.interval[1] - found.first.interval[0] > 5 * (high - low)


def test_starts_that_repeat_are_not_taken_for_more(tmp_path):
    """Five repeats of each initial state with the same outcome say as much as one: no McNemar, and an interval over initial states."""

    def save(folder, won, repeats):
        once = make_manifest(6 * repeats, tasks=TASKS)
        once.save(folder)
        with hasty_ledger(folder) as ledger:
            for task in TASKS:
                for initial_state in range(6):
                    for repeat in range(repeats):
                        key = make_episode(initial_state, task).key[:-1] + str(repeat)
                        ledger.write_episode(
                            make_record(initial_state, task, success=won(task, initial_state), key=key, repeat=repeat)
                        )
        return folder

    (alone,) = compare_runs(save(tmp_path / "a1", half, 1), save(tmp_path / "b1", more_than_half, 1)).suites
    (many,) = compare_runs(save(tmp_path / "a5", half, 5), save(tmp_path / "b5", more_than_half, 5)).suites
    assert many.pairs.n == 5 * alone.pairs.n
    assert (alone.repeats, many.repeats) == (False, True)
    assert (many.p_value(), many.detectable_difference()) == (None, None)
    assert many.interval() == pytest.approx(alone.interval(), abs=0.08)
    taken_for_more = tango_interval(many.pairs.gained, many.pairs.lost, many.pairs.n)
    assert many.interval()[1] - many.interval()[0] > 1.5 * (taken_for_more[1] - taken_for_more[0])


def test_what_one_run_has_alone_is_left_out_and_said(tmp_path, runs):
    smaller = save_run(tmp_path / "smaller", more_than_half, per_task=4, tasks=(*TASKS[:2], "own"))
    comparison = compare_runs(runs[0], smaller)
    (suite,) = comparison.suites
    assert (suite.pairs.n, suite.complete) == (8, True)
    notes = "\n".join(comparison.notes)
    assert "in before alone, and left out: tabletop task2, tabletop task3, tabletop task4 and others" in notes
    assert "in smaller alone, and left out: tabletop own" in notes
    assert "tabletop: 12 episodes are finished in one run alone, and left out" in notes


def test_other_differences_than_the_policy_are_noted(tmp_path, runs):
    other = save_run(tmp_path / "other", half, renderer="egl", assets={"models": "3 of 7 files are stand-ins; sha256 00"})
    notes = compare_runs(runs[0], other).notes
    assert 'the runs also differ in renderer: "osmesa" against "egl"' in notes
    assert "models assets: 3 of 7 files are stand-ins" in notes
    assert compare_runs(*runs).notes == ()


def with_plan(manifest, **changes):
    """The manifest with a changed protocol."""
    (plan,) = manifest.identity.suites
    changed = plan.model_copy(update={"protocol": plan.protocol | changes})
    return manifest.model_copy(update={"identity": manifest.identity.model_copy(update={"suites": [changed]})})


def test_policies_that_run_other_numbers_of_a_chunks_steps_are_compared(tmp_path, runs):
    derived = {"name": "standard-n_action_steps4", "derived_from": "standard", "n_action_steps": 4}
    manifest = with_plan(Manifest.load(runs[1]), **derived)
    identity = manifest.identity.model_copy(update={"episodes_digest": "of other keys"})
    manifest.model_copy(update={"identity": identity}).save(tmp_path / "fewer")
    with hasty_ledger(tmp_path / "fewer") as ledger:
        for task, initial_state in product(TASKS, range(10)):
            record = make_record(initial_state, task, success=more_than_half(task, initial_state))
            key = record.key.replace("/standard@1/", "/standard-n_action_steps4@1/")
            ledger.write_episode(replace(record, key=key, protocol="standard-n_action_steps4@1"))
    (same,), (suite,) = compare_runs(*runs).suites, (found := compare_runs(runs[0], tmp_path / "fewer")).suites
    assert (suite.pairs, suite.gained) == (same.pairs, same.gained)
    assert found.notes[-1] == "tabletop: 8 steps of a chunk are run in before, 4 in fewer"


def test_other_protocols_are_refused(tmp_path, runs):
    with_plan(make_manifest(10, tasks=TASKS), name="other", step_limit=99).save(tmp_path / "other")
    Ledger.create(tmp_path / "other").close()
    with pytest.raises(
        VlarigError,
        match=r"^before played tabletop under standard@1, other under other@1, which differ in step_limit \(\d+ against \d+\); only",
    ):
        compare_runs(runs[0], tmp_path / "other")


def test_a_protocol_of_the_same_name_that_changed_is_refused(tmp_path, runs):
    with_plan(make_manifest(10, tasks=TASKS), step_limit=99).save(tmp_path / "other")
    Ledger.create(tmp_path / "other").close()
    with pytest.raises(VlarigError, match=r"under standard@1, other under standard@1, which differ in step_limit"):
        compare_runs(runs[0], tmp_path / "other")


def test_other_suites_are_refused(tmp_path, runs):
    manifest = make_manifest(10, tasks=TASKS)
    (plan,) = manifest.identity.suites
    identity = manifest.identity.model_copy(update={"suites": [plan.model_copy(update={"name": "libero"})]})
    manifest.model_copy(update={"identity": identity}).save(tmp_path / "other")
    Ledger.create(tmp_path / "other").close()
    with pytest.raises(
        VlarigError, match=r"^before and other have no suite in common: the first has tabletop, the second libero$"
    ):
        compare_runs(runs[0], tmp_path / "other")


def test_no_common_episode_is_refused(tmp_path, runs):
    with pytest.raises(VlarigError, match=r"^before and own have no finished episode in common; give both sweeps"):
        compare_runs(runs[0], save_run(tmp_path / "own", half, tasks=("own",)))
    with pytest.raises(VlarigError, match="no finished episode in common"):
        compare_runs(
            runs[0],
            save_run(tmp_path / "new", half, skipped={(task, initial_state) for task in TASKS for initial_state in range(10)}),
        )


def test_other_scenes_under_the_same_names_are_refused(tmp_path, runs):
    with pytest.raises(VlarigError, match=r"^before and moved played episodes of the same names in different scenes"):
        compare_runs(runs[0], save_run(tmp_path / "moved", half, episodes_digest="f" * 64))


def test_a_run_is_not_compared_with_itself(runs):
    with pytest.raises(VlarigError, match="compared with itself; name two runs"):
        compare_runs(runs[0], runs[0])


# As a user types it.


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")


@pytest.mark.usefixtures("_folder")
def test_the_command(runs, capsys):
    assert tables.compare(["before", "after", "--flips", "--metric", "steps"]) == 0
    output = capsys.readouterr().out
    low, high = tango_interval(24, 8, 80)
    for piece in (
        "first: before policy expert, seed 0",
        "second: after policy other, seed 7",
        f"50.0 70.0 +20.0 {100 * low:+.1f} to {100 * high:+.1f} 24 8",
        "tabletop: McNemar's exact p = 0.007 (24 gained, 8 lost)",
        "points on show four times in five",
        "tabletop: on tasks like these: +20.0, no interval (bootstrap over 8 tasks: too few, or all alike)",
        "gained tabletop/standard@1/task0/base/1/0",
        "lost tabletop/standard@1/task7/base/0/0",
        "steps, first",
    ):
        assert piece in " ".join(output.split())
    assert tables.compare(["before", "after", "--flips", "--metric", "steps"]) == 0
    assert capsys.readouterr().out == output


@pytest.mark.usefixtures("_folder")
def test_the_command_of_an_unfinished_run(tmp_path, capsys):
    save_run(tmp_path / "a", half)
    save_run(tmp_path / "b", half, skipped={("task0", 9)})
    assert tables.compare(["a", "b"]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "tabletop standard@1 (incomplete) 79 - - - - 0 0" in output
    assert "the second run is incomplete: 79 of 80 episodes finished, 1 missing; complete them" in output
    assert "task0 9 - - - - 0 0 task1 10 50.0 50.0 +0.0" in output
    assert "McNemar" not in output


@pytest.mark.usefixtures("_folder")
def test_the_command_for_programs(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    assert tables.compare(["before", "after", "--json", "--metric", "steps"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["first"]["run"], data["second"]["policy"]) == ("before", "other")
    (suite,) = data["suites"]
    assert (suite["n"], suite["gained"], suite["lost"], suite["difference"]) == (80, 24, 8, pytest.approx(0.2))
    assert suite["interval"] == list(tango_interval(24, 8, 80))
    assert suite["metric"]["by_initial_state"]["value"] == 0.0
    assert suite["tasks"][2]["gained_keys"] == [
        f"tabletop/standard@1/task2/base/{initial_state}/0" for initial_state in (1, 3, 5)
    ]
    assert suite["lacking"] == {"first": None, "second": None}


@pytest.mark.parametrize("words", [[], ["before"], ["before", "after", "before"]])
@pytest.mark.usefixtures("_folder", "runs")
def test_the_command_needs_two_runs(words):
    with pytest.raises(VlarigError, match=f"{len(words)} runs were named, expected two"):
        tables.compare(words)


@pytest.mark.usefixtures("_folder", "runs")
def test_the_command_refuses_an_unknown_metric():
    with pytest.raises(VlarigError, match=r"unknown metric 'step' in the run before; did you mean steps"):
        tables.compare(["before", "after", "--metric", "step"])


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as caught:
        tables.compare(["--help"])
    assert caught.value.code == 0
    assert "\n  vlarig compare " in capsys.readouterr().out
