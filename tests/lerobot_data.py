"""Small LeRobotDatasets whose images show their episode and frame: by our own writer, and v2.1 by hand."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lerobot_images import LENGTHS, SIZE, TASKS, frame_image, numbers
from PIL import Image
from sample_runs import make_record

from vlarig.benchmarks.captions import Description, Segment
from vlarig.envs.embodiments import Channel, Embodiment
from vlarig.training.data import lerobot_writer
from vlarig.training.data.lerobot_episode import EpisodeDraft, RecordedEpisode

VIEWS = ("ego", "cam_left_wrist")

ROBOT = Embodiment(
    name="test_arm",
    robot_tag="Test arm",
    arms="single arm",
    control_frequency=10.0,
    channels=tuple(Channel(name, "m", "delta", "base", -1.0, 1.0) for name in ("x", "y", "grip")),
    state_layout=("px", "py"),
    cameras={"ego": "front", "cam_left_wrist": "hand"},
    statistics_key="test_arm",
)


def described(length: int) -> Description:
    """An episode of so many steps in words: it reaches for five steps, and then grasps."""
    reach = {"action primitive": "reach", "object recognition": "a red cube, a blue bowl", "source location": "from the left"}
    grasp = {"action primitive": "grasp", "contact region": "at its near side, from above", "trajectory": "straight down"}
    segments = (
        Segment(0, 5, "reach the red cube", "Reach the red cube from the left of the blue bowl.", reach),
        Segment(5, length, "grasp the red cube", "Grasp the red cube at its near side.", grasp),
    )
    return Description(segments)


def record_dataset(folder: Path, staging: Path, labels: bool = False, data_mb: float = 100, video_mb: float = 200) -> Path:
    """The dataset as ``vlarig data record`` writes it."""
    episodes = []
    for episode, length in enumerate(LENGTHS):
        draft = EpisodeDraft(staging / f".draft-{episode}", ROBOT.control_frequency)
        states, actions = numbers(episode)
        for begin in range(0, length, 8):
            part = range(begin, min(begin + 8, length))
            images = {view: np.stack([frame_image(episode, frame, at) for frame in part]) for at, view in enumerate(VIEWS)}
            words = [("reach" if frame < 5 else "grasp") for frame in part] if labels else ()
            draft.add(images, states[begin : begin + 8], actions[begin : begin + 8], words)
        draft.finish(staging / str(episode), described(length) if labels else None)
        record = make_record(episode, steps=length, chunks=(length,), actions=actions, instruction=TASKS[episode])
        episodes.append(RecordedEpisode(record, seed=episode, place=staging / str(episode)))
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lerobot_writer, "DATA_MB", data_mb)
        patch.setattr(lerobot_writer, "VIDEO_MB", video_mb)
        lerobot_writer.write_dataset(folder, episodes, ROBOT, {"name": "test"})
    return folder


def make_v21(folder: Path, films: bool = True, options: dict[str, str] | None = None) -> Path:
    """A dataset v2.1, without anything of ours; its films have B-frames and a key frame every 250th image."""
    keys = {f"observation.images.{name}": at for at, name in enumerate(("front", "hand"))}
    features: dict[str, Any] = {
        key: {"dtype": "video" if films else "image", "shape": [*SIZE, 3], "names": ["height", "width", "channels"]}
        for key in keys
    }
    features["observation.state"] = {"dtype": "float32", "shape": [2], "names": {"motors": ["px", "py"]}}
    features["action"] = {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "arm",
        "total_episodes": len(LENGTHS),
        "chunks_size": 2,
        "fps": 10,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4" if films else None,
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    tasks = list(dict.fromkeys(TASKS))
    _write_lines(folder / "meta" / "tasks.jsonl", [{"task_index": at, "task": task} for at, task in enumerate(tasks)])
    episodes = [
        {"episode_index": at, "tasks": [TASKS[at]], "length": length} for at, length in enumerate(LENGTHS)
    ]  # fmt: skip
    _write_lines(folder / "meta" / "episodes.jsonl", episodes)
    for episode, length in enumerate(LENGTHS):
        states, actions = numbers(episode)
        frames = np.arange(length)
        columns: dict[str, Any] = {
            "observation.state": pa.array(list(states), pa.list_(pa.float32())),
            "action": pa.array(list(actions), pa.list_(pa.float32())),
            "timestamp": (frames / 10).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, episode),
            "index": sum(LENGTHS[:episode]) + frames,
            "task_index": np.full(length, tasks.index(TASKS[episode])),
        }
        for key, view in keys.items():
            images = [frame_image(episode, frame, view) for frame in frames]
            if films:
                path = folder / f"videos/chunk-{episode // 2:03d}/{key}/episode_{episode:06d}.mp4"
                _write_film(path, images, options or {"crf": "12"})
            else:
                columns[key] = [{"bytes": _png(each), "path": f"{at}.png"} for at, each in enumerate(images)]
        path = folder / f"data/chunk-{episode // 2:03d}/episode_{episode:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
    return folder


#: The motors of an ALOHA arm, as public ALOHA datasets name them behind ``left_`` and ``right_``, and their cameras.
ALOHA_MOTORS = tuple(
    f"{side}_{motor}"
    for side in ("left", "right")
    for motor in ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate", "gripper")
)
ALOHA_CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")


def make_aloha(folder: Path, lengths: Sequence[int] = (30, 24), size: tuple[int, int] = (480, 640)) -> Path:
    """A dataset v2.1 in the shape of a real ALOHA's: 50 Hz, 14 joints and grippers, states and targets, four films."""
    shape = [*size, 3]
    motors = {"dtype": "float32", "shape": [14], "names": {"motors": list(ALOHA_MOTORS)}}
    features: dict[str, Any] = {
        f"observation.images.{camera}": {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"]}
        for camera in ALOHA_CAMERAS
    }
    features |= {"observation.state": motors, "observation.effort": motors, "action": motors}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    info = {
        "codebase_version": "v2.1",
        "robot_type": "aloha",
        "total_episodes": len(lengths),
        "chunks_size": 1000,
        "fps": 50,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "data" / "chunk-000").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    _write_lines(folder / "meta" / "tasks.jsonl", [{"task_index": 0, "task": "Pick up the battery and insert it."}])
    lines = [
        {"episode_index": at, "tasks": ["Pick up the battery and insert it."], "length": n} for at, n in enumerate(lengths)
    ]
    _write_lines(folder / "meta" / "episodes.jsonl", lines)
    for episode, length in enumerate(lengths):
        rng = np.random.default_rng(episode)
        angles = np.cumsum(rng.normal(0, 0.02, (length + 1, 14)), axis=0).astype(np.float32)
        angles[:, [6, 13]] = np.clip(np.abs(angles[:, [6, 13]]) * 4, 0, 1)
        columns: dict[str, Any] = {
            "observation.state": pa.array(list(angles[:-1]), pa.list_(pa.float32())),
            "observation.effort": pa.array(list(angles[:-1] * 0), pa.list_(pa.float32())),
            "action": pa.array(list(angles[1:]), pa.list_(pa.float32())),
            "timestamp": (np.arange(length) / 50).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": sum(lengths[:episode]) + np.arange(length),
            "task_index": np.zeros(length, np.int64),
        }
        pq.write_table(pa.table(columns), folder / f"data/chunk-000/episode_{episode:06d}.parquet")
        for number, camera in enumerate(ALOHA_CAMERAS):
            images = [np.full(shape, (40 * number, 4 * frame, 90), np.uint8) for frame in range(length)]
            path = folder / f"videos/chunk-000/observation.images.{camera}/episode_{episode:06d}.mp4"
            _write_film(path, images, {"crf": "30", "preset": "ultrafast"}, rate=50)
    return folder


def _write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_film(path: Path, images: list[np.ndarray], options: dict[str, str], rate: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for each in images:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        film.mux(stream.encode(None))


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()
