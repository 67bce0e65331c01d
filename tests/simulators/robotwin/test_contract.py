"""Every promise of the contract kit, on this simulator's suites."""

from __future__ import annotations

from pathlib import Path

from contract.trials import trials

test_the_contract = trials(Path(__file__).parent.name)
