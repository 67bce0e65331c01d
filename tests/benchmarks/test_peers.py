"""The comparison with other evaluators: its bookkeeping on made-up figures, and its lists of packages. No peer is installed."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks" / "speed" / "peers"
MODULES = ("cells", "drivers", "environments", "measuring", "records", "table")


@pytest.fixture(scope="module")
def peers():
    """The modules, which are beside the script that uses them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
        for name in MODULES:
            del sys.modules[name]


def played(steps, wall, cpu=10.0, memory=1000.0, status=0, said=""):
    """What a cell gives in a turn."""
    outcome = {"episodes": steps // 100, "steps": steps, "failed": 0, "said": said}
    measured = {"wall": wall, "cpu": cpu, "memory": memory, "statuses": [status], "left": 0}
    return {"measured": measured, "outcome": outcome, "after_kill": None, "again": None, "begun": [0, 0]}


def killed(first, again, after, total, said=""):
    """What a cell gives that is killed."""
    line = played(100 * total, 10.0, said=said)
    line["measured"]["statuses"] = [-9]
    line["after_kill"] = line["outcome"] | {"episodes": after, "said": ""}
    return line | {"begun": [first, again], "again": line["measured"]}


def columns(table):
    """A Markdown table's rows as dictionaries."""
    titles, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_a_finished_cell_is_not_measured_again(peers, tmp_path):
    cells = peers.cells.all_cells(episodes=2)
    records = peers.records.Records(tmp_path)
    everything = peers.records.todo(cells, 2, records)
    assert [turn for _, turn in everything] == sorted(turn for _, turn in everything), "not turn by turn"
    assert {cell.key for cell, turn in everything if turn == 1} == {cell.key for cell in cells if not cell.once}
    for cell, turn in everything[:3]:
        records.add(cell, turn, played(100, 1.0))
    assert peers.records.todo(cells, 2, peers.records.Records(tmp_path)) == everything[3:]


def test_a_line_that_a_kill_cut_short_is_measured_again_and_spoils_no_other(peers, tmp_path):
    first, second, third = peers.cells.all_cells()[:3]
    records = peers.records.Records(tmp_path)
    records.add(first, 0, played(100, 1.0))
    records.add(second, 0, played(100, 1.0))
    path = tmp_path / peers.records.FILE
    path.write_text(path.read_text()[:-9])
    torn = peers.records.Records(tmp_path)
    assert [torn.has(cell, 0) for cell in (first, second, third)] == [True, False, False]
    torn.add(third, 0, played(100, 1.0))
    assert [peers.records.Records(tmp_path).has(cell, 0) for cell in (first, second, third)] == [True, False, True]


def test_other_episodes_are_other_cells(peers):
    for keys in ([cell.key for cell in peers.cells.all_cells()], [cell.key for cell in peers.cells.all_cells(episodes=50)]):
        assert len(keys) == len(set(keys))
    few, many = ({cell.key for cell in peers.cells.all_cells(episodes=count) if not cell.killed} for count in (2, 3))
    assert all("50x" in key or "async" in key for key in few & many)


def test_every_cell_has_a_driver(peers):
    assert {cell.peer for cell in peers.cells.all_cells()} == set(peers.drivers.DRIVERS)
    assert {cell.way for cell in peers.cells.all_cells() if cell.peer == "vlarig"} <= set(peers.drivers.DRIVERS["vlarig"]._WAYS)


def test_speed_is_a_median_beside_upstreams_and_memory_a_envs(peers, tmp_path):
    records = peers.records.Records(tmp_path)
    cells = [cell for cell in peers.cells.all_cells(["libero_object"]) if cell.policy == "instant" and not cell.killed]
    one, two, ours, four = (
        next(cell for cell in cells if (cell.peer, cell.way) == name)
        for name in [
            ("upstream", "1 process"),
            ("upstream", "2 processes"),
            ("vlarig", "defaults"),
            ("vlarig", "1 worker, 4 envs"),
        ]
    )
    alone = next(cell for cell in cells if (cell.peer, cell.way) == ("vlarig", "1 worker, 1 env"))
    for turn, wall in enumerate([100.0, 50.0, 25.0]):
        records.add(one, turn, played(1000, wall, cpu=wall))
    records.add(two, 0, played(1000, 25.0, memory=2500.0))
    records.add(ours, 0, played(1000, 4.0))
    records.add(alone, 0, played(1000, 8.0, memory=1200.0))
    records.add(four, 0, played(1000, 8.0, memory=1230.0))
    rows = {row[""]: row for row in columns(peers.table.speed_table(cells, records))}
    assert rows["upstream, 1 process"]["steps/s"] == "20.0 (10.0 to 40.0)"
    assert rows["upstream, 1 process"]["CPU ms a step"] == "50.0"
    assert rows["vlarig, defaults"]["upstream's loop = 1"] == "12.50"
    assert rows["upstream, 2 processes"]["MB a further env"] == "1,500"
    assert rows["vlarig, 1 worker, 4 envs"]["MB a further env"] == "10"
    assert len(rows) == 5, "a cell that was not measured has a row"


def test_a_failure_has_no_speed_and_keeps_its_message(peers, tmp_path):
    records = peers.records.Records(tmp_path)
    (broken,) = (cell for cell in peers.cells.all_cells() if cell.way.endswith("async"))
    records.add(broken, 0, played(500, 30.0, status=1, said="AttributeError: no 'envs' | here"))
    text = peers.table.render(peers.cells.all_cells(), records)
    assert "steps/s" not in text
    assert "exit status 1; it said `AttributeError: no 'envs' | here`" in text


def test_what_a_kill_cost(peers, tmp_path):
    records = peers.records.Records(tmp_path)
    cells = [cell for cell in peers.cells.all_cells() if cell.killed]
    names = [("upstream", "1 process", "main"), ("vlarig", "1 worker, 1 env", "simulator")]
    theirs, ours = (next(cell for cell in cells if (cell.peer, cell.way, cell.killed) == name) for name in names)
    records.add(theirs, 0, killed(3, 6, 0, 6))
    records.add(ours, 0, killed(6, 0, 6, 6, said="1 attempt(s) failed: crash"))
    first, second = columns(peers.table.kill_table(cells, records))
    assert first["killed"] == "main"
    assert first["result after the kill"] == "0 of 6"
    assert first["exit status"] == "-9"
    assert (first["begun by the same command again"], first["begun more than once"]) == ("6", "3")
    assert first["it says of that"] == "nothing"
    assert (second["result after the kill"], second["begun more than once"]) == ("6 of 6", "0")
    assert second["it says of that"] == "1 attempt(s) failed: crash"


def test_tables_take_the_place_of_older_ones_and_of_nothing_else(peers, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{peers.table.BEGIN}\nold\n{peers.table.END}\nafter\n")
    peers.table.place(page, "new")
    once = page.read_text()
    peers.table.place(page, "new")
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "new" in once
    assert "old" not in once
    page.write_text(f"{peers.table.END} {peers.table.BEGIN}")
    with pytest.raises(ValueError, match=r"does not have .* once each"):
        peers.table.place(page, "new")


def test_our_page_has_a_place_for_the_tables(peers, tmp_path):
    page = tmp_path / "peers.md"
    page.write_text((ROOT / "docs" / "peers.md").read_text())
    peers.table.place(page, "| a table |")
    assert "| a table |" in page.read_text()


@pytest.mark.parametrize("name", ["libero", "upstream", "vla-eval", "lerobot"])
def test_packages_are_pinned(peers, name):
    pinned = peers.environments.requirements(name)
    for line in (SCRIPTS / f"requirements-{name}.txt").read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            entry = Requirement(line)
            assert [part.operator for part in entry.specifier] == ["=="], line
            assert pinned[entry.name]


def test_peers_play_on_the_simulator_that_ours_plays_on(peers):
    locked = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "benchmarks" / "libero" / "runtime" / "libero.txt").read_text(), re.MULTILINE)
    )
    for name in ("upstream", "vla-eval", "lerobot"):
        pinned = peers.environments.requirements(name)
        for package in (
            "hf-libero",
            "robosuite",
            "bddl",
            "mujoco",
            "numpy",
            "scipy",
            "numba",
            "opencv-python-headless",
            "pyopengl",
        ):
            assert pinned[package] == locked[package], f"{name}: {package}"
    assert peers.environments.requirements("vla-eval")["vla-eval"] == "0.8.0"
    assert peers.environments.requirements("lerobot")["lerobot"] == "0.4.4"


