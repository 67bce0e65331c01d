"""Runtimes, made for real with uv from locks that hold no packages."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from uv import find_uv_bin

from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes import runtime as runtimes
from vlarig.envs.runtimes import spec as runtime_spec

TOY = """
title = "a toy"
python = ">=3.11,<3.99"
imports = ["json"]
probe = "import os; assert os.environ['RENDERS'] == 'yes'"

[[renderers]]
name = "good"
libraries = ["good"]
apt = ["libgood1"]
environment = { RENDERS = "yes" }

[[renderers]]
name = "bad"
libraries = ["bad"]
apt = ["libbad2", "libbad3"]
environment = { RENDERS = "no" }
"""


@pytest.fixture
def locks(tmp_path, monkeypatch):
    """A home without runtimes, and the lock of a toy runtime; both renderers' libraries are here."""
    folder = tmp_path / "locks"
    folder.mkdir()
    (folder / "toy.toml").write_text(TOY)
    (folder / "toy.txt").write_text("# nothing\n")
    monkeypatch.setattr(runtime_spec, "runtime_files", lambda: {path.stem: path for path in folder.glob("*.toml")})
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VLARIG_RENDERER", raising=False)
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    return folder


def install(name="toy"):
    lines = []
    return runtimes.install_runtime(name, lines.append), lines


def test_install_then_find(locks):
    with pytest.raises(VlarigError, match=r"^the runtime 'toy' is not installed; run: vlarig runtime install toy$"):
        runtimes.find_runtime("toy")
    runtime, lines = install()
    assert runtime == runtimes.find_runtime("toy")
    assert not runtime.adopted
    assert runtime.lock_sha256 == hashlib.sha256(b"# nothing\n").hexdigest()
    assert runtime.python.parents[1].name == f"toy-{runtime.lock_sha256[:12]}"
    assert subprocess.run([runtime.python, "-c", ""], check=False).returncode == 0
    assert len(lines) == 4
    assert install()[1] == [f"the runtime 'toy' is ready: {runtime.python.parents[1]}"]


def test_an_interrupted_install_is_repeated(locks):
    runtime, _ = install()
    folder = runtime.python.parents[1]
    (folder / "complete").unlink()
    (folder / "half").touch()
    with pytest.raises(VlarigError, match="is not installed"):
        runtimes.find_runtime("toy")
    install()
    assert not (folder / "half").exists()


def test_a_runtime_that_lost_its_python_is_made_again(locks):
    runtime, _ = install()
    runtime.python.unlink()
    with pytest.raises(VlarigError, match="has lost the Python"):
        runtimes.find_runtime("toy")
    assert install()[0].python.exists()


def test_a_changed_lock_is_another_runtime(locks):
    first, _ = install()
    (locks / "toy.txt").write_text("# nothing else\n")
    with pytest.raises(VlarigError, match="another version of its lock; run: vlarig runtime install toy"):
        runtimes.find_runtime("toy")
    second, _ = install()
    assert first.python.exists()
    assert second.python != first.python
    assert len(runtimes.remove_runtime("toy")) == 2
    assert not first.python.exists()
    with pytest.raises(VlarigError, match="nothing to remove"):
        runtimes.remove_runtime("toy")


