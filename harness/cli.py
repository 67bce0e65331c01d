"""The command line's root: a table of commands, imported when they are called, and the help of a command with commands of its own.

It imports no library, so that ``vlarig --help`` is instant.
"""

from __future__ import annotations

import io
import os
import pkgutil
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..envs.errors import VlarigError, suggestion
from ..envs.home import home
from .termination import exit_status, sigterm_interrupts

#: Command to its ``module:function``, which takes the arguments and returns the exit status, and a line of help. Two words are a
#: command of a group.
COMMANDS = {
    "sweep": ("vlarig.harness.commands.sweep:main", "run a policy over a suite's episodes; the same command again resumes"),
    "table": ("vlarig.harness.commands.tables:table", "success rates of runs, with intervals, errors and what is missing"),
    "compare": ("vlarig.harness.commands.tables:compare", "two runs over the same episodes: which is better, and how surely"),
    "page": ("vlarig.harness.commands.runs:page", "runs as a site: leaderboard, tasks, episodes with their films"),
    "view": ("vlarig.harness.commands.runs:view", "the same on this machine alone, following runs that are being written"),
    "runs list": ("vlarig.harness.commands.runs:show_list", "the runs in a folder: when, which policy and suite, how far"),
    "runs merge": ("vlarig.harness.commands.runs:merge", "one run out of several, such as the shards of a sweep"),
    "runs replay": ("vlarig.harness.commands.runs:replay", "re-simulate recorded episodes: check them, make their videos"),
    "runs export": ("vlarig.harness.commands.runs:export", "episodes as a Parquet file, for DuckDB, pandas and others"),
    "serve envs": ("vlarig.harness.commands.policy:serve_envs", "lend this machine's simulators to sweeps that run elsewhere"),
    "serve policy": ("vlarig.harness.commands.policy:serve_policy", "serve a policy to other programs, by openpi's protocol"),
    "envs": ("vlarig.harness.commands.envs:main", "list suites and tasks, check an adapter, prepare initial states"),
    "policy": ("vlarig.harness.commands.policy:main", "inspect Qwen-VLA, write a preset or another precision of a checkpoint"),
    "train": ("vlarig.training.command:main", "train a Qwen-VLA: a stage of the paper's recipe, RL included"),
    "data": ("vlarig.training.data.command:main", "what a training learns from: record, generate, inspect and check it"),
    "runtime": (
        "vlarig.harness.commands.runtime:runtime",
        "simulators' virtual environments: install, adopt, list, remove, use",
    ),
    "assets": ("vlarig.harness.commands.runtime:assets", "fetch, list and verify simulators' data files"),
    "doctor": ("vlarig.harness.commands.doctor:main", "what is missing on this machine; with RUN, why a run is slow"),
}

#: Group of commands to its line of help.
GROUPS = {
    "runs": "list runs, merge, replay and export them",
    "serve": "lend this machine's simulators, or a policy, to other programs",
}

#: Commands of other commands that have been commands of their own.
_MOVED = ("data record", "envs prepare")

EXAMPLES = """
examples:
  vlarig doctor
  vlarig runtime install tabletop
  vlarig sweep tabletop --policy expert --episodes 2 --video all
"""


def root_usage() -> str:
    helps = {name: GROUPS.get(name) or COMMANDS[name][1] for name in _first_words()}
    return usage("vlarig", "The rig on which vision-language-action policies are measured in simulation.", helps) + EXAMPLES


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
        print(f"vlarig: {error}{_kept_traceback(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"vlarig: {str(interrupt) or 'interrupted'}", file=sys.stderr)
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
        print(root_usage(), end="")
        return 0
    if command in ("-V", "--version"):
        from importlib.metadata import version

        print(f"vlarig {version('vlarig')}")
        return 0
    if command in GROUPS:
        return _run_of_group(command, words[1:])
    if command not in COMMANDS:
        raise VlarigError(f"unknown command {command!r}; {suggestion(command, {*_first_words(), *COMMANDS, *_MOVED})}")
    return _call(command, words[1:])


def _first_words() -> list[str]:
    return list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))


def _run_of_group(group: str, words: list[str]) -> int:
    helps = {name.partition(" ")[2]: line for name, (_, line) in COMMANDS.items() if name.startswith(f"{group} ")}
    name = choose(words, f"vlarig {group}", f"{GROUPS[group][0].upper()}{GROUPS[group][1:]}.", helps)
    return 0 if name is None else _call(f"{group} {name}", words[1:])


def _call(command: str, words: list[str]) -> int:
    return pkgutil.resolve_name(COMMANDS[command][0])(words)


def usage(command: str, description: str, helps: Mapping[str, str]) -> str:
    """The text of ``COMMAND --help``: what it is for, and a line for each of its commands."""
    width, column = shutil.get_terminal_size().columns, max(map(len, helps)) + 4
    lines = [f"usage: {command} COMMAND ...", ""]
    for line in description.strip().splitlines():
        lines += textwrap.wrap(line, width, break_on_hyphens=False) if line[:1].isalpha() else [line]
    lines += ["", f"commands (see {command} COMMAND --help):"]
    for name, text in helps.items():
        begin, further = f"  {name}".ljust(column), " " * column
        lines += textwrap.wrap(text, width, initial_indent=begin, subsequent_indent=further, break_on_hyphens=False)
    return "\n".join([*lines, ""])


def choose(words: Sequence[str], command: str, description: str, helps: Mapping[str, str]) -> str | None:
    """The command of ``command`` that the first word names; ``None`` where its help was requested, and printed."""
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        sys.stdout.write(usage(command, description, helps))
        return None
    if name not in helps:
        raise VlarigError(f"unknown subcommand {name!r} of {command}; {suggestion(name, helps)}")
    return name
