"""The content of a LeRobotDataset's files: columns, tables of names, joined films, and the statistics of each feature.

A feature's statistics are minimum, maximum, mean, standard deviation, count and quantiles. Their names and shapes are LeRobot's
(huggingface/lerobot 0.4.4, src/lerobot/datasets/compute_stats.py): a feature of ``n`` numbers has lists of ``n``, an image's are
``[3, 1, 1]`` of values from 0 to 1, and ``count`` is a list of one. Those of images are exact here, from histograms over all pixels,
where LeRobot samples images.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.errors import VlarigError
from ..policies.qwen_vla.quantiles import Steps
from .lerobot_episode import read_steps

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

_VALUES = np.arange(256) / 255.0


def number_stats(values: np.ndarray) -> dict[str, Any]:
    """The statistics of ``[steps, n]``, or ``[steps]`` for a feature of one number."""
    columns = np.asarray(values, np.float64).reshape(len(values), -1)
    stats: dict[str, Any] = {
        "min": columns.min(0).tolist(),
        "max": columns.max(0).tolist(),
        "mean": columns.mean(0).tolist(),
        "std": columns.std(0).tolist(),
        "count": [len(columns)],
    }
    return stats | {name: np.quantile(columns, share, axis=0).tolist() for name, share in QUANTILES.items()}


def picture_stats(histogram: np.ndarray, frames: int) -> dict[str, Any]:
    """The statistics of ``frames`` images.

    Args:
        histogram: ``int64[3, 256]``, how often each value occurs in each colour.
        frames: How many images.
    """
    total = histogram.sum(1)
    mean = histogram @ _VALUES / total
    spread = np.sqrt(np.maximum((histogram * (_VALUES[None] - mean[:, None]) ** 2).sum(1) / total, 0.0))
    reached = np.cumsum(histogram, 1)
    seen = [np.flatnonzero(each) for each in histogram]
    stats: dict[str, Any] = {
        "min": [_VALUES[each[0]] for each in seen],
        "max": [_VALUES[each[-1]] for each in seen],
        "mean": mean.tolist(),
        "std": spread.tolist(),
    }
    for name, share in QUANTILES.items():
        stats[name] = [_VALUES[np.searchsorted(each, share * each[-1])] for each in reached]
    return {name: [[[float(value)]] for value in values] for name, values in stats.items()} | {"count": [frames]}


def total_stats(places: Sequence[Path], name: str) -> dict[str, Any]:
    """The statistics of the ``states`` or the ``actions`` over all episodes, each by its folder."""
    count, total, squares = 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    with Steps(name) as steps:
        for place in places:
            recorded = read_steps(place)
            values = recorded.states if name == "states" else recorded.actions
            steps.add(values)
            each = values.astype(np.float64)
            count, total, squares = count + len(each), total + each.sum(0), squares + (each**2).sum(0)
            low, high = np.minimum(low, each.min(0)), np.maximum(high, each.max(0))
        quantiles = steps.quantiles(tuple(QUANTILES.values()))
    mean = np.asarray(total) / count
    std = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 0.0))
    stats = {"min": low, "max": high, "mean": mean, "std": std} | dict(zip(QUANTILES, quantiles, strict=True))
    return {key: np.asarray(value).tolist() for key, value in stats.items()} | {"count": [count]}


def subtask_segments(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Runs of the same label: ``subtask``, ``begin`` and ``end``, the step after its last."""
    segments: list[dict[str, Any]] = []
    begin = 0
    for label, run in itertools.groupby(labels):
        end = begin + len(list(run))
        segments.append({"subtask": label, "begin": begin, "end": end})
        begin = end
    return segments


def join_films(path: Path, films: Sequence[Path], rate: Fraction) -> None:
    """One film out of several that were encoded alike; nothing is encoded again."""
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "w", format="mp4") as joined:
            stream, begin = None, 0
            for film in films:
                with av.open(str(film)) as source:
                    own = source.streams.video[0]
                    if stream is None:
                        stream = joined.add_stream_from_template(own)
                    for packet in source.demux(own):
                        if packet.pts is None:
                            continue
                        assert packet.time_base is not None
                        place = begin + round(packet.pts * packet.time_base * rate)
                        packet.pts = packet.dts = round(place / rate / packet.time_base)
                        packet.stream = stream
                        joined.mux(packet)
                    begin += own.frames
    except FFmpegError as error:
        raise VlarigError(f"a film beside {films[0]} cannot be joined: {error}; record into another folder") from error


def column_of(values: np.ndarray) -> Any:
    """A column: single numbers, or lists of a fixed length; a feature of one number is no list (utils.py, hf_features)."""
    import pyarrow as pa

    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.ravel())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def write_names(path: Path, number: str, names: Sequence[str]) -> None:
    """Names with their numbers, as pandas stores a table whose index they are; LeRobot reads it by pandas."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = "__index_level_0__"
    text = {"pandas_type": "unicode", "numpy_type": "object"}
    about = {
        "index_columns": [index],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": number, "field_name": number, "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {"name": None, "field_name": index, **text, "metadata": None},
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({number: pa.array(range(len(names)), pa.int64()), index: pa.array(names, pa.string())})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path)


def write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
