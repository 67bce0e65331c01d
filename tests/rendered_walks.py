"""A walk that was rendered instead of filmed: along a corridor of coloured walls, round a corner to the left, to a yellow door."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from recordings import write_film

#: Seen from above with y up; a cell is 1 m wide, its corner at the bottom left is (0, 0). Letters are walls.
PLAN = ("WWWWYWW", "WWWG.GW", "WWWG.GW", "WRRR.BW", "W....BW", "WRRRRBW")
COLOURS = {"W": (120, 120, 120), "R": (190, 60, 60), "G": (60, 150, 70), "B": (60, 80, 190), "Y": (230, 200, 40)}
WIDTH, HEIGHT = 160, 120


def look(x: float, y: float, theta: float) -> np.ndarray:
    """What is seen from a pose, ``uint8[h, w, 3]``: 90 degrees wide, the left of the walker on the left."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[: HEIGHT // 2], image[HEIGHT // 2 :] = (210, 225, 235), (150, 135, 115)
    plan = np.array([list(row) for row in reversed(PLAN)])
    across = 1 - 2 * (np.arange(WIDTH) + 0.5) / WIDTH
    direction = np.stack((np.cos(theta) - across * np.sin(theta), np.sin(theta) + across * np.cos(theta)), axis=1)
    depths = np.arange(1, 900) * 0.01
    i, j = np.moveaxis(np.floor(np.array([x, y]) + depths[:, None, None] * direction).astype(int), -1, 0)
    seen = plan[j.clip(0, len(plan) - 1), i.clip(0, plan.shape[1] - 1)]
    first = (seen != ".").argmax(0)
    for column, (wall, depth) in enumerate(zip(seen[first, np.arange(WIDTH)], depths[first], strict=True)):
        half = min(int(HEIGHT * 0.35 / depth), HEIGHT // 2)
        shade = 1 / (1 + 0.12 * depth)
        image[HEIGHT // 2 - half : HEIGHT // 2 + half, column] = np.array(COLOURS[wall]) * shade
    return image


def round_the_corner(rate: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Times and poses of the walk: 3.5 m ahead at 0.5 m/s, a quarter turn to the left on the spot, 2.5 m ahead."""
    times = np.arange(0, 15 + 1e-6, 1 / rate)
    ahead = np.interp(times, (0, 7, 10, 15), (0, 3.5, 3.5, 6.0))
    theta = np.interp(times, (7, 10), (0, np.pi / 2))
    first = np.minimum(ahead, 3.5)
    return times, np.column_stack((1.0 + first, np.full(len(times), 1.5) + ahead - first, theta))


def record_walks(folder: Path, names: tuple[str, ...] = ("a",), kind: str = "instruction_following") -> None:
    """A data set of walks, all alike."""
    times, poses = round_the_corner()
    images = [look(*pose) for pose in poses]
    for name in names:
        write_film(folder / "videos" / f"{name}.mp4", images, rate=4)
    words = "Walk along the red corridor, turn left at the blue wall and stop at the yellow door."
    write_walks(folder, [walk_line(name, times, poses, kind, words) for name in names])


def walk_line(name: str, times: np.ndarray, poses: np.ndarray, kind: str, words: str) -> dict[str, object]:
    """A line of ``episodes.jsonl``."""
    return {
        "name": name,
        "kind": kind,
        "instruction": words,
        "times": times.tolist(),
        "poses": poses.tolist(),
        "frames": f"videos/{name}.mp4",
    }


def write_walks(folder: Path, lines: list[dict[str, object]], name: str = "made_up") -> None:
    """The two files of a data set of walks beside its videos."""
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": "vlarig-navigation", "version": 1, "name": name, "embodiment": "vlnce_r2r"}
    (folder / "dataset.json").write_text(json.dumps(header))
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
