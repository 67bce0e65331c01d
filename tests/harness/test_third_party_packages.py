"""A suite, a policy and an expert that come from three packages, none of them vlarig's, are used from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from vlarig.envs.runtimes.runtime import add_runtime
from vlarig.harness.commands.envs import new_benchmark
from vlarig.results.manifest import Manifest

PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{package}"
version = "{version}"

{point}

[tool.setuptools]
packages = ["{module}"]
"""

POLICY = """
import numpy as np
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy, Reply


class Lean(Policy):
    needs = Needs(images=False)

    def act(self, requests):
        return [Reply(np.full((each.n_action_steps, each.embodiment.action_size), 0.5, np.float32)) for each in requests]
"""

EXPERT_PLUGIN = """
from vlarig.envs.plugins import Plugin

PLUGIN = Plugin(experts={"reach": "reach_expert.script:ReachExpert"})
"""

#: What a command line of these tests ends with: two short episodes, or one.
TWO = ("--episodes", "1", "--workers", "1")
ONE = ("--tasks", "reach_red", *TWO)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three packages in it, which an installer built and put there."""
    folder = tmp_path_factory.mktemp("third")
    suite, policy, expert, site = (folder / name for name in ("suite", "policy", "expert", "site-packages"))
    new_benchmark("reach", suite)
    own = suite / "vlarig_reach" / "__init__.py"
    own.write_text("".join(line for line in own.read_text().splitlines(keepends=True) if "experts=" not in line))
    write(policy, "lean_policy/__init__.py", POLICY)
    point = '[project.entry-points."vlarig.policies"]\nlean = "lean_policy:Lean"'
    write(policy, "pyproject.toml", PROJECT.format(package="lean-policy", version="1.2", point=point, module="lean_policy"))
    write(expert, "reach_expert/__init__.py", EXPERT_PLUGIN)
    shutil.move(suite / "vlarig_reach" / "expert.py", expert / "reach_expert" / "script.py")
    point = '[project.entry-points."vlarig.plugins"]\nmine = "reach_expert:PLUGIN"'
    write(expert, "pyproject.toml", PROJECT.format(package="reach-expert", version="3.0", point=point, module="reach_expert"))
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", site, suite, policy, expert]
    subprocess.run(command, check=True)
    return site


@pytest.fixture
def site(installed: Path, tmp_path: Path) -> Path:
    """A copy of that folder of the test's own."""
    return shutil.copytree(installed, tmp_path / "site-packages")