def test_two_installs_at_once_do_not_collide(locks):
    reports = [[], []]
    threads = [threading.Thread(target=runtimes.install_runtime, args=("toy", lines.append)) for lines in reports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("making a virtual environment" in line for line in [*reports[0], *reports[1]]) == 1
    assert reports[0][-1] == reports[1][-1] == f"the runtime 'toy' is ready: {runtimes.find_runtime('toy').python.parents[1]}"


def test_packages_that_cannot_be_had_are_an_error(locks, monkeypatch):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (locks / "toy.txt").write_text(f"no-such-package==1 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(VlarigError, match="could not be installed"):
        install()
    with pytest.raises(VlarigError, match="is not installed"):
        runtimes.find_runtime("toy")


def test_a_runtime_that_cannot_render_is_an_error(locks, monkeypatch):
    monkeypatch.setenv("VLARIG_RENDERER", "bad")
    with pytest.raises(VlarigError, match="does not work with the renderer 'bad' \\(AssertionError\\)"):
        install()


@pytest.fixture
def uv(tmp_path, monkeypatch):
    """A uv that records its calls, and finds a pinned build only where PyTorch's own index is given."""
    calls, path = tmp_path / "notes", tmp_path / "uv"
    script = (
        'echo "$UV_FIND_LINKS|$*" >> NOTES\n[ "$1" = venv ] && exec UV "$@"\n[ "${*#*--torch-backend}" != "$*" ] || exit $PLAIN'
    )
    path.write_text("#!/bin/sh\n" + script.replace("NOTES", str(calls)).replace("UV ", f"{find_uv_bin()} "))
    path.chmod(0o755)
    monkeypatch.setattr(runtimes, "_uv", lambda: str(path))
    return lambda: [line.partition("|") for line in calls.read_text().splitlines() if "pip" in line]


@pytest.mark.parametrize(("plain", "backend"), [("0", False), ("1", True)])
def test_a_build_of_pytorch_is_looked_for_at_its_makers_last(locks, monkeypatch, uv, plain, backend):
    monkeypatch.setenv("PLAIN", plain)
    (locks / "toy.toml").write_text(f'torch = "cpu"\n{TOY}')
    _, lines = install()
    tried, installed = (words for _, _, words in uv())
    assert tried.endswith("--dry-run")
    assert installed.endswith("--torch-backend cpu") is backend
    assert len(lines) == 4, "the trial says nothing"


def test_uv_gets_pips_settings(locks, monkeypatch, uv, tmp_path):
    monkeypatch.setenv("PLAIN", "0")
    for variable in ("UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(variable, raising=False)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nfind-links = /wheels\n  /more\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    install()
    assert uv()[-1][0] == "/wheels,/more"
    monkeypatch.setenv("PIP_FIND_LINKS", "/mine")
    assert runtimes.package_settings()["UV_FIND_LINKS"] == "/mine"
    monkeypatch.setenv("UV_FIND_LINKS", "/uvs")
    runtimes.remove_runtime("toy")
    install()
    assert uv()[-1][0] == "/uvs"


def test_pips_index_is_uvs_unless_uv_has_one(monkeypatch, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[install]\nindex-url = https://packages.example/simple\n[global]\nindex-url = https://other.example\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.delenv("PIP_INDEX_URL", raising=False)
    monkeypatch.delenv("UV_INDEX_URL", raising=False)
    assert runtimes.package_settings()["UV_DEFAULT_INDEX"] == "https://packages.example/simple"
    monkeypatch.setenv("UV_INDEX_URL", "https://uvs.example")
    assert "UV_DEFAULT_INDEX" not in runtimes.package_settings()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert runtimes.package_settings() == {}


def test_without_graphics_it_is_installed_and_the_missing_library_named(locks, monkeypatch):
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: None)
    _, lines = install()
    assert any("libgood is missing" in line for line in lines)


def test_renderers_are_taken_in_order_of_preference(locks, monkeypatch):
    spec = runtimes.load_spec("toy")
    assert runtimes.choose_renderer(spec).environment == {"RENDERS": "yes"}
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: name if name == "bad" else None)
    assert runtimes.choose_renderer(spec).name == "bad"
    monkeypatch.setenv("VLARIG_RENDERER", "good")
    with pytest.raises(VlarigError, match=r"libgood is missing; run: (sudo )?apt-get install -y libgood1$"):
        runtimes.choose_renderer(spec)


def test_renderers_are_requested_by_name_for_all_runtimes_at_once(locks, monkeypatch):
    (locks / "other.toml").write_text(TOY.replace('"good"', '"fine"'))
    toy, other = runtimes.load_spec("toy"), runtimes.load_spec("other")

    def chosen(names):
        monkeypatch.setenv("VLARIG_RENDERER", names)
        return [runtimes.choose_renderer(spec).name for spec in (toy, other)]

    assert chosen("") == ["good", "fine"]
    assert chosen("bad") == ["bad", "bad"]
    assert chosen("good") == ["good", "fine"], "a runtime that does not know the name has its own preference"
    assert chosen("good, bad") == ["good", "bad"]
    assert chosen("bad,good,") == ["bad", "bad"], "the first that it knows"
    for names in ("godo", "bad,godo"):
        with pytest.raises(
            VlarigError, match=r"^VLARIG_RENDERER names 'godo', by which no runtime renders; did you mean good\?$"
        ):
            chosen(names)


@pytest.mark.parametrize(("version", "accepted"), [((3, 10), False), ((3, 11), True), ((3, 98), True), ((3, 99), False)])
def test_versions_of_python(locks, version, accepted):
    assert runtimes.load_spec("toy").accepts(version) is accepted


def test_unknown_names_get_the_nearest(locks):
    with pytest.raises(VlarigError, match="unknown runtime 'toi'; did you mean toy\\?"):
        runtimes.find_runtime("toi")


def test_adopt_find_and_forget(locks):
    runtime = runtimes.add_runtime("mine", Path(sys.executable))
    assert runtime.adopted
    assert len(runtime.lock_sha256) == 64
    assert runtimes.find_runtime("mine") == runtime
    assert [state.name for state in runtimes.list_runtimes()] == ["toy", "mine"]
    with pytest.raises(VlarigError, match="is adopted from"):
        install("mine")
    assert runtimes.remove_runtime("mine") == []
    with pytest.raises(VlarigError, match="unknown runtime 'mine'"):
        runtimes.find_runtime("mine")


def test_what_cannot_be_adopted(locks, tmp_path):
    with pytest.raises(VlarigError, match="no such file"):
        runtimes.add_runtime("mine", tmp_path / "python")
    with pytest.raises(VlarigError, match="does not start as Python"):
        runtimes.add_runtime("mine", Path("/bin/true"))
    with pytest.raises(VlarigError, match="use small letters"):
        runtimes.add_runtime("../mine", Path(sys.executable))
    bare, _ = install()
    with pytest.raises(VlarigError, match=r"cannot import numpy, gymnasium, msgspec; run: .* -m pip install numpy"):
        runtimes.add_runtime("mine", bare.python)
    old = tmp_path / "old"
    old.write_text("""#!/bin/sh\necho '{"version": [3, 8, 1], "missing": [], "packages": ""}'\n""")
    old.chmod(0o755)
    with pytest.raises(VlarigError, match=r"is Python 3\.8\.1, expected 3\.9 or newer"):
        runtimes.add_runtime("mine", old)


def test_a_spoilt_list_of_adopted_runtimes_is_refused_with_advice(locks):
    (runtimes.home() / "runtimes").mkdir(parents=True)
    (runtimes.home() / "runtimes" / "adopted.json").write_text("[")
    with pytest.raises(VlarigError, match="delete it and add them again"):
        runtimes.find_runtime("toy")


def test_home_follows_the_environment(monkeypatch):
    monkeypatch.delenv("VLARIG_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert runtimes.home() == Path("/cache/vlarig")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert runtimes.home() == Path.home() / ".cache" / "vlarig"
    monkeypatch.setenv("VLARIG_HOME", "/elsewhere")
    assert runtimes.home() == Path("/elsewhere")


@pytest.mark.parametrize("name", runtime_spec.spec_names())
def test_the_runtimes_that_we_ship_are_whole(name):
    spec = runtimes.load_spec(name)
    assert spec.accepts((3, 11))
    assert spec.imports
    lines = [line for line in spec.lock.read_text().splitlines() if line and line[0] not in " #"]
    assert lines
    assert all("==" in line for line in lines)
    assert spec.lock.read_text().count("--hash=sha256:") >= len(lines)
    assert not any(line.startswith("nvidia-") for line in lines), "no simulator here needs CUDA"
    assert any(line.startswith("torch==") for line in lines) == bool(spec.torch)


@pytest.mark.slow
def test_a_command_runs_in_a_runtime_as_a_worker_does(toy_home: Path, cli) -> None:
    code = "import sys, toy.env, vlarig.benchmarks.registry as r; print(r.__file__); sys.exit(len(sys.argv))"
    done = cli("runtime", "run", "toy", "--", "python", "-c", code, "--an_option", PYTHONPATH=str(Path(__file__).parents[1]))
    assert done.returncode == 2, done.stderr
    assert "/vlarig/benchmarks/registry.py" in done.stdout, "a link of the command's own, not what is installed"
    absent = cli("runtime", "run", "toy", "--", "nosuch_module", "--flag")
    assert absent.returncode == 2
    assert "has no module 'nosuch_module'" in absent.stderr
