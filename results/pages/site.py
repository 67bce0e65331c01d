"""A site: a function from a path to what is there, and the list of all paths."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ...envs.errors import VlarigError
from ..comparison import findings, points, points_range
from . import addresses, comparing, episodes, run_page
from .data_files import data_file
from .leaderboard import make_boards
from .reading import DamagedRunError, Listed, RunReader
from .templates import environment

#: What pages load beside data: scripts, style, icon.
STATIC = (
    "icon.svg", "style.css", "page.js", "tables.js", "listing.js", "task.js", "actions.js", "plot.js", "film.js", "episode.js",
    "flips.js", "follow.js",
)  # fmt: skip


@dataclass(frozen=True)
class SiteOptions:
    """How a site is made.

    Attributes:
        title: Its title.
        films: Whether it has the runs' films and pictures.
        comparisons: Which pairs of runs that played the same have a page (:func:`~vlarig.results.pages.comparing.chosen_pairs`).
        live: Whether its pages follow what changes, which needs a server.
    """

    title: str = "Results"
    films: bool = True
    comparisons: comparing.Which = "best"
    live: bool = False


class Site:
    """A site of some runs; a page is made when it is asked for.

    Attributes:
        runs: Ids and runs.
    """

    def __init__(self, readers: Sequence[RunReader], options: SiteOptions, unreadable: Sequence[tuple[str, str]] = ()) -> None:
        """A site.

        Args:
            readers: The runs, in the order in which they are shown.
            options: How it is made.
            unreadable: Names of runs that cannot be read, each with the reason.
        """
        self.runs = list(zip(addresses.run_ids(reader.name for reader in readers), readers, strict=True))
        self.options = options
        self.unreadable = tuple(unreadable)
        self._templates = environment()
        self._by_id = dict(self.runs)
        self._listed: tuple[object, list[Listed]] = ((), [])
        # What was made last is kept until what it was made of has changed.
        self._boards = lru_cache(1)(lambda version: make_boards(self.runs))
        self._chosen = lru_cache(1)(lambda version: comparing.chosen_pairs(self.runs, options.comparisons))
        self._comparison = lru_cache(1)(
            lambda first, second, version: comparing.comparison_of(self._by_id[first], self._by_id[second])
        )

    @property
    def version(self) -> tuple[object, ...]:
        """Changes whenever a page changes."""
        return tuple((run, reader.version) for run, reader in self.runs) + self.unreadable

    def paths(self) -> Iterator[str]:
        """Every path: what pages need before the pages, and the first page last."""
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
        for first, second in self._pairs():
            yield addresses.flips_data(first, second)
            yield addresses.comparison_page(first, second)
        yield from (addresses.run_page(run) for run, _ in self.runs)
        yield addresses.INDEX

    def content(self, path: str) -> bytes | Path | None:
        """What is at a path: bytes, or the file that holds them; ``None`` where there is nothing.

        Raises:
            DamagedRunError: A run is damaged.
        """
        folder, _, rest = path.partition("/")
        if not rest:
            return self._page(path)
        find: dict[str, Callable[[str], bytes | Path | None]] = {
            "static": _static, "data": self._data, "shared": self._shared, "media": self._medium,
        }  # fmt: skip
        return find[folder](rest) if folder in find else None

    # Pages.

    def _page(self, path: str) -> bytes | None:
        if path == addresses.INDEX:
            return self._render("index.html", boards=self._boards(self.version), runs=[self._summary(*each) for each in self.runs],
                                unreadable=self.unreadable)  # fmt: skip
        if path in (addresses.TASK, addresses.EPISODE):
            return self._render(path)
        for run, reader in self.runs:
            if path == addresses.run_page(run):
                with _blaming(reader):
                    return self._run_page(run, reader)
        pair = self._pair(path, addresses.comparison_page)
        return self._comparison_page(*pair) if pair else None

    def _render(self, template: str, **values: Any) -> bytes:
        page = self._templates.get_template(template)
        return page.render(site=self.options, version=hash_of(self.version), **values).encode("utf-8")

    def _summary(self, run: str, reader: RunReader) -> dict[str, Any]:
        table = reader.table()
        return {
            "name": reader.name, "page": addresses.run_page(run), "table": table, "policy": reader.manifest.identity.policy_label,
            "suites": ", ".join(f"{suite.suite} {suite.protocol}" for suite in table.suites),
            "state": run_page.state_of(reader, table), "started": reader.manifest.record.created,
            "picture": run_page.picture(reader, run) if self.options.films else None,
        }  # fmt: skip

    def _run_page(self, run: str, reader: RunReader) -> bytes:
        table, sheet = reader.table(), reader.contact_sheet() if self.options.films else None
        return self._render(
            "run.html", run=reader, table=table, state=run_page.state_of(reader, table), lines=run_page.task_lines(reader, run),
            times=run_page.time_lines(reader), facts=run_page.facts(reader.manifest), sessions=reader.ledger.sessions(),
            attempt_kinds=reader.attempt_kinds(), given_up=reader.given_up(run_page.MOST_TOLD), most_told=run_page.MOST_TOLD,
            manifest=reader.manifest.text().rstrip(), sheet=addresses.contact_sheet(run) if sheet else "",
            partners=[(self._by_id[other].name, page) for other, page in comparing.partners(run, self._pairs())],
            episode_link=lambda key: addresses.episode_link(run, key),
        )  # fmt: skip

    def _pairs(self) -> list[tuple[str, str]]:
        """The pairs of runs whose pages are linked."""
        return self._chosen(self.version)

    def _pair(self, path: str, address: Callable[[str, str], str]) -> tuple[str, str] | None:
        """The runs that ``path`` compares, one of those that ``address`` makes.

        Any two that can be compared are, since with a run that is being written the best one changes.
        """
        first, _, second = Path(path).stem.removeprefix("compare-").partition("--")
        one, other = self._by_id.get(first), self._by_id.get(second)
        if self.options.comparisons == "none" or one is None or other is None or one is other:
            return None
        return (first, second) if path == address(first, second) and comparing.comparable(one, other) else None

    def _comparison_page(self, first: str, second: str) -> bytes:
        comparison = self._comparison(first, second, self.version)
        return self._render(
            "compare.html", first=self._by_id[first], second=self._by_id[second], first_page=addresses.run_page(first),
            second_page=addresses.run_page(second), why_not=comparison if isinstance(comparison, str) else "",
            comparison=comparison, findings=findings, points=points, points_range=points_range,
            flips=addresses.flips_data(first, second),
        )  # fmt: skip

    # Data.

    def _data(self, name: str) -> bytes | None:
        run, _, file = name.partition("/")
        reader = self._by_id.get(run)
        if reader is None:
            return None
        with _blaming(reader):
            return self._run_data(name, run, reader, file)

    def _run_data(self, name: str, run: str, reader: RunReader, file: str) -> bytes | None:
        if file == "run.js":
            return data_file(f"data/{name}", episodes.run_data(reader, run, reader.table().notes))
        numbers = _numbers_in(file)
        if not numbers or numbers[0] >= len(reader.tasks):
            return None
        listed = self._list(run, reader, numbers[0])
        if len(numbers) == 1:
            return data_file(f"data/{name}", episodes.task_data(reader, listed, self.options.films))
        chunk = listed[numbers[1] * addresses.CHUNK : (numbers[1] + 1) * addresses.CHUNK]
        if not chunk:
            return None
        return data_file(f"data/{name}", episodes.chunk_data(reader, run, numbers[0], chunk, self.options.films))

    def _shared(self, name: str) -> bytes | None:
        """What is of several runs."""
        path = f"shared/{name}"
        if path == addresses.RUNS_DATA:
            return data_file(path, [episodes.run_summary(reader, run) for run, reader in self.runs])
        pair = self._pair(path, addresses.flips_data)
        if pair is None:
            return None
        comparison = self._comparison(*pair, self.version)
        empty = {"gained": [], "lost": []}
        return data_file(path, empty if isinstance(comparison, str) else comparing.flips_data(comparison, *pair))

    def _list(self, run: str, reader: RunReader, number: int) -> list[Listed]:
        """The list of a task's episodes; the latest one is kept, since its chunks are asked for one after the other."""
        wanted = (run, number, reader.version)
        if self._listed[0] != wanted:
            self._listed = ((), [])  # not two at a time
            self._listed = (wanted, reader.listed(episodes.task_key(reader, number)))
        return self._listed[1]

    # Films and pictures.

    def _media(self, run: str, reader: RunReader) -> Iterator[str]:
        if not self.options.films:
            return
        if reader.contact_sheet():
            yield addresses.contact_sheet(run)
        for number, (key, totals) in enumerate(reader.tasks.items()):
            for episode in sorted(totals.outcomes):
                if reader.film(episode):
                    start, repeat = map(int, episode.removeprefix("/".join(key) + "/").split("/"))
                    yield addresses.film(run, number, start, repeat)
                    if reader.poster(episode):
                        yield addresses.film(run, number, start, repeat, "jpg")

    def _medium(self, name: str) -> Path | None:
        run, _, file = name.partition("/")
        reader = self._by_id.get(run)
        if reader is None or not self.options.films:
            return None
        if file == "frames.png":
            return reader.contact_sheet()
        name, _, kind = file.rpartition(".")
        find = {"mp4": reader.film, "jpg": reader.poster}.get(kind)
        number, _, place = name.partition("-")
        if find is None or not _is_number(number) or int(number) >= len(reader.tasks):
            return None
        start, _, repeat = place.rpartition("-")
        return find(f"{'/'.join(episodes.task_key(reader, int(number)))}/{start}/{repeat}")


@contextmanager
def _blaming(reader: RunReader) -> Generator[None]:
    """Say of which run it is that something cannot be read."""
    try:
        yield
    except VlarigError as error:
        raise DamagedRunError(reader, str(error)) from error


def _static(name: str) -> bytes | None:
    return resources.files("vlarig.results.pages").joinpath("static", name).read_bytes() if name in STATIC else None


def _numbers_in(file: str) -> list[int]:
    """The numbers of ``task-3.js`` and ``task-3-0.js``; none where it is named otherwise."""
    words = file.removesuffix(".js").split("-")
    good = file.endswith(".js") and words[0] == "task" and len(words) in (2, 3) and all(map(_is_number, words[1:]))
    return [int(word) for word in words[1:]] if good else []


def _is_number(word: str) -> bool:
    """Whether a word of an address is a number; one of thousands of digits is none that ``int`` takes."""
    return word.isdecimal() and len(word) < 10


def hash_of(version: tuple[object, ...]) -> str:
    """A short name of a version."""
    return hashlib.sha256(repr(version).encode()).hexdigest()[:16]
