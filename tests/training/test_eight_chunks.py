"""``small`` learned eight chunks by heart whose prompts differ by one word; the digest of that training, and its beginning again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from eight_chunks import BEGINNING, DIGEST, OVERRIDES, configuration

from vlarig.training.trainer import train

WRITTEN = json.loads(DIGEST.read_text())


class Enough(Exception):
    """The part to replay is over."""


class Beginning:
    """Keeps the losses of the first steps, then ends the training."""

    def __init__(self) -> None:
        self.losses: dict[str, float] = {}

    def start(self, step: int, steps: int) -> None:
        pass

    def report(self, step: int, numbers: dict[str, float]) -> None:
        self.losses[str(step)] = numbers["train/loss"]
        if step == BEGINNING:
            raise Enough

    def note(self, sentence: str) -> None:
        pass


def test_every_chunk_is_sampled_to_a_hundredth() -> None:
    assert tuple(WRITTEN["overrides"]) == OVERRIDES
    for kind in ("errors", "errors at temperature 0.6"):
        assert len(WRITTEN[kind]) == 8
        assert max(WRITTEN[kind].values()) < 1e-2, kind


@pytest.mark.slow
def test_the_training_begins_as_it_did(tmp_path: Path) -> None:
    reporter = Beginning()
    with pytest.raises(Enough):
        train(configuration(), tmp_path, reporter)
    known = {str(step): WRITTEN["losses"][str(step)] for step in range(1, BEGINNING + 1)}
    assert reporter.losses == pytest.approx(known, rel=1e-4)
