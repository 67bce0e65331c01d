"""Every command's words: help without noise, examples that can be pasted, and the nearest name for a wrong one."""

from __future__ import annotations

import ast
import importlib
import re
import shlex

import pytest

from vlarig.harness import cli
from vlarig.harness.command_line import parse
from vlarig.harness.commands.runtime import Fetch

#: Commands with subcommands, and these.
SUBCOMMANDS = {
    "assets": ("fetch", "list", "verify"),
    "data": ("record", "inspect", "check", "synthesize", "render-questions"),
    "envs": ("list", "check", "prepare"),
    "policy": ("inspect", "create"),
    "runtime": ("install", "add", "list", "remove"),
}
EVERY = [[*name.split(), *more] for name in cli.COMMANDS for more in [[], *([word] for word in SUBCOMMANDS.get(name, ()))]]


def help_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


def words_of(line: str) -> list[str]:
    """A line as a shell takes it, up to where its output goes elsewhere."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    words = list(lexer)
    ends = [index for index, word in enumerate(words) if word in ("|", ">")]
    return words[: ends[0]] if ends else words


class Parsed(Exception):
    """The words are as the command wants them."""


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_help_is_without_noise_and_its_examples_can_be_pasted(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    text = help_of(words, capsys)
    assert not re.findall(r"\(default: *\)|\(default: None\)|\{None\}", text)
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        if line.startswith("vlarig "):
            _, *given = words_of(line)
            name = next(name for name in cli.COMMANDS if given[: len(name.split())] == name.split())
            module = importlib.import_module(cli.COMMANDS[name][0].partition(":")[0])

            def stop(*arguments):
                parse(*arguments)
                raise Parsed

            monkeypatch.setattr(module, "parse", stop)
            with pytest.raises(Parsed):
                cli.main(given)
        if line.startswith("python "):
            program, option, code = words_of(line)
            assert (program, option) == ("python", "-c")
            ast.parse(code)
    if not {words[0], " ".join(words[:2])} & SUBCOMMANDS.keys():
        assert any(line.startswith(f"vlarig {' '.join(words)}") for line in lines)


def test_a_group_shows_its_commands(capsys):
    for group, help_line in cli.GROUPS.items():
        for words in ([group], [group, "--help"]):
            assert cli.main(words) == 0
            text = capsys.readouterr().out
            assert help_line[1:] in text
            for name in cli.COMMANDS:
                first, _, second = name.partition(" ")
                assert (f"\n  {second} " in text) == (first == group)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sweep tabletop --polcy expert", "unknown option '--polcy' of vlarig sweep; did you mean --policy"),
        ("sweep tabletop --polcy=expert", "unknown option '--polcy' of vlarig sweep; did you mean --policy"),
        ("sweep tabletop --policy expert --video al", "unknown value 'al' of --video in vlarig sweep; did you mean all?"),
        ("table runs/expert --format=markdwn", "unknown value 'markdwn' of --format in vlarig table; did you mean markdown?"),
        ("table --layot table4", "unknown option '--layot' of vlarig table; did you mean --layout"),
        ("runs lst", "unknown subcommand 'lst' of vlarig runs; did you mean list?"),
        ("merge", "unknown command 'merge'; did you mean runs merge"),
        ("record tabletop", "unknown command 'record'; did you mean data record"),
        ("envs lst", "unknown subcommand 'lst' of vlarig envs; did you mean list?"),
        ("policy inspct", "unknown subcommand 'inspct' of vlarig policy; did you mean inspect?"),
        ("policy inspect --prest 4b", "unknown option '--prest' of vlarig policy inspect; did you mean --preset?"),
        ("runtime xyzzy", "unknown subcommand 'xyzzy' of vlarig runtime; known are: add, install, list, remove"),
        ("doctor --foo", "unknown option '--foo' of vlarig doctor; known are: --help"),
    ],
)
def test_a_wrong_word_gets_the_nearest(words, message, capsys):
    assert cli.main(words.split()) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"vlarig: {message}")


def test_what_is_missing_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["sweep", "tabletop"])
    assert end.value.code == 2
    assert "--policy POLICY" in capsys.readouterr().err


def test_no_option_can_be_none(capsys):
    """`--run None` names a folder."""
    from vlarig.harness.commands.sweep import _Command

    assert str(parse(_Command, ["toy", "--policy", "random", "--run", "None"], "vlarig sweep").run) == "None"


def test_an_option_that_is_given_twice_is_refused_where_the_last_one_alone_would_count(capsys):
    assert cli.main(["train", "sft", "--run", "runs/none", "--override", "steps=1", "--override", "seed=2"]) == 2
    assert "--override is given 2 times; give it once, with all its values after it" in capsys.readouterr().err
    fetched = parse({"fetch": Fetch}, ["fetch", "libero", "--url", "a", "--url=b"], "vlarig assets")
    assert fetched.url == ("a", "b")
