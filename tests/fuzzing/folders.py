"""Run folders that are broken at random: manifest and ledger, in what they say and byte by byte.

All that is drawn follows from a seed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vlarig.envs.errors import VlarigError
from vlarig.results.measures import read_run
from vlarig.results.pages.reading import RunReader
from vlarig.results.pages.site import Site, SiteOptions
from vlarig.results.runs import summarize
from vlarig.results.tables import run_table

#: JSON that a field of a manifest, or a column of a ledger that holds JSON, may not expect.
STRANGE_JSON = [
    *("null", "true", "0", "1", "-1", "2", "1.5", "1e308", "1e999", "-1e999", "NaN", "Infinity", "1" + "0" * 30, "9" * 400),
    *("9" * 5000, str(2**63), str(-(2**63) - 1), '""', '"x"', '"\\ud800"', '"\\u0000"', '"\\n"', '"\\u001b[2J"', '"\\u202e"'),
    *('"a/b@c"', '"../../etc"', '"' + "x" * 5000 + '"', "[]", "[[]]", "{}", '{"\\ud800": 1}', '{"": null}', '{"__proto__": 1}'),
    *("[" * 300 + "]" * 300, "[" * 100_000, '{"a":' * 900 + "1" + "}" * 900, '{"a": "1"}', "[1, -5, 6]", "[2147483648]"),
]  # fmt: skip

#: Values that a column may not expect.
STRANGE_VALUES = [
    *(None, 0, 1, -1, 2, 7, 2**31, 2**62, -(2**63), 0.5, 1e308, float("inf"), "", "x", "1", "\x00", "a/b", "x" * 5000),
    *(b"", b"\x00\xff", b"ACT1", b"ACT1" + b"\xff" * 8, b"ACT1" + bytes(8), *STRANGE_JSON[:12], *STRANGE_JSON[-12:]),
    *("tabletop/standard@1/stack/base/x/0", "tabletop/standard@1/stack/base/0/9" + "9" * 30, "no key", "other/p@1/t/base/0/0"),
]  # fmt: skip

_SCHEMA_CHANGES = (
    "CREATE TRIGGER t AFTER INSERT ON episodes BEGIN DELETE FROM episodes; END",
    "ALTER TABLE episodes RENAME TO e; CREATE VIEW episodes AS SELECT * FROM e",
    "ALTER TABLE sessions RENAME TO s; CREATE VIEW sessions AS SELECT randomblob(9) AS id FROM s",
    "DROP TABLE episodes",
    "DROP TABLE attempts",
    "DROP TABLE sessions; CREATE TABLE sessions (id)",
    "ALTER TABLE episodes DROP COLUMN worker",
    "ALTER TABLE episodes ADD COLUMN more",
    "DROP TABLE attempts; CREATE VIRTUAL TABLE attempts USING fts5(key)",
    "DELETE FROM episodes",
    "INSERT INTO attempts VALUES (99, 'x', 1, 'crash', 'm', 'w', 1, NULL, '')",
)


def break_run(run: Path, draw: random.Random) -> str:
    """Break a run's folder in one way, or in several; returns the changes in words."""
    ways = draw.choices((_break_text, _break_bytes, _break_column, _break_schema, _break_file), (8, 2, 8, 1, 1))
    return "; ".join(way(run, draw) for way in ways)


def _break_text(run: Path, draw: random.Random) -> str:
    """A value of the manifest is another, or its name is."""
    path = run / "manifest.json"
    if not path.is_file():
        return "nothing"
    data = json.loads(path.read_text())
    holder, key = draw.choice(list(_places(data)))
    value = draw.choice(STRANGE_JSON)
    way = draw.choice(("replace", "replace", "replace", "delete", "rename", "copy"))
    if way == "delete":
        del holder[key]
    elif way == "rename" and isinstance(holder, dict):
        holder[draw.choice(("", "name", "\x00", "x y", "MARK"))] = holder.pop(key)
        value = '"\\ud800"'
    elif way == "copy":
        holder[key] = copy.deepcopy(draw.choice([there[place] for there, place in _places(data)]))
    else:
        holder[key] = "MARK"
    path.write_text(json.dumps(data).replace('"MARK"', value, 1))
    return f"{way} {key} {value[:60]}"


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(data) if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield data, key
        yield from _places(data[key])


def _break_bytes(run: Path, draw: random.Random) -> str:
    path = run / draw.choice(("manifest.json", "ledger.sqlite"))
    if not path.is_file():
        return "nothing"
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 2, 8, 64))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data[: draw.choice((len(data), len(data), len(data), draw.randrange(len(data))))])
    return f"bytes of {path.name}"


def _break_column(run: Path, draw: random.Random) -> str:
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, contextlib.suppress(sqlite3.Error):
        table = draw.choice(("episodes", "episodes", "attempts", "sessions"))
        column = draw.choice([row[1] for row in ledger.execute(f"PRAGMA table_info({table})")])
        value = draw.choice(STRANGE_VALUES)
        rows = list(ledger.execute(f"SELECT rowid FROM {table}"))
        row = draw.choice(rows or [(0,)])
        ledger.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, *row))
        ledger.commit()
        return f"{table}.{column} = {str(value)[:60]!r}"
    return "nothing"


def _break_schema(run: Path, draw: random.Random) -> str:
    change = draw.choice(_SCHEMA_CHANGES)
    with contextlib.closing(sqlite3.connect(run / "ledger.sqlite")) as ledger, contextlib.suppress(sqlite3.Error):
        ledger.executescript(change)
    return change


def _break_file(run: Path, draw: random.Random) -> str:
    path = run / draw.choice(("manifest.json", "ledger.sqlite", "ledger.sqlite-wal", "videos", "frames.png"))
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    ways: dict[str, Callable[[], object]] = {
        "gone": lambda: None, "pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "loop": lambda: path.symlink_to(path.name),
        "device": lambda: path.symlink_to("/dev/zero"), "link": lambda: path.symlink_to("/etc/passwd"), "empty": path.touch,
    }  # fmt: skip
    way = draw.choice(list(ways))
    ways[way]()
    return f"{path.name}: {way}"


def look_at(run: Path) -> str:
    """``read`` or ``refused``: the outcome wherever a run's folder is read; an error that is no single sentence is raised."""
    summary = summarize(run)
    notes = [summary.note]
    f"{summary.name} {summary.policy} {summary.suites} {summary.note}".encode()
    for read in (run_table, read_run, _all_pages):
        try:
            read(run)
        except VlarigError as error:
            notes.append(str(error))
    for sentence in notes:
        sentence.encode()
        assert sentence.isprintable() and len(sentence) < 1000, sentence[:2000]
    return "refused" if any(notes) else "read"


def _all_pages(run: Path) -> None:
    with contextlib.closing(RunReader.open(run, one_moment=True)) as reader:
        site = Site([reader], SiteOptions())
        for path in site.paths():
            site.content(path)
