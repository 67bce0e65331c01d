"""The command line's root: quick, and kind to a mistake."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from importlib.metadata import version

import pytest

from vlarig.envs.errors import VlarigError
from vlarig.harness import cli


def seconds(code: str) -> float:
    """The quickest of several runs of a fresh Python."""

    def once() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - began

    return min(once() for _ in range(7))


@pytest.fixture
def command(monkeypatch):
    """Gives a way to put a function in the place of a command."""

    def put(function):
        module = types.ModuleType("command_under_test")
        module.main = function
        monkeypatch.setitem(sys.modules, "command_under_test", module)
        monkeypatch.setitem(cli.COMMANDS, "doctor", ("command_under_test:main", "a test"))

    return put


def test_help_is_instant():
    assert seconds("from vlarig.harness.cli import main; main(['--help'])") - seconds("pass") < 0.1


def test_the_root_imports_nothing_heavy():
    code = "import sys, vlarig.harness.cli; print({'numpy', 'tyro', 'rich', 'pydantic', 'gymnasium'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"


def test_help_lists_every_command(capsys):
    assert cli.main([]) == 0
    output = capsys.readouterr().out
    assert all(f"\n  {name.split()[0]} " in output for name in cli.COMMANDS)


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"vlarig {version('vlarig')}\n"


def test_an_unknown_command_gets_the_nearest(capsys):
    assert cli.main(["swep", "tabletop"]) == 2
    assert capsys.readouterr().err == "vlarig: unknown command 'swep'; did you mean sweep?\n"
    assert cli.main(["xyzzy"]) == 2
    assert "known are: assets, compare, " in capsys.readouterr().err


def test_arguments_and_status_are_passed_on(command):
    seen = []
    command(lambda arguments: seen.append(arguments) or 7)
    assert cli.main(["doctor", "a", "--b"]) == 7
    assert seen == [["a", "--b"]]


def test_a_mistake_of_the_users_is_one_sentence(command, capsys):
    def mistaken(arguments):
        raise VlarigError("the value is 3, expected 4; give 4")

    command(mistaken)
    assert cli.main(["doctor"]) == 2
    assert capsys.readouterr().err == "vlarig: the value is 3, expected 4; give 4\n"


def test_an_interrupt_ends_with_130(command):
    def interrupted(arguments):
        raise KeyboardInterrupt

    command(interrupted)
    assert cli.main(["doctor"]) == 130


def test_a_closed_pipe_is_no_error():
    code = "import sys; from vlarig.harness.cli import main; sys.exit(main(['--help']))"
    command = f'"{sys.executable}" -c "{code}" 2>&1 >&- | cat'
    assert "Traceback" not in subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout


def test_a_defect_of_ours_keeps_its_traceback(command):
    def broken(arguments):
        raise ZeroDivisionError

    command(broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["doctor"])


def test_a_deleted_working_directory_is_one_sentence(tmp_path, monkeypatch, capsys):
    deleted = tmp_path / "gone"
    deleted.mkdir()
    monkeypatch.chdir(deleted)
    deleted.rmdir()
    for name in cli.COMMANDS:
        assert cli.main(name.split()) == 2
        assert capsys.readouterr().err == "vlarig: the working directory is no longer there; change to one that is\n"


def test_an_option_that_is_no_text_is_one_sentence(capsys):
    for name in cli.COMMANDS:
        assert cli.main([*name.split(), "r\udcff"]) == 2
        (sentence,) = capsys.readouterr().err.splitlines()
        assert sentence.startswith("vlarig: 'r\\udcff' is no text in utf-8; ")


def test_without_a_home_the_message_says_what_to_set(monkeypatch):
    from vlarig.envs.home import home

    def none():
        raise RuntimeError("Could not determine home directory.")

    for name in ("VLARIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", none)
    with pytest.raises(VlarigError, match="set HOME, or VLARIG_HOME"):
        home()


def test_what_a_terminals_encoding_lacks_is_escaped():
    code = "from vlarig.harness.cli import main; main(['table', '\N{RIGHTWARDS ARROW}'])"
    command = [sys.executable, "-X", "utf8=0", "-c", code]
    done = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert b"\\u2192" in done.stderr
    assert b"Traceback" not in done.stderr