@pytest.fixture
def vlarig(installed: Path, site: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command where the packages are installed and the suite's runtime is here; returns its output."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VLARIG_ASSETS", str(installed.parent / "suite" / "assets"))

    def type_in(*words: str, status: int = 0) -> str:
        done = cli(*words, PYTHONPATH=str(site))
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    add_runtime("reach", Path(sys.executable))
    return type_in


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def edit(file: Path) -> None:
    with file.open("a") as text:
        text.write("# edited\n")


def add_package(site: Path, name: str, points: str, **modules: str) -> None:
    """Put another package's files beside those that are installed."""
    write(site, f"{name}-7.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 7\n")
    write(site, f"{name}-7.dist-info/entry_points.txt", points)
    for module, text in modules.items():
        write(site, f"{module}/__init__.py", text)


def add_plugin(site: Path, name: str, **members: dict[str, str]) -> None:
    """Put a package beside them that registers suites and experts."""
    text = f"from vlarig.envs.plugins import Plugin\nPLUGIN = Plugin(**{members!r})\n"
    add_package(site, name, f"[vlarig.plugins]\nmine = {name}:PLUGIN\n", **{name: text})


def manifest(run: str) -> dict[str, Any]:
    return json.loads(Path(run, "manifest.json").read_text())


@pytest.mark.slow
def test_three_packages_are_listed_checked_swept_and_recorded(vlarig: Callable[..., str]) -> None:
    listed = {line.split()[0]: line for line in vlarig("envs", "list").splitlines()}
    assert listed["reach"].rstrip().endswith("reach (ready)")
    assert "31 of 31 checks passed" in vlarig("envs", "check", "reach", "--tasks", "reach_red")
    vlarig("sweep", "reach", "--policy", "lean", *TWO, "--run", "lean")
    assert "100.0" in vlarig("sweep", "reach", "--policy", "expert", *TWO, "--run", "expert")
    vlarig("sweep", "vlarig_reach.suite:SUITE", "--policy", "lean_policy:Lean", *TWO, "--run", "places")
    suite, policy, expert = "vlarig-reach 0.1.0", "lean-policy 1.2", "reach-expert 3.0"
    assert manifest("lean")["record"]["origins"] == {"suite reach": suite, "policy lean": policy}
    assert manifest("places")["record"]["origins"] == {"suite reach": suite, "policy lean_policy:Lean": policy}
    by_expert = manifest("expert")
    own = by_expert["record"]["origins"].pop("policy expert")
    assert own == f"vlarig {by_expert['identity']['vlarig_version']}"
    assert by_expert["record"]["origins"] == {"suite reach": suite, "expert of reach": expert}
    assert by_expert["identity"]["sources"].keys() == {"vlarig_reach", "reach_expert"}
    assert manifest("lean")["identity"]["sources"].keys() == {"vlarig_reach", "lean_policy"}
    assert manifest("places")["identity"]["sources"] == manifest("lean")["identity"]["sources"]
    older = manifest("lean")
    del older["record"]["origins"]
    assert Manifest.model_validate(older).identity_hash() == Manifest.load(Path("lean")).identity_hash()


@pytest.mark.slow
def test_an_edit_of_the_suite_the_policy_or_the_expert_begins_another_run_and_of_nothing_else(
    vlarig: Callable[..., str], site: Path
) -> None:
    def sweep(policy: str, *words: str, status: int = 0) -> str:
        return vlarig("sweep", "reach", "--policy", policy, *ONE, *words, status=status)

    sweep("lean")
    sweep("expert")
    sweep("expert", "--run", "named")
    edit(site / "reach_expert" / "script.py")
    assert "nothing was played" in sweep("lean")
    assert "reach_expert changed since the run runs/reach-expert-" in sweep("expert")
    refused = sweep("expert", "--run", "named", status=2)
    assert "the run named was started with another identity: reach_expert has changed" in refused
    edit(site / "lean_policy" / "__init__.py")
    (site / "lean_policy-1.2.dist-info" / "NOTES").write_text("of no breakdown")
    (site / "unrelated.py").write_text("")
    assert "nothing was played" in sweep("expert")
    assert "lean_policy changed since the run runs/reach-lean-" in sweep("lean")
    edit(site / "vlarig_reach" / "env.py")
    assert "vlarig_reach changed since the run runs/reach-lean-" in sweep("lean")


SUITE_OF_A_FILE = """
from dataclasses import replace
from vlarig_reach.suite import SUITE

MINE = replace(SUITE, name="reach_further")
"""


@pytest.mark.slow
def test_a_suite_that_no_package_registers_is_swept_resumed_and_replayed_by_its_place(
    vlarig: Callable[..., str], site: Path
) -> None:
    write(site, "my_suite.py", SUITE_OF_A_FILE)
    words = ("sweep", "my_suite:MINE", "--policy", "lean", "--tasks", "reach_red", "--workers", "1", "--episodes")
    vlarig(*words, "1")
    assert "1 finished episode is taken over from runs/" in vlarig(*words, "2")
    (run, *_) = (str(run) for run in Path("runs").iterdir())
    assert manifest(run)["record"]["origins"] == {"policy lean": "lean-policy 1.2"}
    assert manifest(run)["identity"]["sources"].keys() == {"my_suite.py", "vlarig_reach", "lean_policy"}
    assert "equal   reach_further/" in vlarig("runs", "replay", run, "--all", "--no-video")
    edit(site / "my_suite.py")
    assert "my_suite.py changed since the run" in vlarig(*words, "2")
    pytest.importorskip("av")
    assert "films: " in vlarig("runs", "replay", run, "--all")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "suite", "policy", "sentence"),
    [
        (
            {"suites": {"tabletop": "vlarig_reach.suite:SUITE"}},
            "tabletop",
            "lean",
            "suite 'tabletop' {} other 7 and {vlarig}",
        ),
        ({"suites": {"reach": "vlarig_reach.suite:SUITE"}}, "reach", "lean", "suite 'reach' {} other 7 and vlarig-reach 0.1.0"),
        ({"experts": {"reach": "other:X"}}, "reach", "expert", "the expert of suite 'reach' {} other 7 and reach-expert 3.0"),
        ({"lean": "other:X"}, "reach", "lean", "policy 'lean' {} lean-policy 1.2 and other 7"),
        ({"random": "other:X"}, "reach", "random", "policy 'random' {} other 7 and {vlarig}"),
    ],
)
def test_a_name_that_two_packages_register_is_refused_with_both(
    vlarig: Callable[..., str], site: Path, plugin: dict[str, Any], suite: str, policy: str, sentence: str
) -> None:
    if plugin.keys() & {"suites", "experts"}:
        add_plugin(site, "other", **plugin)
    else:
        points = "".join(f"{name} = {place}\n" for name, place in plugin.items())
        add_package(site, "other", f"[vlarig.policies]\n{points}", other="")
    output = vlarig("sweep", suite, "--policy", policy, *ONE, status=2)
    assert sentence.format("is registered by the packages", vlarig=f"vlarig {metadata.version('vlarig')}") in output
    assert len(output.splitlines()) == 1
    assert not Path("runs").exists()


