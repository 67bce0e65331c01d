"""LeRobot's policies: what a directory has to hold, and one of theirs driving a sweep from an environment of its own."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from comparing import results
from third_party.environments import environment

from vlarig.envs.runtimes.runtime import Runtime
from vlarig.policies.api import PolicyError
from vlarig.policies.registry import load_policy

OPTIONS = {"convention": "tabletop_panda", "images": "ego:observation.images.image"}
FILES = ("config.json", "model.safetensors", "policy_preprocessor.json", "policy_postprocessor.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with the files of a policy, all empty, and no steps in its processors."""
    for name in FILES:
        (tmp_path / name).write_text('{"name": "p", "steps": []}' if "processor" in name else "")
    return tmp_path


def test_a_directory_that_is_not_there_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"there is no directory nowhere; give one that LeRobot's save_pretrained wrote"):
        load_policy("lerobot:nowhere", OPTIONS)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PolicyError, match=rf"lacks {name}; it has to hold what LeRobot's save_pretrained writes"):
        load_policy(f"lerobot:{folder}", OPTIONS)


def test_the_convention_has_to_be_declared(folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"--policy-options convention=EMBODIMENT \(such as libero_panda"):
        load_policy(f"lerobot:{folder}")


@pytest.mark.parametrize("name", FILES[2:])
@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (
            [{"class": "subprocess.Popen", "config": {"args": ["touch", "here"]}}],
            r"step 0 of .* \('subprocess.Popen'\) has no reg",
        ),
        ([{"registry_name": "device_processor"}, {"class": "lerobot.utils.utils.say"}], r"step 1 of .* has no registry_name"),
        ([{"registry_name": None, "class": "subprocess.Popen"}], r"step 0 of .* has no registry_name"),
        (["device_processor"], r"step 0 of .* has no registry_name"),
        ("none", "has no list of steps"),
    ],
)
def test_a_folder_that_names_code_to_run_is_refused(folder: Path, name: str, steps: object, words: str) -> None:
    (folder / name).write_text(json.dumps({"name": "p", "steps": steps}))
    with pytest.raises(PolicyError, match=words):
        load_policy(f"lerobot:{folder}", OPTIONS)
    (folder / name).write_text("{")
    with pytest.raises(PolicyError, match=rf"{name} cannot be read"):
        load_policy(f"lerobot:{folder}", OPTIONS)


def test_without_lerobot_the_message_names_the_way_to_serve_it(folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"lerobot is not installed here; .*run: vlarig serve policy --policy lerobot:"):
        load_policy(f"lerobot:{folder}", OPTIONS)


@pytest.mark.parametrize(
    ("option", "words"),
    [({"image": "ego:x"}, "no option 'image'; did you mean images"), ({"image_fit": "squash"}, "image_fit='squash'")],
)
def test_wrong_options_are_named(folder: Path, option: dict[str, str], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        load_policy(f"lerobot:{folder}", OPTIONS | option)


@dataclass
class Act:
    """LeRobot's ACT, made, examined and served in its own environment."""

    url: str
    facts: dict[str, Any]
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def act(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Act]:
    interpreter = environment("lerobot", with_torch=True)
    script = Path(__file__).parents[1] / "third_party" / "serve_act.py"
    folder = tmp_path_factory.mktemp("lerobot")
    errors = (folder / "errors").open("w")
    words = [str(interpreter), str(script), str(folder)]
    with errors, subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            yield Act(process=process, **_started(process, folder / "errors"))
        finally:
            process.kill()


def _started(process: subprocess.Popen[str], errors: Path) -> dict[str, Any]:
    assert process.stdout is not None
    facts = None
    for line in process.stdout:
        if line.startswith("{"):
            facts = json.loads(line)
        elif match := re.search(r"serving lerobot for tabletop_panda at (ws://\S+:\d+)", line):
            return {"url": match[1], "facts": facts}
    pytest.fail(f"the server did not start: {errors.read_text()[-3000:]}")


@pytest.mark.slow
def test_chunks_are_what_lerobots_own_loop_plays(act: Act) -> None:
    assert act.facts["shape"] == [3, 8, 7]
    assert act.facts["horizon"] == 8
    assert act.facts["from_lerobot"] < 1e-6
    assert act.facts["from_alone"] < 1e-6
    assert act.facts["same_again"]
    assert act.facts["between_requests"] > 1e-3
    assert re.fullmatch(r"act-[0-9a-f]{12}", act.facts["revision"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "words"),
    [
        (
            "images",
            r"which view does the policy in \S+ see as observation.images.image\? Declare it: --policy-options images=VIEW:",
        ),
        ("feature", r"has no image 'observation.images.front'; it has observation.images.image"),
        ("view", r"does not fit convention=tabletop_panda: tabletop_panda has no view 'ceiling'"),
        ("suite", r"does not fit suite 'simpler_widowx' \(widowx_bridge\)"),
        ("device", r"device=cuda was requested, and torch finds no such device here; use device=cpu"),
        ("size", r"its state has 8 numbers and that of widowx_bridge 7"),
        ("weights", r"LeRobot cannot load \S+ \(RuntimeError: .*ACTPolicy"),
        ("history", r"\(diffusion\) looks back over 2 steps"),
        ("ensemble", r"averages over its chunks by itself \(temporal_ensemble_coeff\)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(act: Act, case: str, words: str) -> None:
    message = act.facts["refusals"][case]
    assert re.search(words, message), message
    assert "\n" not in message


@pytest.mark.slow
def test_a_lerobot_policy_drives_a_sweep(act: Act, tabletop: Runtime, cli: Any, tmp_path: Path) -> None:
    tasks = ["push_to", "stack", "pick_into"]
    words = ["--episodes", "1", "--tasks", *tasks, "--run", tmp_path / "run"]
    done = cli("sweep", "tabletop", "--policy", f"openpi:{act.url}", *words)
    assert done.returncode == 0, done.stderr
    episodes = results(tmp_path / "run")
    assert {key.split("/")[2] for key in episodes} == set(tasks)
    assert {key.split("/")[1] for key in episodes} == {"standard-n_action_steps8@1"}
    act.process.send_signal(signal.SIGTERM)
    assert act.process.stdout is not None
    chunks = sum(-(-episode["steps"] // 8) for episode in episodes.values())
    assert f"stopped after {chunks} answers" in act.process.stdout.read()
