"""Pages: what a site of runs shows, that its options decide what is shown, and that nothing else is ever replaced."""

from __future__ import annotations

import base64
import dataclasses
import errno
import json
import math
import re
import sqlite3
import struct
import sys
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from layout_runs import play
from sample_runs import PROTOCOL, TASKS, hasty_ledger, make_episode, make_manifest, make_record, make_run

from vlarig.benchmarks.published import TABLES, PublishedColumn, load_table
from vlarig.envs.errors import VlarigError
from vlarig.harness.commands import runs
from vlarig.results.comparison import compare_runs
from vlarig.results.ledger import Ledger
from vlarig.results.pages import addresses
from vlarig.results.pages.following import Follower
from vlarig.results.pages.leaderboard import Board, BoardCell, BoardRow, make_boards, ranked
from vlarig.results.pages.reading import RunReader
from vlarig.results.pages.run_page import task_lines, time_lines
from vlarig.results.pages.site import Site, SiteOptions
from vlarig.results.pages.templates import data_file
from vlarig.results.pages.writing import MARKER, write_site
from vlarig.results.planning import episodes_digest, suite_plans
from vlarig.results.records import NO_IMAGES, Attempt
from vlarig.results.tables import run_table

NASTY = "<img src=x onerror=alert(1)>\"'&</script>\u2028"


class Links(HTMLParser):
    """Collects what a page loads and where it leads."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.led_to: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        self.loaded += [values[name] for name in ("src", "poster") if values.get(name)]
        if "href" in values:
            (self.loaded if tag == "link" else self.led_to).append(values["href"])

    def handle_data(self, data):
        self.text += data


def parsed(path: Path) -> Links:
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def data_of(path: Path):
    """What a data file hands over."""
    text = path.read_text(encoding="ascii")
    name, _, value = text.removeprefix("vlarig.arrived(").partition(",\n")
    assert json.loads(name) == "/".join(path.parts[-len(json.loads(name).split("/")) :])
    return json.loads(value.removesuffix(");\n"))


def build(out: Path, *runs: Path, **options) -> Path:
    readers = [RunReader.open(run, one_snapshot=True) for run in runs]
    try:
        write_site(Site(readers, SiteOptions(**options)), out)
    finally:
        for reader in readers:
            reader.close()
    return out


def boards_of(*runs: Path) -> dict[str, Board]:
    readers = [RunReader.open(run) for run in runs]
    try:
        return {
            board.name: board
            for board in make_boards(list(zip(addresses.run_ids(r.name for r in readers), readers, strict=True)))
        }
    finally:
        for reader in readers:
            reader.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def film(run: Path, key: str, content: bytes = b"a film", poster: bytes = b"") -> Path:
    path = run / "videos" / f"{key.replace('/', '_')}.mp4"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if poster:
        path.with_suffix(".jpg").write_bytes(poster)
    return path


# The site as a whole.


@pytest.fixture
def now(monkeypatch):
    """A follower reads everything again."""
    monkeypatch.setattr("vlarig.results.pages.following.FRESH", 0.0)
    monkeypatch.setattr("vlarig.results.pages.following.SHARE", math.inf)


def shown(follower: Follower, path: str) -> bytes | None:
    """What a follower's site has at a path now."""
    follower.refresh()
    file = follower.out / path
    return file.read_bytes() if file.is_file() else None


def test_pages_load_nothing_from_elsewhere_and_link_to_what_is_there(tmp_path):
    first, second = make_run(tmp_path / "one"), make_run(tmp_path / "two", policy="random", finished=6, errors=2)
    film(first, make_record(3, "stack").key, poster=b"a poster")
    out = build(tmp_path / "site", first, second)
    pages = sorted(out.glob("*.html"))
    assert [path.name for path in pages] == [
        "compare-two--one.html", "episode.html", "index.html", "run-one.html", "run-two.html", "task.html",
    ]  # fmt: skip
    for path in pages:
        links = parsed(path)
        assert links.loaded
        assert all((out / loaded).is_file() for loaded in links.loaded), path
        for target in links.led_to:
            file = target.partition("#")[0]
            assert target.startswith("https://") or not file or (out / file).is_file(), f"{path.name}: {target}"
        assert not [name for name in links.attributes if name.startswith("on") or name == "style"]
        assert "default-src 'none'; script-src 'self' file:;" in path.read_text()


def test_a_site_is_what_github_pages_and_a_space_of_hugging_face_take(tmp_path):
    site = build(tmp_path / "site", make_run(tmp_path / "run"), title='Results: "mine"')
    assert (site / ".nojekyll").read_bytes() == b""
    card = huggingface_hub.SpaceCard.load(site / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.title) == ("static", "index.html", 'Results: "mine"')
    assert (site / card.data.app_file).is_file()


