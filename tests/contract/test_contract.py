"""Every promise of the contract kit, on every built-in suite.

The first suite of a simulator, in its plug-in's order, gets every promise; its siblings those that their own data can break. The env
checker is run on one task; ``checked.json`` has what it found on all of them, by hand.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.check_all import built_in, tasks_of

from vlarig.benchmarks.registry import load_suite
from vlarig.harness.contract import PROMISES, Subject
from vlarig.harness.contract.promises import (
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


def cases() -> Iterator[tuple[str, Promise]]:
    """Each suite with its promises; what it has no upstream loop or no committed sweep for is left out."""
    seen: set[str] = set()
    for name in built_in():
        suite = load_suite(name)
        of_adapter = () if suite.adapter in seen else OF_ADAPTER
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


def test_every_task_of_every_suite_was_checked() -> None:
    """By hand; see check_all.py."""
    checked = json.loads(Path(__file__).with_name("checked.json").read_text())
    assert {name: (found["tasks"], found["failed"]) for name, found in checked.items()} == {
        name: (len(tasks_of(load_suite(name))), []) for name in built_in()
    }


@pytest.fixture(scope="module")
def subject_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Subject]:
    """Gives the subject of a suite's promises under such renderers, which share what it comes to undisturbed."""

    @functools.cache
    def subject_of(name: str, renderers: str) -> Subject:
        suite = load_suite(name)
        recorded = TESTS / "simulators" / suite.runtime / "actions.npz"
        return Subject(
            name,
            tmp_path_factory.mktemp(name),
            checked=(suite.trial.tasks or (suite.tasks[0].name,))[-1:],
            recorded=recorded if recorded.exists() else None,
            sweep=expert_sweep(name),
            states=2 if every_task_keeps_the_env_contract in (promise for other, promise in cases() if other == name) else 1,
        )

    return subject_of


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "promise"), [pytest.param(name, promise, id=f"{name}-{promise.__name__}") for name, promise in cases()]
)
def test_the_contract(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    subject_of: Callable[[str, str], Subject],
    name: str,
    promise: Promise,
) -> None:
    request.getfixturevalue(load_suite(name).runtime)
    renderers = os.environ.get("VLARIG_RENDERER", "")
    if promise is not it_plays_upstreams_own_game:
        renderers = f"{QUICK_RENDERER},{renderers}"
        monkeypatch.setenv("VLARIG_RENDERER", renderers)
    promise(subject_of(name, renderers))
