"""Human hands and walks as a user takes them: from a publisher's layout and a mixture file to a trained policy, by commands alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rendered_hands import record_egodex, record_vitra
from rendered_walks import record_walks
from waypoints import absolute_poses

from vlarig.envs.vlnce.robot import VLNCE_R2R
from vlarig.harness.cli import main as vlarig
from vlarig.policies.api import Request
from vlarig.policies.qwen_vla.checkpoint import describe_checkpoint
from vlarig.policies.qwen_vla.embodiments import REAL_HUMAN
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.poses import actions_to_hands
from vlarig.training.data.mixture_file import read_mixture
from vlarig.training.samples import ActionSample

MIXTURE = """
weights = [0.4, 0.3, 0.3]

[[datasets]]
source = "egodex"
folder = "egodex"

[[datasets]]
source = "vitra"
folder = "vitra"
videos = "videos"
name = "ego4d"

[[datasets]]
source = "walks"
folder = "walks"
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data in the publishers' layouts with a mixture of them, prepared."""
    folder = tmp_path_factory.mktemp("human")
    record_egodex(folder / "egodex")
    record_vitra(folder / "vitra", folder / "videos")
    record_walks(folder / "walks", ("a", "b"))
    (folder / "mix.toml").write_text(MIXTURE)
    assert vlarig(["data", "prepare", str(folder / "mix.toml")]) == 0
    return folder


def chunk(mixture: Any, name: str) -> ActionSample:
    """The sample of that name."""
    dataset = next(each for each in mixture.datasets if each.name == name.partition("/")[0])
    sample = dataset[int(name.rpartition("/")[2])]
    assert sample.name == name
    return sample


@pytest.mark.slow
def test_by_commands_alone_data_become_a_policy_that_knows_the_basis_of_its_hands(data: Path, capsys: Any) -> None:
    file, page, run = data / "mix.toml", data / "page.html", data / "run"
    assert vlarig(["data", "prepare", str(file)]) == 0
    shown = capsys.readouterr().out
    for name in ("egodex", "ego4d", "made_up"):
        assert name in shown
    assert shown.count("100.0%") == 3

    assert vlarig(["data", "inspect", str(file), "--samples", "6", "--page", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "right_wrist_rotation_z" in shown and "dtheta" in shown and "0 of 6" in shown
    assert "Carry the red cup to the left." in page.read_text()
    assert vlarig(["data", "check", str(file), "--model", "small", "--samples", "12"]) == 0

    settings = ["model.source=tiny", "steps=2", "batch_size=6", "micro_batch_size=2", "track=[]", f"data.source=mixture:{file}"]
    assert vlarig(["train", "cpt", "--run", str(run), "--override", *settings]) == 0
    mixture = read_mixture(file)
    description = describe_checkpoint(run / "policy")
    assert description.eigengrasps == mixture.eigengrasps is not None
    assert set(description.embodiments) == {"real_human", "vlnce_r2r"}

    policy = QwenVlaPolicy(str(run / "policy"))
    for name, robot in (("egodex/carry/0/20", REAL_HUMAN), ("made_up/a/3", VLNCE_R2R)):
        sample = chunk(mixture, name)
        steps = len(sample.actions)
        (reply,) = policy.act([Request(0, name, 0, 1, sample.observation, robot, steps)])
        assert reply.actions.shape == (steps, robot.action_size) and np.isfinite(reply.actions).all()
        if robot is REAL_HUMAN:
            left, right = actions_to_hands(reply.actions, np.eye(4), np.eye(4), description.eigengrasps)
            assert left.wrist.shape == (steps, 4, 4) and right.joints.shape == (steps, 45)


def test_the_curves_say_what_the_images_show(data: Path) -> None:
    """A right hand's x is from its fingers to its wrist, its y out of its back, its z to its thumb's side (:mod:`rendered_hands`)."""
    mixture = read_mixture(data / "mix.toml")
    for name in ("egodex/carry/0", "ego4d/Ego4D_kitchen_ep_000000"):
        ahead, up, left = (chunk(mixture, f"{name}/{frame}").actions[-1, 16:19] for frame in (1, 40, 57))
        assert ahead[0] < -0.1 and abs(ahead[1:]).max() < 1e-3
        assert up[1] > 0.08 and abs(up[0]) < 0.01 and abs(up[2]) < 0.01
        assert left[2] > 0.1
    turning = chunk(mixture, "made_up/a/10").actions
    led = absolute_poses(np.zeros(3), turning)
    assert led[4, 0] == pytest.approx(1.0, abs=1e-3) and turning[4:, 2] == pytest.approx(np.pi / 12, abs=1e-4)


def test_hands_come_back_from_32_channels_within_the_error_of_the_basis(data: Path, tmp_path: Path) -> None:
    truth = {"egodex": record_egodex(tmp_path), "ego4d": record_vitra(tmp_path, tmp_path)}
    mixture = read_mixture(data / "mix.toml")
    basis = mixture.eigengrasps
    assert basis is not None
    for name, hands in (("egodex/carry/0/20", truth["egodex"]), ("ego4d/Ego4D_kitchen_ep_000000/20", truth["ego4d"])):
        actions = chunk(mixture, name).actions
        found = actions_to_hands(actions, hands["left"].wrist[20], hands["right"].wrist[20], basis)
        for hand, side in zip(found, ("left", "right"), strict=True):
            if not hands[side].tracked.any():
                assert not actions[:, :16].any()
                continue
            expected = hands[side].joints[21 : 21 + len(actions)]
            error = np.abs(expected - basis.decode(basis.encode(expected))).max()
            np.testing.assert_allclose(hand.wrist, hands[side].wrist[21 : 21 + len(actions)], atol=1e-5)
            np.testing.assert_allclose(hand.joints, expected, atol=error + 1e-4)
            assert error < 1e-3


def test_another_basis_may_be_taken_and_what_is_none_is_refused(data: Path, tmp_path: Path, capsys: Any) -> None:
    basis = data / "egodex" / "vlarig" / "eigengrasps.json"
    record_egodex(tmp_path / "more")
    (tmp_path / "more.toml").write_text('[[datasets]]\nsource = "egodex"\nfolder = "more"\nname = "more"\n')
    assert vlarig(["data", "prepare", str(tmp_path / "more.toml"), "--eigengrasps", str(basis)]) == 0
    assert (tmp_path / "more" / "vlarig" / "eigengrasps.json").read_text() == basis.read_text()
    capsys.readouterr()
    assert vlarig(["data", "prepare", str(tmp_path / "more.toml"), "--eigengrasps", str(tmp_path / "more.toml")]) == 2
    assert "name the eigengrasps.json of a checkpoint" in capsys.readouterr().err
    (tmp_path / "talk.toml").write_text('[[datasets]]\nsource = "made_up_datasets:Talk"\n')
    assert vlarig(["data", "prepare", str(tmp_path / "talk.toml")]) == 2
    assert "talk.toml has neither human hands nor walks" in capsys.readouterr().err