def test_every_episode_is_listed_once_and_has_its_data(tmp_path):
    run = make_run(tmp_path / "run", per_task=130, finished=120, errors=3)
    out = build(tmp_path / "site", run)
    run_data = data_of(out / "data/run/run.js")
    assert [task["task"] for task in run_data["tasks"]] == list(TASKS)
    listed = data_of(out / "data/run/task-1.js")
    assert listed["initial_state"] == list(range(123))
    assert listed["outcome"] == [int(initial_state % 4 != 0) for initial_state in range(120)] + [2] * 3
    assert listed["failed"] == [0] * 120 + [2] * 3
    chunks = [data_of(out / f"data/run/task-1-{chunk}.js") for chunk in range(3)]
    assert [len(chunk) for chunk in chunks] == [50, 50, 23]
    keys = [key for chunk in chunks for key in chunk]
    assert keys == [make_episode(initial_state, "push_to").key for initial_state in range(123)]
    assert not (out / "data/run/task-1-3.js").exists()
    assert chunks[2][keys[-1]]["outcome"] == "error"
    assert [attempt["gave_up"] for attempt in chunks[2][keys[-1]]["attempts"]] == [False, True]


def test_numbers_of_the_run_are_those_of_the_table(tmp_path):
    run = make_run(tmp_path / "half", per_task=10, finished=4, errors=2)
    out = build(tmp_path / "site", run)
    total = run_table(run).total
    text = " ".join(parsed(out / "run-half.html").text.split())
    assert f"incomplete : {total.finished} of {total.expected} episodes finished, {total.errors} errors" in text.replace(
        ":", " :"
    )
    assert text.count("75.0") >= 4  # the suite and three tasks, each 3 of 4
    assert "30.1 to 95.4" in text  # Wilson's, of 3 in 4
    assert "(incomplete)" in text
    tasks = data_of(out / "data/half/run.js")["tasks"]
    assert [(task["finished"], task["successes"], task["errors"], task["expected"]) for task in tasks] == [(4, 3, 2, 10)] * 3


def test_an_episode_has_all_that_its_record_has(tmp_path):
    make_manifest(tasks=("stack",)).save(tmp_path / "run")
    record = make_record(
        7, chunks=(5, 5, 5, 2), metrics={"distance": float("nan"), "height": 0.25}, reward=float("inf"), worker="worker 3"
    )
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.write_episode(record)
    out = build(tmp_path / "site", tmp_path / "run")
    episode = data_of(out / "data/run/task-0-0.js")[record.key]
    assert episode["chunks"] == [[5, 3], [2, 1]]
    assert episode["metrics"] == {"distance": "nan", "height": 0.25}
    assert episode["reward"] == "inf"
    assert (episode["state_digest"], episode["image_digest"]) == (record.state_digest, record.image_digest)
    assert (episode["steps"], episode["primitives"], episode["worker"]) == (17, 34, "worker 3")
    assert episode["instruction"] == "stack number 7"
    assert episode["seconds"] == record.seconds
    assert (episode["film"], episode["poster"]) == (None, None)
    rows, channels = episode["actions"]["shape"]
    numbers = struct.unpack(f"<{rows * channels}e", zlib.decompress(base64.b64decode(episode["actions"]["data"])))
    np.testing.assert_allclose(np.reshape(numbers, (channels, rows)).T, record.actions, rtol=1e-3)


def test_a_policy_that_saw_no_images_has_no_digest_of_them(tmp_path):
    make_manifest(tasks=("stack",)).save(tmp_path / "run")
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.write_episode(make_record(0, image_digest=NO_IMAGES))
    out = build(tmp_path / "site", tmp_path / "run")
    assert data_of(out / "data/run/task-0-0.js")[make_episode(0).key]["image_digest"] is None


def test_a_list_has_each_instruction_once(tmp_path):
    make_manifest(tasks=("stack",)).save(tmp_path / "run")
    with Ledger.create(tmp_path / "run") as ledger:
        for initial_state, instruction in enumerate(["put it down", "pick it up", "put it down"]):
            ledger.write_episode(make_record(initial_state, instruction=instruction))
    listed = data_of(build(tmp_path / "site", tmp_path / "run") / "data/run/task-0.js")
    assert (listed["instructions"], listed["instruction"]) == (["put it down", "pick it up"], [0, 1, 0])


def test_the_same_runs_give_the_same_bytes(tmp_path):
    runs = [make_run(tmp_path / "one"), make_run(tmp_path / "two", finished=5, errors=1)]
    first, second = files_of(build(tmp_path / "a", *runs)), files_of(build(tmp_path / "b", *runs))
    assert first == second
    assert len(first) > 20


def test_where_time_went_adds_up(tmp_path):
    run = make_run(tmp_path / "run")
    reader = RunReader.open(run)
    lines = time_lines(reader)
    reader.close()
    assert [line.label for line in lines] == ["all tasks", *TASKS]
    assert lines[0].seconds == pytest.approx(30 * 0.85)
    assert sum(lines[0].shares.values()) == pytest.approx(100)
    assert lines[1].shares["simulate"] == pytest.approx(100 * 0.5 / 0.85)
    assert lines[1].shares["rest"] == pytest.approx(0)