def test_a_suite_at_a_place_may_not_take_the_name_of_another(vlarig: Callable[..., str], site: Path) -> None:
    write(site, "twin.py", SUITE_OF_A_FILE.replace("reach_further", "reach"))
    output = vlarig("sweep", "twin:MINE", "--policy", "lean", *ONE, status=2)
    assert (
        "the suite at twin:MINE is called 'reach', as is another at vlarig_reach.suite:SUITE of the package vlarig-reach"
        in output
    )


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_is_named_with_the_line_and_stops_no_other(
    vlarig: Callable[..., str], site: Path
) -> None:
    add_package(site, "broken", "[vlarig.plugins]\nmine = broken:PLUGIN\n", broken="from . import parts\n")
    write(site, "broken/parts.py", "\n1 / 0\n")
    add_package(site, "bad", "[vlarig.policies]\nbad = bad:Bad\n", bad="\n\n{}['missing']\n")
    raised = f"(ZeroDivisionError: division by zero ({site / 'broken' / 'parts.py'}:2))"
    line = f"its plug-in cannot be imported from broken:PLUGIN {raised}; mend or uninstall the package"
    listed = vlarig("envs", "list")
    assert f"broken 7 is broken: {line}" in listed
    assert "reach (ready)" in listed
    assert "unknown suite 'brokn' in this installation; " in (output := vlarig("envs", "list", "brokn", status=2))
    assert f"the package broken 7 is broken: {line}" in output
    vlarig("sweep", "reach", "--policy", "expert", *ONE)
    output = vlarig("sweep", "reach", "--policy", "bad", *ONE, status=2)
    assert (
        f"the policy 'bad' of the package bad 7 cannot be imported (KeyError: 'missing' ({site / 'bad' / '__init__.py'}:3))"
        in output
    )


@pytest.mark.slow
def test_an_expert_that_cannot_be_made_stops_the_sweep_before_it_begins(vlarig: Callable[..., str], site: Path) -> None:
    script = site / "reach_expert" / "script.py"
    script.write_text("\n1 / 0\n")
    output = vlarig("sweep", "reach", "--policy", "expert", *ONE, status=2)
    assert (
        "the expert of suite 'reach', reach_expert.script:ReachExpert of the package reach-expert 3.0, cannot be made" in output
    )
    assert f"(ZeroDivisionError: division by zero ({script}:2))" in output
    assert not Path("runs").exists()
    script.write_text("ReachExpert = dict\n")
    output = vlarig("sweep", "reach", "--policy", "expert", *ONE, status=2)
    assert "is of type dict; expected a subclass of ScriptedExpert" in output
