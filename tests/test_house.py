"""Rules of the house, checked on its files."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from pathlib import Path

import pytest
from scanner import scan
from uv import find_uv_bin

from vlarig.envs.plugins import find_plugins
from vlarig.harness.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = list(PROJECT["tool"]["setuptools"]["package-dir"].values())
SOURCES = sorted([ROOT / "go.py", *(path for room in [*ROOMS, "tests"] for path in (ROOT / room).rglob("*.py"))])
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "models").glob("*.md")])


def commands_of(page: Path) -> list[list[str]]:
    """The command lines in a page's code blocks."""
    blocks = re.findall(r"^```(?:bash|console|sh)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].removeprefix("$ ").split() for block in blocks for line in block.splitlines()]
    return [[word.rpartition("/")[2] if index == 0 else word for index, word in enumerate(line)] for line in lines if line]


def test_words_that_were_replaced_stay_away():
    """docs/reference.md has the words that are used."""
    replaced = re.compile(r"\b(told|nobody|whom|stands|asked for|slots?)\b", re.IGNORECASE)
    texts = {*SOURCES, *PAGES} - {Path(__file__)}
    found = [f"{path.relative_to(ROOT)}: {match[0]}" for path in texts for match in replaced.finditer(path.read_text())]
    assert found == []


def test_no_path_of_one_machine_is_in_the_tree():
    machines = re.compile(r"/(?:home|Users|root|work)/\w")
    texts = [*SOURCES, *PAGES, ROOT / "pyproject.toml", ROOT / ".ci" / "run", *(ROOT / "harness").glob("*/[lb]*s/*.*")]
    found = [str(path) for path in texts if path.is_file() and machines.search(path.read_text())]
    assert not found


def python_of(page: Path) -> str:
    """The Python in a page's code blocks that is whole."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return "\n".join(map(repr, blocks))


#: What looks dangerous and is not: where, what, and why.
HARMLESS = {
    ("envs/libero/init_states.py", "a file pkl"): "its opcodes are listed, none is carried out",
    ("policies/lerobot.py", "from_pretrained without use_safetensors=True"): "LeRobot's policies read safetensors alone",
    ("tests/benchmarks/test_libero.py", "compile"): "the evaluator's own function, from the test's own recorded source",
    ("tests/benchmarks/test_libero.py", "exec"): "the same",
    ("tests/rendered_hands.py", "numpy.save without allow_pickle=False"): "it writes what VITRA publishes so",
    (
        "tests/training/data/test_egocentric.py",
        "numpy.save without allow_pickle=False",
    ): "a file of that kind that would run a program",
    ("tests/test_docs.py", "shell that is not False"): "the command lines that a page of ours shows",
}


@pytest.mark.slow
def test_nothing_unpickles_or_runs_what_it_is_sent():
    found = {}
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        test = name.startswith("tests/")
        if name not in ("tests/scanner.py", "tests/test_house.py"):
            found |= {(name, finding.what): finding.line for finding in scan(path.read_text(), test)}
    for page in PAGES:
        found |= {(page.name, finding.what): finding.line for finding in scan(python_of(page))}
    assert not {f"{name} line {line}: {what}" for (name, what), line in found.items() if (name, what) not in HARMLESS}
    assert not HARMLESS.keys() - found.keys(), "no longer there; take it from HARMLESS"


DANGERS = {
    "import pickle": "pickle",
    "from pickle import loads": "pickle",
    "import _pickle as p": "_pickle",
    "import cloudpickle, os": "cloudpickle",
    "from dill import load": "dill",
    "import shelve": "shelve",
    "import marshal": "marshal",
    "import joblib.numpy_pickle": "joblib",
    "import msgpack_numpy": "msgpack_numpy",
    "def f():\n    from ray import x\n    import jsonpickle": "jsonpickle",
    "import importlib\nimportlib.import_module('pickle')": "pickle",
    "from importlib import import_module\nimport_module('marshal')": "marshal",
    "__import__(name)": "__import__",
    "import torch\ntorch.load(path)": "torch.load without weights_only=True",
    "import torch\ntorch.load(path, weights_only=False)": "torch.load without weights_only=True",
    "import torch\ntorch.load(path, weights_only=wanted)": "torch.load without weights_only=True",
    "import torch\ntorch.load(path, **options)": "torch.load without weights_only=True",
    "import torch as t\nt.load(path)": "torch.load without weights_only=True",
    "from torch import load\nload(path)": "torch.load without weights_only=True",
    "from torch.serialization import load as read\nread(path)": "torch.load without weights_only=True",
    "self._torch.load(path)": "torch.load without weights_only=True",
    "import torch\nread = torch.load": "torch.load that is passed on",
    "import torch\ngetattr(torch, 'load')(path)": "torch.load that is passed on",
    "read(weights_only=False)": "weights_only that is not True",
    "import torch\ntorch.save(model, path)": "torch.save of what is no state_dict()",
    "import torch\ntorch.jit.load(path)": "torch.jit.load",
    "from torch.jit import load": "torch.jit.load",
    "import torch.hub": "torch.hub",
    "from torch import hub": "torch.hub",
    "import torch.distributed as dist\ndist.all_gather_object(a, b)": "all_gather_object",
    "from torch.distributed import broadcast_object_list": "broadcast_object_list",
    "import numpy as np\nnp.load(path, allow_pickle=True)": "allow_pickle that is not False",
    "import numpy\nnumpy.load(path, None, True)": "numpy.load with who knows what",
    "from numpy import load\nload(path, **options)": "numpy.load with who knows what",
    "import numpy as np\nnp.save(path, array)": "numpy.save without allow_pickle=False",
    "import pandas\npandas.read_pickle(path)": "read_pickle",
    "table.to_pickle(path)": "to_pickle",
    "socket.recv_pyobj()": "recv_pyobj",
    "import yaml\nyaml.load(text)": "yaml.load without SafeLoader",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "yaml.load without SafeLoader",
    "import yaml\nyaml.unsafe_load(text)": "unsafe_load",
    "from yaml import full_load": "full_load",
    "import multiprocessing": "multiprocessing",
    "from multiprocessing import Pool": "multiprocessing",
    "from multiprocessing.connection import Listener": "multiprocessing",
    "import torch.multiprocessing as mp": "torch.multiprocessing",
    "from concurrent.futures import ProcessPoolExecutor": "ProcessPoolExecutor",
    "import concurrent.futures\nconcurrent.futures.ProcessPoolExecutor()": "ProcessPoolExecutor",
    "gymnasium.vector.AsyncVectorEnv(envs)": "AsyncVectorEnv",
    "eval(text)": "eval",
    "exec(text)": "exec",
    "compile(text, '', 'exec')": "compile",
    "run = eval": "eval",
    "import builtins\nbuiltins.exec(text)": "exec",
    "import xmlrpc.server": "xmlrpc",
    "from logging.handlers import SocketHandler": "logging.handlers.SocketHandler",
    "import logging.config": "logging.config",
    "import subprocess\nsubprocess.run(line, shell=True)": "shell that is not False",
    "run(line, shell=wanted)": "shell that is not False",
    "import os\nos.system(line)": "os.system",
    "from os import popen": "os.popen",
    "import asyncio\nasyncio.create_subprocess_shell(line)": "asyncio.create_subprocess_shell",
    "AutoModel.from_pretrained(source)": "from_pretrained without use_safetensors=True",
    "AutoConfig.from_pretrained(source, trust_remote_code=True)": "trust_remote_code that is not False",
    "path = folder / 'pytorch_model.bin'": "a file bin",
    "open('weights.pt')": "a file pt",
    "CODE = 'import pickle; pickle.loads(data)'": "pickle",
    "run('import os\\nos.system(line)')": "os.system",
}


@pytest.mark.parametrize("source", DANGERS)
def test_the_search_finds_each_danger(source):
    assert DANGERS[source] in {finding.what for finding in scan(source)}


@pytest.mark.parametrize(
    "source",
    [
        "import pickletools, re\nre.compile('x')\nmodel.eval()\nmodel.compile()",
        "import torch\ntorch.load(path, weights_only=True)\ntorch.save(model.state_dict(), path)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)\nnp.save(path, array, allow_pickle=False)",
        "import yaml\nyaml.load(text, Loader=yaml.SafeLoader)\nyaml.safe_load(text)",
        "from multiprocessing import shared_memory\nfrom concurrent.futures import ThreadPoolExecutor",
        "import json, msgpack\njson.load(file)\nmsgpack.unpackb(data)",
        "AutoModel.from_pretrained(source, use_safetensors=True)\nAutoTokenizer.from_pretrained(source)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "def f():\n    'Not import pickle, and no weights.bin'",
        "path = folder / 'model.safetensors'",
        "from .pickle import Pickle",
    ],
)
def test_the_search_finds_nothing_else(source):
    assert scan(source) == []


@pytest.mark.slow
def test_a_wheel_has_every_file_of_every_package(tmp_path):
    copy = tmp_path / "copy"  # a build leaves files in the tree
    for room in ROOMS:
        shutil.copytree(ROOT / room, copy / room)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    build = [find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", tmp_path, copy]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        points = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    scripts = (ROOT / "benchmarks" / "speed", ROOT / "benchmarks" / "coverage")  # over the installed package, as tests are
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files = [path for path in files if not any(folder in path.parents for folder in scripts)]
    assert packed == {f"vlarig/{path.relative_to(ROOT)}" for path in files}
    for path in (ROOT / "benchmarks").glob("*/runtime"):
        name = path.parent.name
        assert f"{name} = vlarig.benchmarks.{name}:PLUGIN" in points.splitlines(), f"{name} is no plug-in"


def imported_by(path: Path) -> set[str]:
    """Top-level modules that a file imports, other than by relative imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module]
    return {name.partition(".")[0] for name in names}


