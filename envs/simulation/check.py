"""The env checker and the contract kit as a worker: the adapter is checked in the simulator's own runtime, a question at a time."""

from __future__ import annotations

import base64
import gc
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np

from ..api import Env, Episode, Needs
from ..checker import each_finding
from ..errors import VlarigError
from ..faults import describe
from ..parity import NotEqualError, parity, sample_actions
from ..wire import unpack
from .simulator import load_adapter


def main(config: dict[str, Any]) -> None:
    """Answer ``config["question"]``, a key of :data:`QUESTIONS`: one line of JSON for each answer, at once."""
    question = config["question"]
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1) as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # simulators write to standard output as they please
        try:
            for answer in QUESTIONS[question](load_adapter(config["adapter"]), config):
                answers.write(json.dumps(answer) + "\n")
        except BaseException as error:
            message = str(error) if isinstance(error, VlarigError) else describe(error)
            answers.write(json.dumps({"error": message}) + "\n")
    if question != "findings":
        os._exit(0)  # upstream's renderers may raise while an interpreter ends


def findings(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The env checker's findings on ``config["episodes"]``, as fields of :class:`~vlarig.envs.checker.Finding`."""
    yield from map(asdict, each_finding(adapter, [episode_of(text) for text in config["episodes"]]))


def episode_of(text: str) -> Episode:
    return unpack(base64.b64decode(text), Episode)


def rounds(env: Env, episode: Episode, steps: int, needs: Needs) -> Iterator[list[str]]:
    """Play that many random steps in two chunks; the digests of states and images at the start and after each chunk."""
    chunk = -(-steps // 2)
    snapshot = env.open(replace(episode, protocol=replace(episode.protocol, n_action_steps=chunk)), needs)
    yield [snapshot.state_digest, snapshot.image_digest]
    actions = sample_actions(env.embodiment, np.random.default_rng(episode.initial_state), steps)
    for first in range(0, steps, chunk):
        result = env.step_chunk(actions[first : first + chunk])
        yield [result.snapshot.state_digest, result.snapshot.image_digest]
        if result.over:
            return


def plays(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Play ``config["plays"]``, each an episode, its steps and whether it is rendered, one after another on one env; their digests."""
    env = adapter()
    for text, steps, rendered in config["plays"]:
        yield {"digests": list(rounds(env, episode_of(text), steps, Needs(images=rendered)))[-1]}


def in_turns(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Play ``config["plays"]`` at once, each on an env of its own, a chunk in turn; when the others are closed, the first again."""
    env = adapter()
    envs = [env, *(env.sibling() for _ in config["plays"][1:])]
    under_way = [rounds(each, episode_of(text), steps, Needs()) for each, (text, steps, _) in zip(envs, config["plays"])]
    last: list[Any] = [None] * len(envs)
    for digests in zip_longest(*under_way):  # an episode may end before the others
        last = [new or old for new, old in zip(digests, last)]
    yield from ({"digests": digests} for digests in last)
    for each in envs[1:]:
        each.close()
    text, steps, _ = config["plays"][0]
    yield {"digests": list(rounds(env, episode_of(text), steps, Needs()))[-1]}


def patches(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Whether upstream still needs each of the adapter's patches; each is asked in a process of its own, in which none is applied."""
    needed = {}
    for patch in adapter.patches:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer: dict[str, Any] = {"needed": bool(patch.needed())}
            except BaseException as error:
                answer = {"error": describe(error)}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            answer = json.loads(pipe.read() or b'{"error": "its process died"}')
        os.waitpid(child, 0)
        if "error" in answer:
            yield {"error": f"the patch {patch.name!r}: {answer['error']}"}
        needed[patch.name] = answer.get("needed")
    yield {"needed": needed}


def memory(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Megabytes (10^6) that an env of a process takes when all of them have begun ``config["episode"]`` and stepped.

    The first two are left out: what the process needs once, and room that the load of a second one needs beside the first.
    """
    episode, further = episode_of(config["episode"]), config["further"]
    envs, sizes = [adapter()], []
    for number in range(2 + further):
        envs += [envs[0].sibling()] if number else []
        list(rounds(envs[-1], episode, 2, Needs()))
        gc.collect()  # what a load leaves behind is not the env's
        sizes.append(own_megabytes())
    yield {"env": (sizes[-1] - sizes[1]) / further}


def own_megabytes() -> float:
    """Memory that this process alone fills, in 10^6 bytes: what it maps of files is shared with others, which come and go."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Anonymous:")).split()[1]) * 1024 / 1e6


def beside_upstream(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Play ``config["episodes"]`` beside upstream's loop, one env of ours for all.

    Each has the actions of the recording ``config["recorded"]`` that has its key, or random ones. Those of one task follow each other.
    """
    loop = resolve_name(config["upstream"])
    recorded = dict(np.load(config["recorded"])) if config["recorded"] else {}
    env, upstream, task = adapter(), None, None
    for text, key in config["episodes"]:
        episode = episode_of(text)
        actions = recorded.get(key)
        if actions is None:
            actions = sample_actions(env.embodiment, np.random.default_rng(episode.initial_state), config["steps"])
        if upstream is None or task != (episode.suite, episode.task):
            if upstream is not None:
                upstream.close()
            upstream, task = loop(episode), (episode.suite, episode.task)
        found = {"key": episode.key, "recorded": key in recorded, "steps": 0, "solved": False, "difference": ""}
        try:
            steps = parity(env, upstream, episode, actions)
            found |= {"steps": len(steps), "solved": steps[-1].success_at_end}
        except NotEqualError as error:
            found |= {"difference": str(error)}
        yield found


def ends(adapter: type[Env], config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The images of ``config["episodes"]``, each with its actions, at the start and at the end: arrays in the file ``config["to"]``."""
    env, images = adapter(), {}
    for number, (text, actions) in enumerate(config["episodes"]):
        episode = episode_of(text)
        whole = replace(episode, protocol=replace(episode.protocol, n_action_steps=len(actions)))
        snapshots = [env.open(whole, Needs(final_frame=True)), env.step_chunk(np.array(actions, np.float32)).snapshot]
        for when, snapshot in zip(("start", "end"), snapshots):
            images.update({f"{number}/{when}/{view}": frames[-1] for view, frames in snapshot.frames.views.items()})
    np.savez(config["to"], **images, allow_pickle=False)
    yield {"images": len(images)}


QUESTIONS = {each.__name__: each for each in (findings, plays, in_turns, patches, memory, beside_upstream, ends)}
