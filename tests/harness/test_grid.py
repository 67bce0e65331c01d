"""A grid sweeps every setting on half of the initial states, and the best one on the other half."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from toy.suite import STANDARD, TOY_SUITE

from vlarig.envs.errors import VlarigError
from vlarig.harness.cli import main
from vlarig.harness.commands.sweep import cell_config, make_grid, parse_axes
from vlarig.harness.plan import SweepConfig
from vlarig.results.grid import Grid, lines, numeric_axis
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Manifest
from vlarig.results.shards import Shard, take_initial_states

FINDER = "toy.policies:Finder"
GRID = ["sweep", "toy", "--policy", FINDER, "--grid", "n_action_steps=4", "lost=1,3,2", "--episodes", "10", "--run", "grid"]


def initial_states(run: Path) -> set[tuple[str, int]]:
    with Ledger.open_read_only(run) as ledger:
        return {(record.task, record.initial_state) for record in ledger.records()}


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_the_best_setting_is_measured_where_nothing_was_chosen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(GRID) == 0
    printed = " ".join(capsys.readouterr().out.split())
    grid = Grid.load(Path("grid"))
    assert [cell.settings["lost"] for cell in grid.cells] == ["1", "3", "2"]
    assert grid.chosen == 1
    cells = [Path("grid") / cell.run for cell in grid.cells]
    (chosen,) = Path("grid/chosen").iterdir()
    assert chosen.name == f"{cells[1].name},other-half"
    assert initial_states(cells[0]) == initial_states(cells[1])
    assert not initial_states(chosen) & initial_states(cells[0])
    assert {len(initial_states(run)) for run in (chosen, *cells)} == {10}
    assert "n_action_steps 4, lost 3, on the other half" in printed
    before = {path: path.stat().st_mtime_ns for path in Path("grid").rglob("manifest.json")}
    assert main(GRID) == 0
    assert capsys.readouterr().out.count("nothing was played") == 4
    assert before == {path: path.stat().st_mtime_ns for path in Path("grid").rglob("manifest.json")}
    assert main([*GRID[:5], "n_action_steps=4,8", *GRID[6:]]) == 0
    assert capsys.readouterr().out.count("nothing was played") == 4, "what was played stays"
    assert main(["page", "grid", "--out", "site"]) == 0
    page = Path("site/index.html").read_text().replace("<wbr>", "")
    assert '<h2 id="grids">Grids</h2>' in page
    assert page.index("4, lost 3</a> (chosen)") < page.index("4, lost 2</a>") < page.index("4, lost 1</a>")
    assert "4, lost 3</a>, on the other half" in page
    assert page.count("<polyline") == 3, "a curve for each way to be lost"


@pytest.mark.usefixtures("toy_home")
def test_a_cell_that_cannot_be_played_leaves_the_choice_open(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "toy", "--policy", "random", "--grid", "latency=0,99", "--episodes", "2", "--run", "grid"]) == 2
    assert "an answer has to arrive before the next request" in capsys.readouterr().err
    grid = json.loads(Path("grid/grid.json").read_text())
    assert grid["chosen"] is None
    assert len(grid["cells"]) == 2


def test_every_combination_is_a_cell_with_options_and_fields() -> None:
    grid = make_grid(
        ["qwen-vla", "qwen-vla:other/folder"], parse_axes(["temperature=0,0.6", "latency=0,2", "meanwhile=chunk,still"])
    )
    assert len(grid.cells) == 2 * 2 * 3, "without latency nothing is done meanwhile"
    assert len({cell.run for cell in grid.cells}) == len(grid.cells)
    assert all("/" not in cell.run.removeprefix("cells/") for cell in grid.cells)
    shared = SweepConfig(suites=("toy",), policy="", policy_options=("temperature=1", "steps=8"))
    config = cell_config(shared, grid.cells[2], Path("run"), "1/2")
    assert config.policy_options == ("steps=8", "temperature=0")
    assert (config.policy, config.latency, config.meanwhile, config.part) == ("qwen-vla", "2", "still", "1/2")


def test_a_grid_is_drawn_along_its_first_number() -> None:
    grid = make_grid(["one", "other"], parse_axes(["meanwhile=chunk,still", "latency=1,2,4"]))
    assert numeric_axis(grid) == "latency"
    found = {line.label: [x for x, _ in line.places] for line in lines(grid, "latency")}
    assert found == {f"{policy}, meanwhile {rule}": [1, 2, 4] for policy in ("one", "other") for rule in ("chunk", "still")}
    late = make_grid(["one"], parse_axes(["latency=0,4", "meanwhile=chunk,still"]))
    assert [line.places for line in lines(late, "latency")] == [((0.0, 0), (4.0, 1)), ((0.0, 0), (4.0, 2))], "0 is on both"
    assert numeric_axis(make_grid(["one"], {"protocol": ["a", "b"]})) is None


@pytest.mark.parametrize("repeats", [1, 3])
def test_parts_share_no_initial_state_and_are_the_same_under_every_protocol(repeats: int) -> None:
    episodes = TOY_SUITE.episodes(per_task=20 * repeats)
    parts = [take_initial_states(episodes, Shard(number, 2)) for number in (1, 2)]
    states = [{(each.task, each.initial_state) for each in part} for part in parts]
    assert not states[0] & states[1]
    assert [len(part) for part in parts] == [20 * repeats] * 2
    assert {len([each for each in part if each.task == "reach_red"]) for part in parts} == {10 * repeats}
    other = replace(STANDARD, name="other", n_action_steps=1)
    elsewhere = take_initial_states(TOY_SUITE.episodes(per_task=20 * repeats, protocol=other), Shard(1, 2))
    assert {(each.task, each.initial_state) for each in elsewhere} == states[0]
    assert states[0] != {(each.task, each.initial_state) for each in episodes if each.initial_state < 10}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--grid", "n_action_steps"], "grid is 'n_action_steps'; expected NAME=VALUE,VALUE..."),
        (["--grid", "n_action_steps=1,"], "grid is 'n_action_steps=1,'; expected NAME=VALUE,VALUE..."),
        (["--grid", "steps=1,1"], "grid names 'steps=1,1' twice"),
        (["--grid", "steps=1", "steps=2"], "grid names 'steps' twice"),
        (["--grid", "latency=soon"], "latency is 'soon'; expected a number of control steps"),
        (["--grid", "seed=1", "--shard", "1/2"], "shard is given beside a grid"),
        (["--grid", "seed=1", "--json"], "--json prints the events of one sweep, and this is a grid"),
    ],
)
@pytest.mark.usefixtures("toy_home")
def test_a_wrong_grid_is_refused_in_a_sentence(words: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "toy", "--policy", "random", "--episodes", "1", *words]) == 2
    printed = capfd.readouterr()
    assert sentence in printed.out + printed.err


@pytest.mark.slow
@pytest.mark.usefixtures("toy_home")
def test_a_part_is_a_run_of_its_own() -> None:
    for part in ("1/2", "2/2"):
        assert main(["sweep", "toy", "--policy", FINDER, "--episodes", "4", "--part", part, "--run", part[0]]) == 0
    manifests = [Manifest.load(Path(run)) for run in ("1", "2")]
    assert [manifest.identity.episodes for manifest in manifests] == [4, 4]
    assert manifests[0].identity.episodes_digest != manifests[1].identity.episodes_digest
    with pytest.raises(VlarigError, match=r"part is '3/2'|I/N"):
        SweepConfig(suites=("toy",), policy="random", part="3/2")
