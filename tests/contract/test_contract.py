"""Every promise of the contract kit, on suites of every simulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vlarig.harness.contract import PROMISES, Subject

TESTS = Path(__file__).parents[1]

SUBJECTS = ("tabletop", "libero_goal", "simpler_widowx")


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    name = request.param
    request.getfixturevalue(name.partition("_")[0])
    recorded = TESTS / "parity" / f"{name.partition('_')[0]}_actions.npz"
    sweep = TESTS / "sweeps" / f"{name.partition('_')[0]}_expert.json"
    checked = ("turn_on_the_stove",) if name == "libero_goal" else ()
    return Subject(
        name,
        tmp_path_factory.mktemp(name),
        checked=checked,
        recorded=recorded if recorded.exists() else None,
        sweep=sweep if name != "libero_goal" else None,
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_contract(subject: Subject, promise: Callable[[Subject], None]) -> None:
    promise(subject)
