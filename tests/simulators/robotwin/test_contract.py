"""Every promise of the contract kit, on this simulator's suites."""

from __future__ import annotations

from pathlib import Path

from contract.trials import trials

# They read an action as poses of the grippers, which upstream's own game shows.
test_the_contract = trials(Path(__file__).parent.name, by_hand=("robotwin_easy_pose", "robotwin_hard_pose"))
