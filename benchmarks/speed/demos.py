"""A LeRobotDataset of made-up episodes, as ``vlarig data record`` writes them, for the scripts that read one."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from vlarig.envs.api import Outcome
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.results.records import NO_IMAGES, EpisodeRecord
from vlarig.training.data.lerobot_episode import EpisodeDraft, RecordedEpisode
from vlarig.training.data.lerobot_writer import write_dataset

#: Steps of an episode, at least and at most.
LENGTHS = (50, 120)
#: Rectangles that move about in an image.
MOVING = 4
TASKS = ("put the red cube in the tray", "stack the blocks", "open the drawer")


def make_demos(folder: Path, episodes: int, size: int, lengths: tuple[int, int] = LENGTHS) -> None:
    """Write a dataset into an empty folder: two views, a still and slightly noisy scene in each, in front of which rectangles move.

    Images have the height and width ``size``.
    """
    rng = np.random.default_rng(0)
    scenes = {view: scene(rng, size) for view in TABLETOP_PANDA.cameras}
    with TemporaryDirectory() as staging:
        made = [make_episode(rng, number, scenes, lengths, Path(staging)) for number in range(episodes)]
        folder.mkdir(parents=True, exist_ok=True)
        write_dataset(folder, made, TABLETOP_PANDA, {"name": "made up"})


def scene(rng: np.random.Generator, size: int) -> np.ndarray:
    """``uint8[size, size, 3]``: soft blotches with the noise of a camera, which a codec has to encode."""
    blotches = Image.fromarray(rng.integers(60, 200, (14, 14, 3), np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return (np.asarray(blotches) + rng.integers(-4, 5, (size, size, 3))).clip(0, 255).astype(np.uint8)


def make_episode(
    rng: np.random.Generator, number: int, scenes: dict[str, np.ndarray], lengths: tuple[int, int], staging: Path
) -> RecordedEpisode:
    """Play an episode of random numbers into the folder of drafts."""
    robot, steps = TABLETOP_PANDA, int(rng.integers(*lengths, endpoint=True))
    actions = rng.uniform(-1, 1, (steps, robot.action_size)).astype(np.float32)
    states = rng.normal(size=(steps, len(robot.state_layout))).astype(np.float32)
    size = len(next(iter(scenes.values())))
    corners = rng.integers(size, size=(MOVING, 2)) + rng.integers(-3, 4, (steps, MOVING, 2)).cumsum(0)
    corners %= size * 4 // 5
    draft = EpisodeDraft(staging / f".draft-{number}", robot.control_frequency)
    for step in range(steps):
        images = {view: rendered(image, corners[step])[None] for view, image in scenes.items()}
        draft.add(images, states[step : step + 1], actions[step : step + 1])
    draft.finish(staging / str(number))
    task = f"task {number % len(TASKS)}"
    record = EpisodeRecord(
        key=f"made_up/standard@1/{task}/base/{number}/0", suite="made_up", protocol="standard@1", task=task, variant="base",
        initial_state=number, repeat=0, success=True, outcome=Outcome(True, True, 1, 1, True), reward=1.0, steps=steps,
        primitives=steps, chunks=(steps,), actions=actions, metrics={}, state_digest="0" * 64, image_digest=NO_IMAGES,
        seconds={}, worker="", instruction=TASKS[number % len(TASKS)],
    )  # fmt: skip
    return RecordedEpisode(record, seed=number, place=staging / str(number))


def rendered(image: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """The scene with its rectangles."""
    shown, side = image.copy(), len(image) // 8
    for number, (top, left) in enumerate(corners):
        shown[top : top + side, left : left + side] = (60 * number, 200 - 30 * number, 90)
    return shown
