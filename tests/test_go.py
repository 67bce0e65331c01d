"""``go.py`` for real, in a small checkout whose only stub is the project itself: its packages need no download."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
THIS_PYTHON = sys.executable

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "vlarig"
version = "0"
[project.optional-dependencies]
dev = []
policy = []
ray = []
results = []
video = []
[tool.vlarig]
embedded = "tabletop"
"""

#: A build backend without dependencies: an "editable" wheel whose programs write down how they were called.
BACKEND = '''
import os, time, zipfile
SCRIPTS = ["vlarig", "ruff", "basedpyright", "lint-imports", "pytest"]
CLI = """
import json, os, sys
def main():
    with open("calls", "a") as file:
        file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\\\n")
    return int(os.environ.get(os.path.basename(sys.argv[0]).upper() + "_STATUS", "0"))
"""
def get_requires_for_build_editable(config_settings=None):
    return []
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    time.sleep(float(os.environ.get("BACKEND_SLEEP", "0")))
    name, info = "vlarig-0-py3-none-any.whl", "vlarig-0.dist-info/"
    files = {
        "vlarig/harness/cli.py": CLI,
        info + "METADATA": "Metadata-Version: 2.1\\nName: vlarig\\nVersion: 0\\n"
        + "".join("Provides-Extra: %s\\n" % extra for extra in ("data", "dev", "policy", "ray", "results", "train", "video")),
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        info + "entry_points.txt": "[console_scripts]\\n" + "".join("%s = vlarig.harness.cli:main\\n" % s for s in SCRIPTS),
    }
    files[info + "RECORD"] = "".join("%s,,\\n" % path for path in [*files, info + "RECORD"])
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
'''


