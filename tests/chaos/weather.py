"""Short storms as tests: blows fall on a case's sweep until all have hit, and its results do not change."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from comparing import results

from chaos.blows import Blow
from chaos.cases import Case
from chaos.runner import Runner


def assert_unharmed(case: Case, folder: Path, blows: Sequence[Blow], expected: dict[str, Any]) -> None:
    """Storm over the case's sweep: every episode is as ``expected``, the undisturbed run's, and nothing else is wrong."""
    shuffled = list(blows)
    random.Random(0).shuffle(shuffled)
    outcome = Runner(case, folder / "storm", shuffled, expected).run()
    assert not outcome.differences, outcome.differences
    assert not outcome.problems, outcome.problems
    assert outcome.episodes >= case.episodes
    assert sum(outcome.landed.values()) >= len(blows)


def assert_placed_alike(
    case: Case,
    cli: Callable[..., subprocess.CompletedProcess[str]],
    run: Path,
    placement: tuple[int, int, int],
    expected: dict[str, Any],
) -> None:
    """Sweep with these numbers of workers, envs and requests a batch: every episode is as ``expected``."""
    workers, envs, batch = placement
    done = cli(*case.words, "--run", run, "--workers", workers, "--num-envs", workers * envs, "--batch", batch, timeout=600)
    assert done.returncode == 0, done.stderr
    assert results(run) == expected