def names_of_simulators() -> tuple[set[str], set[str]]:
    """Names of the built-in suites, their folders, runtimes and bundles; and the modules that only their adapters import."""
    suites, modules = set(), set()
    for _, plugin in find_plugins()[0]:
        if plugin.runtimes and all(path.is_relative_to(ROOT) for path in plugin.runtimes):
            suites |= {*plugin.suites, *(path.stem for path in (*plugin.runtimes, *plugin.bundles))}
            for path in plugin.runtimes:
                modules |= set(tomllib.loads(path.read_text())["imports"])
    ours = re.split(r"[^\w-]+", repr([PROJECT["project"]["dependencies"], PROJECT["project"]["optional-dependencies"]]))
    adapters = {name for path in (ROOT / "envs").glob("*/*.py") for name in imported_by(path)}
    modules |= adapters - {name.replace("-", "_") for name in ours} - set(sys.stdlib_module_names)
    return suites, {name.partition(".")[0] for name in modules} - {"PIL", "yaml", "cv2"}


def test_a_simulator_is_imported_by_its_adapter_alone():
    _, modules = names_of_simulators()
    assert {"libero", "mani_skill", "mujoco", "robosuite", "sapien"} <= modules
    shared = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if room != "envs"]
    found = {f"{path.relative_to(ROOT)}: {name}" for path in shared for name in imported_by(path) & modules}
    assert not {each for each in found if not each.startswith("benchmarks/speed/")}


