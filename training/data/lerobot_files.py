"""What a LeRobotDataset's ``meta/`` says: its features, its tasks, and where each episode's numbers and films are.

Versions: v3.0, in which several episodes share a file, and v2.1, in which each has its own (huggingface/lerobot 0.4.4,
src/lerobot/datasets/utils.py and lerobot_dataset.py; v30/convert_dataset_v21_to_v30.py there names the files of both).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...benchmarks.captions import Description, Segment
from .errors import DataError

VERSIONS = ("v2.1", "v3.0")


@dataclass(frozen=True)
class Films:
    """Where the episodes' films of one image are.

    Attributes:
        chunks: ``int64[episodes]``, the folder's number.
        files: ``int64[episodes]``, the file's number in it.
        begins: ``float64[episodes]``, second of the film at which the episode begins.
    """

    chunks: np.ndarray
    files: np.ndarray
    begins: np.ndarray


@dataclass(frozen=True)
class Meta:
    """What ``meta/`` says. Arrays have an entry for each episode, by its place in the dataset.

    Attributes:
        version: ``v2.1`` or ``v3.0``.
        fps: Frames a second.
        features: ``info.json``'s, by name.
        data_path: Template of the files of numbers.
        video_path: Template of the films; empty where there are none.
        numbers: ``int64[episodes]``, the episodes' numbers.
        lengths: ``int64[episodes]``, their frames.
        data_chunks: ``int64[episodes]``, the folder of an episode's numbers.
        data_files: ``int64[episodes]``, the file in it.
        films: Name of an image that is a film to where its films are.
        tasks: Number of a task to its words.
        episode_tasks: For each episode the words of its tasks.
    """

    folder: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str
    numbers: np.ndarray
    lengths: np.ndarray
    data_chunks: np.ndarray
    data_files: np.ndarray
    films: Mapping[str, Films]
    tasks: Mapping[int, str]
    episode_tasks: Sequence[tuple[str, ...]]

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the features that are images."""
        return tuple(name for name, feature in self.features.items() if feature.get("dtype") in ("video", "image"))

    def without(self, numbers: Collection[int]) -> Meta:
        """The same without the episodes of these numbers."""
        kept = np.flatnonzero(~np.isin(self.numbers, list(numbers)))
        return replace(
            self,
            numbers=self.numbers[kept],
            lengths=self.lengths[kept],
            data_chunks=self.data_chunks[kept],
            data_files=self.data_files[kept],
            films={name: Films(each.chunks[kept], each.files[kept], each.begins[kept]) for name, each in self.films.items()},
            episode_tasks=[self.episode_tasks[place] for place in kept.tolist()],
        )

    def data_file(self, place: int) -> Path:
        """The file with an episode's numbers."""
        return self._path(self.data_path, self.data_chunks[place], self.data_files[place], place)

    def film(self, name: str, place: int) -> tuple[str, float]:
        """The file with an episode's film of an image, and the second at which it begins there."""
        films = self.films[name]
        path = self._path(self.video_path, films.chunks[place], films.files[place], place, video_key=name)
        return str(path), float(films.begins[place])

    def _path(self, template: str, chunk: int, file: int, place: int, **names: str) -> Path:
        number = int(self.numbers[place])
        values = {"chunk_index": int(chunk), "file_index": int(file), "episode_chunk": int(chunk), "episode_index": number}
        try:
            path = template.format(**values, **names)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            info = self.folder / "meta" / "info.json"
            raise DataError(f"{info} names files as {template!r}, which cannot be filled in ({error}); correct it") from None
        if path.startswith("/") or ".." in path:  # links are followed: downloads of the Hugging Face hub are made of them
            raise DataError(f"{self.folder / 'meta' / 'info.json'} names the file {path}, outside of the dataset; correct it")
        return self.folder / path


def read_meta(folder: Path) -> Meta:
    file = folder / "meta" / "info.json"
    info = _json(file)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise DataError(
            f"{file} is of version {version!r}; {' and '.join(VERSIONS)} are read: convert it with LeRobot's own converter"
        )
    try:
        features = {str(name): dict(feature) for name, feature in info["features"].items()}
        read = _of_v3 if version == "v3.0" else _of_v2
        return read(folder, info, features)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"the files of {folder / 'meta'} are not as {version} has them ({error!r}); restore them") from error


