"""Makes a LeRobotDataset v3.0 of recorded episodes.

The format's files and fields are LeRobot's (huggingface/lerobot 0.4.4, src/lerobot/datasets/utils.py and lerobot_dataset.py): several
episodes share a Parquet file of numbers and a film of each view, and ``meta/`` says where each of them begins. Ours are beside them:
``meta/vlarig.json`` (the robot, which image is which view, quantiles, how it was recorded) and ``meta/vlarig_episodes.parquet`` (of
each episode its key, seed, success, digests and subtasks; its caption and segments in words, where the suite has a describer). The
same episodes give the same bytes. Needs the extra ``data``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.captions import DIMENSIONS
from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError, not_importable
from ...envs.keypoints import NAMES
from ...policies.qwen_vla.normalization import DatasetStatistics, Statistics, statistics_to_data
from ...results.run_files import sync
from .lerobot_episode import (
    CODEC_NAME,
    RecordedEpisode,
    column_of,
    image_stats,
    join_films,
    number_stats,
    pixel_format,
    read_steps,
    subtask_segments,
    write_json,
    write_names,
)

#: The version of the format (``CODEBASE_VERSION`` of lerobot_dataset.py).
VERSION = "v3.0"

#: LeRobot's defaults (utils.py): most files in a folder, and MB (2^20 bytes) after which the next file begins.
FILES_A_CHUNK, DATA_MB, VIDEO_MB = 1000, 100, 200

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"

#: A view's images are called this and its tag.
IMAGES = "observation.images."

#: What each step is about, by the simulator's truth (:mod:`vlarig.envs.keypoints`), where an expert says.
KEYPOINTS = "keypoints"

#: The last of the files to appear: a folder that has it is a whole dataset.
INFO = "meta/info.json"


def write_dataset(folder: Path, episodes: Sequence[RecordedEpisode], embodiment: Embodiment, about: dict[str, Any]) -> None:
    """Write the dataset into ``folder``, in place of one that is there.

    A death at any time leaves a folder without ``meta/info.json``, or the whole dataset.

    Args:
        folder: The dataset's folder; other files in it are left alone.
        episodes: The episodes, in the dataset's order.
        embodiment: Their robot.
        about: How they were recorded: plain data for ``meta/vlarig.json``.
    """
    if not episodes:
        raise VlarigError(f"there is no episode to write into {folder}: none succeeded; --keep-failures keeps the others too")
    draft = folder / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        _Writer(draft, episodes, embodiment, about).write()
        for name in ("meta", "data", "videos"):  # meta first: what is there no longer is no dataset
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("data", "videos", "meta"):
            if (draft / name).exists():
                (draft / name).rename(folder / name)
        sync(folder)
        shutil.rmtree(draft)
    except OSError as error:
        raise VlarigError(f"the dataset {folder} cannot be written: {error}; check that there is space left") from error
    except ImportError as error:
        raise VlarigError(not_importable("datasets need", error, "data")) from None


class _Writer:
    """Writes one dataset."""

    def __init__(
        self, folder: Path, episodes: Sequence[RecordedEpisode], embodiment: Embodiment, about: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._episodes = episodes
        self._embodiment = embodiment
        self._about = about
        self._steps = [read_steps(each.place) for each in episodes]
        self._sizes = self._steps[0].sizes
        self._tasks = list(dict.fromkeys(map(self._task, episodes)))
        self._subtasks = list(dict.fromkeys(label for steps in self._steps for label in steps.subtasks))
        self._with_keypoints = any(steps.keypoints is not None for steps in self._steps)
        self._lengths = [each.record.steps for each in episodes]

    def write(self) -> None:
        """Write all of it, ``meta/info.json`` last."""
        (self._folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        rows: list[dict[str, Any]] = [{} for _ in self._episodes]
        columns = [self._columns(number) for number in range(len(self._episodes))]
        self._write_data(rows, columns)
        for view in self._sizes:
            self._write_films(view, rows)
        self._write_episodes(rows)
        write_names(self._folder / "meta" / "tasks.parquet", "task_index", self._tasks)
        if self._subtasks:
            write_names(self._folder / "meta" / "subtasks.parquet", "subtask_index", self._subtasks)
        self._write_ours()
        self._write_statistics(columns)
        write_json(self._folder / INFO, self._info())
        for file in sorted(self._folder.rglob("*")):
            if file.is_file():
                sync(file)

    def _task(self, episode: RecordedEpisode) -> str:
        return episode.record.instruction or episode.record.task

    def _columns(self, number: int) -> dict[str, np.ndarray]:
        """The numbers of an episode by feature, in the order of the features."""
        episode, steps, length = self._episodes[number], self._steps[number], self._lengths[number]
        if len(steps.actions) != length or steps.sizes != self._sizes:
            raise VlarigError(
                f"the recorded episode {episode.place} has {len(steps.actions)} steps and views {steps.sizes}; its record has "
                f"{length} steps, and the first episode the views {self._sizes}; record into another folder"
            )
        if not (np.isfinite(steps.states).all() and np.isfinite(steps.actions).all()):
            raise VlarigError(
                f"{episode.record.key} holds a state or an action that is not finite; its env or policy is broken"
            )
        frames = np.arange(length)
        columns = {
            "observation.state": steps.states,
            "action": steps.actions,
            "timestamp": (frames / self._embodiment.control_frequency).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full(length, number),
            "index": sum(self._lengths[:number]) + frames,
            "task_index": np.full(length, self._tasks.index(self._task(episode))),
        }
        if self._subtasks:
            if not steps.subtasks:
                raise VlarigError(f"{episode.record.key} names no subtasks and others do; record all by one policy")
            columns["subtask_index"] = np.array([self._subtasks.index(label) for label in steps.subtasks])
        if self._with_keypoints:
            if steps.keypoints is None:
                raise VlarigError(f"{episode.record.key} has no keypoints and others have; record all by one policy")
            columns[KEYPOINTS] = steps.keypoints
        return columns

    def _write_data(self, rows: list[dict[str, Any]], columns: Sequence[dict[str, np.ndarray]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        number, size, begin, writer = 0, 0, 0, None
        try:
            for index, episode in enumerate(self._episodes):
                table = pa.table({name: column_of(values) for name, values in columns[index].items()})
                if writer is not None and size + table.nbytes > DATA_MB * 2**20:
                    writer.close()
                    writer, number, size = None, number + 1, 0
                chunk, file = divmod(number, FILES_A_CHUNK)
                if writer is None:
                    path = self._folder / DATA_PATH.format(chunk_index=chunk, file_index=file)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer = pq.ParquetWriter(path, table.schema, compression="snappy")
                writer.write_table(table)
                size += table.nbytes
                length = self._lengths[index]
                rows[index].update(
                    {
                        "episode_index": index,
                        "tasks": [self._task(episode)],
                        "length": length,
                        "data/chunk_index": chunk,
                        "data/file_index": file,
                        "dataset_from_index": begin,
                        "dataset_to_index": begin + length,
                    }
                )
                begin += length
                stats = {name: number_stats(values) for name, values in columns[index].items()}
                stats |= {f"{IMAGES}{view}": image_stats(each, length) for view, each in self._steps[index].histograms.items()}
                rows[index]["stats"] = stats
        finally:
            if writer is not None:
                writer.close()

    def _write_films(self, view: str, rows: list[dict[str, Any]]) -> None:
        """Join the episodes' films of a view, by their compressed images."""
        key, rate = f"{IMAGES}{view}", Fraction(self._embodiment.control_frequency).limit_denominator(1000)
        for number, indices in enumerate(self._shared_films(view)):
            chunk, file = divmod(number, FILES_A_CHUNK)
            path = self._folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            join_films(path, [self._episodes[index].place / f"{view}.mp4" for index in indices], rate)
            begin = 0
            for index in indices:
                end = begin + self._lengths[index]
                rows[index] |= {
                    f"videos/{key}/chunk_index": chunk,
                    f"videos/{key}/file_index": file,
                    f"videos/{key}/from_timestamp": float(begin / rate),
                    f"videos/{key}/to_timestamp": float(end / rate),
                }
                begin = end

    def _shared_films(self, view: str) -> Iterator[list[int]]:
        """The episodes of each film."""
        indices: list[int] = []
        size = 0
        for index, episode in enumerate(self._episodes):
            more = (episode.place / f"{view}.mp4").stat().st_size
            if indices and size + more > VIDEO_MB * 2**20:
                yield indices
                indices, size = [], 0
            indices.append(index)
            size += more
        yield indices

    def _write_episodes(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for row in rows:
            stats = row.pop("stats")
            row |= {f"stats/{name}/{kind}": value for name, each in stats.items() for kind, value in each.items()}
            row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        pq.write_table(pa.Table.from_pylist(rows), self._folder / EPISODES_PATH, compression="snappy")

    def _write_ours(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = [
            {
                "episode_index": index,
                "key": episode.record.key,
                "seed": episode.seed,
                "success": episode.record.success,
                "instruction": self._task(episode),
                "steps": episode.record.steps,
                "reward": episode.record.reward,
                "metrics": json.dumps(episode.record.metrics, sort_keys=True),
                "state_digest": episode.record.state_digest,
                "image_digest": episode.record.image_digest,
                "caption": steps.description and steps.description.caption,
                "subtasks": subtask_segments(steps.subtasks),
                "segments": steps.description and [asdict(each) for each in steps.description.segments],
            }
            for index, (episode, steps) in enumerate(zip(self._episodes, self._steps, strict=True))
        ]
        steps_of = [("begin", pa.int64()), ("end", pa.int64())]
        words = [("label", pa.string()), ("words", pa.string())]
        dimensions = pa.struct([(name, pa.string()) for name in DIMENSIONS])
        schema = pa.schema(
            [
                ("episode_index", pa.int64()),
                ("key", pa.string()),
                ("seed", pa.int64()),
                ("success", pa.bool_()),
                ("instruction", pa.string()),
                ("steps", pa.int64()),
                ("reward", pa.float64()),
                ("metrics", pa.string()),
                ("state_digest", pa.string()),
                ("image_digest", pa.string()),
                ("caption", pa.string()),
                ("subtasks", pa.list_(pa.struct([("subtask", pa.string()), *steps_of]))),
                ("segments", pa.list_(pa.struct([*steps_of, *words, ("dimensions", dimensions)]))),
            ]
        )
        pq.write_table(pa.Table.from_pylist(rows, schema), self._folder / "meta" / "vlarig_episodes.parquet")

    def _write_statistics(self, columns: Sequence[dict[str, np.ndarray]]) -> None:
        """``meta/stats.json``, and ``meta/vlarig.json`` with the same quantiles."""
        stats = {name: number_stats(np.concatenate([each[name] for each in columns])) for name in columns[0]}
        for view in self._sizes:
            total = np.sum([steps.histograms[view] for steps in self._steps], axis=0)
            stats[f"{IMAGES}{view}"] = image_stats(total, sum(self._lengths))
        write_json(self._folder / "meta" / "stats.json", stats)
        state, actions = (
            Statistics(tuple(stats[name]["q01"]), tuple(stats[name]["q99"]), str(self._about.get("name", "recorded")))
            for name in ("observation.state", "action")
        )
        statistics = DatasetStatistics(actions, state if self._embodiment.state_layout else None)
        data = {
            "version": 1,
            "embodiment": asdict(self._embodiment),
            "cameras": {f"{IMAGES}{view}": view for view in self._sizes},
            "statistics": statistics_to_data({self._embodiment.statistics_key: statistics}),
            **self._about,
        }
        write_json(self._folder / "meta" / "vlarig.json", data)

    def _info(self) -> dict[str, Any]:
        frequency = self._embodiment.control_frequency
        rate = int(frequency) if float(frequency).is_integer() else frequency
        features: dict[str, Any] = {}
        for view, (height, width) in self._sizes.items():
            features[f"{IMAGES}{view}"] = {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.codec": CODEC_NAME,
                    "video.pix_fmt": pixel_format(height, width),
                    "video.is_depth_map": False,
                    "video.fps": rate,
                    "video.channels": 3,
                    "has_audio": False,
                },
            }
        names = {
            "observation.state": list(self._embodiment.state_layout),
            "action": [channel.name for channel in self._embodiment.channels],
            **({KEYPOINTS: list(NAMES)} if self._with_keypoints else {}),
        }
        for name, each in names.items():
            features[name] = {"dtype": "float32", "shape": [len(each)], "names": each}
        single = ["timestamp", "frame_index", "episode_index", "index", "task_index", *["subtask_index"][: len(self._subtasks)]]
        for name in single:
            features[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
        return {
            "codebase_version": VERSION,
            "robot_type": self._embodiment.name,
            "total_episodes": len(self._episodes),
            "total_frames": sum(self._lengths),
            "total_tasks": len(self._tasks),
            "chunks_size": FILES_A_CHUNK,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": rate,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH,
            "features": features,
        }