def test_time_that_no_activity_accounts_for_is_the_rest(tmp_path):
    make_manifest(per_task=1, tasks=("stack",)).save(tmp_path / "run")
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.write_episode(make_record(0, seconds={"simulate": 1.0, "policy": 0.5, "total": 2.0}))
    reader = RunReader.open(tmp_path / "run")
    (line,) = time_lines(reader)
    reader.close()
    assert line.seconds == 2.0
    assert line.shares == {"simulate": 50.0, "render": 0.0, "policy": 25.0, "wait": 0.0, "rest": 25.0}


def test_tasks_of_like_names_keep_their_episodes_apart(tmp_path):
    names = [("stack", "base"), ("stack", "base2"), ("stack", "ba")]
    episodes = [make_episode(initial_state, task, variant=variant) for task, variant in names for initial_state in range(2)]
    identity = make_manifest().identity.model_copy(
        update={"suites": suite_plans(episodes), "episodes": len(episodes), "episodes_digest": episodes_digest(episodes)}
    )
    make_manifest().model_copy(update={"identity": identity}).save(tmp_path / "run")
    with Ledger.create(tmp_path / "run") as ledger:
        for episode in episodes:
            ledger.write_episode(make_record(episode.initial_state, variant=episode.variant, key=episode.key))
    out = build(tmp_path / "site", tmp_path / "run")
    assert [data_of(out / f"data/run/task-{number}.js")["initial_state"] for number in range(3)] == [[0, 1]] * 3
    assert list(data_of(out / "data/run/task-1-0.js")) == [episode.key for episode in episodes[2:4]]


@pytest.mark.parametrize("metrics", [{}, {"height": float("nan")}])
def test_a_metric_that_an_episode_lacks_has_no_mean(tmp_path, metrics):
    make_manifest(per_task=2, tasks=("stack",)).save(tmp_path / "run")
    with Ledger.create(tmp_path / "run") as ledger:
        ledger.write_episode(make_record(0, metrics={"height": 0.25, "distance": 2.0}))
        ledger.write_episode(make_record(1, metrics=metrics | {"distance": 4.0}))
    reader = RunReader.open(tmp_path / "run")
    _, task = task_lines(reader, "run")
    reader.close()
    assert task.metrics == {"distance": 3.0, "height": None}
    assert "height –" in parsed(build(tmp_path / "site", tmp_path / "run") / "run-run.html").text


# Texts of users are texts.


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path):
    task = "<b>stack&amp;?#%41"
    run = tmp_path / "run<i>"
    make_manifest(per_task=2, tasks=(task,), policy=NASTY, policy_options={"--><script>": NASTY}).save(run)
    with Ledger.create(run) as ledger:
        ledger.write_episode(make_record(0, task, worker=NASTY, metrics={NASTY: 1.0}))
        ledger.write_attempt(Attempt(make_episode(1, task).key, 1, NASTY, NASTY, NASTY, gave_up=True))
    other = make_run(tmp_path / "two")
    out = build(tmp_path / "site", run, other, title=NASTY)
    for path in out.glob("*.html"):
        links = parsed(path)
        assert "i" not in links.tags and "b" not in links.tags
        assert "onerror" not in links.attributes
        assert NASTY in links.text
    assert all("<img" not in content.decode() for name, content in files_of(out).items() if name.startswith("data/"))
    run_data = data_of(out / "data/run-i/run.js")
    assert run_data["tasks"][0]["task"] == task and NASTY in run_data["policy"]
    episodes = data_of(out / "data/run-i/task-0-0.js")
    assert episodes[make_episode(1, task).key]["attempts"][0]["message"] == NASTY
    links = parsed(out / "run-run-i.html")
    assert "task.html#run-i/0" in links.led_to
    assert "episode.html#run-i/tabletop/standard@1/%3Cb%3Estack%26amp%3B%3F%23%2541/base/1/0" in links.led_to


def test_data_files_are_one_call_whatever_is_in_them():
    text = data_file("data/x.js", {"a": "</script><!--\u2028\u2029", "b": [float("nan"), 1.5]}).decode("ascii")
    assert text.count("\n") == 2
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text.split("\n")[1].removesuffix(");")) == {"a": "</script><!--\u2028\u2029", "b": ["nan", 1.5]}


def test_runs_of_like_names_stay_apart():
    assert addresses.run_ids(["run", "RUN", "a/b", "a b", "...", "ü"]) == ["run", "RUN-2", "a-b", "a-b-2", "run-3", "run-4"]
    ids = addresses.run_ids(["a", "b--c", "a--b", "c", "-".join("x" * 59) + "-", "x-" * 60])
    assert not [name for name in ids if "--" in name or name.endswith("-")]
    pages = [addresses.comparison_page(first, second) for first in ids for second in ids]
    assert len(set(pages)) == len(pages)


# Leaderboards.


def test_published_numbers_stand_beside_the_runs(tmp_path):
    run = play(tmp_path / "mine", "simpler_widowx")
    board = boards_of(run)["SimplerEnv"]
    ours = next(row for row in board.rows if row.kind == "measured")
    cell = ours.cells["simpler_widowx"]
    assert (cell.text, cell.n) == ("75.0", 4 * 96)
    assert cell.interval is not None and cell.interval[0] < 75 < cell.interval[1]
    published = next(row for row in board.rows if row.label == "Qwen-VLA-Instruct")
    assert published.cells["simpler_widowx"].text == "73.7"
    assert "Table 4" in published.source
    assert published.cells["simpler_widowx"].interval is None
    assert board.rows.index(ours) < board.rows.index(published)
    ranks = board.ranks()
    assert ranks[board.rows.index(ours)] == 1 and ranks[board.rows.index(published)] == 2


