"""Several runs of a suite as one matrix of policies by tasks, in every form."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from layout_runs import play
from sample_runs import PROTOCOL, TASKS, make_episode, make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import tables
from vlarig.results.planning import suite_plans


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/expert"))
    make_run(Path("runs/random"), policy="random", finished=4, errors=1)
    make_run(Path("runs/again"), policy="random", seed=7)


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert tables.table(list(words)) == 0
    return capsys.readouterr().out


def rows_of(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


def test_a_row_for_each_run_and_a_column_for_each_task(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = printed(capsys, "expert", "random")
    rows = rows_of(text)
    assert rows["policy"] == [*TASKS, "all", "tasks"]
    assert rows["expert"] == ["70.0"] * 4
    assert rows["random"] == ["75.0", "75.0", "75.0", "75.0¹"]
    assert "[52.1, 83.3]" in text and "n 30" in text
    assert "¹ incomplete: 12 of 30 episodes finished, 3 errors, 15 missing" in text
    assert text.count("protocol standard@1") == 1


def test_in_a_narrow_terminal_the_tasks_are_the_rows(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = printed(capsys, "before=expert", "after=random")
    rows = rows_of(text)
    assert rows["task"] == ["before", "after"]
    assert rows["open_drawer"] == ["70.0", "75.0"]
    assert rows["all"] == ["tasks", "70.0", "75.0¹"]
    assert "[52.1, 83.3]" in text
    assert max(map(len, text.splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "34")
    text = printed(capsys, "before=expert", "after=random")
    assert "[52.1, 83.3]" not in text
    assert "a wider terminal shows the intervals" in " ".join(text.split())
    assert rows_of(text)["open_drawer"] == ["70.0", "75.0"]


def test_six_runs_of_five_tasks_fit_into_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(6):
        play(
            Path(f"runs/tabletop-random-{number:08x}"),
            "tabletop",
            protocol="standard",
            per_task=4,
            policy=f"random{number // 2}",
        )
    text = printed(capsys, *sorted(map(str, Path("runs").glob("tabletop-*"))))
    assert max(map(len, text.splitlines())) <= 80
    assert all(f"-{number:08x})" in text or f" {number:08x})" in text for number in range(6)), "broken where parts are joined"
    assert {"pick_", "into", "place_", "beside", "stack", "push_to", "two_step"} <= set(text.split())
    assert text.count("75.0") == 6 * 6


def test_a_label_is_broken_between_words_first(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "78")
    shorter = PROTOCOL.derive(n_action_steps=1)
    make_run(Path("runs/shorter"), suites=suite_plans([replace(make_episode(0), protocol=shorter)]), episodes=1, finished=0)
    assert f"\n {shorter.name}@1 " in printed(capsys, "shorter")


def test_runs_of_more_tasks_than_a_terminal_is_wide_are_a_list_of_totals(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for number in range(9):
        play(Path(f"runs/libero{number}"), "libero_10", per_task=4, policy=f"policy{number}")
    text = printed(capsys, *map(str, Path("runs").glob("libero?")))
    assert max(map(len, text.splitlines())) <= 80
    assert {f"policy{number}" for number in range(9)} <= rows_of(text).keys()
    assert rows_of(text)["policy"] == ["all", "tasks", "95", "%", "interval", "n"]
    assert "a wider terminal, or --per-run, shows the tasks" in text


def test_runs_of_one_policy_are_told_apart(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    text = printed(capsys, "random", "again")
    assert {"random (random)", "random (again)"} <= {line.split("  ")[0].strip() for line in text.splitlines()}
    assert "renderer osmesa, seed 7" in text


def test_runs_that_differ_in_the_steps_that_they_run_of_a_chunk_alone_are_in_one_matrix(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    shorter = PROTOCOL.derive(n_action_steps=1)
    episodes = [replace(make_episode(initial_state, task), protocol=shorter) for task in TASKS for initial_state in range(10)]
    make_run(Path("runs/shorter"), finished=0, suites=suite_plans(episodes))
    text = printed(capsys, "random", "shorter")
    assert text.count("suite / task") == 0 and text.count("all tasks") == 1
    assert f"protocol {PROTOCOL.name}@{PROTOCOL.version} " in text
    assert f"{PROTOCOL.n_action_steps} steps of each chunk are run" in text and "1 step of each chunk is run" in text
    assert "each chunk" not in printed(capsys, "random", "again")


def test_every_form_has_the_matrix(capsys):
    for form in ("markdown", "latex", "html"):
        text = printed(capsys, "expert", "random", "--format", form)
        assert text.count("all tasks") == 1, form
        assert "incomplete: 12 of 30" in text, form
    header, expert, random = csv.reader(io.StringIO(printed(capsys, "expert", "random", "--format", "csv")))
    assert dict(zip(header, expert, strict=True))["all tasks n"] == "30"
    assert dict(zip(header, random, strict=True))["stack"] == "75.0"
    assert "incomplete: 12 of 30" in random[-1]
    assert [run["run"] for run in json.loads(printed(capsys, "expert", "random", "--format", "json"))] == ["expert", "random"]


def test_a_table_for_each_run_where_it_is_asked_for_or_nothing_is_shared(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert printed(capsys, "expert", "random", "--per-run").count("suite / task") == 2
    assert printed(capsys, "expert").count("suite / task") == 1
    longer = replace(PROTOCOL, step_limit=90)
    episodes = [replace(make_episode(initial_state, task), protocol=longer) for task in TASKS for initial_state in range(10)]
    make_run(Path("runs/other"), suites=suite_plans(episodes))
    text = printed(capsys, "expert", "other")
    assert text.count("suite / task") == 2, "one name for two protocols"
    text = printed(capsys, "expert", "random", "other")
    assert text.count("suite / task") == 1 and text.count("all tasks") == 1
    with pytest.raises(VlarigError, match="--per-run"):
        tables.table(["expert", "random", "other", "--format", "csv"])
