"""The pages of docs/ are followed exactly: their files are written, their commands run."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vlarig.contract import PROMISES

DOCS = Path(__file__).parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The page's code blocks in a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def write_files(page: str, folder: Path) -> None:
    """Save each block that begins with ``# file: NAME`` under its name."""
    for block in blocks(page, "python") + blocks(page, "toml"):
        if named := re.match(r"# file: (\S+)\n", block):
            (folder / named[1]).write_text(block)


def commands(page: str) -> list[str]:
    """The shell lines of the page, in order."""
    return [line for block in blocks(page, "shell") for line in block.splitlines()]


def type_in(line: str, folder: Path, **variables: str) -> str:
    """Run a line in a shell in which vlarig is installed, and return its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        line, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | {"PATH": path, "COLUMNS": "200"} | variables,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_add_a_benchmark(tmp_path: Path) -> None:
    new, cd, install, *others = commands("add-a-benchmark.md")
    assert (cd, install) == ("cd my_bench", "pip install -e .")
    variables = {"PYTHONPATH": str(tmp_path / "site"), "VLARIG_HOME": str(tmp_path / "home")}
    type_in(new, tmp_path, **variables)
    # The same, but into a folder of its own, so that the test leaves the environment as it is.
    type_in("python -m uv pip install --quiet --no-deps --target ../site .", tmp_path / "my_bench")
    others.remove("export VLARIG_ASSETS=$PWD/assets")
    variables["VLARIG_ASSETS"] = str(tmp_path / "my_bench" / "assets")
    printed = [type_in(line, tmp_path / "my_bench", **variables) for line in others]
    assert [line.split()[1] for line in others[:-1]] == ["runtime", "envs", "sweep"]
    assert re.search(r"(\d+) of \1 checks passed", printed[1])
    assert re.search(r"reach_red +100\.0 +\d+\.\d to 100\.0 +2 +0 +0", printed[2])
    assert others[-1] == "pytest"
    assert re.search(r"(\d+) passed, 1 skipped", printed[3])[1] == str(len(PROMISES) - 1), "no sweep is committed"
    readme = (tmp_path / "my_bench" / "README.md").read_text()
    assert all(line.replace("--episodes 2", "--episodes 5") in readme for line in (install, *others))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_second_benchmark(tabletop: object, tmp_path: Path) -> None:
    folder = tmp_path / "gantry"
    shutil.copytree(DOCS / "examples" / "gantry", folder)
    install, *others = commands("examples/gantry/README.md")
    assert install == "pip install -e ."
    variables = {"PYTHONPATH": str(tmp_path / "site"), "VLARIG_HOME": str(tmp_path / "home")}
    type_in("python -m uv pip install --quiet --no-deps --target ../site .", folder)
    printed = [type_in(line, folder, **variables) for line in others]
    assert [line.split()[1] for line in others if line != "pytest"] == [
        "runtime",
        "envs",
        "sweep",
        "sweep",
        "sweep",
        "-m",
        "-m",
    ]
    assert re.search(r"(\d+) of \1 checks passed", printed[1])
    for sweep, count in ((printed[2], 5), (printed[3], 1)):
        for task in ("red_to_yellow", "blue_to_yellow", "sort"):
            assert re.search(rf"{task} +100\.0 +\d+\.\d to 100\.0 +{count} +0 +0", sweep)
    assert f"{len(PROMISES)} passed" in printed[others.index("pytest")]
    committed, recorded = (np.load(place / "tests" / "expert_actions.npz") for place in (DOCS / "examples" / "gantry", folder))
    assert set(committed) == set(recorded)
    for task in committed:  # their first steps, before a contact that another processor may round in another way
        np.testing.assert_allclose(committed[task][:8], recorded[task][:8], atol=1e-4, err_msg=f"{task}: record it again")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_add_a_policy(tabletop: object, tmp_path: Path) -> None:
    page = "add-a-policy.md"
    write_files(page, tmp_path)
    install, sweep = commands(page)
    assert install == "vlarig runtime install tabletop"
    printed = type_in(sweep, tmp_path)
    assert "policy my_policy:ReachPolicy" in printed
    (run,) = (tmp_path / "runs").iterdir()
    assert len(list((run / "videos").glob("*.mp4"))) == 5
    assert (run / "frames.png").stat().st_size > 10_000


@pytest.mark.slow
def test_getting_started_from_python(tabletop: object, tmp_path: Path) -> None:
    for number, block in enumerate(blocks("getting-started.md", "python")):
        (tmp_path / f"{number}.py").write_text(block)
        printed = type_in(f"python {number}.py", tmp_path)
        assert (
            number != 0 or len(re.findall(r"^tabletop/standard-n_action_steps1@1/\S+ True \d+$", printed, re.MULTILINE)) == 10
        )


@pytest.mark.slow
def test_training_loops(tabletop: object, tmp_path: Path) -> None:
    write_files("training-loops.md", tmp_path)
    assert re.findall(r"^\d+ 0\.0 \S+/runs/constant/step-0000\d000$", type_in("python evaluate.py", tmp_path), re.MULTILINE)
    assert len(list((tmp_path / "runs/constant/tensorboard").iterdir())) == 1
    assert re.findall(r"^([01]) 3 \d+ episodes ended$", type_in("python collect.py", tmp_path), re.MULTILINE) == ["0", "1"]


@pytest.mark.slow
def test_training(tmp_path: Path) -> None:
    write_files("training.md", tmp_path)
    train, inspect = commands("training.md")
    printed = type_in(train, tmp_path)
    assert "sft of tiny: 20 steps" in printed
    assert re.search(r"step 20 of 20: loss \d", printed)
    assert "the trained policy: qwen-vla:runs/reach/policy" in printed
    assert "libero_panda" in type_in(inspect, tmp_path)


@pytest.mark.slow
def test_recording(tabletop: object, tmp_path: Path) -> None:
    write_files("recording.md", tmp_path)
    record, replay, read = commands("recording.md")
    assert "dataset: demos, 6 episodes" in type_in(record, tmp_path)
    assert type_in(replay, tmp_path).count("equal ") == 6
    assert re.search(r"demos/0/0 stack .* \(1, 128, 128, 3\) \(16, 7\)", type_in(read, tmp_path))


def test_the_speeds_of_the_first_page_are_those_of_the_benchmarks_pages() -> None:
    """Its words were "several times faster" of all suites; SimplerEnv's default protocol renders as often as upstream's loop."""
    rows = {
        "libero.md": ["a step of the default protocol, one request in 8"],
        "simpler.md": [
            "a whole episode of the default protocol, an image a step",
            "a whole episode with its reset, one policy request in 16 steps",
        ],
    }
    index = " ".join((DOCS / "index.md").read_text().split())
    assert "several times faster" not in index
    for page, labels in rows.items():
        for label in labels:
            row = re.search(rf"^\| {label} \|(.*)$", (DOCS / page).read_text(), re.MULTILINE)
            assert row, f"{page}: {label}"
            least, most = sorted(re.findall(r"\d+\.\d", row[1]), key=float)
            assert f"{least} to {most} times" in index, f"{page}: {label}"


def test_images_of_a_terminal_show_what_is_printed_today() -> None:
    """They are rendered by docs/examples/render_terminal.py."""
    for name, words in {"live-display": ["envs", "workers", "time", "simulate", "for a worker's turn"], "table": []}.items():
        svg = (DOCS / "images" / f"{name}.svg").read_text()
        shown = html.unescape(" ".join(re.findall(r">([^<>]*)</text>", svg))).replace("\xa0", " ")
        assert all(word in shown for word in ["vlarig sweep tabletop --policy qwen-vla", "pick_into", "two_step", *words])
        assert not re.search("rows|execute", shown) and "url(" not in re.sub(r"url\(#", "", svg)


def test_a_script_makes_every_image() -> None:
    sys.path.insert(0, str(DOCS / "images"))
    try:
        from render import ELSEWHERE, IMAGES
    finally:
        sys.path.pop(0)
    images = {file.name for file in (DOCS / "images").iterdir() if file.suffix not in (".py", "")}
    assert images == IMAGES.keys() | ELSEWHERE.keys()
    for script in ELSEWHERE.values():
        assert (DOCS.parent / script).is_file()


def test_links_and_images_exist() -> None:
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md", DOCS.parent / "benchmarks" / "speed" / "README.md"]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points to {target}"


def test_the_docs_are_a_site_that_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link, an anchor or a page that is in no menu fails the build."""
    site = tmp_path / "site"
    type_in(f"mkdocs build --quiet --strict --config-file {DOCS.parent / 'mkdocs.yml'} --site-dir {site}", tmp_path)
    assert {page.stem for page in DOCS.glob("*.md")} - {"index"} == {page.parent.name for page in site.glob("*/index.html")}
    for page in site.rglob("*.html"):
        assert not re.search(r"""<(script|img|link)[^>]*(src|href)=["']https?:""", page.read_text()), page
    assert "<math" in (site / "statistics" / "index.html").read_text()
    assert "harness/engine.py" in (site / "architecture" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_lines_of_the_dockerfile_set_vlarig_up(tmp_path: Path) -> None:
    """They are run in a copy of the tree, in a shell; no image is built."""
    root = DOCS.parent
    instructions = [line.partition(" ")[::2] for line in (root / "Dockerfile").read_text().splitlines() if line[:1].isupper()]
    assert ("COPY", ". .") in instructions
    shutil.copytree(root, tmp_path / "copy", ignore=shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", ".*_cache"))
    variables = {
        "RUNTIMES": "tabletop",
        "VLARIG_HOME": f"{tmp_path}/home",
        "VIRTUAL_ENV": "",
        "PATH": f"{tmp_path}/copy/.venv/bin:{os.environ['PATH']}",
    }
    for line in [rest for name, rest in instructions if name == "RUN"]:
        done = subprocess.run(
            line, shell=True, cwd=tmp_path / "copy", env=os.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "runtime tabletop        starts" in done.stdout