#: Shared files that name a simulator as data: what, and why.
NAMED_AS_DATA = {
    "policies/qwen_vla/embodiments.py": "the robots of the paper's Table 2, of which a suite has one",
    "policies/remote/openpi_layouts.py": "openpi's own name of what its LIBERO policies read",
    "rl/config.py": "the suite of the paper's recipe (section 4.2)",
    "training/data/synthetic/words.py": "the tile of the game",
}


def test_shared_code_names_no_simulator():
    """A new suite touches its own files only. A string with a space in it is a sentence for a reader, and may give an example."""
    suites, _ = names_of_simulators()
    assert {"libero", "libero_10", "simpler", "simpler_bridge", "simpler_widowx", "tabletop"} <= suites
    word = re.compile(rf"(?<![a-z])({'|'.join(sorted(suites, key=len, reverse=True))})(?![a-z])", re.IGNORECASE)
    own = [folder for room in ("envs", "benchmarks", "tests") for folder in (ROOT / room).glob("*")]
    own = [path for path in own if any(path.stem.startswith(name) for name in suites)]
    shared = [
        ROOT / "go.py",
        ROOT / "setup.py",
        ROOT / "tests" / "conftest.py",
        *(ROOT / "tests" / "contract").glob("*.py"),
        ROOT / "tests" / "simulators" / "test_in_runtime.py",
    ]
    shared += [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if "speed" not in path.parts]
    found = set()
    for path in shared:
        if not any(path == each or each in path.parents for each in own):
            found |= {f"{path.relative_to(ROOT)}: {text}" for text in code_words(path) if word.search(text)}
    named = {each.partition(":")[0] for each in found}
    assert named - NAMED_AS_DATA.keys() == set(), sorted(found)
    assert not NAMED_AS_DATA.keys() - named, "no longer there; take it from NAMED_AS_DATA"


