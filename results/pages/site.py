"""A site: a function from a path to what is there, and the list of all paths."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from ..comparison import Comparison, findings, points, points_range
from . import addresses, comparing, episodes, run_page
from .grids import grids
from .leaderboard import make_boards
from .reading import DamagedRunError, Listed, RunReader
from .templates import data_file, environment
from .trainings import trainings

#: Files that pages load besides data: scripts, style, icon.
STATIC = (
    "icon.svg", "style.css", "page.js", "tables.js", "listing.js", "task.js", "actions.js", "plot.js", "film.js", "episode.js",
    "flips.js", "follow.js",
)  # fmt: skip

#: Makes a site a Space of Hugging Face, of its kind "static", where it is the folder's README.md.
CARD = """---
title: {title}
sdk: static
app_file: index.html
---

Results of policies in simulation, made by `vlarig page`; {runs} runs. Open index.html.
"""

#: Finds the content at a path, from the path and the words in it.
_Find = Callable[..., bytes | Path | None]


@dataclass(frozen=True)
class SiteOptions:
    """Options of a site.

    Attributes:
        films: Whether it has the runs' films and images.
        comparisons: Which pairs of runs that played the same have a page (:func:`~vlarig.results.pages.comparing.chosen_pairs`).
        live: Whether its pages follow changes, which needs a server.
    """

    title: str = "Results"
    films: bool = True
    comparisons: comparing.Which = "best"
    live: bool = False


class Site:
    """A site of some runs; a page is made on request.

    Attributes:
        runs: Ids and runs.
    """

    def __init__(self, readers: Sequence[RunReader], options: SiteOptions, unreadable: Sequence[tuple[str, str]] = ()) -> None:
        """A site of ``readers``' runs, shown in this order; ``unreadable`` names runs that cannot be read, each with the reason."""
        self.runs = list(zip(addresses.run_ids(reader.name for reader in readers), readers, strict=True))
        self.options = options
        self.unreadable = tuple(unreadable)
        self._templates = environment()
        self._by_id = dict(self.runs)
        self._listed: tuple[object, list[Listed]] = ((), [])
        # The latest results are kept until their sources have changed.
        self._boards = lru_cache(1)(lambda version: make_boards(self.runs))
        self._chosen = lru_cache(1)(lambda version: comparing.chosen_pairs(self.runs, options.comparisons))
        self._comparison = lru_cache(1)(
            lambda first, second, version: comparing.comparison_of(self._by_id[first], self._by_id[second])
        )
        self._routes: dict[str, _Find] = {
            addresses.INDEX: self._index,
            f"{addresses.TASK}|{addresses.EPISODE}": self._render,
            r"run-(.+)\.html": self._of_run(self._run_page),
            r"compare-(.+?)--(.+)\.html": self._of_pair(self._comparison_page),
            r"static/(.+)": _static,
            r"\.nojekyll": lambda path: b"",  # GitHub Pages take the files as they are
            r"README\.md": lambda path: CARD.format(title=json.dumps(options.title), runs=len(self.runs)).encode(),
            r"data/([^/]+)/run\.js": self._of_run(self._run_data),
            r"data/([^/]+)/task-([0-9]{1,9})(?:-([0-9]{1,9}))?\.js": self._of_run(self._task_data),
            addresses.RUNS_DATA: self._runs_data,
            r"shared/compare-(.+?)--(.+)\.js": self._of_pair(self._flips_data),
            r"media/([^/]+)/frames\.png": self._of_run(self._contact_sheet),
            r"media/([^/]+)/([0-9]{1,9})-(.+)-([^-]+)\.(mp4|jpg)": self._of_run(self._medium),
        }

    @property
    def version(self) -> tuple[object, ...]:
        """Changes whenever a page changes."""
        return tuple((run, reader.version) for run, reader in self.runs) + self.unreadable

    def paths(self) -> Iterator[str]:
        """Every path: the pages' data before the pages, and the first page last."""
        yield from (f"static/{name}" for name in STATIC if name != "follow.js" or self.options.live)
        for run, reader in self.runs:
            yield from self._media(run, reader)
            yield addresses.run_data(run)
            tallies = [row.tally for suite in reader.table().suites for row in suite.rows]
            for number, listed in enumerate(tally.finished + tally.errors for tally in tallies):
                yield addresses.task_data(run, number)
                yield from (addresses.chunk_data(run, number, chunk) for chunk in range(-(-listed // addresses.CHUNK)))
        yield addresses.RUNS_DATA
        yield addresses.TASK
        yield addresses.EPISODE
        for first, second in self._chosen(self.version):
            yield addresses.flips_data(first, second)
            yield addresses.comparison_page(first, second)
        yield from (addresses.run_page(run) for run, _ in self.runs)
        if not self.options.live:
            yield from (".nojekyll", "README.md")
        yield addresses.INDEX

    def content(self, path: str) -> bytes | Path | None:
        """The content at a path: bytes, or the file that holds them; ``None`` where there is nothing.

        Raises:
            DamagedRunError: A run is damaged.
        """
        for pattern, find in self._routes.items():
            if found := re.fullmatch(pattern, path):
                return find(path, *found.groups())
        return None

    def _of_run(self, find: _Find) -> _Find:
        """The result of ``find`` for a run, whose id is the first word of the path; an error names a run that cannot be read."""

        def answer(path: str, run: str, *words: str) -> bytes | Path | None:
            if (reader := self._by_id.get(run)) is None:
                return None
            try:
                return find(path, run, reader, *words)
            except VlarigError as error:
                raise DamagedRunError(reader, str(error)) from error

        return answer

    def _of_pair(self, find: _Find) -> _Find:
        """The result of ``find`` for the comparison of two runs.

        Any two comparable runs are accepted, since with a run that is being written the best one changes.
        """

        def answer(path: str, first: str, second: str) -> bytes | Path | None:
            one, other = self._by_id.get(first), self._by_id.get(second)
            if self.options.comparisons == "none" or one is None or other is None or one is other:
                return None
            comparable = comparing.comparable(one, other)
            return find(path, first, second, self._comparison(first, second, self.version)) if comparable else None

        return answer

    # Pages.

    def _index(self, path: str) -> bytes:
        runs = [self._summary(*each) for each in self.runs]
        return self._render(
            path,
            boards=self._boards(self.version),
            runs=runs,
            unreadable=self.unreadable,
            trainings=trainings(self.runs),
            grids=grids(self.runs),
        )

    def _render(self, template: str, **values: Any) -> bytes:
        page = self._templates.get_template(template)
        return page.render(site=self.options, version=hash_of(self.version), **values).encode("utf-8")

    def _summary(self, run: str, reader: RunReader) -> dict[str, Any]:
        table = reader.table()
        return {
            "name": reader.name, "page": addresses.run_page(run), "table": table, "policy": reader.manifest.identity.policy_label,
            "suites": ", ".join(f"{suite.suite} {suite.protocol}" for suite in table.suites),
            "state": run_page.state_of(reader, table), "started": reader.manifest.record.created,
            "image": run_page.image(reader, run) if self.options.films else None,
        }  # fmt: skip

    def _run_page(self, path: str, run: str, reader: RunReader) -> bytes:
        table, sheet = reader.table(), reader.contact_sheet() if self.options.films else None
        return self._render(
            "run.html", run=reader, table=table, state=run_page.state_of(reader, table), lines=run_page.task_lines(reader, run),
            times=run_page.time_lines(reader), facts=run_page.facts(reader.manifest), sessions=reader.ledger.sessions(),
            attempt_kinds=reader.attempt_kinds(), given_up=reader.given_up(run_page.MOST_LISTED), most_listed=run_page.MOST_LISTED,
            manifest=reader.manifest.text().rstrip(), sheet=addresses.contact_sheet(run) if sheet else "",
            partners=[(self._by_id[other].name, page) for other, page in comparing.partners(run, self._chosen(self.version))],
            episode_link=lambda key: addresses.episode_link(run, key),
        )  # fmt: skip

    def _comparison_page(self, path: str, first: str, second: str, comparison: Comparison | str) -> bytes:
        return self._render(
            "compare.html", first=self._by_id[first], second=self._by_id[second], first_page=addresses.run_page(first),
            second_page=addresses.run_page(second), why_not=comparison if isinstance(comparison, str) else "",
            comparison=comparison, findings=findings, points=points, points_range=points_range,
            flips=addresses.flips_data(first, second),
        )  # fmt: skip

    # Data.

    def _run_data(self, path: str, run: str, reader: RunReader) -> bytes:
        return data_file(path, episodes.run_data(reader, run, reader.table().notes))

    def _task_data(self, path: str, run: str, reader: RunReader, number: str, chunk: str | None) -> bytes | None:
        """The list of a task's episodes, or all about one chunk of them."""
        if int(number) >= len(reader.tasks):
            return None
        listed = self._list(run, reader, int(number))
        if chunk is None:
            return data_file(path, episodes.task_data(reader, listed, self.options.films))
        some = listed[int(chunk) * addresses.CHUNK : (int(chunk) + 1) * addresses.CHUNK]
        return data_file(path, episodes.chunk_data(reader, run, int(number), some, self.options.films)) if some else None

    def _runs_data(self, path: str) -> bytes:
        return data_file(path, [episodes.run_summary(reader, run) for run, reader in self.runs])

    def _flips_data(self, path: str, first: str, second: str, comparison: Comparison | str) -> bytes:
        empty = {"gained": [], "lost": []}
        return data_file(path, empty if isinstance(comparison, str) else comparing.flips_data(comparison, first, second))

    def _list(self, run: str, reader: RunReader, number: int) -> list[Listed]:
        """The list of a task's episodes; the latest one is kept, since its chunks are requested one after the other."""
        wanted = (run, number, reader.version)
        if self._listed[0] != wanted:
            self._listed = ((), [])  # not two at a time
            self._listed = (wanted, reader.listed(episodes.task_key(reader, number)))
        return self._listed[1]

    # Films and images.

    def _media(self, run: str, reader: RunReader) -> Iterator[str]:
        if not self.options.films:
            return
        if reader.contact_sheet():
            yield addresses.contact_sheet(run)
        for number, (key, totals) in enumerate(reader.tasks.items()):
            for episode in sorted(totals.outcomes):
                if reader.film(episode):
                    initial_state, repeat = map(int, episode.removeprefix("/".join(key) + "/").split("/"))
                    yield addresses.film(run, number, initial_state, repeat)
                    if reader.poster(episode):
                        yield addresses.film(run, number, initial_state, repeat, "jpg")

    def _contact_sheet(self, path: str, run: str, reader: RunReader) -> Path | None:
        return reader.contact_sheet() if self.options.films else None

    def _medium(
        self, path: str, run: str, reader: RunReader, number: str, initial_state: str, repeat: str, kind: str
    ) -> Path | None:
        if not self.options.films or int(number) >= len(reader.tasks):
            return None
        find = reader.film if kind == "mp4" else reader.poster
        return find(f"{'/'.join(episodes.task_key(reader, int(number)))}/{initial_state}/{repeat}")


def _static(path: str, name: str) -> bytes | None:
    return resources.files("vlarig.results.pages").joinpath("static", name).read_bytes() if name in STATIC else None


def hash_of(version: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(version).encode()).hexdigest()[:16]
