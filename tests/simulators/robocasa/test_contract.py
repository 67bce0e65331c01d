"""Every promise of the contract kit, on this simulator's suites."""

from __future__ import annotations

from pathlib import Path

from contract.trials import trials

# It has the same channels in another order; in_runtime_env.py plays the same episode in both.
test_the_contract = trials(Path(__file__).parent.name, by_hand=("robocasa_gr1_gr00t",))
