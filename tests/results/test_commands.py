"""`vlarig table` and `vlarig runs list` as a user runs them."""

import json
import re

import pytest
from sample_runs import make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import runs, tables


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")


@pytest.mark.parametrize(("command", "name"), [(tables.table, "table"), (runs.show_list, "runs list")])
def test_help_teaches(command, name, capsys):
    with pytest.raises(SystemExit) as caught:
        command(["--help"])
    assert caught.value.code == 0
    assert f"\n  vlarig {name} " in capsys.readouterr().out


def test_table_of_two_runs(tmp_path, capsys):
    make_run(tmp_path / "runs" / "expert")
    make_run(tmp_path / "runs" / "random", finished=3)
    assert tables.table(["runs/expert", "random"]) == 0
    output = capsys.readouterr().out
    assert output.index("expert") < output.index("70.0") < output.index("66.7") < output.index("incomplete: 9 of 30")


def test_json_is_json_even_in_a_narrow_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    make_run(tmp_path / "expert")
    assert tables.table(["expert", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["run"] == "expert"


def test_markdown(tmp_path, capsys):
    make_run(tmp_path / "expert")
    assert tables.table(["expert", "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("### expert\n\npolicy `expert`")


def test_table_of_a_missing_run(tmp_path):
    make_run(tmp_path / "runs" / "expert")
    with pytest.raises(VlarigError, match="did you mean expert"):
        tables.table(["runs/expart"])


def test_table_of_nothing():
    with pytest.raises(VlarigError, match="no run was named"):
        tables.table([])


def test_runs(tmp_path, capsys):
    make_run(tmp_path / "runs" / "expert")
    make_run(tmp_path / "runs" / "half", finished=2, errors=1)
    make_run(tmp_path / "runs" / "broken")
    (tmp_path / "runs" / "broken" / "manifest.json").write_text("{")
    assert runs.show_list([]) == 0
    output = capsys.readouterr().out
    for piece in (
        "30/30",
        "complete",
        "6/30",
        "resumable",
        "unreadable",
        "broken: runs/broken/manifest.json is no manifest: it is not JSON (",
    ):
        assert piece in output


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_name_is_broken_at_any_width(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    names = {
        "tabletop-expert-1f0c9e2b": "expert",
        "before-finetuning-on-two-hundred-demonstrations": "openpi:ws://10.0.0.1:8000",
    }
    for name, policy in names.items():
        make_run(tmp_path / "runs" / name, policy=policy)
    make_run(tmp_path / "runs" / "half", finished=2, errors=1)
    assert runs.show_list([]) == 0
    lines = capsys.readouterr().out.splitlines()
    words = {word for line in lines for word in line.replace(",", " ").split()}
    assert {*names, *names.values(), "half", "6/30", "complete", "resumable"} <= words
    one_line_each = any("half" in line and "6/30" in line for line in lines)
    assert one_line_each == (width > 120)
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", range(70, 100))
def test_nothing_of_a_run_is_cut_off_at_any_width(tmp_path, capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("demo-expert", "demo-random"):
        make_run(tmp_path / "runs" / name, per_task=1, finished=1)
    assert runs.show_list([]) == 0
    output = capsys.readouterr().out
    assert "…" not in output and len(re.findall(r"\d{4}-\d\d-\d\d \d\d:\d\d\b", output)) == 2


def test_no_runs(tmp_path, capsys):
    assert runs.show_list([str(tmp_path)]) == 0
    assert "No runs in" in capsys.readouterr().out
    with pytest.raises(VlarigError, match="there is no folder"):
        runs.show_list(["nowhere"])
