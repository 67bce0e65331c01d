"""The command line's root: a table of commands, each of which is imported only when it is called."""

from __future__ import annotations

import importlib
import io
import os
import sys
from pathlib import Path

from ..envs.errors import VlarigError, suggestion
from ..envs.home import home
from .printable import printable
from .termination import exit_status, sigterm_interrupts

#: Command to a line of help.
_HELP = {
    "sweep": "run a policy over a suite's episodes; the same command again resumes",
    "table": "success rates of runs, with intervals, errors and what is missing",
    "compare": "two runs over the same episodes: which is better, and how surely",
    "page": "runs as a site: leaderboard, tasks, episodes with their films",
    "view": "the same on this machine alone, following runs that are being written",
    "export": "a run's episodes as a Parquet file, for DuckDB, pandas and others",
    "leaderboard": "vla-eval's leaderboard: show it, add entries of runs",
    "runs": "runs: when, which policy and suite, how far",
    "merge": "one run out of several, such as the shards of a sweep",
    "record": "play a suite's episodes into a LeRobotDataset, to train on",
    "replay": "re-simulate recorded episodes: check them, make their videos",
    "serve-envs": "lend this machine's simulators to sweeps that run elsewhere",
    "serve-policy": "serve a policy to other programs, by openpi's protocol",
    "policy": "inspect Qwen-VLA: parameters by part, robots, statistics, prompts; write a preset, or another precision",
    "envs": "list suites and tasks; check an adapter against the env contract",
    "prepare": "find the initial states of a suite whose every candidate has to be tried, once",
    "train": "train a Qwen-VLA: a stage of the paper's recipe, up to RL in simulation",
    "data": "a training's mixture: what is in it, and what a model would misread",
    "runtime": "simulators' virtual environments: install, adopt, list, remove; run a command in one",
    "assets": "fetch, list and verify simulators' data files",
    "doctor": "what is missing on this machine; with RUN, why a run is slow",
}

#: Commands of other rooms.
_ELSEWHERE = {"train": "vlarig.rl.command", "data": "vlarig.training.data.command"}

#: Command to the module that holds its ``main(arguments) -> exit status``, and a line of help.
COMMANDS = {
    name: (_ELSEWHERE.get(name, f"vlarig.harness.commands.{name.replace('-', '_')}"), line) for name, line in _HELP.items()
}

EXAMPLES = """\
examples:
  vlarig doctor
  vlarig runtime install tabletop
  vlarig sweep tabletop --policy expert --episodes 2 --video all
"""


def usage() -> str:
    """The text of ``vlarig --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {help_line}" for name, (_, help_line) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vlarig COMMAND ...",
            "",
            "The rig on which vision-language-action policies are measured in simulation.",
            "",
            "commands (see vlarig COMMAND --help):",
            *lines,
            "",
            EXAMPLES,
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 2 for a mistake of the user's, 130 when interrupted, 143 by SIGTERM."""
    words = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what the terminal's encoding lacks is shown all the same
    try:
        with sigterm_interrupts():
            return _run(words)
    except VlarigError as error:
        print(f"vlarig: {printable(str(error))}{_kept_traceback(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"vlarig: {printable(str(interrupt)) or 'interrupted'}", file=sys.stderr)
        return exit_status(interrupt)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _kept_traceback(error: VlarigError) -> str:
    """Keep the traceback of the user's own code, where no run has kept it; returns where it is."""
    if not error.traceback:
        return ""
    log = home() / "logs" / "error.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{error}\n{error.traceback}", encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f" (its traceback is in {log})"


def _run(words: list[str]) -> int:
    for word in words:
        if any("\ud800" <= letter <= "\udfff" for letter in word):  # where Python puts bytes that it cannot decode
            encoding = sys.getfilesystemencoding()
            raise VlarigError(f"{word!r} is no text in {encoding}; type it in {encoding}, or rename the file of that name")
    try:
        Path.cwd()
    except FileNotFoundError:
        raise VlarigError("the working directory is no longer there; change to one that is") from None
    command = words[0] if words else "--help"
    if command in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if command in ("-V", "--version"):
        from importlib.metadata import version

        print(f"vlarig {version('vlarig')}")
        return 0
    if command not in COMMANDS:
        raise VlarigError(f"unknown command {command!r}; {suggestion(command, COMMANDS)}")
    return importlib.import_module(COMMANDS[command][0]).main(words[1:])
