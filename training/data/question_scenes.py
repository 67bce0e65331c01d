"""Which scene of a suite has which number, for questions on it: to train on, or held out.

A scene is a function of the suite, the split, the seed and its number. No training uses a held-out scene. Where a suite samples scenes
for being looked at, it does so by a generator of its own seed for each split; elsewhere the held-out scenes are the initial states that
protocols evaluate, which no training ever begins from. Or a scene is an episode of a recording, replayed and looked at on its way: the
beginning of an episode does not show what a demonstration does, the hand over objects and objects in the hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ...benchmarks.suite import Suite
from ...envs.api import Episode, Protocol
from ...results.ledger import Ledger
from ...results.manifest import Manifest
from ...results.records import EpisodeRecord
from .errors import DataError
from .lerobot import moving_steps, open_lerobot
from .lerobot_files import read_places
from .recorder import RUN

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

#: Scenes in succession that are of one task, so that a simulator loads it once for them.
BLOCK = 20

#: Steps that a scene may run at a time: an image is rendered where it stops.
LONGEST = 10_000

#: Steps of a random motion that its actions repeat before another is sampled: the arm goes somewhere, instead of trembling.
HELD = 4


@dataclass(frozen=True, eq=False)
class Scene:
    """An episode, and when it is looked at.

    Attributes:
        actions: What is done in it, ``float32[H, A]``.
        stops: After how many steps an image is rendered, in their order, each once; 0 is the beginning.
        keypoints: ``float32[14]`` of each stop, where the recording has them.
    """

    episode: Episode
    actions: np.ndarray
    stops: tuple[int, ...]
    keypoints: tuple[np.ndarray, ...] | None = None


def rng_of(split: Split, seed: int, *numbers: int) -> np.random.Generator:
    """The generator of one purpose within a split."""
    return np.random.default_rng([SPLITS.index(split), seed, *numbers])


def scene_protocol(
    suite: Suite, views: tuple[str, ...] = (), size: int | None = None, base: Protocol | None = None
) -> Protocol:
    """A protocol, the suite's own by default, with these views alone, in squares of ``size`` pixels where that is given.

    All steps before an image are one chunk.
    """
    base = base or suite.protocol()
    known = {camera.view: camera for camera in base.cameras}
    for view in views:
        if view not in known:
            raise DataError(f"protocol {base.name!r} of {suite.name} has no view {view!r}; it has {', '.join(known)}")
    cameras = tuple(known[view] for view in views or known)
    if size is not None:
        cameras = tuple(replace(camera, height=size, width=size) for camera in cameras)
    name, derived_from = f"{base.name}-questions", base.derived_from or base.name
    return replace(base, name=name, derived_from=derived_from, cameras=cameras, n_action_steps=LONGEST)


def scene_episode(suite: Suite, protocol: Protocol, split: Split, seed: int, number: int) -> Episode:
    """The episode at whose beginning the scene is."""
    task = suite.tasks[number // BLOCK % len(suite.tasks)]
    if suite.assorted is not None:
        payload = suite.assorted(rng_of(split, seed, number, 0))
        return Episode(suite.name, protocol, task.name, f"{split}-{seed}", number, 0, payload)
    turn = number // (BLOCK * len(suite.tasks)) * BLOCK + number % BLOCK  # scenes of the task before this one
    if split == "held_out":
        states = task.initial_states_of(protocol)
        return suite.episode(task, states[(seed + turn) % len(states)], 0, protocol)
    if suite.training is None:
        raise DataError(f"suite {suite.name!r} has no initial states to train on; its scenes can only be held out")
    return suite.training_episode(task, seed * 1_000_003 + turn, protocol)


def motion(suite: Suite, split: Split, seed: int, number: int, most: int) -> np.ndarray:
    """Actions before the image is rendered, ``float32[H, A]`` with ``H`` from 0 to ``most``, so that the arm is elsewhere each time."""
    rng = rng_of(split, seed, number, 1)
    steps = int(rng.integers(most + 1))
    space = suite.embodiment.action_space()
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None or not (np.isfinite(low).all() and np.isfinite(high).all()):
        return np.zeros((0, suite.embodiment.action_size), np.float32)
    sampled = rng.uniform(low, high, (-(-most // HELD), len(low)))
    return np.repeat(sampled, HELD, axis=0)[:steps].astype(np.float32)


@dataclass(frozen=True)
class NewScenes:
    """Beginnings of episodes, from where the arm moves at random.

    Attributes:
        protocol: From :func:`scene_protocol`.
        seed: Another seed gives other scenes.
        motion: Most steps of the motion.
    """

    suite: Suite
    protocol: Protocol
    split: Split
    seed: int
    motion: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Scene:
        actions = motion(self.suite, self.split, self.seed, number, self.motion)
        return Scene(scene_episode(self.suite, self.protocol, self.split, self.seed, number), actions, (len(actions),))


class RecordedScenes:
    """The demonstrations of a recording, each looked at in its beginning and in some random frames.

    In the beginning the words alone say what is meant. Where all is done and the robot rests, nothing changes, and no image is
    rendered. Tasks take turns, :data:`BLOCK` demonstrations each.

    Args:
        suite: The suite.
        recording: What ``vlarig data record`` wrote.
        views: Views that are rendered; all of the recording's protocol when empty.
        size: Sides of the images in pixels; the protocol's when ``None``.
        seed: Another seed gives other frames.
        frames: How many frames of an episode; all of them where it has no more steps.
        count: Most episodes.

    Attributes:
        protocol: The recording's, with these views.
        demonstrations: How many the recording has; with more of them, the same numbers mean others.
    """

    def __init__(
        self, suite: Suite, recording: Path, views: tuple[str, ...], size: int | None, seed: int, frames: int, count: int
    ) -> None:
        run = recording / RUN
        if not run.is_dir():
            raise DataError(f"{recording} holds no folder {RUN!r}; name a folder that vlarig data record wrote")
        plans = [plan for plan in Manifest.load(run).identity.suites if plan.name == suite.name]
        if not plans:
            raise DataError(f"{recording} is no recording of the suite {suite.name!r}; name one, or that suite")
        self.protocol = scene_protocol(suite, views, size, plans[0].resolved)
        self._suite = suite
        self._seed = seed
        self._frames = frames
        with Ledger.open_read_only(run) as ledger:
            records = [each for each in ledger.each_record(with_actions=True) if each.success and each.suite == suite.name]
        if not records:
            raise DataError(f"{recording} has no episode of {suite.name!r} that succeeded; record some")
        self.demonstrations = len(records)
        self._records = _in_blocks(records)[:count]
        self._dataset = open_lerobot(recording, horizon=1, cleaned=False)
        self._places = read_places(self._dataset.meta)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int) -> Scene:
        record = self._records[number]
        episode = self._suite.episode_again(record.task, record.variant, record.initial_state, record.repeat, self.protocol)
        rng = rng_of("train", self._seed, number, 1)
        steps = min(record.steps, moving_steps(record.actions) + 1)
        later = rng.choice(np.arange(1, steps), min(self._frames, steps) - 1, replace=False)
        stops = (0, *sorted(later.tolist()))
        keypoints = self._dataset.keypoints(self._places[record.key])
        return Scene(episode, record.actions, stops, None if keypoints is None else tuple(keypoints[list(stops)]))


def _in_blocks(records: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
    """The records, with tasks in turn, so that the first ones are of all tasks; the records of a task keep their order."""
    before: Counter[str] = Counter()
    places = []
    for index, record in enumerate(records):
        places.append((before[record.task] // BLOCK, record.task, index))
        before[record.task] += 1
    return [records[index] for *_, index in sorted(places)]
