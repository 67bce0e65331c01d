"""The recipes as far as they can be checked without hours of training: what they run is legal, and each step finds the one before."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch

from vlarig.benchmarks.registry import load_suite
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.rl.config import read_ppo_config
from vlarig.rl.start import averaging, evaluated
from vlarig.training.config import BEFORE, read_config
from vlarig.training.data.mixture_file import KINDS

RECIPES = Path(__file__).parents[2] / "recipes"
MAKE = (RECIPES / "shipped" / "make.sh").read_text()
STATES = (RECIPES / "states" / "make.sh").read_text()
TUNING = (RECIPES / "ppo" / "make.sh").read_text()
CLONING = (RECIPES / "ppo" / "clone.sh").read_text()
SHOWING = (RECIPES / "ppo" / "few_shot.sh").read_text()
ROBOTWIN = (RECIPES / "robotwin" / "make.sh").read_text()


def made() -> set[str]:
    """The folders of data that the recipes make."""
    recorded = re.findall(r"^record (\w+)", MAKE, re.MULTILINE)
    looked_at = [f"moments/{suite}" for suite in re.findall(r"^look (\w+)", MAKE, re.MULTILINE)]
    return {
        *recorded,
        *looked_at,
        *re.findall(r"--to (scenes/\w+)", MAKE),
        *re.findall(r"--to (\w+)$", STATES + CLONING + SHOWING + ROBOTWIN, re.MULTILINE),
    }


def test_the_shipped_policys_stages_go_on_from_each_other() -> None:
    trained = re.findall(r"^train (\w+) (\w+)$", MAKE, re.MULTILINE)
    assert [stage for stage, _ in trained] == ["backbone", "backbone", "backbone", "t2a", "t2a", "backbone"]
    before = "small"
    for stage, name in trained:
        config = read_config(stage, RECIPES / "shipped" / f"{name}.toml")
        assert config.model.source == before
        assert config.model.any_checkpoint == (before != "small" and BEFORE[config.stage] != before.partition("/")[0])
        assert (RECIPES / "shipped" / config.data.source.removeprefix("mixture:")).exists()
        before = f"{name}/policy"
    assert before.partition("/")[0] in re.findall(r"policy convert (\w+)/policy", MAKE)


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*/*.toml")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_mixtures_are_of_data_that_the_recipe_makes(file: Path) -> None:
    for entry in tomllib.loads(file.read_text()).get("datasets", []):
        assert entry["source"] in KINDS
        assert entry["folder"].removeprefix("../") in made()


def test_reinforcement_learning_goes_on_from_its_clone() -> None:
    assert read_config("sft", RECIPES / "states" / "clone.toml").model.source == "small"
    assert re.findall(r"--run (\S+) --config (\S+)", STATES) == [("clone", "clone.toml")]
    tuning = re.search(r'START=(\S+) .* bash "\$here/\.\./ppo/make.sh" \. (\S+) (\S+) (\S+) 8 "\$@"', STATES)
    assert tuning is not None
    assert tuning.groups() == ("clone/policy", "ppo.toml", "tabletop_states", "pick_into")


def test_a_clone_of_simplerenv_begins_with_an_expert_that_learned_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is the shipped policy's."""
    assert re.findall(r"train (\w+) --run clone --config (\S+)", CLONING) == [("t2a", "clone.toml")]
    source = read_config("t2a", RECIPES / "ppo" / "clone.toml").model.source
    assert f'fresh_expert.py" {source}' in CLONING
    monkeypatch.syspath_prepend(RECIPES / "ppo")
    importlib.import_module("fresh_expert").main(str(tmp_path / source))
    fresh, shipped = (load(name).model.state_dict() for name in (str(tmp_path / source), ""))
    changed = {name.partition(".")[0] for name in shipped if not torch.equal(fresh[name], shipped[name].float())}
    assert changed == {"expert"}