def _texts(row: BoardRow) -> list[str]:
    return [cell.text for cell in row.cells.values()]


def test_every_published_number_stands_on_the_board_of_its_benchmark():
    boards = {board.name: board for board in make_boards([])}
    count = 0
    for name in TABLES:
        table = load_table(name)
        for number in table.numbers():
            board = boards[number.column.benchmark]
            labels = {number.row.method, f"{number.row.method} ({number.row.group})"}
            place = f"{table.paper.name}, {table.place}"
            found = [row for row in board.rows if row.source == place and row.label in labels and number.text in _texts(row)]
            (row,) = [row for row in found if row.reference == number.row.reference]
            assert (row.cells[number.column.name].text, row.kind) == (number.text, number.row.kind)
            count += 1
    for board in boards.values():
        assert len({(row.label, row.reference, row.source) for row in board.rows}) == len(board.rows)
    assert count == sum(len(row.cells) for board in boards.values() for row in board.rows) > 100


@pytest.mark.parametrize(("better", "wanted"), [("higher", ["b", "a", "none"]), ("lower", ["a", "b", "none"])])
def test_the_best_comes_first_and_what_has_no_number_last(better, wanted):
    column = PublishedColumn("x", "x", "x", "%", better)
    rows = [
        BoardRow("none", "measured", "", {"x": BoardCell("incomplete")}),
        BoardRow("a", "baseline", "", {"x": BoardCell("1", 1.0)}),
        BoardRow("b", "baseline", "", {"x": BoardCell("2", 2.0)}),
    ]
    board = Board("board", (column,), ranked(rows, column))
    assert [row.label for row in board.rows] == wanted
    assert board.ranks() == [1, 2, None]


def test_the_evaluations_of_a_training_are_a_curve(tmp_path):
    evaluations = tmp_path / "ppo" / "evaluations"
    runs = [make_run(evaluations / f"step-{step:08d}", per_task=40, finished=40 - step) for step in (10, 0)]
    aside = [make_run(evaluations / "exploring-00000000"), make_run(tmp_path / "other")]
    index = parsed(build(tmp_path / "site", *runs, *aside) / "index.html")
    text = " ".join(index.text.split())
    assert "ppo: success by step over all episodes" in text
    assert "step 0: 75.0 %, 95 % interval 66.6 to 81.9 % step 10: 73.3 %, 95 % interval 63.4 to 81.4 % step 0 step 10" in text
    assert "polyline" in index.tags
    assert "075.066.6 to 81.9120 of 12075.075.075.0 1073.363.4 to 81.490 of 12073.373.373.3" in text
    assert "polyline" not in parsed(build(tmp_path / "alone", *aside) / "index.html").tags


def test_what_is_incomplete_is_told_and_never_ranked(tmp_path):
    run = play(
        tmp_path / "part", "simpler_widowx", success=lambda number: True, finished=lambda episode: episode.initial_state > 0
    )
    board = boards_of(run)["SimplerEnv"]
    assert board.rows[-1].kind == "measured"
    cell = board.rows[-1].cells["simpler_widowx"]
    assert cell.value is None and cell.interval is None and "incomplete" in cell.text
    assert any("episodes finished" in remark for remark in cell.remarks)
    assert board.ranks()[-1] is None
    out = build(tmp_path / "site", run)
    row = re.search(r'<tr data-kind="measured".*?</tr>', (out / "index.html").read_text(), re.DOTALL)
    assert row is not None and 'data-ranked=""' in row[0] and '<td class="number rank">–</td>' in row[0]


def test_who_acts_on_the_simulators_truth_is_shown_and_not_ranked(tmp_path):
    remark = "policy expert acts on the simulator's own truth, so it is not ranked"
    for suite, name in (("simpler_widowx", "SimplerEnv"), ("tabletop", "tabletop, standard@1")):
        protocol = "starvla" if suite == "simpler_widowx" else "standard"
        settings = {"protocol": protocol, "per_task": 2}
        expert = play(tmp_path / suite / "expert", suite, policy_privileged=True, success=lambda number: True, **settings)
        other = play(tmp_path / suite / "other", suite, policy="mine", success=lambda number: False, **settings)
        better = play(tmp_path / suite / "better", suite, policy="yours", success=lambda number: number % 2 == 0, **settings)
        board = boards_of(expert, other, better)[name]
        ours = [(row, rank) for row, rank in zip(board.rows, board.ranks(), strict=True) if row.kind == "measured"]
        (first, no_rank), _, (second, rank) = ours
        assert (first.label, first.run, second.label, second.run) == ("expert", "expert", "mine", "other")
        assert rank is not None and second.ranked and no_rank is None and not first.ranked
        assert rank == sum(each is not None for each in board.ranks()), "the expert takes no rank"
        shown = first.cells[board.columns[0].name]
        assert (shown.text, shown.value, shown.n) == ("100.0", 100.0, second.cells[board.columns[0].name].n)
        assert shown.interval is not None and remark in shown.remarks


