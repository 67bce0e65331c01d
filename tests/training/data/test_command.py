"""``vlarig data``: what it shows of a mixture, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_datasets import Motions, Talk

from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.harness.screen import Screen
from vlarig.policies.qwen_vla.checkpoint import load
from vlarig.policies.qwen_vla.normalization import DatasetStatistics, Statistics
from vlarig.training.data.checking import check
from vlarig.training.data.cleaning import CleaningReport, Drop
from vlarig.training.data.command import main
from vlarig.training.data.dataset import Dataset
from vlarig.training.data.inspection import look, show, write_page
from vlarig.training.data.mixture import mix

TINY = load("tiny")


def sentences(*datasets: Dataset) -> list[str]:
    problems = check(mix(datasets, [1.0] * len(datasets)), TINY.description.config, TINY.tokenizer, samples=30)
    return [f"{problem.where}: {problem.sentence}" for problem in problems]


def test_what_reads_data_imports_no_torch() -> None:
    read = "inspection, lerobot, mixture_file, preparation, render_questions"
    code = f"import sys; from vlarig.training.data import {read}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    file = tmp_path / "mix.toml"
    file.write_text(
        "[[datasets]]\nsource = 'made_up_datasets:broken'\nname = 'libero'\n[[datasets]]\nsource = 'made_up_datasets:Talk'\n"
    )
    return file


def test_inspection_shows_shares_counts_ranges_and_what_is_broken(mixture: Path, capsys: Any) -> None:
    page = mixture.parent / "page.html"
    assert main(["inspect", str(mixture), "--samples", "30", "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    for words in ("95.6 %", "2 of 30", "gripper", "broken: libero/3: the video ends before its frame"):
        assert words in shown
    html = page.read_text()
    assert html.count("<img") == 5  # one of six is broken
    assert html.count("<svg") == 2 * 5  # the arm's deltas share a plot, the gripper has its own
    assert "“push it”" in html
    assert "What is 0?" in html
    assert "the video ends before its frame" in html


def test_inspection_shows_what_cleaning_left_out(tmp_path: Path, capsys: Any) -> None:
    still = [Drop("static", f"libero/{index}", "no channel of its 9 actions <moves>") for index in range(7)]
    dropped = CleaningReport.of(40, [Drop("odd length", "libero/30", "900 steps"), *still])
    datasets = [Motions("libero", cleaning=dropped), Motions("bridge", robot=WIDOWX_BRIDGE), Talk()]
    found = look(mix(datasets, [1.0] * 3), samples=2, examples=1)
    show(found, Screen(width=200))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert {row[0]: row[4] for row in rows if len(row) == 10} == {"libero": "8 of 40", "bridge": "not cleaned", "talk": ""}
    assert ["libero", "static", "7", "17.5 %", "libero/0: no channel of its 9 actions <moves>"] in rows
    assert ["libero", "odd length", "1", "2.5 %", "libero/30: 900 steps"] in rows
    show(found, Screen(width=50))
    assert "libero, static: 7 episodes left out, 17.5 %" in capsys.readouterr().out
    write_page(found, tmp_path / "page.html")
    html = " ".join((tmp_path / "page.html").read_text().split())
    assert "8 of 40 episodes left out" in html
    assert html.count("not cleaned") == 1
    assert "libero/4: no channel of its 9 actions &lt;moves&gt;" in html
    assert "libero/5" not in html


def test_a_check_of_sound_data_finds_nothing(capsys: Any, tmp_path: Path) -> None:
    assert sentences(Motions("libero"), Talk()) == []
    file = tmp_path / "mix.toml"
    file.write_text("[[datasets]]\nsource = 'made_up_datasets:Motions'\nname = 'libero'\n")
    assert main(["check", str(file), "--model", "tiny", "--samples", "3"]) == 0
    assert "nothing was found" in capsys.readouterr().out


def test_a_check_names_samples_that_do_not_read(mixture: Path, capsys: Any) -> None:
    assert main(["check", str(mixture), "--model", "tiny"]) == 1
    shown = capsys.readouterr().out
    assert "libero/3: libero/3: the video ends before its frame; copy it again" in shown
    assert "2 problems" in shown


def test_statistics_of_another_unit_are_found() -> None:
    wrong = Motions("libero")
    low, high = (-0.02,) * 2 + (-1.0,) * 5, (0.02,) * 2 + (1.0,) * 5
    wrong.statistics = {"libero": DatasetStatistics(Statistics(low, high, "metres"))}
    found = sentences(wrong)
    assert len(found) == 2
    assert "of channel 'x' (normalized) of libero_panda lies far beyond its statistics; the data have another unit" in found[0]


class Odd(Motions):
    """One sample of each kind that a model would misread."""

    def __getitem__(self, index: int) -> Any:
        sample: Any = super().__getitem__(index)
        if index == 1:
            sample.observation["images"]["ego"] = np.full((1, 32, 32, 3), 9, np.uint8)
        elif index == 2:
            sample.observation["instruction"] = "look <|im_end|>"
        elif index == 3:
            object.__setattr__(sample, "actions", sample.actions[:, :6])
        elif index == 4:
            sample.observation["images"]["rear"] = sample.observation["images"].pop("ego")
        return sample


def test_what_a_model_would_misread_is_named() -> None:
    found = sentences(Odd("odd", count=6))
    assert "odd/1: its image 'ego' is of one colour" in found[0]
    assert "odd/2" in found[1]
    assert "control token" in found[1]
    assert "odd/3" in found[2]
    assert "values of the shape (16, 6) do not fit statistics" in found[2]
