"""The Parquet file: what the ledger holds, in types that pandas and DuckDB read, with the errors and the gaps."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import datasets
import duckdb
import huggingface_hub
import pandas as pd
import pyarrow.parquet
import pytest
from layout_runs import play
from sample_runs import TASKS, make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.cli import main
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest
from vlarig.results.parquet import COLUMNS, export_parquet
from vlarig.results.records import NO_IMAGES
from vlarig.results.schema import LEDGER_NAME

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def test_every_episode_has_a_row_whatever_came_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", per_task=10, finished=6, errors=1)
    assert main(["runs", "export", str(run), "--out", str(tmp_path / "run.parquet")]) == 0
    table = pd.read_parquet(tmp_path / "run.parquet")
    assert table.groupby(["task", "status"]).size().to_dict() == {
        (task, status): count for task in TASKS for status, count in (("finished", 6), ("error", 1), ("missing", 3))
    }
    assert table.loc[table.status != "finished", ["success", "reward", "steps"]].isna().all(axis=None)
    error = table[table.status == "error"].iloc[0]
    assert (error.error_kind, error.error_message) == ("crash", "signal 11")


def test_the_rows_are_the_ledgers_records(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    export_parquet([run], tmp_path / "run.parquet", with_actions=True)
    rows = pyarrow.parquet.read_table(tmp_path / "run.parquet").to_pylist()
    with Ledger.open_read_only(run) as ledger:
        for row, record in zip(rows, ledger.records(with_actions=True), strict=True):
            assert {name: row[name] for name in ("key", "initial_state", "success", "reward", "steps", "chunks", "worker")} == {
                "key": record.key, "initial_state": record.initial_state, "success": record.success, "reward": record.reward,
                "steps": record.steps, "chunks": list(record.chunks), "worker": record.worker,
            }  # fmt: skip
            assert (row["instruction"], row["image_digest"]) == (record.instruction, record.image_digest)
            assert row["metric_distance"] == record.metrics["distance"]
            assert row["seconds_total"] == record.seconds["total"]
            assert row["actions"] == record.actions.tolist()
            assert row["success_final"] is (None if record.outcome.cut_short else record.outcome.final)


def test_numbers_that_are_none_stay_so(tmp_path: Path) -> None:
    nothing = {"metrics": {"distance": math.nan}, "image_digest": NO_IMAGES, "instruction": ""}
    run = play(tmp_path / "run", "simpler_widowx", per_task=1, record=nothing)
    export_parquet([run], tmp_path / "run.parquet")
    rows = pd.read_parquet(tmp_path / "run.parquet")
    assert all(rows[name].isna().all() for name in ("metric_distance", "image_digest", "instruction"))


def test_duckdb_reads_several_runs_in_one_line(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", finished=4, policy="other")]
    out = tmp_path / "both.parquet"
    export_parquet(runs, out)
    found = duckdb.sql(
        f"select run, policy, count(*), avg(success::int) from '{out}' where success is not null group by all order by all"
    )
    assert found.fetchall() == [("a", "expert", 30, 0.7), ("b", "other", 12, 0.75)]
    manifests = json.loads(pyarrow.parquet.read_schema(out).metadata[b"vlarig"])
    assert manifests == [Manifest.load(run).model_dump(mode="json") for run in runs]


def test_the_hubs_own_package_loads_a_folder_as_a_dataset(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", policy="some|policy")
    assert main(["runs", "export", str(run), "--out", str(tmp_path / "episodes")]) == 0
    loaded = datasets.load_dataset(str(tmp_path / "episodes"), split="train", cache_dir=str(tmp_path / "cache"))
    export_parquet([run], tmp_path / "run.parquet")
    expected = pd.read_parquet(tmp_path / "run.parquet")
    assert list(loaded.to_pandas().columns) == list(expected.columns)
    assert loaded["key"] == expected.key.tolist()
    assert loaded["success"] == expected.success.tolist()
    card = huggingface_hub.DatasetCard.load(tmp_path / "episodes" / "README.md")
    assert card.data.tags == ["robotics", "vision-language-action", "vlarig"]
    assert "| run | some\\|policy | tabletop" in card.text
    assert "| `success` | bool | success under the protocol's own rule |" in card.text


def test_more_episodes_than_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", per_task=10)
    with Ledger.open_read_only(run) as ledger:
        assert [record.key for record in ledger.each_record(at_a_time=7)] == [record.key for record in ledger.records()]
    monkeypatch.setattr("vlarig.results.parquet._ROWS_AT_A_TIME", 7)
    assert export_parquet([run], tmp_path / "run.parquet") == 30
    assert len(pd.read_parquet(tmp_path / "run.parquet").key.unique()) == 30


def test_the_documentation_has_every_column() -> None:
    documented = re.findall(r"^\| `(\w+)` \| (\S+) \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert documented == [(name, kind, meaning) for name, kind, meaning in COLUMNS]


def test_bad_input_gets_one_sentence(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    twin = make_run(tmp_path / "other" / "run")
    with pytest.raises(VlarigError, match="two of the runs are called run"):
        export_parquet([run, twin], tmp_path / "out.parquet")
    with pytest.raises(VlarigError, match=r"out\.parquet cannot be written"):
        export_parquet([run], tmp_path / "nowhere" / "out.parquet")
    assert main(["runs", "export", "--out", "x.parquet"]) == 2


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    out = tmp_path / "run.parquet"
    export_parquet([run], out)
    before = out.read_bytes()
    ledger = run / LEDGER_NAME
    ledger.write_bytes(ledger.read_bytes()[:5000])
    with pytest.raises(VlarigError):
        export_parquet([run], out)
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".new")] == []
