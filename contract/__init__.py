"""The contract kit: every promise that vlarig makes of a suite, as one test each that takes the suite's name.

A test of a benchmark of your own is these lines; ``pytest`` runs them beside vlarig::

    import pytest
    from vlarig.contract import PROMISES, Subject

    @pytest.fixture(scope="module")
    def subject(tmp_path_factory):
        return Subject("my_bench", tmp_path_factory.mktemp("contract"))

    @pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
    def test_the_contract(subject, promise):
        promise(subject)

A promise that is broken raises an error with a sentence. One that cannot be tried, for lack of an upstream loop or a committed sweep,
says so and is skipped.
"""

from __future__ import annotations

from .promises import PROMISES
from .subject import Subject

__all__ = ["PROMISES", "Subject"]