def test_few_demonstrations_are_of_a_task_that_the_shipped_policy_goes_on_to_learn() -> None:
    assert re.findall(r"train (\w+) --run few_shot --config (\S+)", SHOWING) == [("sft", "few_shot.toml")]
    assert read_config("sft", RECIPES / "ppo" / "few_shot.toml").model.name == "the shipped policy"
    (suite, task), *others = re.findall(r"record (\S+) .*--tasks (\S+)", SHOWING)
    assert not others
    assert task in {each.name for each in load_suite(suite).tasks}


@pytest.mark.parametrize(
    ("config", "suite", "tasks"),
    [
        ("simpler", "simpler_widowx", ["put_eggplant_in_basket"]),
        (
            "simpler",
            "simpler_widowx",
            ["put_spoon_on_towel", "put_carrot_on_plate", "stack_green_on_yellow", "put_eggplant_in_basket"],
        ),
        ("simpler", "simpler_ood", ["PlaceNear"]),
        (RECIPES / "ppo" / "placing.toml", "simpler_ood", ["PlaceNear", "PutFront"]),
        (RECIPES / "ppo" / "tabletop.toml", "tabletop", ["stack"]),
        (RECIPES / "states" / "ppo.toml", "tabletop_states", ["pick_into"]),
    ],
)
def test_reinforcement_learning_of_the_shipped_policy_is_measured_in_the_tasks_that_it_learns(
    config: Path | str, suite: str, tasks: list[str]
) -> None:
    given = TUNING.partition("--override ")[2].partition('"${settings')[0].replace("\\\n", " ")
    for name, value in (
        ("$suite", suite),
        ("$tasks", ",".join(tasks)),
        ("$steps", "8"),
        ("${ITERATIONS:-20}", "20"),
        ("${ENVS:-32}", "32"),
    ):
        given = given.replace(name, value)
    overrides = shlex.split(given)
    found = read_ppo_config(Path(config), overrides)
    assert (found.model.source, found.rollout.tasks, found.rollout.n_action_steps) == ("", tuple(tasks), 8)
    assert {*tasks} <= {each.name for each in load_suite(*found.rollout.suites).tasks}
    measured = evaluated(found)
    assert measured is not None
    assert measured.suites == found.rollout.suites == (suite,)
    named = {"protocol": "chunked"} if suite.startswith("simpler") else {}
    assert measured.options == {"tasks": tasks, "n_action_steps": 8, "episodes": 48, **named}
    assert averaging(found, 16) == []


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "recipe",
    [
        "shipped/make.sh",
        "shipped/measure.sh",
        "states/make.sh",
        "ppo/clone.sh",
        "ppo/few_shot.sh",
        "ppo/make.sh",
        "ppo/machines.sh",
    ],
)
def test_a_recipe_is_legal_bash(recipe: str) -> None:
    subprocess.run(["bash", "-n", RECIPES / recipe], check=True)


def test_what_is_measured_is_what_was_made() -> None:
    measure = (RECIPES / "shipped" / "measure.sh").read_text()
    made = {name for _, name in re.findall(r"^train (\w+) (\w+)$", MAKE, re.MULTILINE)} | {"qwen-vla"}
    own = set(re.findall(r'^ *train \w+ "?([\w$-]+)', measure, re.MULTILINE))
    played = set(re.findall(r'^ *sweep \S+ "?qwen-vla:([\w$-]+)', measure, re.MULTILINE))
    assert played <= made | own
    assert {"qwen-vla", "sft", "without_t2a", "t2a-$seed"} <= played


def test_table_12s_configurations_differ_by_the_state_alone() -> None:
    found = {name: read_config("sft", RECIPES / "robotwin" / f"state_{name}.toml") for name in ("none", "prompt", "dit")}
    assert {name: config.model.state for name, config in found.items()} == {name: name for name in found}
    alike = [config.model_copy(update={"model": config.model.model_copy(update={"state": None})}) for config in found.values()]
    assert len({each.model_dump_json() for each in alike}) == 1
