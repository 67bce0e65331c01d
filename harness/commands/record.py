"""``vlarig data record``: play a suite's episodes, and keep what was seen, felt and done as a LeRobotDataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.rendering import LEGEND, run_sheet
from ...results.tables import run_table
from ..plan import Count, SweepConfig
from ..recorder import RecordingPlan, mb_of
from ..reporting.logs import EventLog
from ..screen import Screen
from ..sweep import cluster, named_policy, run_sweep
from ..trackers import TrackerName


class RecordConfig(SweepConfig):
    """Play a suite's episodes with any policy or expert, and write a LeRobotDataset v3.0 of those that succeed.

    Episodes begin where none is evaluated: at the suite's initial states for training. The same command resumes a recording that was
    interrupted; workers, envs and machines change its speed, never the dataset. FOLDER/run is a run as of 'vlarig sweep', which tables,
    pages and 'vlarig runs replay' read.

      vlarig data record tabletop --policy expert --episodes 50 --to demos
      vlarig data record tabletop --policy expert --episodes 5 --tasks stack push_to --to demos --workers 2
      vlarig data record libero_spatial --policy openpi:ws://HOST:8000 --episodes 10 --keep-failures --to demos --hosts HOST1 HOST2
    """

    suites: Annotated[tuple[str], tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """Suite to record; 'vlarig envs list' shows them."""
    episodes: Count = None
    """Episodes of each task to play; must be given."""
    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the dataset; one that was begun is resumed."""
    keep_failures: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep episodes that did not succeed too; each says whether it did."""
    initial_states: Literal["evaluation", "training"] = "training"
    """Where episodes begin. A policy that is trained on 'evaluation' cannot be evaluated on them."""
    run: Annotated[Path | None, tyro.conf.Suppress] = None
    fresh: Annotated[bool, tyro.conf.Suppress] = False
    shard: Annotated[str | None, tyro.conf.Suppress] = None
    track: Annotated[tuple[TrackerName, ...], tyro.conf.Suppress] = ()
    video: Annotated[Literal["none", "failures", "all"], tyro.conf.Suppress] = "none"

    @property
    def config(self) -> SweepConfig:
        """The sweep alone."""
        return SweepConfig(**self.model_dump(exclude={"to", "keep_failures", "run"}), run=self.plan.run)

    @property
    def plan(self) -> RecordingPlan:
        return RecordingPlan(self.to, self.suites[0], self.keep_failures)


def record(command: RecordConfig) -> int:
    """Run the command; 0 when every episode is finished, 1 when some were given up."""
    if command.episodes is None:
        raise VlarigError(
            "how many episodes to play is not given; name it, as in: vlarig data record tabletop --episodes 50 ..."
        )
    config, plan = command.config, command.plan
    recorder = plan.begin()
    console = Screen()
    with EventLog(console) as event_log:
        try:
            with cluster(config), named_policy(config, event_log.say) as policy:
                evaluation = run_sweep(config, policy, event_log, recorder=recorder)
        finally:
            recorder.close()
        event_log.say("joining the episodes")
        count = plan.finish(evaluation.complete)
    print_sheets(console, [run_sheet(run_table(evaluation.run))], LEGEND)
    console.print(
        f"dataset: {plan.folder}, {count} episode{'s' * (count != 1)}, {mb_of(plan.folder):.1f} MB; the run is in {plan.run}",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if evaluation.complete else 1
