"""Names and messages reach the terminal as text: no markup, no emoji codes."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from sample_runs import make_run

from vlarig.harness import cli
from vlarig.harness.reporting.display import display, live_display
from vlarig.harness.reporting.logs import EventLog
from vlarig.harness.reporting.progress import Progress
from vlarig.harness.screen import Screen
from vlarig.results.records import Attempt
from vlarig.results.tables import Tally

#: A name of a run, and one of a policy: rich's markup and emoji codes.
RUN = "exp[red]1:smile:"
POLICY = "[/b]x[bold]y"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    make_run(Path("runs", RUN), policy=POLICY)
    make_run(Path("runs", "exp[red]2"), policy=POLICY, finished=5, errors=1, seed=0)


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (["runs", "list"], (RUN, POLICY)),
        (["table", RUN], (RUN, POLICY)),
        (["table", RUN, "exp[red]2"], (RUN, POLICY)),
        (["table", RUN, "--format", "csv"], (RUN,)),
        (["table", RUN, "--format", "html"], (RUN,)),
        (["table", RUN, "--format", "json"], (RUN,)),
        (["compare", RUN, "exp[red]2"], (RUN, POLICY)),
        (["compare", RUN, "exp[red]2", "--json"], (RUN,)),
        (["runs", "merge", RUN, "--run", "merged[red]"], (RUN, "merged[red]")),
        (["doctor", RUN], (RUN,)),
        (["table", "exp[red]:smile:"], ("exp[red]:smile:", RUN)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_names_are_shown_as_they_are(
    runs: None, words: list[str], shows: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(words)
    captured = capsys.readouterr()
    output = captured.out + captured.err
    assert all(name in output for name in shows), output


def test_a_sweeps_sentences_and_display_are_shown_as_they_are():
    """Also on a console that a program gave."""
    output = io.StringIO()
    console = Console(file=output, width=200)
    progress = Progress({(RUN, POLICY): Tally(2)}, 1)
    progress.begin("toy", workers=1, num_envs=1)
    asyncio.run(progress.fault(Attempt("toy/standard@1/reach/base/0/0", 1, "crash", POLICY, "worker 0")))

    async def show() -> None:
        async with live_display(console, f"{RUN} {POLICY}", progress, []):
            pass

    with EventLog(console) as event_log:
        event_log.say(f"{RUN} {POLICY}")
        event_log.warn(f"{RUN} {POLICY}")
        asyncio.run(show())
        console.print(display(f"{RUN} {POLICY}", progress, Counter()))
    text = output.getvalue()
    assert text.count(f"{RUN} {POLICY}") == 4
    assert f"crash in toy/standard@1/reach/base/0/0: {POLICY}" in text


def test_a_screen_shows_a_styled_string_as_it_is():
    output = io.StringIO()
    screen = Screen(file=output, force_terminal=True, width=40, color_system="standard")
    screen.print(RUN, style="red")
    assert output.getvalue() == f"\x1b[31m{RUN}\x1b[0m\n"
