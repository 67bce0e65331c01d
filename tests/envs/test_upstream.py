"""What adapters share: the scene pool, quiet and patched imports, and the folder of data files."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.scene_pool import ScenePool
from vlarig.envs.upstream import Patch, assets_folder, import_upstream, patched, quiet


class Scene:
    """A scene that samples while it is loaded, and is closed once."""

    def __init__(self, suite: str, task: str) -> None:
        self.task, self.closed = task, 0
        np.random.rand()

    def close(self) -> None:
        self.closed += 1


def test_a_scene_is_loaded_once_and_kept_while_it_is_played_and_a_little_longer() -> None:
    pool = ScenePool(Scene)
    first, again = pool.borrow("suite", "a"), pool.borrow("suite", "a")
    assert first is again
    second = pool.borrow("suite", "b")
    pool.give_back("suite", "a")
    third = pool.borrow("suite", "c")
    pool.give_back("suite", "b")
    assert [scene.closed for scene in (first, second, third)] == [0, 0, 0], "one is idle, and one is still played elsewhere"
    pool.give_back("suite", "a")
    assert [scene.closed for scene in (first, second, third)] == [1, 0, 0], (
        "of two idle ones that which was borrowed first goes"
    )
    assert pool.borrow("suite", "a") is not first


def test_a_load_samples_nothing_from_the_process_wide_generators() -> None:
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    ScenePool(Scene).borrow("suite", "a")
    assert np.random.rand() == expected


def test_upstream_is_imported_once_patched_and_without_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "talkative.py").write_text(
        "import logging, warnings\nprint('hello')\nwarnings.warn('beware')\nlogging.getLogger('talk').error('oh')\nVALUE = 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    order = []

    @contextmanager
    def around() -> Iterator[None]:
        order.append("talkative" in sys.modules)
        yield
        order.append("talkative" in sys.modules)

    patch = Patch("around", "no reason", needed=lambda: True, importing=around)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modules = [import_upstream("talkative", [patch], ["talk"]) for _ in range(2)]
    assert modules[0] is modules[1]
    assert (modules[0].VALUE, order) == (1, [False, True])
    assert capsys.readouterr() == ("", "hello\n")
    sys.modules.pop("talkative")


def test_within_quiet_loggers_write_nothing_and_afterwards_again(caplog: pytest.LogCaptureFixture) -> None:
    with quiet("loud"):
        logging.getLogger("loud").error("within")
    logging.getLogger("loud").error("after")
    assert caplog.messages == ["after"]


def test_a_class_is_changed_by_each_patch_and_stays_as_it_is() -> None:
    class Upstream:
        parts = ("wheel",)

    def adding(part: str) -> Patch:
        return Patch(part, "", lambda: True, changing=lambda cls: type(cls.__name__, (cls,), {"parts": (*cls.parts, part)}))

    changed = patched(Upstream, [adding("roof"), Patch("nothing", "", lambda: True), adding("door")])
    assert changed.parts == ("wheel", "roof", "door")
    assert Upstream.parts == ("wheel",)


def test_a_folder_of_data_files_that_lacks_a_part_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meshes").mkdir()
    monkeypatch.setenv("VLARIG_ASSETS_MINE", str(tmp_path))
    assert assets_folder("mine", "meshes") == tmp_path
    with pytest.raises(VlarigError, match=r"VLARIG_ASSETS_MINE is '.*', expected a folder with meshes and scenes; run: vlarig"):
        assets_folder("mine", "meshes", "scenes")
    monkeypatch.delenv("VLARIG_ASSETS_MINE")
    with pytest.raises(VlarigError, match="is '', expected a folder with meshes; run: vlarig assets list"):
        assets_folder("mine", "meshes")