def code_words(path: Path) -> list[str]:
    """Identifiers of a file, and its strings without a space."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    words = [token.string for token in tokens if token.type in (tokenize.NAME, tokenize.STRING)]
    return [word for word in words if not re.search(r"\s", word)]


def test_no_file_of_a_package_is_longer_than_400_lines():
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert {str(path.relative_to(ROOT)): lines for path in rooms if (lines := len(path.read_text().splitlines())) > 400} == {}


@pytest.mark.slow
def test_modules_begin_with_a_sentence_on_what_they_are():
    for path in SOURCES:
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, f"{path} has no docstring"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist(page):
    for program, *words in commands_of(page):
        if program == "vlarig" and words:
            assert {words[0], " ".join(words[:2])} & COMMANDS.keys() or words[0].startswith("-"), f"{page.name}: {words}"
        if program == "python3" and words[0] == "go.py":
            assert f'"{words[1]}": [' in (ROOT / "go.py").read_text(), f"{page.name}: go.py {words[1]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_on_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_commands_print_through_the_screen():
    """What a server or a run's name says is text on it; elsewhere rich would take it for markup."""
    rooms = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("contract", "harness", "policies", "results")]
    found = [str(path) for path in rooms if re.search(r"(?<!class Screen\()\bConsole\(|rich\.markup", path.read_text())]
    assert not found


def test_the_readme_shows_the_two_commands():
    assert commands_of(ROOT / "README.md")[:2] == [["python3", "go.py", "demo"], ["python3", "go.py", "test"]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name):
    assert importlib.util.find_spec(COMMANDS[name][0].partition(":")[0]), f"vlarig {name} has no module"
    code = f"from vlarig.harness.cli import main; raise SystemExit(main([*{name!r}.split(), '--help']))"
    environment = os.environ | {"COLUMNS": "80"}
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=10, env=environment)
    assert run.returncode == 0, run.stderr
    assert f"vlarig {name}" in run.stdout
    assert [line for line in run.stdout.splitlines() if len(line) > 80 and not line.startswith("  ")] == [], (
        "examples are whole"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "status"), [(9, 0), (0.03, 1)])
def test_tests_that_take_more_cpu_time_than_their_budget_fail(tmp_path, minutes, status):
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tests / "budgets.toml").write_text(f'[cpu_minutes]\n"tests" = {minutes}\n')
    (tests / "work.py").write_text("import time\nwhile time.process_time() < 2:\n    pass\n")
    child = (
        "import subprocess, sys\ndef test_a_child_works():\n    subprocess.run([sys.executable, 'tests/work.py'], check=True)\n"
    )
    (tests / "test_one.py").write_text(child)
    words = [sys.executable, "-m", "pytest", "-q", "-n", "1", "tests"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == status, found.stdout
    assert ("over its budget" in found.stdout) == bool(status)