class House:
    """A folder, with a space in its path, in which ``go.py`` can be run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": str(Path(find_uv_bin()).parent),
            "PIP_NO_INDEX": "1",
            "PIP_CONFIG_FILE": os.devnull,
            "UV_OFFLINE": "1",
        }
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "go.py", folder)
        for runtime in ("tabletop", "libero", "simpler"):
            spec = folder / "benchmarks" / runtime / "runtime" / f"{runtime}.toml"
            spec.parent.mkdir(parents=True)
            spec.write_text("renderers = [{name = 'c', libraries = ['c'], apt = []}]")
        (folder / "pyproject.toml").write_text(PYPROJECT)
        (folder / "backend.py").write_text(BACKEND)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start ``go.py`` from another working directory."""
        command = [sys.executable, str(self.folder / "go.py"), *arguments]
        environment = {**self.environment, **variables}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, cwd="/", env=environment, text=True, **streams)

    def go(self, *arguments: str, status: int = 0, **variables: str) -> str:
        """Run ``go.py`` and return its output."""
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == status, output
        return output

    def calls(self) -> list[list[str]]:
        """The calls of the project's programs since the last call of this method."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    @property
    def state(self) -> dict:
        """The state file of ``.venv``."""
        return json.loads((self.folder / ".venv" / "vlarig-setup.json").read_text())


@pytest.fixture
def house(tmp_path):
    return House(tmp_path / "a house")


@pytest.fixture
def go(house, monkeypatch):
    """``go.py`` as a module, for the ways that this machine cannot be made to take."""
    spec = importlib.util.spec_from_file_location("go", house.folder / "go.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in house.environment.items():
        monkeypatch.setenv(name, value)
    return module


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Gives a way to put shell scripts on an otherwise empty PATH."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return add


@pytest.mark.slow
def test_the_first_run_sets_up_and_the_second_takes_seconds(house):
    output = house.go("demo")
    assert "making .venv" in output
    assert "installing vlarig with policy, results, video" in output
    install = ["vlarig", "runtime", "install", "tabletop"]
    runs = {policy: f"runs/demo-{policy}" for policy in ("expert", "qwen-vla", "random")}
    sweeps = [
        f"vlarig sweep tabletop --policy {policy} --episodes 2 --video all --run {run}".split() for policy, run in runs.items()
    ]
    table = ["vlarig", "table", *runs.values()]
    assert house.calls() == [install, *sweeps, table]
    began = time.monotonic()
    output = house.go("demo")
    assert time.monotonic() - began < 5
    assert "making" not in output
    assert "installing" not in output
    assert house.calls() == [install, *sweeps, table]


@pytest.mark.slow
def test_tests_add_their_extras_and_pass_arguments_and_status_on(house):
    house.go("demo")
    (house.folder / ".venv" / "kept").touch()
    house.calls()
    output = house.go("test", "-k", "a b", status=3, PYTEST_STATUS="3")
    assert "making" not in output
    assert house.state["extras"] == ["data", "dev", "policy", "ray", "results", "train", "video"]
    install, *checks = house.calls()
    assert install == ["vlarig", "runtime", "install", "tabletop", "libero", "simpler"]
    programs = [call[0] for call in checks]
    assert programs == ["ruff", "ruff", "basedpyright", "lint-imports", "pytest"]
    output = house.go("test", status=1, BASEDPYRIGHT_STATUS="1")
    assert house.calls()[-1] == ["pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert output.endswith("go: failed, further above: basedpyright\n")
    (house.folder / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert "installing vlarig with data, dev, policy, ray, results, train, video" in house.go("demo")
    assert "installing" not in house.go("demo")
    assert (house.folder / ".venv" / "kept").exists()


@pytest.mark.slow
def test_setup_installs_every_extra_and_the_named_runtimes_and_runs_nothing(house):
    output = house.go("setup", "simpler", "tabletop")
    assert house.calls() == [["vlarig", "runtime", "install", "simpler", "tabletop"]]
    assert house.state["extras"] == ["data", "policy", "ray", "results", "train", "video"]
    assert output.endswith(".venv/bin/vlarig' --help\n")
    house.go("setup")
    assert house.calls() == [["vlarig", "runtime", "install", "tabletop"]]


@pytest.mark.slow
def test_the_developers_versions_are_locked_and_a_users_are_not(house):
    (house.folder / "constraints.txt").write_text("vlarig==9\n")
    house.go("demo")
    assert "vlarig's packages could not be installed" in house.go("test", status=1)


@pytest.mark.slow
def test_an_environment_whose_python_is_gone_is_made_anew(house):
    house.go("demo")
    for python in (house.folder / ".venv" / "bin").glob("python*"):
        python.unlink()
        python.symlink_to("/nowhere/python")
    output = house.go("demo")
    assert "removing the old .venv" in output
    assert house.state["extras"] == ["policy", "results", "video"]


@pytest.mark.parametrize("harm", ["half-made", "no json", "a file", "empty", "dangling", "moved", "another python"])
def test_a_broken_environment_is_made_anew(go, house, monkeypatch, capsys, harm):
    """Making and installing, which the tests above do for real, are stubbed here."""
    venv = house.folder / ".venv"

    def make_venv(lock):
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").symlink_to(sys.executable)

    monkeypatch.setattr(go, "make_venv", make_venv)
    monkeypatch.setattr(go, "install", lambda extras, lock: None)
    go.ensure_venv(["video"], None)
    state = house.state
    if harm in ("half-made", "no json"):
        (venv / "vlarig-setup.json").write_text({"half-made": "{}", "no json": "{"}[harm])
        if harm == "no json":
            (venv / "bin" / "python").unlink()
    elif harm in ("a file", "empty"):
        shutil.rmtree(venv)
        venv.touch() if harm == "a file" else venv.mkdir()
    elif harm == "dangling":
        venv.rename(house.folder / "elsewhere")
        venv.symlink_to("/nowhere")
    else:
        birth = {"moved": state["birth"] + "/before", "another python": state["birth"].replace(" 3.", " 3.1")}[harm]
        (venv / "vlarig-setup.json").write_text(json.dumps({**state, "birth": birth}))
    capsys.readouterr()
    go.ensure_venv(["video"], None)
    assert "removing the old .venv" in capsys.readouterr().out
    assert house.state == state


@pytest.mark.slow
def test_a_working_environment_of_the_users_own_is_built_upon(house):
    subprocess.run([sys.executable, "-m", "venv", house.folder / ".venv"], check=True)
    (house.folder / ".venv" / "kept").touch()
    house.go("demo")
    assert (house.folder / ".venv" / "kept").exists()
    assert house.state["extras"] == ["policy", "results", "video"]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_set_up_is_taken_up_again(house, sign):
    process = house.start("demo", BACKEND_SLEEP="5")
    assert process.stdout
    while "installing" not in process.stdout.readline():
        pass
    time.sleep(1)
    process.send_signal(sign)
    process.wait(timeout=30)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[sign]
    assert (house.folder / ".venv").exists() == (sign == signal.SIGKILL)
    assert "making .venv" in house.go("demo")
    assert house.state["extras"] == ["policy", "results", "video"]


def without_ensurepip(programs, pip: bool) -> str:
    """A Python like Debian's without python3-venv: it makes environments only without pip."""
    refuse_pip = "" if pip else '[ "$2" = pip ] && exit 1'
    script = f'[ "$1 $2" = "-m venv" ] && [ "$3" != --without-pip ] && echo no ensurepip && exit 1\n{refuse_pip}'
    return str(programs("bare-python", f'{script}\nexec "{THIS_PYTHON}" "$@"'))


def test_without_ensurepip_another_pip_is_borrowed(go, house, programs, monkeypatch):
    monkeypatch.setattr(go.sys, "executable", without_ensurepip(programs, pip=False))
    programs("pip3", "exit 0")
    go.make_venv(lock=None)
    assert (house.folder / ".venv" / "bin" / "python").exists()
    assert [command[0].rpartition("/")[2] for command in go.installers()] == ["pip3"]


def test_without_any_pip_uv_makes_the_environment(go, house, programs, monkeypatch):
    no_venv = programs("bare-python", f'[ "$2" = venv ] || [ "$2" = pip ] && exit 1\nexec "{THIS_PYTHON}" "$@"')
    monkeypatch.setattr(go.sys, "executable", str(no_venv))
    programs("uv", f'for last in "$@"; do :; done\nexec "{THIS_PYTHON}" -m venv --without-pip "$last"')
    go.make_venv(lock=None)
    assert [command[0].rpartition("/")[2] for command in go.installers()] == ["uv"]


