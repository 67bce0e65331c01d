"""The pages of docs/models: every sweep on them can be typed, and the clients fit what the models' servers announce."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_servers import ANNOUNCED, announcing_server, bare_server, groot_server, oft_server
from third_party.environments import environment

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.embodiments import Embodiment
from vlarig.harness.command_line import parse
from vlarig.harness.commands.policy import ServePolicy
from vlarig.harness.commands.sweep import _Command
from vlarig.harness.plan import SweepConfig
from vlarig.policies.api import Policy, PolicyError, Request
from vlarig.policies.registry import find_policy, load_policy, parse_options

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = DOCS / "examples" / "models"
PAGES = sorted((DOCS / "models").glob("*.md"))


def commands(page: Path, *begin: str) -> list[list[str]]:
    """The command lines of a page that begin so, as words after that, lines that a backslash continues joined."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line[len(begin) :] for line in lines if line[: len(begin)] == [*begin]]


def swept(words: list[str]) -> SweepConfig:
    """The sweep, parsed as ``vlarig sweep`` parses it."""
    return parse(_Command, words, "vlarig sweep").config


SWEEPS = [pytest.param(words, id=page.stem) for page in PAGES for words in commands(page, "vlarig", "sweep")]


def of_scheme(scheme: str) -> Any:
    """A parameter for each sweep with a policy of that scheme and options for it; our own server needs none."""
    found = []
    for each in SWEEPS:
        words: Any = each.values[0]
        if any(word.startswith(f"{scheme}:") for word in words) and "--policy-options" in words:
            found.append(each)
    return pytest.mark.parametrize("words", found)


def request(embodiment: Embodiment, env: int = 0) -> Request:
    """A request with images of 224 x 224, each of one grey level: its view's place among the robot's."""
    images = {view: np.full((1, 224, 224, 3), place, np.uint8) for place, view in enumerate(embodiment.cameras)}
    state = np.arange(len(embodiment.state_layout), dtype=np.float32) + env
    observation: Any = {"images": images, "state": state, "instruction": f"Pick up {env}"}
    return Request(env, f"a/b@1/c/base/{env}/0", 0, env, observation, embodiment, 5)


@contextmanager
def played(config: SweepConfig, port: int) -> Iterator[Policy]:
    """The command's policy with the command's options, connected to a stand-in on this port."""
    name = re.sub(r":\d+$", f":{port}", config.policy)
    policy = load_policy(name, parse_options(config.policy_options))
    try:
        yield policy
    finally:
        policy.close()


def test_the_pages_are_short() -> None:
    assert [page.stem for page in PAGES] == ["groot", "openpi", "openvla-oft", "smolvla", "x-vla"]
    assert not [page.name for page in PAGES if len(page.read_text().splitlines()) > 80]
    assert not [path.name for path in EXAMPLES.glob("*.py") if len(path.read_text().splitlines()) > 40]
    assert {each.id for each in SWEEPS} == {page.stem for page in PAGES} - {"x-vla"}


@pytest.mark.parametrize("words", SWEEPS)
def test_every_sweep_names_a_suite_a_protocol_and_a_policy_that_exist(words: list[str]) -> None:
    config = swept(words)
    assert config.protocol, "a published number has a protocol"
    for suite in config.suites:
        load_suite(suite).protocol(config.protocol)
    scheme, _, name = config.policy.partition(":")
    if scheme in ("openpi", "vla-eval", "lerobot"):
        assert find_policy(config.policy).package
    else:
        assert f"class {name}(Policy)" in (EXAMPLES / f"{scheme}.py").read_text()


@pytest.mark.parametrize(
    ("page", "words"), [(page.stem, words) for page in PAGES for words in commands(page, "vlarig", "serve", "policy")]
)
def test_every_server_of_ours_can_be_typed(page: str, words: list[str]) -> None:
    served = parse(ServePolicy, words, "vlarig serve policy")
    assert find_policy(served.policy).package, page
    assert parse_options(served.policy_options)["convention"] == "libero_panda"


@of_scheme("openpi")
def test_a_server_of_openpi_gets_what_its_libero_policy_reads(words: list[str]) -> None:
    config = swept(words)
    suites = [load_suite(suite) for suite in config.suites]
    horizon = int(parse_options(config.policy_options)["horizon"])
    with bare_server(np.full((horizon, 7), 0.5)) as (port, received), played(config, port) as policy:
        for suite in suites:
            policy.check(suite.name, suite.embodiment)
        (reply,) = policy.act([request(suites[0].embodiment)])
    assert reply.actions.shape == (horizon, 7)
    (seen,) = received
    assert {key: np.shape(value) for key, value in seen.items()} == {
        "observation/image": (224, 224, 3),
        "observation/wrist_image": (224, 224, 3),
        "observation/state": (8,),
        "prompt": (),
    }


@of_scheme("vla-eval")
def test_a_model_server_of_vla_eval_fits_the_suite_and_gets_both_views_in_order(words: list[str]) -> None:
    config = swept(words)
    options = parse_options(config.policy_options)
    steps = int(options["horizon"]) if "horizon" in options else None
    server = {"pi05_libero": "pi0", "openvla-oft-libero_spatial": "oft"}.get(options["revision"], "lerobot")
    with announcing_server(ANNOUNCED[server], steps) as (port, received), played(config, port) as policy:
        for suite in map(load_suite, config.suites):
            policy.check(suite.name, suite.embodiment)
            (reply,) = policy.act([request(suite.embodiment)])
    assert len(reply.actions) == (steps or 1)
    seen = received[-1]
    assert {name: image.flat[0] for name, image in seen["images"].items()} == {"agentview": 0, "wrist": 1}
    assert list(seen["images"]) == ["agentview", "wrist"], "servers go by the order"
    assert seen["states"].shape == (8,)


