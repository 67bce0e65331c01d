"""`vlarig envs`: what can be swept, and whether its adapters keep the contract."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from conftest import TESTS

from vlarig.benchmarks.registry import load_suite, suite_names
from vlarig.harness.commands import envs


def installed(folder: Path, name: str, points: str, **modules: str) -> str:
    """A PYTHONPATH under which a distribution with these suites and modules is installed beside the toy suites."""
    site = folder / "site"
    (site / f"{name}.dist-info").mkdir(parents=True)
    (site / f"{name}.dist-info" / "entry_points.txt").write_text(f"[vlarig.plugins]\n{name} = {name}_plugin:PLUGIN\n")
    suites = dict(point.split(" = ") for point in points.splitlines())
    (site / f"{name}_plugin.py").write_text(f"from vlarig.envs.plugins import Plugin\nPLUGIN = Plugin(suites={suites!r})\n")
    (site / f"{name}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)
    return f"{site}{os.pathsep}{TESTS}"


@pytest.mark.slow
def test_the_embedded_suite_keeps_the_contract(tabletop: object, cli) -> None:
    done = cli("envs", "check", "tabletop")
    assert done.returncode == 0, done.stdout
    assert "FAIL" not in done.stdout
    assert "115 of 115 checks passed (10 episodes of 5 tasks, " in done.stdout  # 31 on the first task, 21 on each further one


def test_a_broken_adapter_gets_advice(toy_home: Path, cli_here) -> None:
    done = cli_here("envs", "check", "leaky")
    assert done.returncode == 1
    assert "FAIL  an_episode_played_twice_in_a_row_is_the_same" in done.stdout
    assert "What to do:" in done.stdout


@pytest.mark.slow
def test_without_a_name_every_ready_suite_is_checked(toy_home: Path, cli) -> None:
    done = cli("envs", "check", "--tasks", "reach_red", timeout=300)
    assert done.returncode == 1
    assert "toy: toy.env:ToyEnv" in done.stdout
    assert "leaky: toy.faulty:LeakyEnv" in done.stdout
    assert "tabletop" not in done.stdout


THIRD_WITHOUT_A_SEED = """
from dataclasses import replace
from toy.suite import TOY_SUITE
from vlarig.benchmarks.suite import Task

TASKS = (*TOY_SUITE.tasks, Task("again_red", initial_states=(7, 9, 11)))
SUITE = replace(TOY_SUITE, name="unseeded", adapter="toy.faulty:UnseededEnv", tasks=TASKS)
"""


@pytest.mark.slow
def test_every_task_is_checked_and_the_report_says_on_which_episodes(toy_home: Path, tmp_path: Path, cli) -> None:
    path = installed(tmp_path, "third", "unseeded = third_without_a_seed:SUITE", third_without_a_seed=THIRD_WITHOUT_A_SEED)
    done = cli("envs", "check", "unseeded", PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    *sound, broken, _ = re.split(r"^(?:(?=again_red:)|at the end:)", done.stdout, flags=re.MULTILINE)
    assert "FAIL" not in "".join(sound)
    assert "reach_blue: unseeded/standard@1/reach_blue/base/0/0 and unseeded/standard@1/reach_blue/base/1/0" in sound[0]
    assert broken.startswith("again_red: unseeded/standard@1/again_red/base/7/0 and unseeded/standard@1/again_red/base/9/0\n")
    assert "FAIL  an_episode_played_twice_in_a_row_is_the_same" in broken
    assert "(6 episodes of 3 tasks, " in done.stdout
    narrowed = cli("envs", "check", "unseeded", "--tasks", "reach_red", PYTHONPATH=path)
    assert narrowed.returncode == 0
    assert "31 of 31 checks passed (2 episodes of 1 task, " in narrowed.stdout


def test_a_suites_protocols_are_compared(toy_home: Path, cli_here) -> None:
    described = cli_here("envs", "list", "two_ways").stdout
    rows = {line.split()[0]: line.split()[1:] for line in described.splitlines() if line.strip()}
    assert rows["protocol"] == ["standard@1", "quick@1"]
    assert rows["n_action_steps"] == ["8", "4"]
    assert rows["gripper"] == ["as_given", "binary"]
    assert rows["ego"] == ["64", "x", "64", "32", "x", "32"]
    assert "mirrored" in rows
    assert rows["step_limit:"] == ["40"]
    assert {"reach_red", "reach_blue"} <= set(rows)


def test_the_list_says_which_runtime_is_ready(toy_home: Path, cli_here) -> None:
    lines = {line.split()[0]: line for line in cli_here("envs", "list").stdout.splitlines()}
    assert lines["toy"].rstrip().endswith("toy (ready)")
    assert lines["tabletop"].rstrip().endswith("tabletop (not installed)")
    assert "standard@1" in lines["tabletop"]


#: Plug-ins that cannot be used: the module's text, and the message about it.
BROKEN = {
    "raising": ("1 / 0", "ZeroDivisionError: division by zero ("),
    "misspelt": ("def", "SyntaxError"),
    "program": ("raise SystemExit(3)", "SystemExit: status 3 ("),
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
    points = "\n".join(f"{name} = broken_{name}:SUITE" for name in BROKEN)
    return {
        "PYTHONPATH": installed(tmp_path, "broken", points, **{f"broken_{name}": text for name, (text, _) in BROKEN.items()})
    }


def test_a_broken_plugin_is_listed_with_its_reason_and_hides_no_other(with_broken_plugins: dict[str, str], cli) -> None:
    done = cli("envs", "list", **with_broken_plugins)
    assert done.returncode == 0, done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert lines["toy"].rstrip().endswith("toy (ready)")
    for name, (_, reason) in BROKEN.items():
        assert lines[name].startswith(f"{name} is broken: ")
        assert reason in lines[name]


@pytest.mark.slow
def test_the_doctor_names_broken_plugins_and_goes_on(with_broken_plugins: dict[str, str], cli) -> None:
    done = cli("doctor", **with_broken_plugins)
    assert done.returncode == 1
    for name, (_, reason) in BROKEN.items():
        (line,) = [line for line in done.stdout.splitlines() if f" suite {name} " in line]
        assert line.startswith("broken    ") and reason in line
    assert "machine" in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_broken_plugin_does_not_keep_other_suites_from_use(with_broken_plugins: dict[str, str], cli) -> None:
    assert "did you mean toy" in cli("envs", "list", "toyy", **with_broken_plugins).stderr
    assert cli("sweep", "toy", "--policy", "random", "--episodes", "1", **with_broken_plugins).returncode == 0
    named = cli("sweep", "program", "--policy", "random", **with_broken_plugins)
    assert named.returncode == 2
    assert (
        "suite 'program' of the package broken 1 cannot be imported from broken_program:SUITE (SystemExit: status 3 ("
        in named.stderr
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_breaks_no_word(
    toy_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert envs.show_list() == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    words = {word for line in lines for word in line.split()}
    for suite in map(load_suite, suite_names()):
        assert {suite.name, *suite.title.split()} <= {each.rstrip(":;") for each in words} | words
    assert any("tabletop (not installed)" in line for line in lines)
