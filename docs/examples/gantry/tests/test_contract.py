"""Every promise that vlarig makes of a suite, on this one; runs beside vlarig."""

from pathlib import Path

import pytest

from vlarig.contract import PROMISES, Subject

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("contract")
    return Subject("gantry", folder, recorded=HERE / "expert_actions.npz", sweep=HERE / "expert_sweep.json")


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_the_contract(subject, promise):
    promise(subject)
