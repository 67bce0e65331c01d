"""What does a site of 100,000 episodes take: to build, on the disk, in memory, and until a reader can use its pages?

    python benchmarks/speed/pages.py [--episodes 100000] [--rows 120] [--json FILE]

A made-up run of five tasks is written to a folder for temporary files; `vlarig page` builds its site in a process of its own, whose
time and memory are measured; then headless Chromium opens each kind of page from the disk, several times, each in a browser context
that has nothing in its cache. A page can be used when its script has drawn it and the browser has nothing left to do. Needs the package
playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Outcome
from vlarig.results.ledger import Ledger
from vlarig.results.manifest import Identity, Manifest, SuitePlan, TaskPlan
from vlarig.results.planning import suite_plans
from vlarig.results.records import EpisodeRecord
from vlarig.results.rows import INSERT_EPISODE, episode_columns

TURNS = 5

#: Kinds of pages, and what is there when a page can be used.
PAGES = {
    "first page": ("index.html", "() => document.querySelector('#runs-table th button')"),
    "run": ("run-big.html", "() => document.querySelector('#tasks-table tbody tr')"),
    "list of a task's episodes": ("task.html#big/0", "() => document.querySelector('#episodes tbody tr')"),
    "the same, failures by steps": (
        "task.html#big/0?outcome=0&sort=steps&order=down",
        "() => document.querySelector('#episodes tbody tr')",
    ),
    "episode": ("{episode}", "() => document.querySelectorAll('#plots svg').length"),
}

_QUIET = "() => new Promise((done) => requestIdleCallback(() => done(performance.now())))"


def main() -> None:
    """Make the run, build, open, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=120, help="rows of actions of an episode")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vlarig-pages-") as folder:
        run, site = Path(folder, "big"), Path(folder, "site")
        make_run(run, options.episodes, options.rows)
        figures: dict[str, Any] = {"episodes": options.episodes, "rows": options.rows}
        figures["ledger MB"] = round((run / "ledger.sqlite").stat().st_size / 1e6, 1)
        figures["build"] = build(run, site)
        figures["build again"] = build(run, site)
        files = [path for path in site.rglob("*") if path.is_file()]
        figures["site"] = {"files": len(files), "MB": round(sum(path.stat().st_size for path in files) / 1e6, 1)}
        figures["pages, ms"] = open_pages(site, options.episodes // 5)
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


def make_run(run: Path, episodes: int, rows: int) -> None:
    """A run of the embedded suite's tasks with more initial states than it has, written in one transaction."""
    suite = load_suite("tabletop")
    per_task = episodes // len(suite.tasks)
    (plan,) = suite_plans(suite.episodes((), 1))
    plan = SuitePlan(
        name=plan.name,
        protocol=plan.protocol,
        tasks=[TaskPlan(name=task.name, variant=task.variant, episodes=per_task) for task in plan.tasks],
    )
    Manifest(
        identity=Identity(
            suites=[plan], episodes=per_task * len(plan.tasks), episodes_digest="0" * 64, seed=0, policy="made up", renderer="none",
            vlarig_version="0",
        )
    ).save(run)  # fmt: skip
    Ledger.create(run).close()
    rng = np.random.default_rng(0)
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        for task in plan.tasks:
            for initial_state in range(per_task):
                record = make_record(plan, task.name, initial_state, rows, rng)
                connection.execute(
                    INSERT_EPISODE, episode_columns(record) | {"session": None, "written": "2026-01-01T00:00:00+00:00"}
                )


def make_record(plan: SuitePlan, task: str, initial_state: int, rows: int, rng: np.random.Generator) -> EpisodeRecord:
    """An episode with a random walk of the arm and a gripper that opens and closes, in chunks of 16 steps."""
    actions = np.clip(np.cumsum(rng.normal(0, 0.1, (rows, 7)), axis=0), -1, 1).astype(np.float32)
    actions[:, 6] = np.where(np.arange(rows) % 60 < 30, -1, 1)
    success = bool(rng.random() < 0.7)
    return EpisodeRecord(
        key=f"{plan.name}/{plan.protocol_name}/{task}/base/{initial_state}/0", suite=plan.name, protocol=plan.protocol_name, task=task,
        variant="base", initial_state=initial_state, repeat=0, success=success, outcome=Outcome(first=success, final=success),
        reward=float(success),
        steps=rows, primitives=rows, chunks=(*[16] * (rows // 16), *([rows % 16] if rows % 16 else [])), actions=actions,
        metrics={"distance": float(rng.random())}, state_digest=rng.bytes(32).hex(), image_digest=rng.bytes(32).hex(),
        seconds={"simulate": 2.0, "render": 1.0, "policy": 0.5, "wait": 0.25, "total": 3.8}, worker="worker-0",
    )  # fmt: skip


def build(run: Path, site: Path) -> dict[str, float]:
    """Build the site in a process of its own: seconds, and the most memory that it took."""
    code = "import sys; from vlarig.harness.commands.page import main; sys.exit(main(sys.argv[1:]))"
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code, str(run), "--out", str(site)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    assert status == 0, f"vlarig page ended with status {status}"
    return {
        "seconds": round(seconds, 1),
        "CPU seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "MB at most": round(usage.ru_maxrss / 1000),
    }


def open_pages(site: Path, initial_states: int) -> dict[str, dict[str, float]]:
    """Milliseconds from the start of the navigation until a page can be used."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    figures: dict[str, dict[str, float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (pattern, drawn) in PAGES.items():
            times = []
            for turn in range(TURNS + 1):
                context = browser.new_context()
                page = context.new_page()
                address = pattern.format(episode=_episode(site, 997 * (turn + 1) % initial_states))
                page.goto(f"{site.as_uri()}/{address}")
                page.wait_for_function(drawn, polling=5)
                times.append(page.evaluate(_QUIET))
                context.close()
            figures[name] = {
                "median": round(statistics.median(times[1:])),
                "most": round(max(times[1:])),
            }  # the first one warms the disk
        browser.close()
    return figures


def _episode(site: Path, initial_state: int) -> str:
    """The address of an episode of the first task."""
    text = (site / "data/big/run.js").read_text()
    task = json.loads(text.partition(",\n")[2].removesuffix(");\n"))["tasks"][0]
    return f"episode.html#big/{task['suite']}/{task['protocol']}/{task['task']}/{task['variant']}/{initial_state}/0"


if __name__ == "__main__":
    main()
