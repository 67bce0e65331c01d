"""`vlarig envs`: what can be swept, and whether its adapters keep the contract."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_embedded_suite_keeps_the_contract(tabletop: object, cli) -> None:
    done = cli("envs", "check", "tabletop")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert "31 of 31 checks passed" in done.stdout


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


def test_a_suites_protocols_are_compared(toy_home: Path, cli) -> None:
    described = cli("envs", "list", "two_ways").stdout
    rows = {line.split()[0]: line.split()[1:] for line in described.splitlines() if line.strip()}
    assert rows["protocol"] == ["standard@1", "quick@1"]
    assert rows["execute"] == ["8", "4"]
    assert rows["gripper"] == ["as_given", "binary"]
    assert rows["ego"] == ["64", "x", "64", "32", "x", "32"]
    assert "mirrored" in rows
    assert rows["step_limit:"] == ["40"]
    assert {"reach_red", "reach_blue"} <= set(rows)


def test_the_list_says_which_runtime_is_ready(toy_home: Path, cli) -> None:
    lines = {line.split()[0]: line for line in cli("envs", "list").stdout.splitlines()}
    assert lines["toy"].rstrip().endswith("toy (ready)")
    assert lines["tabletop"].rstrip().endswith("tabletop (not installed)")
    assert "standard@1" in lines["tabletop"]
