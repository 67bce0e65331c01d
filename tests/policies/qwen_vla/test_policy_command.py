"""``vlarig policy``: what it prints of a preset and of a checkpoint, and what it writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from trained_policy import human_bundle, trained_bundle

from vlarig.harness.cli import main
from vlarig.policies.qwen_vla.checkpoint import load_checkpoint, save_checkpoint
from vlarig.policies.qwen_vla.inspection import SIZES, counted, describe
from vlarig.policies.qwen_vla.named import SHIPPED
from vlarig.policies.registry import load_policy


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["policy", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_the_papers_sizes_are_printed_as_the_paper_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    steps = {}
    for line in shown(capsys, "inspect", "--preset", "4b").splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) == 5:
            steps[cells[1]] = cells[2]
    paper = {
        "one block of 16": "70.8M",
        "blocks": "1.13B",
        "action projections": "4.9M",
        "VLM projection": "3.9M",
        "time embedding": "2.8M",
        "output modulation": "4.7M",
        "action expert": "1.15B",
    }
    assert {part: steps[part] for part in paper} == paper


def test_the_papers_sizes_are_those_of_the_model_and_are_shown_without_pytorch(cli, tmp_path: Path) -> None:
    assert counted(describe("4b")) == SIZES["4b"]
    for name in ("torch", "transformers"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('not installed', name={name!r})")
    done = cli("policy", "inspect", "--preset", "4b", PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "5,688,212,545" in done.stdout
    assert "since PyTorch or transformers is not installed" in done.stdout


def test_a_checkpoint_is_shown_with_its_robots_ranges_and_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "saved", trained_bundle())
    text = shown(capsys, "inspect", str(tmp_path / "saved"))
    assert "libero_panda" in text
    assert "statistics bridge: channel bounds of widowx_bridge" in text
    assert (
        "The robot is WidowX with single arm. The control frequency is 5 Hz. Please predict the next 16 control actions" in text
    )
    assert "<|ego_start|><|vision_start|><|image_pad|><|vision_end|><|ego_end|>" in text
    assert "unproven here" in text


def test_the_checkpoint_of_the_package_is_small_and_shown_without_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "inspect")
    assert text.startswith("qwen-vla\n")
    assert "trained by      backbone" in text and "t2a" in text
    assert all(robot in text for robot in ("tabletop_panda", "widowx_bridge", "libero_panda"))
    assert "deviates from the paper by expert.context = ends" in text
    weights = sum(path.stat().st_size for path in SHIPPED.iterdir())
    assert weights <= 15e6
    assert "recipes/shipped/make.sh" in (SHIPPED / "made.txt").read_text()


def test_a_description_has_no_broken_word_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(capsys, "inspect")
    described, _, _ = text.partition("prompt (")
    assert max(map(len, described.splitlines())) <= 80
    words = {word.strip(",") for word in described.split()}
    robots = describe("").embodiments.values()
    assert len(robots) == 3
    for each in robots:
        assert words >= {f"{each.name}:", *each.cameras, *(channel.name for channel in each.channels)}


def test_eigengrasps_are_shown_with_what_they_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = human_bundle()
    save_checkpoint(tmp_path / "human", bundle)
    assert bundle.description.eigengrasps is not None
    share = 100 * bundle.description.eigengrasps.explained.sum()
    assert 20 < share < 60
    assert f"10 components explain {share:.1f}% of the variance of hand poses" in shown(
        capsys, "inspect", str(tmp_path / "human")
    )


def test_a_preset_is_written_and_played_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "new")
    assert f"vlarig policy inspect {folder}" in shown(capsys, "create", "--preset", "tiny", "--seed", "4", "--out", folder)
    assert "181,749" in shown(capsys, "inspect", folder)
    assert main(["policy", "create", "--preset", "tiny", "--out", folder]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err


def test_a_checkpoint_is_written_in_bfloat16_with_all_that_it_says_of_itself(tmp_path: Path) -> None:
    before = trained_bundle()
    save_checkpoint(tmp_path / "saved", before)
    assert main(["policy", "convert", str(tmp_path / "saved"), "--dtype", "bfloat16", "--out", str(tmp_path / "half")]) == 0
    sizes = [(tmp_path / folder / "model.safetensors").stat().st_size for folder in ("half", "saved")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.1)
    after = load_checkpoint(tmp_path / "half")
    assert after.description == before.description
    fewer = str(tmp_path / "fewer")
    words = [str(tmp_path / "saved"), "--dtype", "bfloat16", "--n-action-steps", "4", "--out", fewer]
    assert main(["policy", "convert", *words]) == 0
    assert load_policy(f"qwen-vla:{fewer}").n_action_steps == 4
    assert main(["policy", "convert", *words[:-1], f"{fewer}er", "--n-action-steps", "40"]) == 2
    for name, weight in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], weight, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["inspect", "nowhere", "--preset", "4b"], "name one checkpoint or one preset"),
        (["inspect", "--preset", "5b"], "unknown preset '5b'; presets are 4b, small, tiny"),
        (["inspect", "nowhere"], "no checkpoint 'nowhere'"),
        (["create", "--preset", "5b", "--out", "x"], "unknown preset '5b'"),
        (["convert", "nowhere", "--dtype", "bfloat16", "--out", "x"], "no checkpoint 'nowhere'"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
