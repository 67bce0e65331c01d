"""Tables: what is shown of finished, half-finished and damaged runs."""

import json

import pytest
from rich.console import Console
from sample_runs import make_manifest, make_record, make_run

from vlarig.envs.errors import VlarigError
from vlarig.results.forms.markdown import for_markdown
from vlarig.results.forms.terminal import print_sheets
from vlarig.results.ledger import Ledger
from vlarig.results.rendering import LEGEND, for_programs, run_sheet
from vlarig.results.statistics import wilson_interval
from vlarig.results.tables import Tally, run_table


def shown(*tables) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_sheets(console, [run_sheet(table) for table in tables], LEGEND)
    return console.export_text()


def test_a_complete_run(tmp_path):
    table = run_table(make_run(tmp_path / "expert"))
    assert table.total == Tally(expected=30, finished=30, successes=21)
    assert [row.task for row in table.suites[0].rows] == ["stack", "push_to", "open_drawer"]
    assert table.suites[0].rows[0].tally == Tally(10, 10, 7)
    text = shown(table)
    for piece in ("expert", "osmesa", "tabletop standard@1", "70.0", "52.1 to 83.3", "39.7 to 89.2"):
        assert piece in text
    assert "incomplete" not in text


def test_errors_and_missing_are_counted_never_averaged(tmp_path):
    table = run_table(make_run(tmp_path / "half", per_task=10, finished=4, errors=2))
    tally = table.suites[0].rows[0].tally
    assert (tally.finished, tally.errors, tally.missing, tally.complete) == (4, 2, 4, False)
    assert tally.rate == 0.75
    assert tally.interval == wilson_interval(3, 4)
    text = shown(table)
    assert "tabletop standard@1 (incomplete)" in text
    assert "incomplete: 12 of 30 episodes finished, 6 errors, 12 missing" in " ".join(text.split())


def test_an_error_that_was_finished_later_is_no_error(tmp_path):
    run = make_run(tmp_path / "run", per_task=5, finished=4, errors=1)
    with Ledger.open(run) as ledger:
        ledger.write_episode(make_record(4, "stack"))
    tallies = [row.tally for row in run_table(run).suites[0].rows]
    assert [(tally.finished, tally.errors, tally.missing) for tally in tallies] == [(5, 0, 0), (4, 1, 0), (4, 1, 0)]


def test_a_run_without_results_shows_no_rate(tmp_path):
    table = run_table(make_run(tmp_path / "new", finished=0))
    assert table.total.rate is None
    assert "| stack | - | - | 0 | 0 | 10 |" in for_markdown([run_sheet(table)], LEGEND)


def test_a_run_is_shown_while_it_is_written(tmp_path):
    run = make_run(tmp_path / "run", finished=0)
    with Ledger.open(run) as ledger:
        for initial_state in range(3):
            ledger.write_episode(make_record(initial_state, "stack"))
            assert run_table(run).total.finished == initial_state + 1


def test_markdown(tmp_path):
    runs = [make_run(tmp_path / "expert"), make_run(tmp_path / "half_done", finished=4, policy="a|b")]
    text = for_markdown([run_sheet(run_table(run)) for run in runs], LEGEND)
    assert "### expert\n\npolicy `expert`, revision `expert 1`, protocol `standard@1`, renderer `osmesa`, seed `0`" in text
    assert "| push\\_to | 70.0 | 39.7 to 89.2 | 10 | 0 | 0 |" in text
    assert "| **tabletop standard@1** | **70.0** | **52.1 to 83.3** | **30** | **0** | **0** |" in text
    assert "### half\\_done" in text
    assert "**incomplete: 12 of 30 episodes finished, 0 errors, 18 missing" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {7}


def test_json(tmp_path):
    data = json.loads(for_programs([run_table(make_run(tmp_path / "half", finished=4, errors=2))]))
    suite = data[0]["suites"][0]
    assert data[0]["complete"] is False
    assert data[0]["identity_hash"] == make_manifest().identity_hash()
    assert (suite["suite"], suite["protocol"], suite["rule"]) == ("tabletop", "standard@1", "success at any step")
    assert suite["tasks"][0] == {
        "task": "stack", "variant": "base", "success_rate": 0.75, "interval": list(wilson_interval(3, 4)),
        "interval_method": "wilson 95 %", "n": 4, "successes": 3, "errors": 2, "missing": 4, "expected": 10, "complete": False,
    }  # fmt: skip


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    run = tmp_path / "run"
    make_manifest(1, tasks=("[red]stack",)).save(run)
    Ledger.create(run).close()
    assert "[red]stack" in shown(run_table(run))


def test_a_ledger_of_another_run_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    make_manifest(10, tasks=("stack", "push_to")).save(run)
    with pytest.raises(VlarigError, match="mixes two runs: its ledger holds results of tabletop/standard@1/open_drawer/base"):
        run_table(run)
    make_manifest(5).save(run)
    with pytest.raises(VlarigError, match="holds more results than were planned"):
        run_table(run)