def test_the_note_of_a_suite_is_a_remark_on_its_numbers(tmp_path):
    note = {"suite_notes": {"tabletop": "zero-shot: prompt of the suite's own robot, statistics of widowx_bridge"}}
    run = play(tmp_path / "run", "tabletop", protocol="standard", per_task=2, surroundings=note)
    (row,) = boards_of(run)["tabletop, standard@1"].rows
    assert row.shared_remarks == (f"tabletop: {note['suite_notes']['tabletop']}",)


def test_a_suite_that_nobody_published_has_a_board_for_each_protocol(tmp_path):
    runs = [make_run(tmp_path / "good"), make_run(tmp_path / "again"), make_run(tmp_path / "half", finished=5)]
    board = boards_of(*runs)["tabletop, standard@1"]
    assert [(row.label, row.run) for row in board.rows] == [("expert", "good"), ("expert", "again"), ("expert", "half")]
    assert [column.heading for column in board.columns] == ["all tasks", *TASKS]
    assert board.ranks() == [1, 1, None]


def test_runs_that_differ_in_the_steps_that_they_run_of_a_chunk_alone_are_on_one_board(tmp_path):
    """As in ``vlarig table``: one board for each policy had ranked each of them first."""
    shorter = PROTOCOL.derive(n_action_steps=1)
    episodes = [replace(make_episode(initial_state, task), protocol=shorter) for task in TASKS for initial_state in range(10)]
    make_manifest(policy="brief", suites=suite_plans(episodes)).save(tmp_path / "brief")
    with hasty_ledger(tmp_path / "brief") as ledger:
        for episode in episodes:
            names = {"key": episode.key, "protocol": f"{shorter.name}@{shorter.version}"}
            ledger.write_episode(make_record(episode.initial_state, episode.task, **names))
    boards = boards_of(make_run(tmp_path / "one"), tmp_path / "brief")
    assert [name for name in boards if name.startswith("tabletop")] == ["tabletop, standard@1"]
    board = boards["tabletop, standard@1"]
    assert [(row.run, row.source) for row in board.rows] == [("brief", f"{shorter.name}@1"), ("one", "standard@1")]
    assert board.ranks() == [1, 2] and board.remarks == []


def test_a_rank_is_among_runs_over_the_same_episodes(tmp_path):
    long, brief = make_run(tmp_path / "long", 10), make_run(tmp_path / "brief", 5, finished=5)
    assert boards_of(long)["tabletop, standard@1"].ranks() == [None], "it is the first and the last"
    assert boards_of(long, brief)["tabletop, standard@1"].ranks() == [None, None]
    board = boards_of(long, brief, make_run(tmp_path / "again", 5, finished=5, seed=1))["tabletop, standard@1"]
    assert [(row.run, rank) for row, rank in zip(board.rows, board.ranks(), strict=True)] == [
        ("brief", 1),
        ("again", 1),
        ("long", None),
    ]
    assert board.remarks == [
        f"long has other episodes of {task} ({own}) than most here ({most}): no rank"
        for task, own, most in [("all tasks", 30, 15), *((task, 10, 5) for task in TASKS)]
    ]


def test_a_mean_over_fewer_tasks_is_not_ranked_beside_one_over_all(tmp_path):
    whole = make_run(tmp_path / "whole")
    make_manifest(tasks=("stack",)).save(tmp_path / "easy")
    with hasty_ledger(tmp_path / "easy") as ledger:
        for initial_state in range(10):
            ledger.write_episode(make_record(initial_state, "stack"))
    board = boards_of(whole, make_run(tmp_path / "again"), tmp_path / "easy")["tabletop, standard@1"]
    assert [row.run for row in board.rows] == ["whole", "again", "easy"]
    assert board.ranks() == [1, 1, None]
    assert board.remarks == ["easy has other episodes of all tasks (10) than most here (30): no rank"]
    assert all(row.cells["task stack/base"].ranked for row in board.rows), "which all of them played alike"


def test_a_shard_is_not_ranked(tmp_path):
    run = make_run(tmp_path / "shard", per_task=10, finished=5)
    manifest = make_manifest(10)
    record = manifest.record.model_copy(update={"shard": "1/2"})
    manifest.model_copy(update={"record": record}).save(run)
    board = boards_of(run)["tabletop, standard@1"]
    assert board.ranks() == [None]
    assert board.rows[0].cells["all"].text == "shard 1/2"


# Films.


