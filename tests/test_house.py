"""Rules of the house, checked on its files."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from vlarig.harness.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PROJECT["tool"]["setuptools"]["packages"]
ROOMS = list(PROJECT["tool"]["setuptools"]["package-dir"].values())
SOURCES = sorted([ROOT / "go.py", *(path for room in [*ROOMS, "tests"] for path in (ROOT / room).rglob("*.py"))])
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def folder_of(package: str) -> Path:
    return ROOT.joinpath(*package.split(".")[1:])


def commands_of(page: Path) -> list[list[str]]:
    """The command lines in a page's code blocks."""
    blocks = re.findall(r"^```(?:bash|console|sh)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].removeprefix("$ ").split() for block in blocks for line in block.splitlines()]
    return [[word.rpartition("/")[2] if index == 0 else word for index, word in enumerate(line)] for line in lines if line]


def test_no_path_of_one_machine_is_in_the_tree():
    machines = re.compile(r"/(?:home|Users|root|work)/\w")
    texts = [*SOURCES, *PAGES, ROOT / "pyproject.toml", ROOT / ".ci" / "run", *(ROOT / "harness").glob("[lb]*s/*.*")]
    found = [str(path) for path in texts if path.is_file() and machines.search(path.read_text())]
    assert not found


def test_nothing_unpickles():
    forbidden = {"pickle", "cloudpickle", "dill", "shelve", "marshal", "joblib"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not forbidden & {name.split(".")[0] for name in names}, f"{path} line {getattr(node, 'lineno', 0)}"


def test_every_package_is_installed_with_all_its_files():
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            if not (init.parents[1] / "__init__.py").exists() and init.parent.name != room:
                continue
            package = ".".join(["vlarig", *init.parent.relative_to(ROOT).parts])
            assert package in PACKAGES, f"pyproject.toml does not list {package}"
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        for path in folder_of(package).iterdir():
            if path.is_file() and path.suffix != ".py":
                assert any(fnmatch(path.name, pattern) for pattern in data.get(package, [])), f"{path} is not in package-data"


def test_modules_begin_with_a_sentence_on_what_they_are():
    for path in SOURCES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist(page):
    for program, *words in commands_of(page):
        if program == "vlarig" and words:
            assert words[0] in COMMANDS or words[0].startswith("-"), f"{page.name}: vlarig {words[0]}"
        if program == "python3" and words[0] == "go.py":
            assert f'"{words[1]}": [' in (ROOT / "go.py").read_text(), f"{page.name}: go.py {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_on_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_readme_shows_the_two_commands():
    assert commands_of(ROOT / "README.md")[:2] == [["python3", "go.py", "demo"], ["python3", "go.py", "test"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    assert importlib.util.find_spec(COMMANDS[name][0]), f"vlarig {name} has no module"
    code = f"from vlarig.harness.cli import main; raise SystemExit(main([{name!r}, '--help']))"
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=10)
    assert run.returncode == 0, run.stderr
    assert f"vlarig {name}" in run.stdout