def test_without_anything_the_line_to_type_is_said(go, house, programs, monkeypatch, capsys):
    monkeypatch.setattr(go.sys, "executable", without_ensurepip(programs, pip=False))
    monkeypatch.setattr(go, "is_system_python", lambda: True)
    monkeypatch.setattr(go.os, "geteuid", lambda: 1000)
    programs("apt-get", "exit 1")
    with pytest.raises(SystemExit) as stopped:
        go.ensure_venv(["video"], None)
    assert stopped.value.code == 1
    assert f"run: sudo apt-get install -y python{go.HERE}-venv\n" in capsys.readouterr().err
    assert not (house.folder / ".venv").exists()


def test_a_missing_library_is_named_with_the_line_to_type(go, programs, monkeypatch, capsys):
    spec = Path("benchmarks", "tabletop", "runtime", "tabletop.toml")
    shutil.copy(ROOT / spec, Path(go.ROOT) / spec)
    monkeypatch.setattr(go.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setattr(go.os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit):
        go.ensure_renderer("tabletop")
    assert "with your system's package manager" in capsys.readouterr().err
    programs("apt-get", "exit 1")
    with pytest.raises(SystemExit):
        go.ensure_renderer("tabletop")
    assert "images need the library OSMesa; run: sudo apt-get install -y libosmesa6\n" in capsys.readouterr().err


def test_several_renderers_may_be_asked_for(go, programs, monkeypatch, capsys):
    spec = Path("benchmarks", "tabletop", "runtime", "tabletop.toml")
    shutil.copy(ROOT / spec, Path(go.ROOT) / spec)
    monkeypatch.setattr(go.ctypes.util, "find_library", lambda name: None)
    monkeypatch.setenv("VLARIG_RENDERER", "lavapipe, egl")
    with pytest.raises(SystemExit):
        go.ensure_renderer("tabletop")
    assert "images need the library EGL OpenGL" in capsys.readouterr().err


def test_a_graphics_driver_is_left_to_the_runtime(go, programs, monkeypatch):
    simpler = Path("benchmarks", "simpler", "runtime", "simpler.toml")
    shutil.copy(ROOT / simpler, Path(go.ROOT) / simpler)
    monkeypatch.setattr(go.ctypes.util, "find_library", lambda name: None)
    for names in ("", "gpu", "osmesa"):
        monkeypatch.setenv("VLARIG_RENDERER", names)
        go.ensure_renderer("simpler")


@pytest.mark.parametrize("user", [0, 1000])
def test_a_missing_library_is_installed_where_that_is_allowed(go, programs, monkeypatch, tmp_path, user):
    spec = Path("benchmarks", "tabletop", "runtime", "tabletop.toml")
    shutil.copy(ROOT / spec, Path(go.ROOT) / spec)
    log = tmp_path / "log"
    monkeypatch.setattr(go.ctypes.util, "find_library", lambda name: name if log.exists() and "-y" in log.read_text() else None)
    monkeypatch.setattr(go.os, "geteuid", lambda: user)
    programs("apt-get", f'echo "$@" >> "{log}"')
    programs("env", 'shift; exec "$@"')
    programs("sudo", f'shift; PATH="{os.environ["PATH"]}" exec "$@"')
    programs("true", "exit 0")
    go.ensure_renderer("tabletop")
    update, install = log.read_text().splitlines()
    assert update.endswith("update")
    assert install.endswith("install -y --no-install-recommends libosmesa6")


def test_an_old_python_is_told_so(go, programs, monkeypatch, capsys):
    ast.parse((ROOT / "go.py").read_text(), feature_version=(3, 8))
    monkeypatch.setattr(go.sys, "version_info", (3, 9, 0))
    with pytest.raises(SystemExit):
        go.require_python()
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


def test_a_wrong_word_gets_the_right_ones(house):
    assert "expected `demo`, `setup [RUNTIME ...]` or `test [PYTEST ARGS]`, not `dmeo`" in house.go("dmeo", status=2)
    assert "unknown runtime 'liberi'; expected some of libero, simpler, tabletop" in house.go("setup", "liberi", status=2)
    assert "python3 go.py demo" in house.go("--help")


def test_ci_runs_the_readmes_command(tmp_path, programs):
    ci = tmp_path / "checkout" / ".ci"
    ci.mkdir(parents=True)
    (tmp_path / "shared" / "assets").mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", ci)
    python = programs("python3", 'echo "$PWD: $* $(ls -d "$VLARIG_ASSETS")"')
    for installed in ("pdflatex", "chromium"):
        programs(installed, "exit 0")
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/bin:/bin", "VLARIG_ASSETS": "", "PYTHON": str(python)}
    output = subprocess.run([ci / "run"], env=environment, text=True, capture_output=True, check=True, cwd="/").stdout
    assert output.startswith(f"{tmp_path / 'checkout'}: go.py test")
    assert output.strip().endswith("shared/assets")
