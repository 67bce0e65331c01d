"""Navigation: steps a second by size of picture, the shares of pictures and of the surface's queries, and what a further env holds.

The waypoint oracle's actions are played again, four a chunk, a picture a waypoint. Baselines in the same process: the same episodes
without pictures, and envs that load a house each. There is no loop of upstream's to compare with: habitat-sim is not on PyPI.

    VLARIG_ASSETS_VLNCE_R2R=FOLDER vlarig runtime run vlnce -- python benchmarks/speed/navigation.py

with the folder that ``vlarig assets list`` shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vlarig.benchmarks.vlnce.suites import R2R_VAL_UNSEEN
from vlarig.envs.api import Camera, Episode, Needs
from vlarig.envs.vlnce.env import VlnceEnv, Worlds

EPISODES, TURNS, ENVS = 5, 5, 8
SIZES = ((224, 224), (480, 640))


def memory() -> float:
    """What this process holds, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def chunks_of(env: VlnceEnv, episode: Episode) -> list[np.ndarray]:
    """The actions of the oracle's episode."""
    result, chunks = env.open(episode, Needs(images=False, privileged=True)), []
    while True:
        chunks.append(result.privileged["waypoints"][: episode.protocol.n_action_steps])
        stepped = env.step_chunk(chunks[-1])
        if stepped.over:
            return chunks
        result = stepped.snapshot


class Clock:
    """Sums the seconds that some methods take.

    Args:
        owner: Whose methods; they are replaced.
        names: The methods.
    """

    def __init__(self, owner: Any, *names: str) -> None:
        self.seconds = 0.0
        for name in names:
            setattr(owner, name, self.timed(getattr(owner, name)))

    def timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """The method, timed."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - began

        return call


def play(env: VlnceEnv, episodes: list[Episode], chunks: list[list[np.ndarray]], images: bool) -> tuple[int, float]:
    """Waypoints and seconds of the episodes, resets left out."""
    steps, seconds = 0, 0.0
    for episode, actions in zip(episodes, chunks, strict=True):
        env.open(episode, Needs(images=images))
        began = time.perf_counter()
        for chunk in actions:
            env.step_chunk(chunk)
            steps += len(chunk)
        seconds += time.perf_counter() - began
    return steps, seconds


def main() -> None:
    """Measure and print."""
    folder = Path(os.environ["VLARIG_ASSETS_VLNCE_R2R"])
    states = R2R_VAL_UNSEEN.read_states({"vlnce_r2r": folder}).states["val_unseen"]
    task = replace(R2R_VAL_UNSEEN.tasks[0], initial_states=tuple(states))
    suite = replace(R2R_VAL_UNSEEN, tasks=(task,), prepared={"val_unseen": states})
    env = VlnceEnv()
    for height, width in SIZES:
        protocol = replace(suite.protocol(), cameras=(Camera("ego", height, width),))
        episodes = suite.episodes(protocol=protocol)[:EPISODES]  # of one house
        chunks = [chunks_of(env, episode) for episode in episodes]
        world = env._world
        pictures = Clock(world, "render")
        queries = Clock(world.surface, "snap", "move", "way")
        rates: dict[str, list[float]] = {"with": [], "without": [], "pictures": [], "queries": []}
        for _ in range(TURNS):
            pictures.seconds = queries.seconds = 0.0
            steps, seconds = play(env, episodes, chunks, images=True)
            rates["with"].append(steps / seconds)
            rates["pictures"].append(pictures.seconds / seconds)
            rates["queries"].append(queries.seconds / seconds)
            steps, seconds = play(env, episodes, chunks, images=False)
            rates["without"].append(steps / seconds)
        found = {name: median(values) for name, values in rates.items()}
        spread = f"{min(rates['with']):.0f} to {max(rates['with']):.0f}"
        print(
            f"{height} x {width}: {found['with']:.0f} steps/s ({spread}), {found['without']:.0f} without pictures; "
            f"pictures {found['pictures']:.0%}, queries {found['queries']:.0%} of the time"
        )
    env.close()
    for name, shared in (("sharing a house", True), ("a house each", False)):
        worlds = Worlds()
        held, envs = [memory()], []
        for _ in range(ENVS):
            envs.append(VlnceEnv(worlds if shared else Worlds()))
            envs[-1].open(episodes[0], Needs())
            held.append(memory())
        print(f"{name}: the first env {held[1] - held[0]:.0f} MB, each further one {(held[-1] - held[1]) / (ENVS - 1):.1f} MB")
        for each in envs:
            each.close()


if __name__ == "__main__":
    main()
