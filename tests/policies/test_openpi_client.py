"""PyPI's openpi-client, in an environment and a process of its own, plays whole episodes against ``vlarig serve policy``."""

from __future__ import annotations

import io
import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from conftest import TESTS
from third_party.environments import environment
from toy.policies import ImageReader

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Observation
from vlarig.harness import register_envs
from vlarig.policies.api import Request, policy_seed
from vlarig.policies.conventions import embodiment_to_data, fit_image
from vlarig.policies.remote.wire import pack, unpack


@pytest.fixture(scope="module")
def openpi_python() -> Path:
    """An interpreter with openpi-client, and without vlarig."""
    return environment("openpi_client")


class Player:
    """The process with openpi-client: observations go in, actions come out."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout
        self.greeting = self._read()

    def ask(self, observation: Observation) -> dict[str, np.ndarray]:
        held = io.BytesIO()
        views = observation["images"]
        np.savez(
            held,
            ego=views["ego"][-1],
            wrist=views["cam_left_wrist"][-1],
            state=observation["state"],
            prompt=np.array(observation["instruction"]),
        )
        self._to.write(struct.pack("<I", len(held.getvalue())) + held.getvalue())
        self._to.flush()
        return self._read()

    def _read(self) -> dict[str, np.ndarray]:
        (size,) = struct.unpack("<I", self._from.read(4))
        return dict(np.load(io.BytesIO(self._from.read(size))))


@contextmanager
def playing(openpi_python: Path, *words: str) -> Iterator[Player]:
    """``vlarig serve policy`` and a player that is connected to it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", "serve", "policy", "--port", "0", "--token-env", "SERVED_TOKEN", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS), "SERVED_TOKEN": "open sesame"},
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.search(r":(\d+), layout", line)
        assert found, line
        with subprocess.Popen(
            [openpi_python, "-I", TESTS / "openpi_player.py", found[1], "open sesame"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as player:
            yield Player(player)
            assert player.stdin is not None
            player.stdin.close()
            assert player.wait(10) == 0
    finally:
        server.terminate()
        assert server.wait(15) == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["toy", "tabletop"])
def test_openpi_client_plays_three_whole_episodes(
    request: pytest.FixtureRequest, openpi_python: Path, tmp_path: Path, name: str
) -> None:
    request.getfixturevalue("toy_home" if name == "toy" else name)
    suite = load_suite(name)
    path = tmp_path / "embodiment.json"
    path.write_text(json.dumps(embodiment_to_data(suite.embodiment)))
    register_envs()
    local, chunk = ImageReader(), 0
    words = ["--policy", "toy.policies:ImageReader", "--embodiment", str(path), "--layout", "libero"]
    with playing(openpi_python, *words) as player, gymnasium.make(f"vlarig/{name}", disable_env_checker=True) as env:
        assert {key: value.item() for key, value in player.greeting.items()} == {
            "name": "image-reader",
            "horizon": 10,
            "layout": "libero",
        }
        for initial_state in range(3):
            observation, _ = env.reset(
                seed=initial_state, options={"task": suite.tasks[0].name, "initial_state": initial_state}
            )
            over, steps = False, 0
            while not over:
                answer = player.ask(observation)
                np.testing.assert_array_equal(answer["actions"], in_process(local, suite.embodiment, observation, chunk))
                chunk += 1
                result: Any = env.unwrapped.step_chunk(answer["actions"])  # pyright: ignore[reportAttributeAccessIssue]
                observation = Observation(
                    images={view: frames[-1:] for view, frames in result.snapshot.frames.views.items()},
                    state=result.snapshot.state,
                    instruction=result.snapshot.instruction,
                )
                steps += len(result.steps)
                over = result.over
            print(f"{name}, start {initial_state}: {steps} steps, success {result.snapshot.outcome.first}")
            assert steps > 0
        refused = player.ask(observation | {"instruction": ""})
        assert "Error in inference server:\n'prompt' has to be a text" in str(refused["error"])
    assert chunk >= 3


def in_process(policy: ImageReader, embodiment: Any, observation: Observation, chunk: int) -> np.ndarray:
    """What the policy answers without a server, shown what openpi-client shows it."""
    images = {view: fit_image(frames[-1], 224, 224, "pad")[None] for view, frames in observation["images"].items()}
    shown = Observation(images=images, state=observation["state"], instruction=observation["instruction"])
    seed = policy_seed(0, "connection/0", chunk)
    (reply,) = policy.act([Request(0, "connection/0", chunk, seed, shown, embodiment, 8)])
    return reply.actions


BOTH_WAYS = """
import sys, numpy as np
from openpi_client import msgpack_numpy
message = {
    "observation/image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "observation/state": np.linspace(0, 1, 8, dtype=np.float32),
    "flags": np.array([True, False]), "number": np.float32(1.5), "small": np.int8(-3), "prompt": "go", "list": [1, 2.5, None],
    "view": np.arange(6, dtype=np.int64).reshape(2, 3).T,
}
packed = msgpack_numpy.packb(message)
sys.stdout.buffer.write(packed)
theirs = msgpack_numpy.unpackb(sys.stdin.buffer.read())
for key, value in message.items():
    np.testing.assert_array_equal(theirs[key], value)
    assert getattr(theirs[key], "dtype", None) == getattr(value, "dtype", None), key
"""


def test_our_wire_is_openpis_byte_for_byte(openpi_python: Path) -> None:
    process = subprocess.Popen([openpi_python, "-I", "-c", BOTH_WAYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    message = {
        "observation/image": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
        "observation/state": np.linspace(0, 1, 8, dtype=np.float32),
        "flags": np.array([True, False]),
        "number": np.float32(1.5),
        "small": np.int8(-3),
        "prompt": "go",
        "list": [1, 2.5, None],
        "view": np.arange(6, dtype=np.int64).reshape(2, 3).T,
    }
    theirs, _ = process.communicate(pack(message), timeout=30)
    assert process.returncode == 0
    assert theirs == pack(message)
    for key, value in unpack(theirs).items():
        np.testing.assert_array_equal(value, message[key])
