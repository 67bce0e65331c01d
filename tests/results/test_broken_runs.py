"""Run folders that were damaged: each causes one message and hides no other run."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from layout_runs import play
from sample_runs import make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import runs, tables
from vlarig.results.ledger import Ledger
from vlarig.results.measures import read_run
from vlarig.results.pages.following import Follower
from vlarig.results.pages.reading import RunReader
from vlarig.results.pages.site import Site, SiteOptions
from vlarig.results.records import Session
from vlarig.results.runs import list_runs, summarize
from vlarig.results.tables import run_table


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("sound") / "run", 3, finished=2, errors=1)
    with Ledger.open(run) as ledger:
        ledger.start_session(Session(None, "here", 1, 1, {"numpy": "2"}))
    return run


@pytest.fixture
def folder(tmp_path: Path, sound: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a good run and of one to break, which is the working directory."""
    for name in ("bad", "good"):
        shutil.copytree(sound, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "runs"


def edit(run: Path, place: str, value: str) -> None:
    """Put JSON into a place of the manifest, such as ``identity.seed``; a place that is empty is the whole."""
    data = json.loads((run / "manifest.json").read_text())
    *way, last = ["data", *place.split(".")] if place else ["data"]
    holder = {"data": data}
    for step in way:
        holder = holder[int(step) if step.isdecimal() else step]
    holder[int(last) if last.isdecimal() else last] = "MARK"
    (run / "manifest.json").write_text(json.dumps(holder["data"] if not place else data).replace('"MARK"', value))


def change(run: Path, sql: str) -> None:
    with closing(sqlite3.connect(run / "ledger.sqlite")) as ledger:
        ledger.executescript(sql)


def look_at(run: Path) -> str:
    """``read`` or ``refused``: the outcome wherever a run's folder is read; an error that is no single sentence is raised."""
    notes = [summarize(run).note]
    for read in (run_table, read_run, all_pages):
        try:
            read(run)
        except VlarigError as error:
            notes.append(str(error))
    for sentence in notes:
        assert sentence.isprintable() and len(sentence) < 1000, sentence[:2000]
    return "refused" if any(notes) else "read"


def all_pages(run: Path) -> None:
    with closing(RunReader.open(run, one_snapshot=True)) as reader:
        site = Site([reader], SiteOptions())
        for file in site.files():
            file.content()


SUITE = "identity.suites.0"


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (f"{SUITE}.protocol", "{}", "protocol: Object missing required field `name`"),
        (f"{SUITE}.protocol.version", '"1"', "protocol: Expected `int`, got `str` - at `$.version`"),
        (f"{SUITE}.protocol.more", "1", "unknown"),
        (f"{SUITE}.protocol.cameras", "[[]]", "Expected `object`, got `array` - at `$.cameras[0]`"),
        (f"{SUITE}.protocol.wait_action", "[" + "9" * 400 + "]", "Number out of range - at `$.wait_action[0]`"),
        (f"{SUITE}.tasks.0.episodes", "0", "greater than or equal to 1"),
        (f"{SUITE}.tasks.0.name", '"a/b"', "without '/' and '@'"),
        (f"{SUITE}.tasks.0.name", '"push_to"', "a task is listed twice"),
        ("identity.episodes", "8", "its suites have 9"),
        ("identity.seed", str(2**63), "less than"),
        ("identity.policy", '"\\ud800"', "is not JSON"),
        ("record.config.deep", "[" * 100_000, "is not JSON"),
        ("identity.odd\n\x1b[2Jkey", "1", "odd [2Jkey is not known"),
        ("record.shard", '"0/0"', "shard is '0/0'"),
        ("", "NaN", "is no manifest"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_something_else(folder: Path, place: str, value: str, reason: str) -> None:
    edit(folder / "bad", place, value)
    bad, good = sorted(list_runs(folder), key=lambda run: run.name)
    assert (bad.state, good.state) == ("unreadable", "resumable")
    assert bad.note.isprintable() and len(bad.note) < 600
    assert reason.lower() in bad.note.lower()
    assert look_at(folder / "bad") == "refused"


@pytest.mark.parametrize("column", ["metrics", "seconds"])
@pytest.mark.parametrize("value", ["[]", '{"a": "1"}', "{"])
def test_a_column_that_holds_other_json(folder: Path, column: str, value: str) -> None:
    change(folder / "bad", f"UPDATE episodes SET {column} = '{value}' WHERE initial_state = 1")
    assert look_at(folder / "bad") == "refused"


def test_a_folder_that_only_others_may_read_hides_no_run(folder: Path) -> None:
    folder.parent.chmod(0o755)
    (folder / "bad").chmod(0o600)
    child = os.fork()
    if child == 0:
        listed = 255
        try:
            os.chdir(folder)  # above are folders that bar other users
            if os.geteuid() == 0:  # who may look into every folder
                os.setuid(65534)
            listed = len(list_runs(Path()))
        finally:
            os._exit(listed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_name_that_is_no_text(folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "bad").rename(folder / os.fsdecode(b"bad\xff"))
    assert {run.name for run in list_runs(folder)} == {"good", "bad\\xff"}
    assert runs.show_list([]) == 0
    assert "bad\\xff" in capsys.readouterr().out


# Several runs at once.


def test_a_site_is_built_without_the_run_that_cannot_be_read(folder: Path, capsys: pytest.CaptureFixture) -> None:
    edit(folder / "bad", f"{SUITE}.protocol", "{}")
    assert runs.page(["runs/bad", "runs/good", "runs/gone", "--out", "site"]) == 1
    error = capsys.readouterr().err
    assert "vlarig: bad is left out: runs/bad/manifest.json is no manifest" in error and "unknown run 'gone'" in error
    index = Path("site/index.html").read_text()
    assert "run-good.html" in index and "runs/bad/manifest.json is no manifest" in index and "run-bad" not in index
    with pytest.raises(VlarigError, match="is no manifest"):
        runs.page(["runs/bad", "--out", "other"])
    assert not Path("other").exists()


def test_damage_that_shows_only_on_an_episodes_page_costs_that_run_alone(folder: Path, capsys: pytest.CaptureFixture) -> None:
    change(folder / "bad", "UPDATE episodes SET actions = substr(actions, 1, 40) WHERE initial_state = 1")
    assert runs.page(["runs/bad", "runs/good", "--out", "site"]) == 1
    assert "bad is left out: the ledger runs/bad/ledger.sqlite holds a damaged record" in capsys.readouterr().err
    assert "run-bad" not in Path("site/index.html").read_text()
    assert not Path("site/run-bad.html").exists() and not Path("site/data/bad").exists()
    assert Path("site/run-good.html").exists()


def test_view_goes_on_beside_a_run_that_cannot_be_read(folder: Path) -> None:
    edit(folder / "bad", f"{SUITE}.protocol", "{}")
    follower = Follower(lambda: [folder / "bad", folder / "good"], SiteOptions(live=True), folder / "site")
    assert follower.state()[1] == "1 run, 0 being written: 6 of 9 episodes finished"
    index = (folder / "site" / "index.html").read_bytes()
    assert b"is no manifest" in index and b"run-good.html" in index
    follower.close()


def test_view_finds_damage_of_an_episode_and_goes_on(folder: Path) -> None:
    change(folder / "bad", "UPDATE episodes SET actions = substr(actions, 1, 40) WHERE initial_state = 1")
    follower = Follower(lambda: [folder / "bad", folder / "good"], SiteOptions(live=True), folder / "site")
    assert follower.state()[1] == "1 run, 0 being written: 6 of 9 episodes finished"
    index = (folder / "site" / "index.html").read_bytes()
    assert b"holds a damaged record" in index and b"run-good.html" in index
    assert not (folder / "site" / "data" / "bad").exists()
    follower.close()


@pytest.mark.parametrize("words", [[], ["--format", "json"], ["--layout", "table4"]])
def test_a_table_has_the_runs_that_can_be_read(folder: Path, capsys: pytest.CaptureFixture, words: list[str]) -> None:
    edit(folder / "bad", f"{SUITE}.protocol", "{}")
    play(folder / "fine", "simpler_widowx", per_task=2, policy="fine")
    assert tables.table(["runs/bad", "runs/fine", *words]) == 1
    output = capsys.readouterr()
    assert "fine" in output.out and "runs/bad" not in output.out
    assert output.err.startswith("vlarig: bad is left out: runs/bad/manifest.json is no manifest")
    with pytest.raises(VlarigError, match="is no manifest"):
        tables.table(["runs/bad", *words])


def test_episodes_are_exported_from_the_runs_that_can_be_read(folder: Path, capsys: pytest.CaptureFixture) -> None:
    change(folder / "bad", "UPDATE episodes SET metrics = '[]' WHERE initial_state = 1")
    assert runs.export(["runs/bad", "runs/good", "--out", "out.parquet"]) == 1
    output = capsys.readouterr()
    assert output.out == "out.parquet: 9 episodes\n" and "bad is left out" in output.err
    with pytest.raises(VlarigError, match="damaged record"):
        runs.export(["runs/bad", "--out", "other.parquet"])


def test_runs_that_can_be_read_are_merged(folder: Path, capsys: pytest.CaptureFixture) -> None:
    change(folder / "bad", "UPDATE episodes SET metrics = '[]' WHERE initial_state = 1")
    assert runs.merge(["runs/bad", "runs/good", "--run", "runs/merged"]) == 1
    output = capsys.readouterr()
    assert "runs/good: 6 finished episodes" in output.out and "bad is left out" in output.err
    assert summarize(folder / "merged").finished == 6
    with pytest.raises(VlarigError, match="damaged record"):
        runs.merge(["runs/bad", "--run", "runs/other"])
    assert not Path("runs/other").exists()
