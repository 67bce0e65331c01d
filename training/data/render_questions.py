"""Renders scenes of a suite and writes questions on them: the implementation of ``vlarig data render-questions``.

In the folder are, for each shard of :data:`SHARD` scenes::

    questions.json                           what was rendered; a run that goes on checks it
    spatial_grounding/00000.jsonl            questions by family, in the layout of :mod:`.vision_language`
    general_vision_language/00000.jsonl
    images/00000/000000-ego.png
    shards/00000.json                        written last: the shard is whole

A shard is a function of the options and its number alone; how many workers render changes nothing. Whole shards are kept when a run
goes on, so ``scenes`` may grow.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...benchmarks.registry import load_suite
from ...benchmarks.suite import Suite
from ...envs.api import Needs, Observation, Snapshot
from ...envs.background import all_of
from ...envs.embodiments import Embodiment
from ...envs.home import appearing
from ...envs.plugins import registered_experts
from ...harness.durable_env import DurableEnv
from ...harness.gym.env import SimulatorPool
from ...harness.sizing import Machine
from ...policies.api import Request
from ...policies.qwen_vla.end_numbers import end_numbers, hand_pose
from ...policies.qwen_vla.prompt import embodiment_prompt
from ...policies.scripted import ExpertPolicy
from .errors import DataError
from .families import FAMILIES, Family
from .instructions import Instruction, instruction, own_task
from .question_scenes import NewScenes, RecordedScenes, rng_of, scene_protocol
from .questions import FAMILY_OF, Question, View, questions
from .render_options import RenderOptions
from .vision_language import VisionLanguageDataset

#: Scenes that are written at once.
SHARD = 100

#: What a simulator has to give for a scene: the truth, from which the suite's expert computes the keypoints of made-up tasks.
NEEDS = Needs(objects=True, final_frame=True, privileged=True)

#: Steps of a chunk that an instruction's prompt states, as a policy's (paper, section 4.2: H = 16).
STEPS = 16

_MANIFEST = "questions.json"


@dataclass(frozen=True)
class Rendered:
    """What was written.

    Attributes:
        scenes: Scenes of this run; those of whole shards are not rendered again.
        questions: Kind to number, over the whole folder.
    """

    scenes: int
    questions: dict[str, int]


@dataclass(frozen=True)
class _Seen:
    """A frame of a scene: its number within the scene, the episode's key, and what is there."""

    scene: int
    key: str
    frame: int
    snapshot: Snapshot
    keypoints: np.ndarray | None


def render_questions(options: RenderOptions, progress: Callable[[int, int], None] | None = None) -> Rendered:
    """Write the questions that the options describe, or what is missing of them.

    Args:
        options: What is rendered.
        progress: Called after each shard with the scenes that are there and those that are wanted.
    """
    scenes = 0
    suite = load_suite(options.suite)
    if options.recording is None:
        protocol = scene_protocol(suite, options.views, options.size)
        source = NewScenes(suite, protocol, options.split, options.seed, options.motion, options.scenes)
        _begin(options, {})
    else:
        wanted = options.views, options.size, options.seed, options.frames, options.scenes
        source = RecordedScenes(suite, options.recording, *wanted)
        _begin(options, {"demonstrations": source.demonstrations})
    shards = [range(begin, min(begin + SHARD, len(source))) for begin in range(0, len(source), SHARD)]
    owed = [shard for shard in shards if not _is_whole(options, shard)]
    if owed:
        expert = ExpertPolicy() if suite.name in registered_experts() else None
        envs = min(options.workers or Machine.here().cores, max(map(len, owed)))  # no more than there are scenes in a shard
        pool = SimulatorPool(suite, NEEDS, envs, options.workers)
        try:
            for shard in owed:
                snapshots = pool.run(_rendered, pool, source, shard)
                if not any(each.snapshot.objects[view] for each in snapshots for view in each.snapshot.objects):
                    raise DataError(
                        f"the adapter of suite {suite.name!r} does not say what its images show; write its describe()"
                    )
                _write(options, suite, expert, shard, snapshots)
                scenes += len(shard)
                if progress is not None:
                    progress(shard.stop, len(source))
        finally:
            pool.close()
    counts: Counter[str] = Counter()
    for file in sorted((options.to / "shards").glob("*.json")):
        counts.update(json.loads(file.read_text())["questions"])
    return Rendered(scenes, dict(sorted(counts.items())))


