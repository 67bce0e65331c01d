"""The paper's tables: published numbers are unchanged, and our rows have a number only where nothing is missing."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from layout_runs import play

from vlarig.benchmarks.published import load_table
from vlarig.envs.errors import VlarigError
from vlarig.envs.plugins import layout_files
from vlarig.harness.cli import main
from vlarig.results.bootstrap import clustered_mean
from vlarig.results.layouts import OURS, Layout, make_layout
from vlarig.results.measures import read_run
from vlarig.results.schema import LEDGER_NAME
from vlarig.results.sheet import DASH, Cell, Line
from vlarig.results.statistics import wilson_interval

LIBERO = ("libero_spatial", "libero_object", "libero_goal", "libero_10")

#: Columns in which the paper's own marks are not those of its numbers; the notes of its tables say so.
ODD = {("table4", "simpler_widowx"), ("table11", "robotwin_easy")}


def layout(name: str, *runs: Path, **labelled: Path) -> Layout:
    named = [("ours", run) for run in runs] + list(labelled.items())
    return make_layout(name, [(label, read_run(run)) for label, run in named])


def our_lines(made: Layout) -> list[Line]:
    return [line for line in made.sheet().lines if line.section == OURS]


def cell(made: Layout, column: str, row: int = 0) -> Cell:
    names = [each.name for each in made.table.columns]
    return our_lines(made)[row].cells[names.index(column)]


@pytest.mark.parametrize("name", layout_files())
def test_without_runs_the_published_rows_stand_alone(name: str) -> None:
    table, sheet = load_table(name), layout(name).sheet()
    assert [line.label for line in sheet.lines] == [
        f"{row.method} ({row.reference})" if row.reference else row.method for row in table.rows
    ]
    for row, line in zip(table.rows, sheet.lines, strict=True):
        for column, shown in zip(table.columns, line.cells, strict=True):
            value = row.values.get(column.name)
            assert shown.text == (DASH if value is None else f"{value:.1f}")
            if (name, column.name) not in ODD:
                assert (shown.mark == "best") == (column.name in row.bold)
                if any(each.underlined for each in table.rows):
                    assert (shown.mark == "second") == (column.name in row.underlined)


def test_lower_is_better_where_the_table_says_so() -> None:
    sheet = layout("table7").sheet()
    assert [column.title for column in sheet.columns][:2] == ["NE ↓", "OS ↑"]
    best = [line.label for line in sheet.lines if line.cells[0].mark == "best"]
    assert best == ["StreamVLN (Wei et al., 2025)"]


def test_a_run_is_a_row_with_intervals_and_marks_among_all_rows(tmp_path: Path) -> None:
    made = layout("table4", play(tmp_path / "mine", "simpler_widowx", per_task=24))
    low, high = wilson_interval(72, 96)
    shown = cell(made, "simpler_widowx")
    assert replace(shown, footnotes=()) == Cell("75.0", (f"{100 * low:.1f}", f"{100 * high:.1f}"), 96, "best")
    (short,) = shown.footnotes
    assert short.endswith("simpler_widowx: 24 episodes a task, where starvla@1 has 96")
    assert cell(made, "libero") == Cell()
    marks = [line.cells[2].mark for line in made.sheet().lines]
    assert marks == ["", "", "", "", "", "", "", "second", "best"]  # Qwen-VLA-Instruct's 73.7 is second now
    (footnote,) = our_lines(made)[0].footnotes
    assert footnote.startswith("run mine: policy expert (expert 1); simpler_widowx starvla@")


def test_runs_of_one_label_are_one_row_and_a_benchmark_is_the_mean_of_its_suites(tmp_path: Path) -> None:
    halves = [
        play(tmp_path / "a", *LIBERO[:2], protocol="qwen-vla", per_task=4),
        play(tmp_path / "b", *LIBERO[2:], protocol="qwen-vla", per_task=4, success=lambda _: True),
    ]
    made = layout("table4", *halves)
    shown = cell(made, "libero")
    assert (shown.text, shown.n) == ("87.5", 160)
    assert shown.footnotes == (f"{', '.join(LIBERO)}: 4 episodes a task, where qwen-vla@1 has 50",)
    assert len(our_lines(made)) == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"finished": lambda episode: episode.initial_state % 2 == 0},
            "simpler_widowx incomplete: 192 of 384 episodes finished, 192 missing",
        ),
        (
            {"given_up": lambda episode: episode.initial_state == 3},
            "simpler_widowx incomplete: 368 of 384 episodes finished, 16 errors",
        ),
        ({"tasks": ("stack_green_on_yellow",)}, "simpler_widowx incomplete: not played: put_spoon_on_towel"),
        ({"training": True}, "simpler_widowx incomplete: played from initial states for training, which no published"),
    ],
)
def test_what_is_incomplete_has_no_number(tmp_path: Path, changes: dict, says: str) -> None:
    made = layout("table4", play(tmp_path / "run", "simpler_widowx", **changes))
    shown = cell(made, "simpler_widowx")
    assert (shown.text, shown.interval, shown.mark) == ("incomplete", None, "")
    assert any(says in note for note in shown.footnotes)
    assert [line.cells[2].mark for line in made.sheet().lines].count("best") == 1


@pytest.mark.parametrize("lacks", [True, False])
def test_another_metric_than_success_has_a_number_where_every_episode_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: bool
) -> None:
    table = load_table("table4")
    columns = tuple(
        replace(column, metric="final distance", unit="points") if column.name == "simpler_widowx" else column
        for column in table.columns
    )
    monkeypatch.setattr("vlarig.results.layouts.load_table", lambda _: replace(table, columns=columns))
    metrics = {"final_distance": math.nan} if lacks else {"final_distance": 12.34}
    shown = cell(layout("table4", play(tmp_path / "run", "simpler_widowx", record={"metrics": metrics})), "simpler_widowx")
    if lacks:
        assert shown.text == "incomplete"
        assert any("384 without a finite number, such as simpler_widowx/starvla@1/" in note for note in shown.footnotes)
    else:
        assert (shown.text, shown.interval) == ("12.3", None)  # all alike: the bootstrap gives no interval


def test_what_several_suites_share_is_said_once(tmp_path: Path) -> None:
    notes = {
        "assets": {"libero": "3 stand-ins; sha256 abc"},
        "surroundings": {"suite_notes": dict.fromkeys(LIBERO[:2], "ours")},
    }
    made = layout("table4", play(tmp_path / "run", *LIBERO, protocol="qwen-vla", per_task=1, **notes))
    wanted = (
        f"{', '.join(LIBERO)}: 1 episode a task, where qwen-vla@1 has 50",
        f"{', '.join(LIBERO[:2])}: ours",
        "libero assets: 3 stand-ins",
    )
    assert cell(made, "libero").footnotes == wanted
    assert made.sheet().numbers((*wanted, *wanted)) == [2, 3, 4]  # after the one of the row


def test_who_acts_on_the_simulators_truth_is_not_ranked(tmp_path: Path) -> None:
    expert = play(tmp_path / "expert", "simpler_widowx", policy_privileged=True, success=lambda _: True)
    other = play(tmp_path / "other", "simpler_widowx", policy="mine")
    made = make_layout("table4", [("expert", read_run(expert)), ("other", read_run(other))])
    first, second = (line.cells[2] for line in our_lines(made))
    assert (first.text, first.mark, second.text, second.mark) == ("100.0", "", "75.0", "best")
    assert "policy expert acts on the simulator's own truth, so it is not ranked" in first.footnotes
    assert not any("truth" in note for note in second.footnotes)
    alike = play(tmp_path / "alike", "simpler_widowx", policy_privileged=True)
    (as_good, _) = our_lines(make_layout("table4", [("expert", read_run(alike)), ("other", read_run(other))]))
    assert (as_good.cells[2].text, as_good.cells[2].mark) == ("75.0", "")
    rows = {row["method"]: row["values"]["simpler_widowx"] for row in made.data()["rows"] if row["measured"]}
    assert [(rows[name]["ranked"], rows[name]["mark"]) for name in ("expert", "other")] == [(False, ""), (True, "best")]


def test_a_mean_of_four_suites_wants_all_four(tmp_path: Path) -> None:
    shown = cell(layout("table4", play(tmp_path / "run", *LIBERO[:3], per_task=1)), "libero")
    assert shown.text == "incomplete"
    assert "incomplete: libero_10 not played" in shown.footnotes


def test_a_task_has_its_own_column(tmp_path: Path) -> None:
    made = layout("table8", play(tmp_path / "run", "simpler_ood", tasks=("MoveAway",), success=lambda _: True))
    assert (cell(made, "simpler_ood_move_away").text, cell(made, "simpler_ood_move_away").mark) == ("100.0", "best")
    assert cell(made, "simpler_ood_move_right") == Cell()
    assert cell(made, "simpler_ood").text == "incomplete"


def test_what_holds_for_a_whole_row_is_said_at_its_label(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "simpler_ood", per_task=2, finished=lambda episode: episode.task != "MoveRight")
    made = layout("table8", run)
    fewer = "simpler_ood: 2 episodes a task, where starvla@1 has 48"
    assert our_lines(made)[0].footnotes[1:] == (fewer,)
    assert cell(made, "simpler_ood_move_away").footnotes == ()
    (missing,) = cell(made, "simpler_ood_move_right").footnotes
    assert "0 of 2 episodes finished" in missing


def test_repeated_initial_states_are_sampled_together(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "simpler_widowx", success=lambda number: number % 3 == 0)
    records = {key: float(record.success) for task in read_run(run).tasks.values() for key, record in task.records.items()}
    mean = clustered_mean(records, "initial_state")
    assert mean.interval is not None
    assert cell(layout("table4", run), "simpler_widowx").interval == tuple(f"{100 * bound:.1f}" for bound in mean.interval)


def test_intervals_over_tasks_are_those_of_the_bootstrap_or_none(tmp_path: Path) -> None:
    run = read_run(play(tmp_path / "run", *LIBERO, per_task=3, success=lambda number: number % 5 != 0))
    made = make_layout("table4", [("ours", run)], "task")
    values = {key: float(record.success) for task in run.tasks.values() for key, record in task.records.items()}
    mean = clustered_mean(values, "task")
    assert mean.interval is not None
    assert cell(made, "libero").interval == tuple(f"{100 * bound:.1f}" for bound in mean.interval)
    few = make_layout("table4", [("ours", read_run(play(tmp_path / "few", "simpler_widowx")))], "task")
    assert cell(few, "simpler_widowx").interval is None
    assert "too few tasks, or all alike, for an interval over tasks" in cell(few, "simpler_widowx").footnotes


def test_differences_of_protocol_suite_and_assets_are_footnotes(tmp_path: Path) -> None:
    run = play(
        tmp_path / "run", *LIBERO, protocol="openpi",
        assets={"libero": "3 stand-ins; sha256 abc", "simpler": "9 stand-ins; sha256 def"},
        surroundings={"suite_notes": {"libero_goal": "mended"}},
    )  # fmt: skip
    notes = cell(layout("table4", run), "libero").footnotes
    assert f"{', '.join(LIBERO)}: protocol openpi@1; the published numbers' is qwen-vla" in notes
    assert "libero_goal: mended" in notes
    assert "libero assets: 3 stand-ins" in notes
    assert not any("simpler" in note for note in notes)


def test_runs_under_different_protocols_are_refused(tmp_path: Path) -> None:
    runs = {name: play(tmp_path / name, "libero_goal", protocol=name, per_task=1) for name in ("starvla", "openpi")}
    message = r"^starvla played libero_goal under starvla@1 and openpi under openpi@1, which differ in .*n_action_steps \(8 against 5\)"
    with pytest.raises(VlarigError, match=message):
        layout("table4", **runs)


def test_a_protocol_that_changed_and_kept_its_name_is_another_one(tmp_path: Path) -> None:
    runs = {name: play(tmp_path / name, "libero_goal", per_task=1) for name in ("before", "after")}
    manifest = tmp_path / "after" / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["identity"]["suites"][0]["protocol"]["step_limit"] += 1
    manifest.write_text(json.dumps(changed))
    with pytest.raises(VlarigError, match=r"under starvla@1 and after under starvla@1, which differ in step_limit \("):
        layout("table4", **runs)


def test_two_runs_of_a_suite_in_one_row_are_refused(tmp_path: Path) -> None:
    runs = [play(tmp_path / name, "simpler_widowx", per_task=1) for name in ("a", "b")]
    with pytest.raises(
        VlarigError, match=r"^a and b both played simpler_widowx for the row 'ours'; give each a row of its own"
    ):
        layout("table4", *runs)


def test_a_shard_is_refused(tmp_path: Path) -> None:
    run = play(tmp_path / "run", "simpler_widowx", surroundings={"shard": "1/2"}, finished=lambda _: False)
    with pytest.raises(
        VlarigError, match=r"^run is shard 1/2 of its run; put the shards together with `vlarig runs merge` first$"
    ):
        layout("table4", run)


@pytest.mark.parametrize(
    ("name", "says"),
    [("table8", "it has columns for simpler_ood"), ("table7", "it has columns for r2r_val_unseen, rxr_val_unseen")],
)
def test_a_run_of_something_else_is_refused(tmp_path: Path, name: str, says: str) -> None:
    run = play(tmp_path / "run", "libero_goal", per_task=1)
    with pytest.raises(VlarigError, match=f"^{name} has no column for what run played, libero_goal; .*{says}"):
        layout(name, run)


def test_the_command_groups_runs_by_policy_and_tells_revisions_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = play(tmp_path / "first", "simpler_widowx", policy="mine")
    other = play(tmp_path / "other", *LIBERO, per_task=1, policy="mine")
    newer = play(tmp_path / "newer", "simpler_widowx", policy="mine", policy_revision="expert 2")

    def rows(*arguments: str) -> list[str]:
        assert main(["table", "--layout", "table4", "--format", "json", *arguments]) == 0
        return [row["method"] for row in json.loads(capsys.readouterr().out)["rows"] if row["measured"]]

    assert rows(str(first), str(other)) == ["mine"]
    assert rows(str(first), str(newer)) == ["mine (expert 1)", "mine (expert 2)"]
    assert rows(f"before={first}", f"after = x={newer}") == ["before", "after = x"]


def test_an_unknown_layout_gets_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "--layout", "tabel4"]) != 0
    output = capsys.readouterr().err.strip()
    assert output.count("\n") == 0
    assert "unknown layout 'tabel4' in vlarig table; did you mean table4" in output


def test_a_truncated_ledger_gets_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = play(tmp_path / "run", "simpler_widowx")
    ledger = run / LEDGER_NAME
    ledger.write_bytes(ledger.read_bytes()[: 3 * 4096 + 100])
    assert main(["table", "--layout", "table4", str(run)]) != 0
    output = capsys.readouterr().err.strip()
    assert output.count("\n") == 0
    assert str(ledger) in output
