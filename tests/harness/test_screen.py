"""Untrusted names and messages reach the terminal as text: no markup, no control characters."""

from __future__ import annotations

import asyncio
import io
import logging
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text
from sample_runs import make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness import cli
from vlarig.harness.printable import PrintableFormatter
from vlarig.harness.reporting.display import display, live_display
from vlarig.harness.reporting.logs import EventLog
from vlarig.harness.reporting.progress import Progress
from vlarig.harness.screen import Screen
from vlarig.results.records import Attempt
from vlarig.results.tables import Tally

#: A name of a run, and one of a policy: rich's markup and emoji codes; clear screen, clipboard, C1, and a change of direction.
RUN = "exp[red]1:smile:"
POLICY = "[/b]x\x1b[2J\x1b]52;c;cm0gLXJm\x07\x9b2J\u202etxt"
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e")


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    make_run(Path("runs", RUN), policy=POLICY)
    make_run(Path("runs", "exp[red]2"), policy=POLICY, finished=5, errors=1, seed=0)


SHOWN_POLICY = "[/b]x[2J]52;c;cm0gLXJm2Jtxt"


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (["runs", "list"], (RUN, SHOWN_POLICY)),
        (["table", RUN], (RUN, SHOWN_POLICY)),
        (["table", RUN, "exp[red]2"], (RUN, SHOWN_POLICY)),
        (["table", RUN, "--format", "markdown"], ()),
        (["table", RUN, "--format", "latex"], ()),
        (["table", RUN, "--format", "csv"], (RUN,)),
        (["table", RUN, "--format", "html"], (RUN,)),
        (["table", RUN, "--format", "json"], (RUN,)),
        (["compare", RUN, "exp[red]2"], (RUN, SHOWN_POLICY)),
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
    assert not [sign for sign in OBEYED if sign in output]
    assert all(name in output for name in shows), output


def test_a_servers_error_does_nothing_to_the_terminal(monkeypatch, capsys):
    def failing(words):
        raise VlarigError(f"the server said: {POLICY}")

    monkeypatch.setattr(cli, "_run", failing)
    assert cli.main([]) == 2
    assert capsys.readouterr().err == f"vlarig: the server said: {SHOWN_POLICY}\n"


def test_a_sweeps_sentences_and_display_do_nothing_to_the_terminal():
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
    assert text.count(f"{RUN} [/b]x[2J]52") == 4
    assert "crash in toy/standard@1/reach/base/0/0: [/b]x[2J]52" in text
    assert not [sign for sign in OBEYED if sign in text]


def test_a_screen_keeps_its_own_colours_and_columns():
    output = io.StringIO()
    screen = Screen(file=output, force_terminal=True, width=40, color_system="standard")
    screen.print(Text(POLICY, style="red"))
    assert output.getvalue() == f"\x1b[31m{SHOWN_POLICY}\x1b[0m\n"


def test_a_log_that_is_looked_at_holds_no_control_characters():
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (POLICY,), None)
    assert PrintableFormatter("%(message)s").format(record) == SHOWN_POLICY