def open_questions(folder: str | Path, name: str | None = None) -> list[VisionLanguageDataset]:
    """The datasets that :func:`render_questions` wrote into a folder, one for each family."""
    root = Path(folder)
    there: list[Family] = [family for family in FAMILIES if any((root / family).glob("*.jsonl"))]
    if not there:
        raise DataError(f"{root} holds no rendered questions; write some: vlarig data render-questions SUITE --to {root}")
    return [VisionLanguageDataset(root / family, f"{name or root.name}/{family}", family) for family in there]


def _begin(options: RenderOptions, source: dict[str, int]) -> None:
    """Make the folder, or make sure that it is one of the same options and scenes."""
    manifest = options.to / _MANIFEST
    wanted = options.identity | source
    if manifest.exists():
        found = json.loads(manifest.read_text())
        other = [name for name, value in wanted.items() if found.get(name) != value]
        if other:
            raise DataError(
                f"{options.to} was rendered with {other[0]} {found.get(other[0])!r}, not {wanted[other[0]]!r}; name another folder, or "
                "give the same options to go on"
            )
        return
    if options.to.exists() and any(options.to.iterdir()):
        raise DataError(f"{options.to} holds other files and no {_MANIFEST}; name an empty folder, or a new one")
    (options.to / "shards").mkdir(parents=True, exist_ok=True)
    with appearing(manifest) as draft:
        draft.write_text(json.dumps(wanted, indent=1))


def _is_whole(options: RenderOptions, shard: range) -> bool:
    marker = options.to / "shards" / f"{_name(shard)}.json"
    return marker.exists() and json.loads(marker.read_text())["scenes"] >= len(shard)


async def _rendered(pool: SimulatorPool, source: NewScenes | RecordedScenes, shard: range) -> list[_Seen]:
    """The scenes of a shard in their order, each env taking a stretch of neighbours, which are of one task."""
    stretches = np.array_split(np.array(shard), len(pool.envs))
    work = [_seen(env, source, stretch.tolist()) for env, stretch in zip(pool.envs, stretches, strict=True)]
    return [each for stretch in await all_of(work) for each in stretch]


async def _seen(env: DurableEnv, source: NewScenes | RecordedScenes, numbers: list[int]) -> list[_Seen]:
    found = []
    for number in numbers:
        scene = source[number]
        snapshot = await env.begin(scene.episode)
        for frame, (begin, end) in enumerate(itertools.pairwise((0, *scene.stops))):
            if end > begin:
                snapshot = (await env.step(scene.actions[begin:end])).snapshot
            keypoints = None if scene.keypoints is None else scene.keypoints[frame]
            found.append(_Seen(number, scene.episode.key, frame, snapshot, keypoints))
    return found


def _about(suite: Suite, expert: ExpertPolicy, snapshot: Snapshot, task: Instruction, key: str) -> Instruction:
    """A task with its keypoints, where the suite's expert understands it; the key of a made-up one names the suite alone."""
    seen = Observation(images={}, state=snapshot.state, instruction=task.text)
    known = expert.keypoints(Request(0, key, 0, 0, seen, suite.embodiment, 1, snapshot.privileged))
    return task if known is None else replace(task, keypoints=known.numbers())


