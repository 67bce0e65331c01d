"""Paths in a site. All pages are in one folder, so links between them are file names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

#: Episodes in a data file: few enough that one episode loads instantly, enough that a large run has few files.
CHUNK = 50

INDEX, TASK, EPISODE = "index.html", "task.html", "episode.html"

#: The data file that lists the runs and their tasks.
RUNS_DATA = "shared/runs.js"


def run_ids(names: Iterable[str]) -> list[str]:
    """A short name for each run that is valid in file names and links everywhere, and unique also where case is ignored.

    None contains ``--``, which separates two of them.
    """
    ids: list[str] = []
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_.]+", "-", name)[:60].strip(".-") or "run"
        candidate, number = plain, 1
        while candidate.lower() in taken:
            number += 1
            candidate = f"{plain}-{number}"
        taken.add(candidate.lower())
        ids.append(candidate)
    return ids


def run_page(run: str) -> str:
    return f"run-{run}.html"


def comparison_page(first: str, second: str) -> str:
    return f"compare-{first}--{second}.html"


def task_link(run: str, number: int) -> str:
    """A link to the list of a task's episodes; ``number`` is its place in the run's manifest."""
    return f"{TASK}#{quote(run, safe='')}/{number}"


def episode_link(run: str, key: str) -> str:
    return f"{EPISODE}#{quote(run, safe='')}/{quote(key, safe='/@')}"


def run_data(run: str) -> str:
    """The data file with a run's tasks."""
    return f"data/{run}/run.js"


def task_data(run: str, number: int) -> str:
    """The data file that lists a task's episodes."""
    return f"data/{run}/task-{number}.js"


def chunk_data(run: str, number: int, chunk: int) -> str:
    """The data file with all about :data:`CHUNK` episodes of a task."""
    return f"data/{run}/task-{number}-{chunk}.js"


def flips_data(first: str, second: str) -> str:
    """The data file that lists the episodes in which two runs differ."""
    return f"shared/compare-{first}--{second}.js"


def film(run: str, number: int, initial_state: int, repeat: int, kind: str = "mp4") -> str:
    """The film of an episode; of kind ``jpg`` its poster."""
    return f"media/{run}/{number}-{initial_state}-{repeat}.{kind}"


def contact_sheet(run: str) -> str:
    return f"media/{run}/frames.png"