def test_a_package_without_a_version_is_refused(peers, tmp_path, monkeypatch):
    monkeypatch.setattr(peers.environments, "HERE", tmp_path)
    (tmp_path / "requirements-new.txt").write_text("numpy==2.4.6\nlibero>=1\n")
    with pytest.raises(ValueError, match=r"requirements-new.txt: 'libero>=1' is neither"):
        peers.environments.requirements("new")


MEASURE = """
import json, os, sys
from pathlib import Path
from measuring import Command, run
burn = "import time\\nwhile time.process_time() < 0.8: pass"
orphan = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}]); sys.exit(3)"
commands = [Command([sys.executable, "-c", code], os.environ, Path(sys.argv[1]), name) for name, code in (("a", orphan), ("b", burn))]
measured = run(commands, [])
print(json.dumps(vars(measured)))
"""


def test_cpu_of_processes_that_their_parents_left_is_counted(tmp_path):
    """In a process of its own, since it waits for, and in the end kills, every child that it has."""
    words = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)}, timeout=120)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["statuses"] == [3, 0]
    assert measured["cpu"] >= 1.6
    assert measured["memory"] > 0
    assert measured["left"] == 0


SERVED = """
import json, os, sys
from pathlib import Path
from measuring import Command, run, serving
worker = "import time\\nwhile time.process_time() < 1: pass\\nprint('ready', flush=True)\\ntime.sleep(60)"
server = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {worker!r}]); time.sleep(60)"
idle = Command([sys.executable, "-c", ""], os.environ, Path(sys.argv[1]), "idle")
with serving(Command([sys.executable, "-c", server], os.environ, Path(sys.argv[1]), "server"), "(ready)") as (process, _):
    run([idle], [process])
print(json.dumps(vars(run([idle], []))))
"""


def test_cpu_of_an_earlier_servers_processes_is_not_counted(tmp_path):
    """They become ours when the server is killed."""
    words = [sys.executable, "-c", SERVED, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)}, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cpu"] < 0.9


def test_the_instant_policy_gives_each_request_steps_of_its_own(monkeypatch):
    """A sweep refuses replies that share an array."""
    monkeypatch.syspath_prepend(SCRIPTS / "inside")
    monkeypatch.delenv("PEERS_NOTES", raising=False)
    policy = importlib.import_module("instant").InstantPolicy()
    one, other = policy.act([SimpleNamespace(chunk=1), SimpleNamespace(chunk=1)])
    assert np.array_equal(one.actions, other.actions)
    assert not np.shares_memory(one.actions, other.actions)