def test_films_come_along_or_stay_away(tmp_path):
    run = make_run(tmp_path / "run")
    key = make_record(4, "push_to").key
    source = film(run, key)
    film(run, "other/else@1/task/base/0/0")
    (run / "frames.png").write_bytes(b"an image")
    out = build(tmp_path / "site", run)
    assert sorted(path.name for path in (out / "media/run").iterdir()) == ["1-4-0.mp4", "frames.png"]
    assert (out / "media/run/1-4-0.mp4").read_bytes() == b"a film"
    assert data_of(out / "data/run/task-1.js")["film"] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert data_of(out / "data/run/task-1-0.js")[key]["film"] == "media/run/1-4-0.mp4"
    source.unlink()
    assert (out / "media/run/1-4-0.mp4").read_bytes() == b"a film"
    film(run, key, b"another film")
    build(out, run)
    assert (out / "media/run/1-4-0.mp4").read_bytes() == b"another film"
    assert data_of(out / "data/run/task-1-0.js")[key]["poster"] is None
    build(out, run, films=False)
    assert not (out / "media").exists()
    assert set(data_of(out / "data/run/task-1.js")["film"]) == {0}
    assert data_of(out / "data/run/task-1-0.js")[key]["film"] is None


def test_a_films_poster_comes_along_and_stands_for_the_run_on_the_first_page(tmp_path):
    run = make_run(tmp_path / "run")
    for initial_state, task in ((2, "push_to"), (9, "stack"), (8, "stack")):
        film(run, make_record(initial_state, task).key, poster=f"poster {initial_state}".encode())
    out = build(tmp_path / "site", run)
    assert (out / "media/run/1-2-0.jpg").read_bytes() == b"poster 2"
    assert data_of(out / "data/run/task-1.js")["film"] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 0]
    assert data_of(out / "data/run/task-1-0.js")[make_record(2, "push_to").key]["poster"] == "media/run/1-2-0.jpg"
    index = parsed(out / "index.html")
    assert "media/run/0-8-0.jpg" in index.loaded, "the first task's first film"
    assert "episode.html#run/tabletop/standard@1/stack/base/8/0" in index.led_to
    without = parsed(build(tmp_path / "without", run, films=False) / "index.html")
    assert not [path for path in without.loaded if path.startswith("media")]


# Comparisons.


def test_a_comparison_shows_what_vlarig_compare_says(tmp_path):
    pytest.importorskip("scipy")
    make_run(tmp_path / "one")
    make_manifest(policy="other").save(tmp_path / "two")
    with hasty_ledger(tmp_path / "two") as ledger:
        for task in TASKS:
            for initial_state in range(10):
                ledger.write_episode(make_record(initial_state, task, success=initial_state % 5 != 0))
    out = build(tmp_path / "site", tmp_path / "one", tmp_path / "two")
    comparison = compare_runs(tmp_path / "one", tmp_path / "two")
    flips = data_of(out / "shared/compare-one--two.js")
    assert flips["gained"] == comparison.suites[0].gained and len(flips["gained"]) == 6
    assert flips["lost"] == comparison.suites[0].lost and len(flips["lost"]) == 3
    text = parsed(out / "compare-one--two.html").text
    low, high = comparison.suites[0].interval()
    for piece in ("70.0", "80.0", "+10.0", f"{100 * low:+.1f} to {100 * high:+.1f}", "McNemar's exact p = 0.508"):
        assert piece in text
    assert not list(build(tmp_path / "without", tmp_path / "one", tmp_path / "two", comparisons="none").glob("compare*"))


def test_runs_that_cannot_be_compared_say_why(tmp_path):
    make_run(tmp_path / "one", finished=5)
    make_run(tmp_path / "none", finished=0)
    text = parsed(build(tmp_path / "site", tmp_path / "one", tmp_path / "none") / "compare-none--one.html").text
    assert "have no finished episode in common" in text


def make_runs(folder: Path, **rates: int) -> list[Path]:
    """Runs that succeed in this many of ten episodes of a task."""
    for name, successes in rates.items():
        make_manifest(tasks=("stack",), policy=name, policy_privileged=name == "expert").save(folder / name)
        with hasty_ledger(folder / name) as ledger:
            for initial_state in range(10):
                ledger.write_episode(make_record(initial_state, success=initial_state < successes))
    return [folder / name for name in rates]


def test_each_run_is_compared_with_the_best_and_the_better_one_comes_second(tmp_path):
    runs = make_runs(tmp_path, alpha=3, best=8, expert=10, zero=0)
    out = build(tmp_path / "few", *runs)
    assert sorted(path.name for path in out.glob("compare*")) == [
        "compare-alpha--best.html", "compare-best--expert.html", "compare-zero--best.html",
    ]  # fmt: skip
    assert "compare-alpha--best.html" in parsed(out / "run-alpha.html").led_to
    assert {"compare-alpha--best.html", "compare-zero--best.html"} <= set(parsed(out / "run-best.html").led_to)
    assert "From alpha to best" in parsed(out / "compare-alpha--best.html").text
    every = sorted(path.name for path in build(tmp_path / "all", *runs, comparisons="all").glob("compare*"))
    assert every == [
        "compare-alpha--best.html", "compare-alpha--expert.html", "compare-best--expert.html", "compare-zero--alpha.html",
        "compare-zero--best.html", "compare-zero--expert.html",
    ]  # fmt: skip


