"""Makes a folder of walks of recorded episodes, the layout of :mod:`vlarig.training.data.navigation`: a film and a line for each.

A simulator without a clock counts its frames as the robot's control steps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..envs.embodiments import Embodiment
from ..envs.errors import VlarigError
from ..results.run_files import appearing
from .lerobot_episode import read_steps
from .lerobot_writer import RecordedEpisode

#: The file that says what the folder is, the last to appear.
HEAD = "dataset.json"


def write_walks(
    folder: Path, episodes: Sequence[RecordedEpisode], embodiment: Embodiment, kind: str, about: dict[str, Any]
) -> None:
    """Write the walks into ``folder``, in place of those that are there.

    A death at any time leaves a folder without ``dataset.json``, or all walks.

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
        (folder / HEAD).unlink(missing_ok=True)
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
        with appearing(folder / HEAD) as draft:
            draft.write_text(json.dumps(head, indent=1), encoding="utf-8")
    except OSError as error:
        raise VlarigError(f"the walks {folder} cannot be written: {error}; check that there is space left") from error
