"""The page docs/reference.md agrees with the code: members, parameters, types, defaults, and the letters of shapes."""

from __future__ import annotations

import ast
import enum
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ForwardRef, Protocol

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference.md").read_text()
SOURCES = [
    path
    for room in ("envs", "benchmarks", "results", "policies", "harness", "contract")
    for path in (ROOT / room).rglob("*.py")
]

#: Cells of the column "called / default" for a member without a default, and for one that vlarig computes.
REQUIRED, DERIVED = ("required", "set"), "derived"

#: Class attributes without a default that the class itself sets.
SET_BY_THE_CLASS = ("vlarig.policies.api:Policy.name", "vlarig.harness.gym.vector:RemoteVectorEnv.envs")


@dataclass(frozen=True)
class Member:
    """A member, as the code or the page has it.

    Attributes:
        signature: The type of a value, or the parameters and the return type of a method.
        default: ``required``, ``derived``, a default as Python, or empty for a method with a body.
    """

    signature: str
    default: str


def cells(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def quoted(cell: str) -> list[str]:
    """What is in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def on_page() -> dict[str, dict[str, Member]]:
    """Each class or function of the page, by its full name, with its members."""
    found: dict[str, dict[str, Member]] = {}
    members: dict[str, Member] = {}
    for line in PAGE.splitlines():
        if not line.startswith("| "):
            continue
        first, *others = cells(line)
        if first.startswith("**"):
            (name,), (module,) = quoted(first), quoted(others[0])
            members = found[f"{module}:{name}"] = {}
        elif first.startswith("`") and len(others) == 3:
            names, signatures, defaults = quoted(first), quoted(others[0]), quoted(others[1].partition(";")[0])
            for index, name in enumerate(names):
                word = re.split(r"[;,: ]", others[1])[0]
                default = defaults[index if len(defaults) == len(names) else 0] if others[1].startswith("`") else word
                assert name not in members, f"the page has {name} twice"
                members[name] = Member(signatures[index if len(signatures) > 1 else 0], default)
    return found


def text_of(default: Any) -> str:
    """A default as the page writes it."""
    if isinstance(default, Path):
        return f'Path("{default}")'
    if isinstance(default, enum.Enum):
        return f"{type(default).__name__}.{default.name}"
    if isinstance(default, str):
        return f'"{default}"'
    if callable(default):
        return "lambda"
    if is_dataclass(default) or isinstance(default, frozenset):
        assert default == type(default)()
        return f"{type(default).__name__}()"
    return repr(default)


def type_of(annotation: Any) -> str:
    """An annotation as the page writes it."""
    text = annotation.__forward_arg__ if isinstance(annotation, ForwardRef) else str(annotation)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", text)


def value(annotation: Any, default: Any) -> Member:
    """A field or a parameter."""
    missing = default is MISSING or default is inspect.Parameter.empty
    return Member(type_of(annotation), "required" if missing else text_of(default))


def parameters(function: Any) -> dict[str, Member]:
    """The parameters of a function as members of their own."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    return {
        stars.get(each.kind, "") + name: value(each.annotation, {} if each.kind in stars else each.default)
        for name, each in inspect.signature(function).parameters.items()
        if name not in ("self", "cls")
    }


def refuses_to_be_called(function: Any) -> bool:
    """Whether a method is a hook that has to be written: its body raises ``NotImplementedError``."""
    return "raise NotImplementedError" in inspect.getsource(function)


def is_shown(name: str, function: Any) -> bool:
    """Whether a method belongs on the page: a public one, ``__call__``, or a private hook that has to be written."""
    return name == "__call__" or not name.startswith("_") or (not name.startswith("__") and refuses_to_be_called(function))


def method(cls: type, function: Any) -> Member:
    """A method with the names and the defaults of its parameters."""
    signature = inspect.signature(function)
    shown = []
    for name, each in list(signature.parameters.items())[1:]:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        star = "**" if each.kind is inspect.Parameter.VAR_KEYWORD else ""
        shown.append(star + name + ("" if each.default is inspect.Parameter.empty else f"={text_of(each.default)}"))
    returned = type_of(signature.return_annotation)
    required = getattr(function, "__isabstractmethod__", False) or Protocol in cls.__bases__ or refuses_to_be_called(function)
    returns = "" if returned in ("None", "Self") else f" -> {returned}"
    return Member(f"({', '.join(shown)}){returns}", "required" if required else "")


def attributes_of(init: Any) -> Iterator[str]:
    """The public attributes that an ``__init__`` sets."""
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
        for target in [*getattr(node, "targets", []), getattr(node, "target", None)]:
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_"):
                yield target.attr


def in_code(public: Any) -> dict[str, Member]:
    """The members of a class of vlarig's, inherited ones too, or the parameters of a function."""
    if not isinstance(public, type):
        return parameters(public)
    found: dict[str, Member] = {}
    own = [cls for cls in public.__mro__ if cls.__module__.startswith("vlarig.")]
    for cls in own:
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            found.setdefault(name, value(annotation, vars(cls).get(name, MISSING)))
    if is_dataclass(public):
        for each in fields(public):
            made = each.default_factory() if each.default_factory is not MISSING else each.default
            found[each.name] = value(each.type, made)
    elif (init := next((vars(cls)["__init__"] for cls in own if "__init__" in vars(cls)), None)) and Protocol not in own[
        0
    ].__bases__:
        found |= parameters(init)
        known = {"action_space", "observation_space", "metadata", "render_mode"}  # Gymnasium's
        for cls in own:
            names = attributes_of(vars(cls)["__init__"]) if "__init__" in vars(cls) else ()
            found |= {name: Member("", DERIVED) for name in names if name not in found and name not in known}
    for cls in own:
        for name, each in vars(cls).items():
            if isinstance(each, property | functools.cached_property):
                getter = each.fget if isinstance(each, property) else each.func
                found.setdefault(name, Member(type_of(inspect.signature(getter).return_annotation), DERIVED))
            elif inspect.isfunction(each) and is_shown(name, each):
                found.setdefault(name, method(cls, each))
    return {name: member for name, member in found.items() if name == "__call__" or not name.startswith("__")}


