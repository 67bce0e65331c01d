"""Argument parsing of commands: options from a dataclass or model, plain help, and the nearest name for a wrong one.

tyro's own suggestion for a wrong name is a box of several lines, and what it knows of the error is in no public part of it.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile, zip_longest
from typing import Annotated, Any, NoReturn, TypeVar, cast, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from ..envs.errors import VlarigError, suggestion
from .cli import choose

T = TypeVar("T")


def parse(kind: type[T] | Mapping[str, type[T]], words: Sequence[str], prog: str, description: str | None = None) -> T:
    """The arguments as a ``kind``; of several subcommands, as the kind of the one that the first word names.

    Args:
        kind: A dataclass or a pydantic model, whose fields are the options; for subcommands, one for each name.
        words: The arguments after ``prog``.
        prog: The command.
        description: What its help begins with. Default: the docstring of ``kind``.

    Raises:
        SystemExit: Help was requested and printed (0), or another error in the arguments was printed (2).
    """
    if not isinstance(kind, Mapping):
        return _parse_options(kind, words, prog, description)
    firsts = {name: " ".join((each.__doc__ or "").partition("\n\n")[0].split()) for name, each in kind.items()}
    name = choose(words, prog, description or "", firsts)
    if name is None:
        raise SystemExit(0)
    return _parse_options(kind[name], words[1:], f"{prog} {name}", None)


def _parse_options(kind: type[T], words: Sequence[str], prog: str, description: str | None) -> T:
    def given(words: Sequence[str]) -> T:
        config = (tyro.conf.DisallowNone,)
        return tyro.cli(kind, args=words, prog=prog, description=description, config=config, registry=_registry())

    if {"-h", "--help"} & set(takewhile("--".__ne__, words)):
        _print_help(lambda: given(["--help"]))
    _check_once(kind, words)
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            return given(words)
    except SystemExit as end:
        if not end.code:
            raise
    _check_names(words, prog, _printed(lambda: given(["--help"]), io.StringIO()))
    sys.stderr.write(output.getvalue())
    raise SystemExit(2)


class _Captured(io.StringIO):
    """Standard output's text, with the colours and lines that standard output can show."""

    encoding = property(lambda self: getattr(sys.__stdout__, "encoding", None))  # pyright: ignore[reportAssignmentType]

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _print_help(show: Callable[[], object]) -> NoReturn:
    """Print the help that ``show`` prints, with paragraphs wrapped to the terminal's width, which tyro does not do.

    Raises:
        SystemExit: Always, with status 0.
    """
    width = shutil.get_terminal_size().columns
    for line in _printed(show, _Captured()).splitlines():
        sys.stdout.write((textwrap.fill(line, width, break_on_hyphens=False) if line[:1].isalpha() else line) + "\n")
    raise SystemExit(0)


def _printed(show: Callable[[], object], text: io.StringIO) -> str:
    """What ``show`` prints to standard output, caught in ``text``, until it ends or exits."""
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        show()
    return text.getvalue()


def _check_once(kind: type[Any], words: Sequence[str]) -> None:
    """Make sure that no option is given twice: argparse takes the last one alone. Those that say "once for each" are meant so."""
    counted = Counter(
        word.partition("=")[0].replace("_", "-") for word in takewhile("--".__ne__, words) if word.startswith("--")
    )
    repeated = {option: count for option, count in counted.items() if count > 1}
    if not repeated:
        return
    for name, hint in get_type_hints(kind, include_extras=True).items():
        marks = getattr(hint, "__metadata__", ())
        if tyro.conf.UseAppendAction in marks:
            named = (getattr(mark, "name", None) for mark in marks)
            repeated.pop(f"--{next(filter(None, named), name).replace('_', '-')}", None)
    for option, count in repeated.items():
        raise VlarigError(f"{option} is given {count} times; give it once, with all its values after it")


def _check_names(words: Sequence[str], prog: str, text: str) -> None:
    """Make sure that the given options, and the values of those with a fixed set, are in the help's text."""
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))
    choices = {option: values.split(",") for option, values in re.findall(r"(--[a-z][a-z0-9-]*) \{([^}\s]+)\}", text)}
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word == "--":
            return
        if not word.startswith("--"):
            continue
        name, equals, value = word.partition("=")
        option = name.replace("_", "-")
        if option not in options:
            raise VlarigError(f"unknown option {name!r} of {prog}; {suggestion(option, options)}")
        value = value if equals else following
        if value not in choices.get(option, [value]):
            raise VlarigError(f"unknown value {value!r} of {option} in {prog}; {suggestion(value, choices[option])}")


def _registry() -> ConstructorRegistry:
    """tyro's own rules, with defaults in the help only where they inform."""
    registry = ConstructorRegistry()
    inside = False

    @registry.struct_rule
    def _with_hints(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal inside
        if inside:
            return None
        inside = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            inside = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        hint = tyro.conf.arg(help_behavior_hint=_hint)
        return replace(
            spec,
            fields=tuple(
                replace(field, type=cast("Any", Annotated[field.type, hint]), helptext=_one_line(field.helptext))
                for field in spec.fields
            ),
        )

    return registry


def _one_line(text: str | Callable[[], str | None] | None) -> Callable[[], str | None]:
    """A docstring without the line breaks of its source, made on demand."""

    def joined() -> str | None:
        words = text() if callable(text) else text
        return None if words is None else " ".join(words.split())

    return joined


def _hint(default: str) -> str:
    return "" if default in ("", "None", "False") else f"(default: {default})"
