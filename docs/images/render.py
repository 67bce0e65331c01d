"""Renders images of the documentation, each by what it shows: a sweep, a suite's own env, or pages in a browser.

    python docs/images/render.py tabletop-frames.png page-episode.png
    python docs/images/render.py --all --to FOLDER

It takes minutes an image, and needs the suites' runtimes; pages need Chromium and the package playwright, the table pdflatex and
pdftoppm. The other images have scripts of their own, which :data:`ELSEWHERE` names.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.errors import VlarigError
from vlarig.harness import RemoteEnv
from vlarig.harness.film import write_contact_sheet

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]

#: Image to the script that makes it.
ELSEWHERE = {
    "live-display.svg": "docs/examples/render_terminal.py",
    "table.svg": "docs/examples/render_terminal.py",
    "sb3-learning-curve.png": "docs/examples/learn_to_push.py",
    "vision-language.png": "docs/examples/question_sheet.py",
    "shipped-curves.png": "recipes/shipped/curves.py",
    "ppo-curves.png": "recipes/ppo/curves.py",
    "synthetic.png": "docs/images/render_synthetic.py",
}

#: Width of a sheet of images that is kept as JPEG.
WIDTH = 1400


def vlarig(work: Path, *words: str) -> None:
    """Run a command of vlarig in a folder."""
    subprocess.run([sys.executable, "-m", "vlarig.harness", *words], cwd=work, check=True)


def save(image: Image.Image, target: Path) -> None:
    """Write an image in the format that its name says; a JPEG at most :data:`WIDTH` wide."""
    if target.suffix == ".jpg" and image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)
    image.convert("RGB").save(target, optimize=True, quality=85)


def films(work: Path, target: Path, *words: str) -> None:
    """A row of images for each task, from start to success: the sheet of a sweep by the scripted expert."""
    vlarig(work, "sweep", *words, "--policy", "expert", "--episodes", "1", "--video", "all", "--run", "run")
    save(Image.open(work / "run" / "frames.png"), target)


def first_frames(work: Path, target: Path, suites: Sequence[str], across: int, all_views: bool, protocol: str = "") -> None:
    """The first frame of each task that loads here, so many in a row, below the tasks' names."""
    rows: list[tuple[str, list[np.ndarray]]] = []
    for name in suites:
        suite, shown = load_suite(name), []
        env = RemoteEnv(name, protocol=protocol or suite.protocols[0].name)
        try:
            for task in suite.tasks:
                state = next(iter(task.initial_states_of(suite.protocols[0])), 0)
                try:
                    observation, _ = env.reset(options={"task": task.name, "initial_state": state})
                except VlarigError:  # an object's file is not here
                    continue
                views = [image[-1] if image.ndim == 4 else image for image in observation["images"].values()]
                shown.append((task.name, np.concatenate(views, axis=1) if all_views else views[0]))
        finally:
            env.close()
        for begin in range(0, len(shown), across):
            names, frames = zip(*shown[begin : begin + across], strict=True)
            # A sheet's frames are 160 pixels high, and a letter of its labels is some 8 wide.
            letters = sum(frame.shape[1] * 160 // frame.shape[0] for frame in frames) // 8
            rows.append((f"{name}\n{textwrap.fill(', '.join(names), letters)}", list(frames)))
    write_contact_sheet(work / "sheet.png", rows)
    save(Image.open(work / "sheet.png"), target)


def screenshot(address: str, target: Path, size: tuple[int, int], click: str = "", whole: bool = False) -> None:
    """A page in a window of this width and height, in pixels.

    Args:
        address: Of the page.
        target: The image.
        size: Of the window.
        click: Words of a link on it, which is followed.
        whole: Whether all of the page is shown, however long.
    """
    from playwright.sync_api import sync_playwright

    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        shown = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = shown.new_page(viewport={"width": size[0], "height": size[1]})
        tab.goto(address)
        if click:
            tab.get_by_role("link", name=click).first.click()
        tab.wait_for_timeout(2000)  # films load, and curves are plotted
        tab.screenshot(path=str(target), full_page=whole)
        shown.close()


def page(work: Path, target: Path, suite: str, link: str, size: tuple[int, int], click: str = "") -> None:
    """A page of a site of three runs of a suite: by the expert, a random policy and the embedded one; see :func:`screenshot`."""
    for policy in ("expert", "random", "qwen-vla"):
        vlarig(work, "sweep", suite, "--policy", policy, "--episodes", "2", "--run", f"runs/{policy}", "--video", "all")
    vlarig(work, "page", "runs/expert", "runs/random", "runs/qwen-vla", "--out", "site")
    screenshot(f"{(work / 'site').as_uri()}/{link}", target, size, click)


def latency(work: Path, target: Path) -> None:
    """Success by latency, as the page of the grid shows it."""
    words = ("latency=0,1,2,4,8", "meanwhile=chunk,prefix,still")
    vlarig(work, "sweep", "tabletop", "--policy", "qwen-vla", "--grid", *words, "--run", "grid")
    vlarig(work, "page", "grid", "--out", "site")
    screenshot((work / "site" / "index.html").as_uri(), target, (1152, 900))


def human_and_walk(work: Path, target: Path) -> None:
    """A sample of rendered hands and one of a rendered walk, as the page of ``vlarig data inspect`` shows them."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from rendered_hands import record_egodex
    from rendered_walks import record_walks

    record_egodex(work / "egodex")
    record_walks(work / "walks")
    shown = []
    for source, examples in (("egodex", "1"), ("walks", "2")):
        (work / f"{source}.toml").write_text(f'[[datasets]]\nsource = "{source}"\nfolder = "{source}"\n')
        vlarig(work, "data", "prepare", f"{source}.toml")
        vlarig(work, "data", "inspect", f"{source}.toml", "--page", f"{source}.html", "--examples", examples)
        screenshot((work / f"{source}.html").as_uri(), work / f"{source}.png", (560, 400), whole=True)
        shown.append(Image.open(work / f"{source}.png"))
    beside = Image.new("RGB", (sum(each.width for each in shown), max(each.height for each in shown)), "white")
    for number, each in enumerate(shown):
        beside.paste(each, (sum(other.width for other in shown[:number]), 0))
    save(beside, target)


def table(work: Path, target: Path) -> None:
    """Table 8 as LaTeX sets it: published rows, and three measured ones."""
    if missing := [tool for tool in ("pdflatex", "pdftoppm") if shutil.which(tool) is None]:
        raise SystemExit(f"{target.name} needs {' and '.join(missing)}; install texlive-latex-recommended and poppler-utils")
    for policy in ("expert", "random", "qwen-vla:small"):
        name = policy.replace(":", "-")
        vlarig(work, "sweep", "simpler_ood", "--policy", policy, "--episodes", "4", "--run", f"runs/{name}")
    runs = sorted(str(each.relative_to(work)) for each in (work / "runs").iterdir())
    with (work / "table.tex").open("w") as file:
        command = [sys.executable, "-m", "vlarig.harness", "table", "--layout", "table8", *runs, "--format", "latex"]
        subprocess.run(command, cwd=work, stdout=file, check=True)
    (work / "page.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\usepackage[textwidth=17.5cm]{geometry}\pagestyle{empty}"
        r"\begin{document}\input{table.tex}\end{document}"
    )
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "page.tex"], cwd=work, stdout=subprocess.DEVNULL, check=True)
    subprocess.run(["pdftoppm", "-png", "-r", "110", "-singlefile", "page.pdf", "page"], cwd=work, check=True)
    image = Image.open(work / "page.png").convert("L")
    box = image.point(lambda value: 255 if value < 250 else 0).getbbox()
    assert box is not None
    save(Image.open(work / "page.png").crop((box[0] - 12, box[1] - 12, box[2] + 12, box[3] + 12)), target)


#: Six tasks of two objects and more.
LONG = ("group_and_leave", "row_of_three", "tower_of_three", "stack_then_tray", "push_then_stack", "sort_by_colour")

#: Image to what renders it, given a folder to work in and the image's path.
IMAGES: dict[str, Callable[[Path, Path], None]] = {
    "tabletop-frames.png": lambda work, target: films(work, target, "tabletop"),
    "tabletop-randomized.jpg": lambda work, target: films(work, target, "tabletop", "--protocol", "randomized"),
    "tabletop-tasks.jpg": lambda work, target: films(work, target, "tabletop_tasks", "--tasks", *LONG),
    "simpler-tasks.jpg": lambda work, target: films(work, target, "simpler_widowx", "simpler_ood"),
    "vlnce.jpg": lambda work, target: films(work, target, "r2r_val_unseen", "vln_object_search", "vln_target_tracking"),
    "libero-tasks.jpg": partial(
        first_frames, suites=("libero_spatial", "libero_object", "libero_goal", "libero_10"), across=5, all_views=True
    ),
    "robocasa-tasks.jpg": partial(first_frames, suites=("robocasa_gr1",), across=6, all_views=False),
    "robotwin-tasks.jpg": partial(first_frames, suites=("robotwin_easy",), across=7, all_views=False, protocol="robotwin"),
    "page-leaderboard.png": partial(page, suite="simpler_widowx", link="index.html#board-1", size=(900, 1136)),
    "page-episode.png": partial(page, suite="tabletop", link="task.html#expert/0", size=(1200, 860), click="initial state 0"),
    "page-phone.png": partial(page, suite="tabletop", link="task.html#expert/0", size=(390, 1500)),
    "latency.png": latency,
    "human-and-walk.png": human_and_walk,
    "table8.png": table,
}


def main() -> None:
    """Render what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help=", ".join(IMAGES))
    parser.add_argument("--all", action="store_true", help="all of them")
    parser.add_argument("--to", type=Path, default=HERE, metavar="FOLDER", help="default: docs/images")
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    for name in IMAGES if options.all else options.images:
        with tempfile.TemporaryDirectory() as work:
            IMAGES[name](Path(work), options.to.resolve() / name)


if __name__ == "__main__":
    main()
