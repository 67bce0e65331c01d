"""What goes into a manifest."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from sample_runs import make_episode

from vlarig.results import planning
from vlarig.results.planning import episodes_digest, git_revision, package_versions, suite_plans, surroundings

EPISODES = [make_episode(initial_state, task) for initial_state in range(3) for task in ("stack", "push_to")]


def test_the_digest_is_for_ever():
    assert episodes_digest(EPISODES[:2]) == "03391fd3f8c34dde257948e097445a9ad9a05bc90d262993d1a95a24cec3c9af"


def test_the_digest_does_not_depend_on_order():
    assert episodes_digest(EPISODES[::-1]) == episodes_digest(EPISODES)


@pytest.mark.parametrize(
    "payload",
    [{"goal": [0, 0.5], "more": None}, {"goal": [0, 0.25]}, {"goal": np.array([0, 0.5])}, {"goal": b"\0"}, {}],
)
def test_the_digest_sees_payloads(payload):
    other = [replace(EPISODES[0], payload=payload), *EPISODES[1:]]
    assert episodes_digest(other) != episodes_digest(EPISODES)


def test_the_digest_sees_one_bit_of_an_array():
    motions = [np.zeros((20, 7), np.float32) for _ in range(2)]
    motions[1][19, 6] = np.nextafter(np.float32(0), np.float32(1))
    one, other = ([replace(EPISODES[0], payload={"motion": motion})] for motion in motions)
    assert episodes_digest(one) != episodes_digest(other)


def test_the_digest_refuses_what_it_cannot_tell_apart():
    with pytest.raises(TypeError, match="plain data"):
        episodes_digest([replace(EPISODES[0], payload={"goal": object()})])
    with pytest.raises(ValueError, match="two episodes have the key"):
        episodes_digest([*EPISODES, EPISODES[2]])


def test_one_name_for_two_protocols_is_refused():
    other = replace(EPISODES[0], protocol=replace(EPISODES[0].protocol, n_action_steps=1))
    with pytest.raises(ValueError, match="both called 'standard@1'"):
        suite_plans([EPISODES[1], other])


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_git_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "__file__", str(tmp_path / "file"))
    assert git_revision() == (None, None)
    author = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], [*author, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    revision, dirty = git_revision()
    assert len(revision) == 40
    assert dirty is False
    (tmp_path / "file").write_text("two")
    assert git_revision() == (revision, True)


def test_surroundings_are_filled_in():
    record = surroundings({"seed": 3}, {"suite": "a note"})
    assert record.config == {"seed": 3}
    assert record.packages["numpy"] == np.__version__
    assert record.host
    assert record.created.endswith("+00:00")


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(planning, "PACKAGES", ("numpy", "no-such-package"))
    assert list(package_versions()) == ["numpy"]