def test_a_run_that_is_not_complete_is_not_the_best(tmp_path):
    whole = make_run(tmp_path / "whole")
    make_manifest(policy="lucky").save(tmp_path / "lucky")
    with Ledger.create(tmp_path / "lucky") as ledger:
        ledger.write_episode(make_record(1))
    third = make_run(tmp_path / "third", policy="third", finished=9)
    out = build(tmp_path / "site", whole, tmp_path / "lucky", third)
    assert sorted(path.name for path in out.glob("compare*")) == ["compare-third--whole.html", "compare-whole--lucky.html"]


def test_runs_of_other_protocols_have_no_comparison(tmp_path):
    runs = [make_run(tmp_path / "one"), play(tmp_path / "two", "simpler_widowx", per_task=1)]
    assert not list(build(tmp_path / "site", *runs).glob("compare*"))


# Writing.


def test_a_site_is_replaced_and_what_is_no_longer_in_it_goes(tmp_path):
    one, two = make_run(tmp_path / "one"), make_run(tmp_path / "two")
    out = build(tmp_path / "site", one, two)
    untouched = (out / "data/one/task-0.js").stat()
    (out / ".index.html.123.new").write_text("of a build that was killed")
    build(out, one)
    assert files_of(out) == files_of(build(tmp_path / "fresh", one))
    assert (out / "data/one/task-0.js").stat().st_mtime_ns == untouched.st_mtime_ns
    assert not (out / "data/two").exists()


def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    out = build(tmp_path / "site", make_run(tmp_path / "run"))
    before = files_of(out)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(VlarigError, match=r"site cannot be written: .*No space left on device; check that the folder"):
        build(out, tmp_path / "run", title="Other")
    assert files_of(out) == before