def agrees(page: str, code: str) -> bool:
    """Whether a signature is the code's; the page may leave out what is in the brackets of a type, and quotes of a literal."""
    short = code
    while (shorter := re.sub(r"\[[^\[\]]*\]", "", short)) != short:
        short = shorter
    return page in (code, short) or not code


@pytest.mark.parametrize("name", on_page())
def test_the_page_has_the_members_of_the_code(name: str) -> None:
    page, code = on_page()[name], in_code(resolve_name(name))
    assert page.keys() == code.keys(), f"docs/reference.md and {name} differ in {sorted(page.keys() ^ code.keys())}"
    for member, expected in code.items():
        shown = page[member]
        assert agrees(shown.signature, expected.signature), (
            f"{name}.{member} is {expected.signature}, the page has {shown.signature}"
        )
        if f"{name}.{member}" in SET_BY_THE_CLASS:
            assert shown.default.startswith(DERIVED)
        elif expected.default == "required":
            assert shown.default in REQUIRED, f"{name}.{member} has no default, the page says {shown.default}"
        elif expected.default == "":
            assert shown.default not in REQUIRED, f"{name}.{member} has a body, the page says {shown.default}"
        else:
            assert shown.default == expected.default, f"{name}.{member} is {expected.default}, the page says {shown.default}"


@pytest.mark.parametrize("name", on_page())
def test_each_member_has_a_docstring(name: str) -> None:
    public = resolve_name(name)
    own = [cls for cls in public.__mro__ if cls.__module__.startswith("vlarig.")] if isinstance(public, type) else [public]
    source = "".join(map(inspect.getsource, own))
    for member in in_code(public):
        word = re.escape(member.lstrip("*"))
        described = re.search(
            rf"^ +{word}: \w|^ +(self\.)?{word}: .*\n +\"\"\"|^ +self\.{word} = .*\n +\"\"\"", source, re.MULTILINE
        )
        assert described or getattr(getattr(public, member, None), "__doc__", None), f"{name}.{member} has no docstring"


def test_the_page_has_the_classes_that_others_write() -> None:
    written = "envs.api:Env", "benchmarks.suite:Suite", "envs.plugins:Plugin", "policies.api:Policy", "harness.sinks:Sink"
    assert {f"vlarig.{name}" for name in written} <= on_page().keys()
    assert all(on_page()[f"vlarig.{name}"] for name in written)


def letters_on_page() -> list[tuple[str, str]]:
    """Letter and meaning, line by line."""
    table = PAGE.partition("## Letters of shapes")[2]
    rows = [cells(line) for line in re.findall(r"^\| `.*", table, re.MULTILINE)]
    return [(quoted(row[at])[0], row[at + 1]) for row in rows for at in range(0, len(row), 2) if row[at]]


def letters_in_code() -> Iterator[tuple[str, str, str]]:
    """File, letter and meaning of each entry of a "Shapes:" line."""
    for path in SOURCES:
        for legend in re.findall(r"Shapes: (.*?(?:\.\s|\.$|\"\"\"))", path.read_text(), re.DOTALL):
            named = list(re.finditer(r"``([A-Za-z])``", legend))
            for index, each in enumerate(named):
                end = named[index + 1].start() if index + 1 < len(named) else len(legend)
                meaning = legend[each.end() : end]
                if meaning.strip() == "and":  # "``H`` and ``K`` steps and channels of a chunk"
                    meaning = legend[each.end() : named[index + 2].start() if index + 2 < len(named) else len(legend)]
                yield str(path.relative_to(ROOT)), each[1], meaning


def test_each_letter_of_a_shape_has_one_meaning() -> None:
    page = letters_on_page()
    meanings = dict(page)
    assert len(meanings) == len(page), "a letter is in the table twice"
    for file, letter, meaning in letters_in_code():
        assert letter in meanings, f"{file} has the letter {letter}, which docs/reference.md lacks"
        words = {word.rstrip("s") for word in re.findall(r"[a-z]{4,}", meanings[letter])}
        assert words & {word.rstrip("s") for word in re.findall(r"[a-z]{4,}", meaning)}, (
            f"{file} gives {letter} another meaning: {meaning}"
        )
    assert meanings.keys() == {letter for _, letter, _ in letters_in_code()}, 'a letter of the page is in no line "Shapes:"'


def test_each_letter_of_an_array_is_in_the_table() -> None:
    known = dict(letters_on_page())
    for path in SOURCES:
        for shape in re.findall(r"\b(?:float|uint|int|bool)\d*\[([^\]]*)\]", path.read_text()):
            for letter in re.findall(r"\b[A-Za-z]\b", shape):
                assert letter in known, f"{path.relative_to(ROOT)} has the letter {letter} in [{shape}]"
