"""Recording: a sweep whose episodes become a dataset: LeRobot's, or a folder of walks where the robot walks.

Each episode is written beside the run while it is played, and is whole on the disk before the ledger calls it finished. So a death at
any time loses the episodes that were under way and no other, and the same command goes on. At the end the episodes are joined
into one dataset in the order of the plan, which does not depend on workers, envs or kills.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.captions import Description
from ...benchmarks.registry import load_suite, load_suite_of_run
from ...benchmarks.suite import Suite
from ...envs.api import Episode
from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError
from ...envs.home import appearing
from ...harness.sinks import Transition
from ...results.ledger import Ledger
from ...results.manifest import Manifest
from ...results.records import Attempt, split_key
from .lerobot_episode import EpisodeDraft, RecordedEpisode, need_data_extra, read_steps
from .lerobot_writer import INFO, write_dataset

#: What a folder of a recording holds beside the dataset: the run, the episodes that are not joined yet, and its settings.
RUN, STAGING, SETTINGS = "run", "staging", "recording.json"

#: An episode's images are written once they have about so many bytes, so that no thread is woken for each step.
AT_ONCE = 2**20

#: The file that says what a folder of walks is, the last to appear.
WALKS_HEAD = "dataset.json"


class Recorder:
    """A sink that writes each episode's images, states and actions below a folder, until it is joined with others.

    Args:
        folder: Where episodes are kept.
        suite: The suite: its robot's steps a second, and its describer, which puts episodes into words.
        keep_failures: Whether to keep episodes that did not succeed.
    """

    def __init__(self, folder: Path, suite: Suite, keep_failures: bool = False) -> None:
        self._folder = folder
        self._suite = suite
        self._keep_failures = keep_failures
        self._drafts: dict[int, _UnderWay] = {}
        self._unwritten: dict[int, list[Transition]] = {}
        self._cleaned = False

    async def emit(self, transition: Transition) -> None:
        """Take a chunk, and write those that came when there are enough; with an episode's last, keep the episode or give it up."""
        if not self._cleaned:  # not before: only now the run is known to be ours alone; not in threads, which would meet
            self._cleaned = True
            for left in self._folder.glob(".draft-*"):
                shutil.rmtree(left)
        env = transition.request.env
        if transition.request.chunk == 0:
            self._unwritten[env] = []
        chunks = self._unwritten[env]
        chunks.append(transition)
        bytes_each = sum(images.nbytes for images in transition.result.snapshot.frames.views.values())
        if transition.result.over or bytes_each * len(chunks) >= AT_ONCE:
            self._unwritten[env] = []
            await asyncio.to_thread(lambda: [self._write(each) for each in chunks])

    async def fault(self, attempt: Attempt) -> None:
        """Give up the episode of an attempt that was the last."""
        if attempt.gave_up:
            for env, under_way in list(self._drafts.items()):
                if under_way.key == attempt.key:
                    self._drop(env)

    def close(self) -> None:
        """Give up the episodes that are under way."""
        for env in list(self._drafts):
            self._drop(env)

    def _write(self, transition: Transition) -> None:
        episode, env = transition.episode, transition.request.env
        if transition.request.chunk == 0:
            self._drop(env)
            draft = EpisodeDraft(self._folder / f".draft-{env}", self._suite.embodiment.control_frequency)
            # A walk begins where its poses are counted from.
            first = np.zeros(3, np.float32) if self._suite.walks else transition.request.observation["state"]
            self._drafts[env] = _UnderWay(episode.key, draft, first)
        under_way = self._drafts[env]
        images, states = steps_of(transition, under_way.state)
        under_way.state = transition.result.snapshot.frames.states[-1]
        count = len(transition.result.steps)
        stages = (transition.reply.stages or ())[:count]
        labels = transition.reply.labels
        if labels is not None and self._suite.walks:
            raise VlarigError(
                f"{episode.key}: a walk is recorded as it was gone, so it cannot be disturbed; leave out disturbance"
            )
        actions = transition.actions if labels is None else labels
        keypoints = transition.reply.keypoints
        under_way.draft.add(images, states, actions[:count], stages, None if keypoints is None else keypoints[:count])
        under_way.add(stages, transition.request.privileged, states)
        if not transition.result.over:
            return
        if self._keep_failures or transition.success:
            under_way.draft.finish(place_of(self._folder, episode.key), under_way.description(self._suite))
            del self._drafts[env]
        else:
            self._drop(env)

    def _drop(self, env: int) -> None:
        if env in self._drafts:
            self._drafts.pop(env).draft.discard()


