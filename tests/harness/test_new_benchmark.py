"""Refusals of `vlarig envs new`; the tests of docs/add-a-benchmark.md follow step by step that its files work."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["My-Bench"], "'My-Bench' cannot be the name of a benchmark; use small letters, digits and _"),
        (["tabletop"], "there is a suite 'tabletop' already"),
        (["fresh", "--to", "."], ". holds something already; name another folder by --to"),
    ],
)
def test_invalid_names_and_folders_are_refused_and_nothing_is_touched(
    cli_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    done = cli_here("envs", "new", *words)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
