"""``vlarig sweep``: run a policy over suites, to a table with intervals."""

from __future__ import annotations

import tyro
from rich.console import Console

from ...policies.registry import loaded_policy, parse_options
from ...results.rendering import for_terminal
from ...results.tables import run_table
from ..plan import SweepConfig
from ..sweep import run_sweep

DESCRIPTION = """Run a policy over every episode of one or more suites, and print success with 95 % intervals.

A sweep that was interrupted, by Ctrl-C, a kill or a power cut, goes on when the same command is typed again; what was finished
is kept. Workers, slots and batches change how fast a run goes, never what it measures.

  vlarig sweep tabletop --policy expert                     every start of every task
  vlarig sweep tabletop --policy random --episodes 5        five episodes a task
  vlarig sweep tabletop --policy my_policy:MyPolicy --tasks stack push_to --execute 8
  vlarig sweep tabletop --policy expert --episodes 2 --video all
  vlarig sweep tabletop --policy qwen-vla:small --policy-options temperature=1 steps=10
  vlarig sweep libero_spatial libero_goal --policy my_policy:MyPolicy --protocol openpi
"""


def main(arguments: list[str]) -> int:
    """Parse and run; 0 when every episode is finished, 1 when some could not be."""
    config = tyro.cli(SweepConfig, prog="vlarig sweep", description=DESCRIPTION, args=arguments)
    console = Console()
    with loaded_policy(config.policy, parse_options(config.policy_options)) as policy:
        evaluation = run_sweep(config, policy, console)
    console.print(for_terminal([run_table(evaluation.run)]))
    return 0 if evaluation.complete else 1