@dataclass
class _UnderWay:
    """An episode that is played, and what it is put into words from, each by step."""

    key: str
    draft: EpisodeDraft
    state: np.ndarray
    stages: list[str] = field(default_factory=list)
    truth: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    states: list[np.ndarray] = field(default_factory=list)

    def add(self, stages: Sequence[str], truth: Mapping[str, np.ndarray], states: np.ndarray) -> None:
        """Keep the steps of a chunk, ``states`` of ``float32[X, P]``, where the policy has both stages and the truth."""
        if stages and truth:
            self.stages += stages
            self.truth += [truth] * len(stages)
            self.states.append(states)

    def description(self, suite: Suite) -> Description | None:
        """The episode in words, where it is known."""
        return suite.described(self.stages, self.truth, np.concatenate(self.states)) if self.states else None


def steps_of(transition: Transition, state: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The images and states before each step of a chunk, the first of which is ``state``.

    They are view to ``uint8[X, h, w, 3]``, and ``float32[X, P]``.

    A protocol without cameras has no images.
    """
    count = len(transition.result.steps)
    before, frames = transition.request.observation, transition.result.snapshot.frames
    last = transition.result.snapshot.step
    if frames.steps != tuple(range(last - count + 1, last + 1)) or len(frames.states) != count:
        raise VlarigError(
            f"{transition.episode.key} sent frames of the steps {list(frames.steps)} with {len(frames.states)} states, where each of "
            f"{count} steps up to {last} needs both; the adapter must collect them (docs/add-a-benchmark.md)"
        )
    images = {view: np.concatenate([before["images"][view][-1:], new[:-1]]) for view, new in frames.views.items()}
    return images, np.concatenate([state[None], frames.states[:-1]])


def place_of(folder: Path, key: str) -> Path:
    """Where an episode is kept until it is joined with others."""
    return folder / re.sub(r"[^A-Za-z0-9_.@-]", lambda sign: "_" if sign[0] == "/" else f"%{ord(sign[0]):x}", key)


@dataclass(frozen=True)
class RecordingPlan:
    """What is recorded, and where.

    Attributes:
        folder: The dataset's folder; the run is below it.
        suite: Name or place of the suite, as it was typed.
        keep_failures: Whether episodes that did not succeed are kept.
    """

    folder: Path
    suite: str
    keep_failures: bool

    @property
    def run(self) -> Path:
        return self.folder / RUN

    @property
    def staging(self) -> Path:
        """Where episodes are kept until they are joined."""
        return self.folder / STAGING

    def begin(self) -> Recorder:
        """Check the folder, or make it, and return the sink."""
        need_data_extra()
        suite = load_suite(self.suite)
        settings = {"keep_failures": self.keep_failures}
        known = self.folder / SETTINGS
        if known.exists():
            before = json.loads(known.read_text())
            if before != settings:
                raise VlarigError(
                    f"{self.folder} was begun with keep_failures={before.get('keep_failures')}, and now it is {self.keep_failures}; "
                    "give the same, or another folder"
                )
        else:
            others = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
            if others or (self.folder.exists() and not self.folder.is_dir()):
                raise VlarigError(
                    f"{self.folder} holds something else ({', '.join(sorted(others)[:3])}); give a new or an empty folder"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            with appearing(known) as draft:
                draft.write_text(json.dumps(settings))
        self.staging.mkdir(exist_ok=True)
        return Recorder(self.staging, suite, self.keep_failures)

    def finish(self, complete: bool) -> int:
        """Make the dataset of the finished episodes, and return how many it has.

        Episodes stay where they are until all of the run are finished, so that the same command can try the others again.

        Args:
            complete: Whether all are.
        """
        walks = load_suite(self.suite).walks
        head, count = (WALKS_HEAD, "episodes") if walks else (INFO, "total_episodes")
        if complete and (self.folder / head).exists() and not any(self.staging.iterdir()):
            shutil.rmtree(self.staging)
        if complete and not self.staging.exists():
            return int(json.loads((self.folder / head).read_text())[count])
        episodes, embodiment, about = self._episodes()
        if walks:
            write_walks(self.folder, episodes, embodiment, walks, about)
        else:
            write_dataset(self.folder, episodes, embodiment, about)
        if complete:
            gone = self.staging.with_name(".staging-old")
            self.staging.rename(gone)
            shutil.rmtree(gone)
        return len(episodes)

    def _episodes(self) -> tuple[list[RecordedEpisode], Embodiment, dict[str, Any]]:
        manifest = Manifest.load(self.run)
        (plan,) = manifest.identity.suites
        suite = load_suite_of_run(plan.name, manifest.record.suites)
        protocol = plan.resolved
        order = {(task.name, task.variant): place for place, task in enumerate(plan.tasks)}
        episodes: dict[tuple[int, int, int], RecordedEpisode] = {}
        with Ledger.open_read_only(self.run) as ledger:
            for record in ledger.each_record():
                if not (record.success or self.keep_failures):
                    continue
                _, _, task, variant, initial_state, repeat = split_key(record.key)
                place = place_of(self.staging, record.key)
                if not place.is_dir():
                    raise VlarigError(f"{record.key} is finished, but {place} is not there; record into another folder")
                seed = Episode(suite.name, protocol, task, variant, initial_state, repeat).seed
                episodes[order[task, variant], initial_state, repeat] = RecordedEpisode(record, seed, place)
        about = {
            "name": suite.name,
            "recording": {
                "suite": suite.name,
                "protocol": plan.protocol_name,
                "tasks": [{"task": task.name, "variant": task.variant, "episodes": task.episodes} for task in plan.tasks],
                "policy": manifest.identity.policy,
                "policy_options": manifest.identity.policy_options,
                "policy_revision": manifest.identity.policy_revision,
                "policy_privileged": manifest.identity.policy_privileged,
                "seed": manifest.identity.seed,
                "renderer": manifest.identity.renderer,
                "keep_failures": self.keep_failures,
                "vlarig_version": manifest.identity.vlarig_version,
            },
        }
        return [episodes[place] for place in sorted(episodes)], suite.embodiment, about


def write_walks(
    folder: Path, episodes: Sequence[RecordedEpisode], embodiment: Embodiment, kind: str, about: dict[str, Any]
) -> None:
    """Write the walks into ``folder``, in place of those that are there: a film and a line for each.

    The layout is that of :mod:`vlarig.training.data.navigation`. A simulator without a clock counts its frames as the robot's control
    steps. A death at any time leaves a folder without ``dataset.json``, or all walks.

    Args:
        folder: The data set's folder; other files in it are left alone.
        episodes: The episodes, in the data set's order; their states are poses in the ground plane, ``float32[steps, 3]``.
        embodiment: Their robot, with one view.
        kind: What the walks are for.
        about: How they were recorded, with the data set's ``name``.
    """
    if not episodes:
        raise VlarigError(f"there is no episode to write into {folder}: none succeeded; --keep-failures keeps the others too")
    (view,) = embodiment.cameras
    try:
        (folder / WALKS_HEAD).unlink(missing_ok=True)
        films = folder / "videos"
        shutil.rmtree(films, ignore_errors=True)
        films.mkdir()
        lines = []
        for number, episode in enumerate(episodes):
            poses = read_steps(episode.place).states.astype(float).tolist()
            film = films / f"{number:06d}.mp4"
            shutil.copyfile(episode.place / f"{view}.mp4", film)
            line = {
                "name": episode.record.key,
                "kind": kind,
                "instruction": episode.record.instruction,
                "times": [step / embodiment.control_frequency for step in range(len(poses))],
                "poses": poses,
                "frames": str(film.relative_to(folder)),
            }
            lines.append(json.dumps(line) + "\n")
        (folder / "episodes.jsonl").write_text("".join(lines), encoding="utf-8")
        head = {"format": "vlarig-navigation", "version": 1, "embodiment": embodiment.name, **about, "episodes": len(lines)}
        with appearing(folder / WALKS_HEAD) as draft:
            draft.write_text(json.dumps(head, indent=1), encoding="utf-8")
    except OSError as error:
        raise VlarigError(f"the walks {folder} cannot be written: {error}; check that there is space left") from error


def mb_of(folder: Path) -> float:
    """Size of a dataset's files, in MB (10^6 bytes)."""
    found = (file for name in ("data", "videos", "meta") for file in (folder / name).rglob("*"))
    return sum(file.stat().st_size for file in found if file.is_file()) / 1e6