def _of_v3(folder: Path, info: Mapping[str, Any], features: dict[str, dict[str, Any]]) -> Meta:
    films = [name for name, feature in features.items() if feature["dtype"] == "video"]
    places = [f"videos/{name}/{part}" for name in films for part in ("chunk_index", "file_index", "from_timestamp")]
    columns = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", *places]
    files = sorted((folder / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise DataError(f"{folder / 'meta' / 'episodes'} holds no Parquet file; download the dataset again")
    parts = [_parquet(file, columns) for file in files]
    table = {name: [value for part in parts for value in part[name]] for name in columns}
    rows = _parquet(folder / "meta" / "tasks.parquet")
    (words,) = (name for name in rows if name != "task_index")  # the pandas index, with or without a name
    return Meta(
        folder=folder,
        version="v3.0",
        fps=float(info["fps"]),
        features=features,
        data_path=info["data_path"],
        video_path=info.get("video_path") or "",
        numbers=np.array(table["episode_index"], np.int64),
        lengths=np.array(table["length"], np.int64),
        data_chunks=np.array(table["data/chunk_index"], np.int64),
        data_files=np.array(table["data/file_index"], np.int64),
        films={
            name: Films(
                np.array(table[f"videos/{name}/chunk_index"], np.int64),
                np.array(table[f"videos/{name}/file_index"], np.int64),
                np.array(table[f"videos/{name}/from_timestamp"], np.float64),
            )
            for name in films
        },
        tasks=dict(zip(map(int, rows["task_index"]), map(str, rows[words]), strict=True)),
        episode_tasks=[tuple(each) for each in table["tasks"]],
    )


def _of_v2(folder: Path, info: Mapping[str, Any], features: dict[str, dict[str, Any]]) -> Meta:
    episodes = sorted(_json_lines(folder / "meta" / "episodes.jsonl"), key=lambda each: each["episode_index"])
    numbers = np.array([each["episode_index"] for each in episodes], np.int64)
    chunks = numbers // int(info["chunks_size"])
    tasks = _json_lines(folder / "meta" / "tasks.jsonl")
    begins = np.zeros(len(numbers))
    return Meta(
        folder=folder,
        version="v2.1",
        fps=float(info["fps"]),
        features=features,
        data_path=info["data_path"],
        video_path=info.get("video_path") or "",
        numbers=numbers,
        lengths=np.array([each["length"] for each in episodes], np.int64),
        data_chunks=chunks,
        data_files=numbers,
        films={name: Films(chunks, numbers, begins) for name, feature in features.items() if feature["dtype"] == "video"},
        tasks={int(each["task_index"]): str(each["task"]) for each in tasks},
        episode_tasks=[tuple(each["tasks"]) for each in episodes],
    )


def read_descriptions(meta: Meta) -> list[Description | None]:
    """Each episode in words, as ``vlarig data record`` stores it; ``None`` for those that it does not describe."""
    file = meta.folder / "meta" / "vlarig_episodes.parquet"
    if not file.exists():
        return [None] * len(meta.numbers)
    columns = _parquet(file)
    found: dict[int, Description | None] = {}
    try:
        for number, segments in zip(columns["episode_index"], columns.get("segments", []), strict=False):
            found[number] = Description(tuple(map(_segment, segments))) if segments else None
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"the segments in {file} are not as 'vlarig data record' has them ({error}); record it again"
        ) from error
    return [found.get(int(number)) for number in meta.numbers]


def read_places(meta: Meta) -> dict[str, int]:
    """Each episode's place in the dataset by its key in the run that ``vlarig data record`` made."""
    columns = _parquet(meta.folder / "meta" / "vlarig_episodes.parquet", ["episode_index", "key"])
    places = {int(number): place for place, number in enumerate(meta.numbers)}
    return {
        key: places[number] for number, key in zip(columns["episode_index"], columns["key"], strict=True) if number in places
    }


def _segment(stored: Mapping[str, Any]) -> Segment:
    known = {name: words for name, words in stored["dimensions"].items() if words is not None}
    return Segment(stored["begin"], stored["end"], stored["label"], stored["words"], known)


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"there is no {file}; name the folder of a LeRobotDataset, which holds meta/, data/ and videos/"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}); restore it") from None
    if not isinstance(data, dict):
        raise DataError(f"{file} holds a {type(data).__name__}, expected an object; restore it")
    return data


def _json_lines(file: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except ValueError as error:
                    raise DataError(f"{file}, line {number}, is no JSON ({error}); restore it") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); download the dataset again") from None
    return rows


def _parquet(file: Path, columns: list[str] | None = None) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            return parquet.read(columns=columns).to_pydict()
    except FileNotFoundError:
        raise DataError(f"there is no {file}; download the dataset again") from None
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read ({str(error).splitlines()[0]}); download it again") from None
