"""A sweep whose disk is full ends in one sentence, keeps what it has, and goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.disk import SmallDisk, empty, fill, small_disk
from chaos.judge import sound
from comparing import results

KB = 1024
WORDS = ("sweep", "toy", "--policy", "toy.policies:ImageReader", "--workers", "1")


@pytest.fixture
def disk(toy_home: Path, tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("this system does not allow mounting a file system in memory")
        yield disk


def sweep(disk: SmallDisk, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*disk.enter, sys.executable, "-m", "vlarig.harness", *(words or WORDS), "--run", str(disk.inside / "run")]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=os.environ | {"COLUMNS": "200"}
    )


def leave_room(disk: SmallDisk, size: int) -> None:
    """Fill the disk but for ``size`` bytes."""
    held = disk.outside / "held"
    held.write_bytes(bytes(size))
    fill(disk.outside)
    held.unlink()


def look(disk: SmallDisk, tmp_path: Path) -> dict:
    """The results on the disk, which must be sound."""
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(disk.outside / "run", copy)
    assert sound(copy) == "ok"
    return results(copy)


@pytest.fixture(scope="module")
def results_of() -> dict[str, dict]:
    """Undisturbed results by suite, for the whole module."""
    return {}


@pytest.fixture
def undisturbed(results_of: dict[str, dict], toy_home: Path, cli) -> dict:
    if "toy" not in results_of:
        assert cli(*WORDS, "--run", "undisturbed").returncode == 0
        results_of["toy"] = results(Path("undisturbed"))
    return results_of["toy"]


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 60 * KB, 180 * KB])
def test_a_full_disk_ends_the_sweep_in_a_sentence_and_loses_nothing(
    disk: SmallDisk, undisturbed: dict, tmp_path: Path, room: int
) -> None:
    leave_room(disk, room)
    done = sweep(disk)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "space" in done.stderr
    empty(disk.outside)
    kept = look(disk, tmp_path) if (disk.outside / "run" / "ledger.sqlite").exists() else {}
    assert kept.items() <= undisturbed.items()
    if room >= 180 * KB:
        assert f"{len(kept)} finished episodes are kept" in done.stderr
        assert 0 < len(kept) < len(undisturbed)
    done = sweep(disk)
    assert done.returncode == 0, done.stderr
    assert look(disk, tmp_path) == undisturbed