def _write(options: RenderOptions, suite: Suite, expert: ExpertPolicy | None, shard: range, seen: list[_Seen]) -> None:
    embodiment = suite.embodiment
    images = options.to / "images" / _name(shard)
    images.mkdir(parents=True, exist_ok=True)
    lines: dict[Family, list[str]] = {}
    counts: Counter[str] = Counter()

    def add(record: dict[str, Any], kind: str) -> None:
        lines.setdefault(FAMILY_OF[kind], []).append(json.dumps(record, ensure_ascii=False))
        counts[kind] += 1

    for each in seen:
        frame = () if options.recording is None else (each.frame,)
        rng = functools.partial(rng_of, options.split, options.seed, each.scene, *frame)
        name = "-".join(map(str, (each.scene, *frame)))
        views, paths = {}, {}
        for place, (view, frames) in enumerate(each.snapshot.frames.views.items()):
            image = frames[-1]
            shown = views[view] = View(each.snapshot.objects.get(view, ()), image.shape[1], image.shape[0])
            found = questions(shown, rng(2 + place), options.questions)
            if not found and not options.instructions:
                continue
            file = images / f"{'-'.join((f'{each.scene:06}', *map(str, frame), view))}.png"
            with appearing(file) as draft:
                Image.fromarray(image).save(draft, "png")
            paths[view] = f"../images/{images.name}/{file.name}"
            for question in found:
                add(_record(f"{name}/{view}/{question.kind}", paths[view], view, question), question.kind)
        first = 2 + len(views)
        sampled = [instruction(views, rng(first + turn)) for turn in range(options.instructions)]
        made_up = f"{suite.name}/"
        tasks = [task and (_about(suite, expert, each.snapshot, task, made_up) if expert else task) for task in sampled]
        if tasks:
            own = own_task(views, each.snapshot.instruction, rng(first + len(tasks)), each.keypoints)
            if own and expert and each.keypoints is None:
                own = _about(suite, expert, each.snapshot, own, each.key)
            tasks.append(own)
        pose = hand_pose(each.snapshot.state, embodiment.state_layout)
        for turn, task in enumerate(tasks):
            if task is not None:
                add(_instruction_record(f"{name}/instruction/{turn}", paths, task, embodiment, pose), "instruction")
    for family, its in lines.items():
        (options.to / family).mkdir(exist_ok=True)
        with appearing(options.to / family / f"{_name(shard)}.jsonl") as draft:
            draft.write_text("".join(f"{line}\n" for line in its), encoding="utf-8")
    marker = {"scenes": len(shard), "questions": dict(sorted(counts.items()))}
    with appearing(options.to / "shards" / f"{_name(shard)}.json") as draft:
        draft.write_text(json.dumps(marker))


def _record(name: str, path: str, view: str, question: Question) -> dict[str, Any]:
    shown = {"type": "image", "path": path, "view": view}
    record = {
        "id": name,
        "kind": question.kind,
        "messages": [
            {"role": "user", "content": [shown, {"type": "text", "text": question.text}]},
            {"role": "assistant", "content": question.answer},
        ],
    }
    return record | ({"facts": question.facts} if question.facts else {})


def _instruction_record(
    name: str, paths: Mapping[str, str], task: Instruction, embodiment: Embodiment, pose: np.ndarray
) -> dict[str, Any]:
    shown = [
        {
            "type": "image",
            "path": path,
            "view": view,
            "marks": [
                {"name": mark.name, "point_2d": list(mark.point), **({"role": mark.role} if mark.role else {})}
                for mark in task.marks[view]
            ],
        }
        for view, path in paths.items()
    ]
    prompt = embodiment_prompt(embodiment, task.text, STEPS)
    ends = end_numbers(task.keypoints, pose)
    return {
        "id": name,
        "kind": "instruction",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": prompt}, *shown]},
            {"role": "assistant", "content": task.answer},
        ],
        "ends": [None if np.isnan(number) else round(float(number), 4) for number in ends],
    }


def _name(shard: range) -> str:
    return f"{shard.start // SHARD:05}"
