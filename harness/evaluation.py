"""What a sweep measured: its folder, its plan and its success rates."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from ..results.ledger import Ledger
from ..results.records import EpisodeRecord
from ..results.tables import Tally, run_table
from .replay import Replay

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """A sweep that came to its end.

    Attributes:
        run: Folder of the run.
        complete: Whether every episode of the run, or of the shard, is finished.
        errors: Episodes given up in this session; the same command tries them again.
        unfilmed: Episodes that were to be filmed and could not be, with the reason.
        played: Episodes finished in this session; 0 where the run was complete already.
    """

    run: Path
    complete: bool
    errors: int
    unfilmed: tuple[Replay, ...] = ()
    played: int = 0

    def records(self) -> list[EpisodeRecord]:
        """Every finished episode of the run, with its actions."""
        with Ledger.open_read_only(self.run) as ledger:
            return ledger.records(with_actions=True)

    @property
    def success_rate(self) -> float | None:
        """Share of the run's finished episodes that succeeded, its suites pooled; ``None`` where none finished.

        Episodes that were given up or are missing are no part of it: see ``complete``, or the tallies of :meth:`by_task`.
        """
        return run_table(self.run).total.rate

    @property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval of :attr:`success_rate`; ``(0.0, 1.0)`` where no episode finished."""
        return run_table(self.run).total.interval

    def rates(self) -> dict[str, float]:
        """Success rates as trackers get them: ``eval/success`` of all episodes, and ``eval/KEY`` for each key of :meth:`by_task`.

        What has no finished episode is left out.
        """
        by_task = {name: tally.rate for name, tally in self.by_task().items()}
        return {f"eval/{name}": rate for name, rate in ({"success": self.success_rate} | by_task).items() if rate is not None}

    def by_task(self) -> dict[str, Tally]:
        """Each task's tally (``rate``, ``interval``, ``finished``, ``successes``, ``errors``, ``missing``), in the order of the table.

        Keys are the tasks' names, with the variation where there is one; ``suite/task`` where the run has several suites.
        """
        suites = run_table(self.run).suites
        return {
            row.label if len(suites) == 1 else f"{suite.suite}/{row.label}": row.tally for suite in suites for row in suite.rows
        }


def warn_if_nothing_was_played(evaluation: Evaluation) -> None:
    """Log a warning where all episodes were there already: a program's user does not see what a sweep says."""
    if evaluation.complete and not evaluation.played:
        episodes = run_table(evaluation.run).total.finished
        logger.warning(
            "nothing was played: the %d episodes of %s were there already; fresh=True plays them again",
            episodes,
            evaluation.run,
        )