@pytest.mark.parametrize(
    ("server", "suite", "words"),
    [
        ("xvla_libero", "libero_goal", "the state is rot6d_interleaved_proprio_20d for the server"),
        ("xvla_widowx", "simpler_widowx", "the gripper is binary_close_positive for the server"),
        ("groot_libero", "libero_goal", "the rotation is euler_xyz for the server and axis_angle for the env"),
        ("groot", "robocasa_gr1_gr00t", "the server's actions have a part 'position'"),
    ],
)
def test_what_a_page_calls_refused_is_refused(server: str, suite: str, words: str) -> None:
    embodiment = load_suite(suite).embodiment
    options = {"convention": embodiment.name, "images": "ego:agentview", "revision": "any"}
    with announcing_server(ANNOUNCED[server]) as (port, _):
        policy = load_policy(f"vla-eval:ws://127.0.0.1:{port}", options)
        with pytest.raises(PolicyError, match=re.escape(words)):
            policy.check(suite, embodiment)
        policy.close()


def test_groots_server_of_vla_eval_is_not_refused_on_the_widowx_and_gets_seven_numbers() -> None:
    """It reads eight, with a pad before the gripper; the page warns of it, since no announcement says so."""
    embodiment = load_suite("simpler_widowx").embodiment
    options = {"convention": embodiment.name, "images": "ego:primary", "revision": "any"}
    with announcing_server(ANNOUNCED["groot"]) as (port, received):
        policy = load_policy(f"vla-eval:ws://127.0.0.1:{port}", options)
        policy.check("simpler_widowx", embodiment)
        policy.act([request(embodiment)])
        policy.close()
    assert received[-1]["states"].shape == (7,)


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> None:
    """json-numpy and pyzmq from an environment of their own, and the examples on the path of imports."""
    (packages,) = environment("model_servers").parents[1].glob("lib/python*/site-packages")
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_example_for_openvla_oft_speaks_as_its_server_does(wires: None) -> None:
    embodiment = load_suite("libero_spatial").embodiment
    actions = np.tile(np.array([0.1, 0, 0, 0, 0, 0, 1.0]), (8, 1))
    actions[1, -1] = 0.0
    with oft_server(actions) as (port, received):
        policy = load_policy("openvla_oft:OpenvlaOft", {"revision": "1", "address": f"127.0.0.1:{port}"})
        policy.check("libero_spatial", embodiment)
        first, second = policy.act([request(embodiment), request(embodiment, 1)])
    assert (first.actions.shape, first.actions.dtype) == ((8, 7), np.float32)
    np.testing.assert_array_equal(first.actions[:2, -1], [-1, 1])  # open, closed
    np.testing.assert_array_equal(second.actions[:, 0], np.float32(0.1))
    seen = received[1]
    assert seen["instruction"] == "Pick up 1"
    assert {name: seen[name].flat[0] for name in ("full_image", "wrist_image")} == {"full_image": 0, "wrist_image": 1}
    assert (seen["full_image"].shape, seen["full_image"].dtype) == ((224, 224, 3), np.uint8)
    np.testing.assert_array_equal(seen["state"], np.arange(8) + 1)
    with oft_server("error") as (port, _), pytest.raises(PolicyError, match="answers 'error'; its log says why"):
        load_policy("openvla_oft:OpenvlaOft", {"revision": "1", "address": f"127.0.0.1:{port}"}).act([request(embodiment)])
    with pytest.raises(PolicyError, match="does not fit suite 'simpler_widowx'"):
        policy.check("simpler_widowx", load_suite("simpler_widowx").embodiment)


def test_the_example_for_groot_speaks_as_its_server_does(wires: None) -> None:
    embodiment = load_suite("simpler_widowx").embodiment
    with groot_server(steps=8) as (port, received):
        policy = load_policy("groot:Groot", {"revision": "1", "address": f"tcp://127.0.0.1:{port}"})
        policy.check("simpler_widowx", embodiment)
        replies = policy.act([request(embodiment), request(embodiment, 1)])
        assert [reply.actions.shape for reply in replies] == [(8, 7)] * 2
        np.testing.assert_array_equal(replies[1].actions[0], np.arange(7) + 1)
        seen = received[0]
        assert seen["video.image_0"].shape == (2, 1, 224, 224, 3)
        assert seen["annotation.human.action.task_description"] == ["Pick up 0", "Pick up 1"]
        state = [seen[f"state.{part}"] for part in ("x", "y", "z", "roll", "pitch", "yaw", "pad", "gripper")]
        assert {(part.shape, part.dtype) for part in state} == {((2, 1, 1), np.dtype(np.float32))}
        np.testing.assert_array_equal(np.concatenate(state, axis=-1)[1, 0], [1, 2, 3, 4, 5, 6, 0, 7])
        received.clear()
        with pytest.raises(PolicyError, match="GR00T's server failed: out of memory"):
            policy.act([request(embodiment, 99)])
    with pytest.raises(PolicyError, match="does not fit suite 'libero_goal'"):
        policy.check("libero_goal", load_suite("libero_goal").embodiment)
