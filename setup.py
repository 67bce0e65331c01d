"""What setuptools finds by pattern: the packages of each room, and the benchmarks, each of which is a plug-in."""

from pathlib import Path

from setuptools import find_packages, setup

ROOMS = ("benchmarks", "contract", "envs", "harness", "policies", "results", "rl", "training")
HERE = Path(__file__).parent

#: Folders of `benchmarks/` and its module `paper` with a `PLUGIN`: the entry points that a third party writes for its own.
BENCHMARKS = sorted(
    path.parent.name if path.name == "__init__.py" else path.stem
    for path in [*HERE.glob("benchmarks/*/__init__.py"), *HERE.glob("benchmarks/*.py")]
    if "\nPLUGIN = " in path.read_text(encoding="utf-8")
)

setup(
    packages=[f"vlarig.{name}" for name in find_packages(str(HERE), include=[*ROOMS, *(f"{room}.*" for room in ROOMS)])],
    entry_points={
        "console_scripts": ["vlarig = vlarig.harness.cli:main"],
        "vlarig.plugins": [f"{name} = vlarig.benchmarks.{name}:PLUGIN" for name in BENCHMARKS],
    },
)
