"""Replicas of Qwen-VLA: strict answers are equal to the bit, however many and whichever die, and weights are in memory once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from vlarig.envs.api import Observation
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness.replicas import Replica, replicated_policy
from vlarig.policies.api import Request, policy_seed
from vlarig.policies.batching import Batcher, Batching
from vlarig.policies.pool import PolicyPool
from vlarig.policies.qwen_vla.model import build, parameter_counts
from vlarig.policies.qwen_vla.named import PRESETS
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy

EPISODES, CHUNKS = 6, 2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy() -> Iterator[PolicyPool[Replica]]:
    policy = replicated_policy("qwen-vla:small", {"temperature": "1"}, 3)
    policy.strict()
    yield policy
    policy.close()


@pytest.fixture(scope="module")
def alone() -> dict[tuple[int, int], bytes]:
    """The answers of the policy in this process, one request at a time."""
    policy = QwenVlaPolicy("small", temperature="1")
    policy.strict()
    asked = [(episode, chunk) for episode in range(EPISODES) for chunk in range(CHUNKS)]
    return {each: policy.act([request(0, *each)])[0].actions.tobytes() for each in asked}


def request(env: int, episode: int, chunk: int) -> Request:
    rng = np.random.default_rng([episode, chunk])
    images = {view: rng.integers(0, 256, (1, 96, 96, 3), np.uint8) for view in TABLETOP_PANDA.cameras}
    words = " ".join(["put the cube in the tray"] * (1 + episode % 3))
    observation = Observation(images=images, state=rng.normal(size=8).astype(np.float32), instruction=words)
    key = f"toy/standard@1/reach/base/{episode}/0"
    return Request(env, key, chunk, policy_seed(0, key, chunk), observation, TABLETOP_PANDA, 8)


@pytest.mark.parametrize(
    ("count", "backwards", "killed"),
    [
        (1, False, False),
        (2, False, False),
        (3, False, False),
        (2, True, False),
        (3, True, False),
        (1, False, True),
        (3, True, True),
    ],
)
def test_strict_answers_are_equal_to_the_bit(
    policy: PolicyPool[Replica], alone: dict[tuple[int, int], bytes], count: int, backwards: bool, killed: bool
) -> None:
    some = PolicyPool(policy.members[:count], ExitStack(), lambda _, __, difference: difference)
    some.strict()
    answers: dict[tuple[int, int], bytes] = {}

    async def play(batcher: Batcher, env: int, episodes: list[int]) -> None:
        while episodes:
            episode = episodes.pop()
            for chunk in range(CHUNKS):
                answer = await batcher.ask(request(env, episode, chunk))
                answers[episode, chunk] = answer.reply.actions.tobytes()
                if killed and len(answers) == 5:
                    pid = policy.members[0].pid
                    assert pid is not None
                    os.kill(pid, signal.SIGKILL)

    async def run() -> None:
        order = sorted(range(EPISODES), reverse=backwards)
        async with Batcher(some, Batching(1)) as batcher:
            batcher.playing = 4
            await asyncio.gather(*(play(batcher, env, order) for env in range(4)))

    asyncio.run(run())
    assert answers == alone


def test_weights_are_in_memory_once(policy: PolicyPool[Replica]) -> None:
    weights = 4 * parameter_counts(build(PRESETS["small"](), device="meta"))["total"]  # bytes
    for replica in policy.members:
        policy.revive(replica)  # one that was killed last
        replica.act([request(0, 0, 0)])  # reads them all
    proportional = [shared_memory(pid) for replica in policy.members if (pid := replica.pid) is not None]
    assert 0.9 * weights < sum(proportional) < 1.2 * weights
    assert max(proportional) < 0.5 * weights


def shared_memory(pid: int) -> int:
    """Bytes of memory files that a process maps, each divided by how many map it."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss_Shmem"].split()[0]) * 1024