def test_nothing_but_an_earlier_site_is_replaced(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(VlarigError, match=r"mine holds other files and no earlier site; give an --out"):
        build(tmp_path / "mine", run)
    with pytest.raises(VlarigError, match=r"thesis\.tex is a file"):
        build(tmp_path / "mine" / "thesis.tex", run)
    assert files_of(tmp_path / "mine") == {"thesis.tex": b"years of work"}
    (tmp_path / "empty").mkdir()
    assert (build(tmp_path / "empty", run) / MARKER).is_file()


def test_a_folder_is_built_by_one_at_a_time(tmp_path):
    run = make_run(tmp_path / "run")
    reader = RunReader.open(run)
    site = Site([reader], SiteOptions())

    def meanwhile(count: int) -> None:
        if count == 3:
            with pytest.raises(VlarigError, match=r"site is being built already; wait until that ends, or give another --out"):
                build(tmp_path / "site", make_run(tmp_path / "other"))

    write_site(site, tmp_path / "site", meanwhile)
    reader.close()
    assert files_of(tmp_path / "site") == files_of(build(tmp_path / "fresh", run))
    build(tmp_path / "site", tmp_path / "other")
    assert not (tmp_path / "site/data/run").exists()


def test_the_first_page_is_written_last(tmp_path):
    reader = RunReader.open(make_run(tmp_path / "run"))
    paths = [file.path for file in Site([reader], SiteOptions()).files()]
    reader.close()
    assert paths[-1] == "index.html"
    assert len(set(paths)) == len(paths)
    assert paths.index("data/run/task-0-0.js") < paths.index("episode.html")


def test_a_build_reads_one_snapshot_while_the_run_goes_on(tmp_path):
    run = make_run(tmp_path / "run", finished=5)
    reader = RunReader.open(run, one_snapshot=True)
    with Ledger.open(run) as ledger:
        ledger.write_episode(make_record(5, "stack"))
    write_site(Site([reader], SiteOptions()), tmp_path / "site")
    reader.close()
    assert data_of(tmp_path / "site/data/run/run.js")["tasks"][0]["finished"] == 5
    assert data_of(tmp_path / "site/data/run/task-0.js")["initial_state"] == [0, 1, 2, 3, 4]


# The command, and what is wrong.


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/one"))
    assert runs.page(["one", "runs/one", "--out", "site", "--title", "Mine"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"1 run: \d+ files, \d+\.\d MB; \d+ new or changed, 0 removed\nopen site/index.html", output)
    assert "<h1>Mine</h1>" in Path("site/index.html").read_text()
    assert runs.page(["one", "--out", "site", "--title", "Mine"]) == 0
    assert "; 0 new or changed, 0 removed" in capsys.readouterr().out


def test_mistakes_are_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/one"))
    Path("full").mkdir()
    Path("full/file").touch()
    for words, sentence in [
        (["--out", "site"], "no run was named"),
        (["one"], "--out is missing"),
        (["onne", "--out", "site"], "did you mean one"),
        (["runs", "--out", "site"], "runs is a folder but no run: it holds the runs one"),
        (["one", "--out", "full"], "full holds other files"),
    ]:
        with pytest.raises(VlarigError, match=re.escape(sentence)):
            runs.page(words)
    assert not Path("site").exists()


def test_a_damaged_ledger_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = make_run(Path("runs/one"))
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute("UPDATE episodes SET actions = x'00' WHERE initial_state = 3 AND task = 'stack'")
    with pytest.raises(VlarigError, match=r"holds a damaged record of tabletop/standard@1/stack/base/3/0"):
        runs.page(["one", "--out", "site"])
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        connection.execute("UPDATE episodes SET seconds = '[1]' WHERE initial_state = 3 AND task = 'stack'")
    with pytest.raises(VlarigError, match=r"holds a damaged record of tabletop/standard@1/stack/base/3/0"):
        runs.page(["one", "--out", "site"])
    (run / "ledger.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(VlarigError, match="ledger"):
        runs.page(["one", "--out", "site"])


def test_without_jinja_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/one"))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(VlarigError, match=re.escape("pip install 'vlarig[results]'")):
        runs.page(["one", "--out", "site"])


# Following.


def test_a_follower_sees_what_is_written(tmp_path, now):
    run = make_run(tmp_path / "run", finished=5)
    follower = Follower(lambda: [run], SiteOptions(live=True), tmp_path / "site")
    before, progress = follower.state()
    assert progress == "1 run, 0 being written: 15 of 30 episodes finished"
    assert follower.state()[0] == before
    with Ledger.open(run) as ledger:
        ledger.write_episode(make_record(5, "stack", success=False))
        after, progress = follower.state()
        assert after != before and progress == "1 run, 1 being written: 16 of 30 episodes finished"
        assert b'"initial_state":[0,1,2,3,4,5]' in shown(follower, "data/run/task-0.js")
        ledger.write_attempt(Attempt(make_episode(6, "stack").key, 1, "crash", "signal 11", "worker 0", gave_up=True))
        assert follower.state()[0] != after
    assert b"signal 11" in shown(follower, "run-run.html")
    assert shown(follower, "data/run/task-0-9.js") is None
    assert shown(follower, "run-other.html") is None
    follower.close()


def test_a_follower_survives_runs_that_come_go_and_break(tmp_path, now):
    runs = [make_run(tmp_path / "one"), tmp_path / "two"]
    follower = Follower(lambda: runs, SiteOptions(live=True), tmp_path / "site")
    assert b"two cannot be read" in shown(follower, "index.html")
    make_run(tmp_path / "two", finished=3)
    assert follower.state()[1] == "2 runs, 0 being written: 39 of 60 episodes finished"
    whole = (tmp_path / "two/manifest.json").read_text()
    (tmp_path / "two/manifest.json").write_text("{")
    assert b"is no manifest: it is not JSON" in shown(follower, "index.html")
    (tmp_path / "two/manifest.json").write_text(whole)
    assert b"cannot be read" not in shown(follower, "index.html")
    for path in (tmp_path / "two").iterdir():
        path.unlink()
    make_run(tmp_path / "two", finished=1)
    assert follower.state()[1] == "2 runs, 0 being written: 33 of 60 episodes finished"
    del runs[0]
    assert follower.state()[1] == "1 run, 0 being written: 3 of 30 episodes finished"
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [path for path in opened if path.startswith(str(tmp_path / "one"))]
    follower.close()


def test_a_follower_makes_again_what_has_changed_and_nothing_else(tmp_path, now, monkeypatch):
    run = make_run(tmp_path / "run", finished=5)
    make_run(tmp_path / "other", finished=2)
    follower = Follower(lambda: [run, tmp_path / "other"], SiteOptions(live=True), tmp_path / "site")
    follower.refresh()
    made = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: made.append(path.parent.name) or write(path, content))
    follower.refresh()
    assert made == []
    listed = []
    read = RunReader.listed
    monkeypatch.setattr(RunReader, "listed", lambda reader, task: listed.append((reader.name, task.task)) or read(reader, task))
    with Ledger.open(run) as ledger:
        ledger.write_episode(make_record(5, "stack"))
    follower.refresh()
    assert listed == [("run", "stack")] and "other" not in made
    follower.close()


def test_films_of_a_site_that_follows_are_not_copied(tmp_path, now):
    run = make_run(tmp_path / "run", finished=5)
    (run / "videos").mkdir()
    film = run / "videos" / "tabletop_standard@1_stack_base_0_0.mp4"
    film.write_bytes(b"film")
    follower = Follower(lambda: [run], SiteOptions(live=True), tmp_path / "site")
    number = list(RunReader.open(run).tasks).index(("tabletop", "standard@1", "stack", "base"))
    assert shown(follower, f"media/run/{number}-0-0.mp4") == b"film"
    assert (tmp_path / "site" / f"media/run/{number}-0-0.mp4").readlink() == film
    follower.close()


def test_a_site_that_does_not_change_asks_nobody(tmp_path):
    out = build(tmp_path / "site", make_run(tmp_path / "run"))
    assert not (out / "static/follow.js").exists()
    assert "follow" not in (out / "index.html").read_text()
    assert "connect-src 'none'" in (out / "index.html").read_text()


def test_scored_records_are_enough_for_tables(tmp_path):
    """What the leaderboard hands to the paper's tables knows the success of each episode, and no more than that."""
    run = make_run(tmp_path / "run", finished=7, errors=1)
    reader = RunReader.open(run)
    records = reader.records()
    reader.close()
    for task in records.tasks.values():
        assert (task.expected, task.errors, len(task.records)) == (10, 1, 7)
        assert {type(record) for record in task.records.values()} and dataclasses.is_dataclass(
            next(iter(task.records.values()))
        )
