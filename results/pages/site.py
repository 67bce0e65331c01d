"""A site: the list of its files, each with what makes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from ..comparison import Comparison, findings, points, points_range
from ..records import TaskKey
from . import addresses, comparing, episodes, run_page
from .curves import grids, trainings
from .leaderboard import make_boards
from .reading import DamagedRunError, RunReader
from .templates import data_file, environment

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


@dataclass(frozen=True)
class SiteFile:
    """A file of a site.

    Attributes:
        path: Its path in the site.
        version: Changes whenever its content does.
        content: Makes its content, and raises :class:`DamagedRunError` where a run is damaged; or a run's own file.
    """

    path: str
    version: object
    content: Callable[[], bytes] | Path


class Site:
    """A site of some runs.

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
        # To compare two runs takes seconds, so the latest comparison of each pair is kept.
        self._comparisons: dict[tuple[str, str], tuple[object, Comparison | str]] = {}

    @property
    def version(self) -> tuple[object, ...]:
        """Changes whenever a file changes."""
        return tuple((run, reader.version) for run, reader in self.runs) + self.unreadable

    def files(self) -> Iterator[SiteFile]:
        """Every file: the pages' data before the pages, and the first page last."""
        version = self.version
        for name in STATIC:
            if name != "follow.js" or self.options.live:
                yield SiteFile(f"static/{name}", "", partial(_static, name))
        for run, reader in self.runs:
            yield from self._media(run, reader)
            yield SiteFile(addresses.run_data(run), reader.version, _of(reader, partial(self._run_data, run, reader)))
            for number, task in enumerate(reader.tasks):
                yield from self._task_files(run, reader, number, task)
        yield SiteFile(addresses.RUNS_DATA, version, self._runs_data)
        for page in (addresses.TASK, addresses.EPISODE):
            yield SiteFile(page, version, partial(self._render, page))
        pairs = comparing.chosen_pairs(self.runs, self.options.comparisons)
        for first, second in pairs:
            yield SiteFile(addresses.flips_data(first, second), version, partial(self._flips_data, first, second))
            yield SiteFile(addresses.comparison_page(first, second), version, partial(self._comparison_page, first, second))
        for run, reader in self.runs:
            partners = [(self._by_id[other].name, page) for other, page in comparing.partners(run, pairs)]
            yield SiteFile(addresses.run_page(run), version, _of(reader, partial(self._run_page, run, reader, partners)))
        if not self.options.live:
            yield SiteFile(".nojekyll", "", lambda: b"")  # GitHub Pages take the files as they are
            yield SiteFile("README.md", len(self.runs), self._card)
        yield SiteFile(addresses.INDEX, version, self._index)

    # Pages.

    def _index(self) -> bytes:
        return self._render(
            addresses.INDEX,
            boards=make_boards(self.runs),
            runs=[self._summary(*each) for each in self.runs],
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

    def _run_page(self, run: str, reader: RunReader, partners: list[tuple[str, str]]) -> bytes:
        table, sheet = reader.table(), reader.contact_sheet() if self.options.films else None
        return self._render(
            "run.html", run=reader, table=table, state=run_page.state_of(reader, table), lines=run_page.task_lines(reader, run),
            times=run_page.time_lines(reader), facts=run_page.facts(reader.manifest), sessions=reader.ledger.sessions(),
            attempt_kinds=reader.attempt_kinds(), given_up=reader.given_up(run_page.MOST_LISTED), most_listed=run_page.MOST_LISTED,
            manifest=reader.manifest.text().rstrip(), sheet=addresses.contact_sheet(run) if sheet else "", partners=partners,
            episode_link=lambda key: addresses.episode_link(run, key),
        )  # fmt: skip

    def _comparison_page(self, first: str, second: str) -> bytes:
        comparison = self._comparison(first, second)
        return self._render(
            "compare.html", first=self._by_id[first], second=self._by_id[second], first_page=addresses.run_page(first),
            second_page=addresses.run_page(second), why_not=comparison if isinstance(comparison, str) else "",
            comparison=comparison, findings=findings, points=points, points_range=points_range,
            flips=addresses.flips_data(first, second),
        )  # fmt: skip

    def _comparison(self, first: str, second: str) -> Comparison | str:
        one, other = self._by_id[first], self._by_id[second]
        version = (one.version, other.version)
        if self._comparisons.get((first, second), ((),))[0] != version:
            self._comparisons[first, second] = (version, comparing.comparison_of(one, other))
        return self._comparisons[first, second][1]

    def _card(self) -> bytes:
        return CARD.format(title=json.dumps(self.options.title), runs=len(self.runs)).encode()

    # Data.

    def _run_data(self, run: str, reader: RunReader) -> bytes:
        return data_file(addresses.run_data(run), episodes.run_data(reader, run, reader.table().notes))

    def _task_files(self, run: str, reader: RunReader, number: int, task: TaskKey) -> Iterator[SiteFile]:
        """The list of a task's episodes, and all about them, some in each file."""
        films, version = self.options.films, reader.task_version(task)
        listed = cache(lambda: reader.listed(task))

        def task_data(path: str) -> bytes:
            return data_file(path, episodes.task_data(reader, listed(), films))

        def chunk_data(path: str, begin: int) -> bytes:
            some = listed()[begin : begin + addresses.CHUNK]
            return data_file(path, episodes.chunk_data(reader, run, number, some, films))

        path = addresses.task_data(run, number)
        yield SiteFile(path, version, _of(reader, partial(task_data, path)))
        for begin in range(0, reader.count(task), addresses.CHUNK):
            path = addresses.chunk_data(run, number, begin // addresses.CHUNK)
            yield SiteFile(path, version, _of(reader, partial(chunk_data, path, begin)))

    def _runs_data(self) -> bytes:
        return data_file(addresses.RUNS_DATA, [episodes.run_summary(reader, run) for run, reader in self.runs])

    def _flips_data(self, first: str, second: str) -> bytes:
        comparison = self._comparison(first, second)
        empty = {"gained": [], "lost": []}
        content = empty if isinstance(comparison, str) else comparing.flips_data(comparison, first, second)
        return data_file(addresses.flips_data(first, second), content)

    # Films and images.

    def _media(self, run: str, reader: RunReader) -> Iterator[SiteFile]:
        if not self.options.films:
            return
        if sheet := reader.contact_sheet():
            yield SiteFile(addresses.contact_sheet(run), None, sheet)
        for number, (key, totals) in enumerate(reader.tasks.items()):
            for episode in sorted(totals.outcomes):
                for kind, file in (("mp4", reader.film(episode)), ("jpg", reader.poster(episode))):
                    if file is not None:
                        initial_state, repeat = map(int, episode.removeprefix("/".join(key) + "/").split("/"))
                        yield SiteFile(addresses.film(run, number, initial_state, repeat, kind), None, file)


def _of(reader: RunReader, make: Callable[[], bytes]) -> Callable[[], bytes]:
    """``make``, whose errors name the run that cannot be read."""

    def made() -> bytes:
        try:
            return make()
        except VlarigError as error:
            raise DamagedRunError(reader, str(error)) from error

    return made


def _static(name: str) -> bytes:
    return resources.files("vlarig.results.pages").joinpath("static", name).read_bytes()


def hash_of(version: tuple[object, ...]) -> str:
    return hashlib.sha256(repr(version).encode()).hexdigest()[:16]
