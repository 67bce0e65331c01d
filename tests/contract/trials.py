"""Every promise of the contract kit, on every built-in suite; ``simulators/NAME/test_contract.py`` has those of a runtime.

The first suite of a simulator, in its plug-in's order, gets every promise; its siblings those that their own data can break. The env
checker is run on one task of each adapter that differs in more than how it reads an action; ``checked.json`` has what it found on
all tasks of all suites, by hand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest
from contract.check_all import built_in

from vlarig.benchmarks.registry import load_suite
from vlarig.contract import PROMISES, Subject
from vlarig.contract.promises import (
    every_task_keeps_the_env_contract,
    it_plays_upstreams_own_game,
    the_committed_sweep_comes_out_again,
)

TESTS = Path(__file__).parents[1]

#: The promises that an adapter beside another one of its runtime can break, and those that a suite's own data can break.
OF_ADAPTER = (every_task_keeps_the_env_contract,)
OF_DATA = (it_plays_upstreams_own_game, the_committed_sweep_comes_out_again)

#: The renderer of RoboTwin's runtime under which all is played but what is compared with upstream; the other runtimes do not know it.
QUICK_RENDERER = "flat"

Promise = Callable[[Subject], None]


def trials(runtime: str, by_hand: Collection[str] = ()) -> Callable[..., None]:
    """The test of each promise on each suite of a runtime; the tests share what a suite comes to undisturbed.

    Args:
        runtime: Name of the runtime.
        by_hand: Suites on which the env checker is run by hand alone: their adapter differs from a sibling's in how it reads an action.
    """
    cases = [(name, promise) for name, promise in every_case(by_hand) if load_suite(name).runtime == runtime]
    whole = {name for name, promise in cases if promise is every_task_keeps_the_env_contract}
    recorded = TESTS / "simulators" / runtime / "actions.npz"
    subjects: dict[tuple[str, str], Subject] = {}

    def subject_of(name: str, folder: Path) -> Subject:
        suite = load_suite(name)
        return Subject(
            name,
            folder,
            checked=(suite.trial.tasks or (suite.tasks[0].name,))[-1:],
            recorded=recorded if recorded.exists() else None,
            sweep=expert_sweep(name),
            states=2 if name in whole else 1,
        )

    @pytest.mark.slow
    @pytest.mark.timeout(1800)
    @pytest.mark.parametrize(
        ("name", "promise"), [pytest.param(name, promise, id=f"{name}-{promise.__name__}") for name, promise in cases]
    )
    def test_the_contract(
        request: pytest.FixtureRequest,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path_factory: pytest.TempPathFactory,
        name: str,
        promise: Promise,
    ) -> None:
        request.getfixturevalue(runtime)
        renderers = os.environ.get("VLARIG_RENDERER", "")
        if promise is not it_plays_upstreams_own_game:
            renderers = f"{QUICK_RENDERER},{renderers}"
            monkeypatch.setenv("VLARIG_RENDERER", renderers)
        if (name, renderers) not in subjects:
            subjects[name, renderers] = subject_of(name, tmp_path_factory.mktemp(name))
        promise(subjects[name, renderers])

    return test_the_contract


def every_case(by_hand: Collection[str]) -> Iterator[tuple[str, Promise]]:
    """Each suite with its promises; what it has no upstream loop or no committed sweep for is left out."""
    seen: set[str] = set()
    for name in built_in():
        suite = load_suite(name)
        of_adapter = () if suite.adapter in seen or name in by_hand else OF_ADAPTER
        for promise in (*of_adapter, *OF_DATA) if suite.runtime in seen else PROMISES:
            if promise is it_plays_upstreams_own_game and not suite.trial.upstream:
                continue
            if promise is the_committed_sweep_comes_out_again and not expert_sweep(name):
                continue
            yield name, promise
        seen |= {suite.adapter, suite.runtime}


def expert_sweep(suite: str) -> Path | None:
    """The committed digest of the suite's sweep by its expert."""
    files = sorted((TESTS / "sweeps").glob("*_expert.json"))
    return next((file for file in files if suite in json.loads(file.read_text())["promises"]), None)
