"""`vlarig envs`: what can be swept, and whether its adapters keep the contract."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import TESTS


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


#: Plug-ins that cannot be used: the module's text, and what is said of it.
BROKEN = {
    "raising": ("1 / 0", "ZeroDivisionError: division by zero"),
    "misspelt": ("def", "SyntaxError"),
    "program": ("raise SystemExit(3)", "SystemExit: 3"),
    "empty": ("", "has no attribute 'SUITE'"),
    "other": ("SUITE = 7", "which is of type int; expected a Suite of that name"),
    "borrowed": ("from toy.suite import TOY_SUITE as SUITE", "which is the suite 'toy'; expected a Suite of that name"),
    "idle": (
        "from dataclasses import replace\nfrom toy.suite import TOY_SUITE\nSUITE = replace(TOY_SUITE, name='idle', tasks=())",
        "has no task",
    ),
}


@pytest.fixture
def with_broken_plugins(toy_home: Path, tmp_path: Path) -> dict[str, str]:
    """Environment variables under which the broken plug-ins are installed beside the toy suites."""
    site = tmp_path / "site"
    (site / "broken.dist-info").mkdir(parents=True)
    for name, (text, _) in BROKEN.items():
        (site / f"broken_{name}.py").write_text(text)
    points = "".join(f"{name} = broken_{name}:SUITE\n" for name in BROKEN)
    (site / "broken.dist-info" / "entry_points.txt").write_text(f"[vlarig.suites]\n{points}")
    (site / "broken.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    return {"PYTHONPATH": f"{site}{os.pathsep}{TESTS}"}


def test_a_broken_plugin_is_listed_with_its_reason_and_hides_no_other(with_broken_plugins: dict[str, str], cli) -> None:
    done = cli("envs", "list", **with_broken_plugins)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["toy"].rstrip().endswith("toy (ready)")
    for name, (_, reason) in BROKEN.items():
        assert lines[name].startswith(f"{name} is broken: ")
        assert reason in lines[name]


def test_the_doctor_names_broken_plugins_and_goes_on(with_broken_plugins: dict[str, str], cli) -> None:
    done = cli("doctor", **with_broken_plugins)
    assert done.returncode == 1
    for name, (_, reason) in BROKEN.items():
        (line,) = [line for line in done.stdout.splitlines() if f" suite {name} " in line]
        assert line.startswith("broken    ") and reason in line
    assert "machine" in done.stdout.splitlines()[-1]


def test_a_broken_plugin_does_not_keep_other_suites_from_use(with_broken_plugins: dict[str, str], cli) -> None:
    assert "did you mean toy" in cli("envs", "list", "toyy", **with_broken_plugins).stderr
    assert cli("sweep", "toy", "--policy", "random", "--episodes", "1", **with_broken_plugins).returncode == 0
    named = cli("sweep", "program", "--policy", "random", **with_broken_plugins)
    assert named.returncode == 2
    assert "suite 'program' cannot be imported from broken_program:SUITE (SystemExit: 3)" in named.stderr
