"""``python tests/chaos``: storms over real sweeps, by hand, with a report. Needs the simulators' runtimes; see ``--help``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the folder of the tests, where this package and the toy simulator are

import tyro

from chaos.campaign import Campaign, run_campaign

if __name__ == "__main__":
    raise SystemExit(0 if run_campaign(tyro.cli(Campaign, prog="python tests/chaos")) else 1)
