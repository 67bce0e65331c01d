"""The embedded suite can be solved only by reading the instruction, and not by chance or by doing nothing.

The full sweeps, of all initial states, are run by hand; ``tests/sweeps`` holds their digests. Here a part of each is played again; the
experts' sweeps are among the promises of the contract kit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlarig.benchmarks.registry import load_suite
from vlarig.contract import digests

SWEEPS = sorted(file for file in (Path(__file__).parent / "sweeps").glob("*.json") if not file.stem.endswith("_expert"))

each_sweep = pytest.mark.parametrize("file", SWEEPS, ids=lambda file: file.stem)


@each_sweep
def test_the_full_sweep_holds_what_it_promises(file: Path) -> None:
    for suite in json.loads(file.read_text())["promises"]:
        digests.holds_what_it_promises(file, load_suite(suite))


@pytest.mark.slow
@pytest.mark.timeout(900)
@each_sweep
def test_a_part_of_the_full_sweep_comes_out_again(request: pytest.FixtureRequest, tmp_path: Path, file: Path) -> None:
    for suite in json.loads(file.read_text())["promises"]:
        request.getfixturevalue(load_suite(suite).runtime)
        digests.play_again(file, suite, tmp_path / suite)
