"""`vlarig envs`: what can be swept, and whether its adapters keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_embedded_suite_keeps_the_contract(tabletop: object, cli) -> None:
    done = cli("envs", "check", "tabletop")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert "30 of 30 checks passed" in done.stdout


def test_a_broken_adapter_is_told_what_to_do(toy_home: Path, cli) -> None:
    done = cli("envs", "check", "leaky")
    assert done.returncode == 1
    assert "FAIL  an_episode_played_twice_in_a_row_is_the_same" in done.stdout
    assert "What to do:" in done.stdout


def test_without_a_name_every_ready_suite_is_checked(toy_home: Path, cli) -> None:
    done = cli("envs", "check")
    assert done.returncode == 1
    assert "toy: toy.env:ToyEnv" in done.stdout
    assert "leaky: toy.faulty:LeakyEnv" in done.stdout
    assert "tabletop" not in done.stdout


def test_the_list_says_which_runtime_is_ready(toy_home: Path, cli) -> None:
    lines = {line.split()[0]: line for line in cli("envs", "list").stdout.splitlines()}
    assert lines["toy"].rstrip().endswith("toy (ready)")
    assert lines["tabletop"].rstrip().endswith("tabletop (not installed)")
    assert "standard@1" in lines["tabletop"]
