"""Stable-Baselines3 over vlarig's suites, tried in an environment that has it."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from third_party.environments import HERE, REPOSITORY, environment

from vlarig.envs.errors import VlarigError


@pytest.fixture(scope="module")
def python() -> Path:
    return environment("stable_baselines", with_torch=True)


def run(*words: str | Path) -> str:
    done = subprocess.run([*map(str, words)], cwd=REPOSITORY, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_stable_baselines3_makes_of_our_suites(tabletop: object, python: Path) -> None:
    output = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "stable_baselines_cases.py")
    assert "passed" in output
    assert "skipped" not in output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_programs_run(tabletop: object, python: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "gymnasium.md").read_text()
    programs = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(programs) == 4
    output = [run(python, "-c", program) for program in programs]
    assert re.match(r"push the \w+ \w+ into the \w+ zone \[[-. \d]+\]$", output[2])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_example_trains_evaluates_and_renders(tabletop: object, python: Path, tmp_path: Path) -> None:
    script = REPOSITORY / "docs" / "examples" / "learn_to_push.py"
    run(python, script, "--out", tmp_path, "--steps", "80", "--envs", "2", "--workers", "1", "--episodes", "2")
    first, last = csv.DictReader((tmp_path / "curve.csv").open())
    assert [step["steps"] for step in (first, last)] == ["0", "80"]
    assert (first["successes"], first["episodes"], first["low"]) == ("0", "2", "0.0")
    assert float(first["high"]) == pytest.approx(0.6576, abs=1e-3)  # Wilson's, of none out of two
    assert float(first["mean_return"]) < 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "model.zip").exists()


def test_where_it_is_missing_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "vlarig.harness.gym.stable_baselines", raising=False)
    with pytest.raises(VlarigError, match=r"install the extra 'sb3': pip install 'vlarig\[sb3\]'"):
        importlib.import_module("vlarig.harness.gym.stable_baselines")
