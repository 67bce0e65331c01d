"""What counts as the code of a module: its file or package, and the local modules that it imports."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlarig.envs.sources import CodeChangedError, check_unchanged, find_sources, named_files, source_hashes


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path with a policy beside a helper, and an adapter that is a package."""
    write(
        tmp_path / "my_policy_x.py", "import json, numpy, my_helper_x\nfrom my_adapter_x.env import Env\nraise RuntimeError\n"
    )
    write(tmp_path / "my_helper_x.py", "import a_simulator_that_is_not_here\n")
    write(tmp_path / "my_adapter_x" / "__init__.py", "")
    write(tmp_path / "my_adapter_x" / "env.py", "from . import robot\nimport vlarig.envs.api\n")
    write(tmp_path / "my_adapter_x" / "assets" / "robot.xml", "<robot/>")
    write(tmp_path / "not_imported_x.py", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hashes(*modules: str) -> dict[str, str]:
    return source_hashes(find_sources(modules))


def test_it_is_the_file_and_the_local_modules_that_it_imports(folder: Path) -> None:
    assert set(hashes("my_policy_x")) == {"my_policy_x.py", "my_helper_x.py", "my_adapter_x"}
    assert set(hashes("my_adapter_x.env")) == {"my_adapter_x"}
    assert hashes("vlarig.policies.scripted", "json", "nowhere_x") == {}


@pytest.mark.parametrize(
    "edited", ["my_helper_x.py", "my_adapter_x/env.py", "my_adapter_x/assets/robot.xml", "my_adapter_x/new.toml"]
)
def test_each_edit_changes_the_hash_of_what_was_edited_alone(folder: Path, edited: str) -> None:
    before = hashes("my_policy_x")
    write(folder / edited, "changed = 1\n")
    after = hashes("my_policy_x")
    assert [name for name in before if before[name] != after[name]] == [edited.partition("/")[0]]


def test_what_python_makes_by_itself_does_not_count_nor_where_it_is_installed(folder: Path, tmp_path_factory) -> None:
    before = hashes("my_policy_x")
    write(folder / "my_adapter_x" / "__pycache__" / "env.cpython-311.pyc", "x")
    write(folder / "my_adapter_x" / ".git" / "HEAD", "x")
    assert hashes("my_policy_x") == before
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    moved = folder.rename(elsewhere / "moved")
    assert source_hashes(find_sources(["my_policy_x"], folder=moved))["my_policy_x.py"] == before["my_policy_x.py"]


def test_what_is_installed_counts_where_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = folder / "site-packages"
    write(site / "an_adapter_x.py", "import a_library_x\n")
    write(site / "a_library_x.py", "")
    monkeypatch.syspath_prepend(str(site))
    assert set(hashes("an_adapter_x")) == {"an_adapter_x.py"}


def test_a_folder_without_init_is_followed_to_its_file(folder: Path) -> None:
    write(folder / "experiments_x" / "one.py", "from . import two\n")
    write(folder / "experiments_x" / "two.py", "")
    write(folder / "experiments_x" / "three.py", "")
    assert set(hashes("experiments_x.one")) == {"experiments_x/one.py", "experiments_x/two.py"}


def test_a_file_that_changed_or_went_is_named(folder: Path) -> None:
    (source,) = find_sources(["my_adapter_x"])
    files = {str(path): contents for path, contents in source.files}
    check_unchanged(files.items())
    write(folder / "my_adapter_x" / "assets" / "robot.xml", "<arm/>")
    with pytest.raises(CodeChangedError, match=r"robot\.xml has changed since the run began"):
        check_unchanged(files.items())
    (folder / "my_adapter_x" / "assets" / "robot.xml").unlink()
    with pytest.raises(CodeChangedError, match=r"robot\.xml has changed"):
        check_unchanged(files.items())


def test_a_text_names_files_and_folders_alone_or_in_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here" / "a,b.npy", "1")
    write(tmp_path / "here" / "a.npy", "2")
    write(tmp_path / "here" / "models" / "b.npy", "3")
    monkeypatch.chdir(tmp_path / "here")

    def names(text: str) -> list[str]:
        return [source.name for source in named_files(text)]

    assert names("a.npy") == ["a.npy"]
    assert names("a.npy,models/b.npy") == names('["a.npy", "models/b.npy"]') == names('{"x": "a.npy", "y": "models/b.npy"}')
    assert names("a.npy,models/b.npy") == ["a.npy", "models/b.npy"]
    assert names("a,b.npy") == ["a,b.npy"]
    assert names("models") == ["models"]
    assert [names(text) for text in ("", ".", "..", "/", str(tmp_path), "0.5", "absent.npy", "~no one", "x" * 5000)] == [[]] * 9
    (before,) = named_files("models")
    write(tmp_path / "here" / "models" / "c.npy", "")
    (after,) = named_files("models")
    assert before.sha256 != after.sha256
