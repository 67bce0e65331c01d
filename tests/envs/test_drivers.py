"""Vulkan drivers: found by their manifests, in the order that people expect, and never a wrong one."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess

import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes import drivers
from vlarig.envs.runtimes import spec as runtime_spec
from vlarig.envs.runtimes.drivers import LAVAPIPE, NVIDIA, find_driver, load_driver
from vlarig.envs.runtimes.runtime import find_runtime
from vlarig.envs.runtimes.spec import Renderer, choose_renderer, load_spec


@pytest.fixture
def system(tmp_path, monkeypatch):
    """The system's folder of manifests, which is empty; nothing else is found either."""
    folder = tmp_path / "share" / "vulkan" / "icd.d"
    folder.mkdir(parents=True)
    monkeypatch.setattr(drivers, "SYSTEM_FOLDERS", (str(tmp_path / "etc"), str(tmp_path / "share")))
    monkeypatch.setattr(drivers, "_package_version", lambda driver: "")
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: f"lib{name}.so")
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path / "home"))
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "LD_LIBRARY_PATH", "VLARIG_RENDERER"):
        monkeypatch.delenv(variable, raising=False)
    return folder


def put(path, library="libvulkan_lvp.so", version="1.4.305"):
    """Write a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"ICD": {"api_version": version, "library_path": library}, "file_format_version": "1.0.0"}))
    return path


def make_private(version="1.4.305"):
    """A private copy of lavapipe, as the installer leaves it."""
    folder = drivers.private_folder(LAVAPIPE)
    library = folder / "root" / "usr" / "lib" / "x86_64-linux-gnu" / "libvulkan_lvp.so"
    library.parent.mkdir(parents=True)
    library.touch()
    (library.parent / "libX11.so.6").touch()
    (folder / "complete").write_text("mesa-vulkan-drivers 25.0.7-2\n")
    return put(folder / "icd.json", str(library), version)


def found_path(driver=LAVAPIPE):
    found = find_driver(driver)
    return found and found.manifest.path


@pytest.mark.parametrize("name", ["lvp_icd.json", f"lvp_icd.{platform.machine()}.json"])
def test_the_simulator_gets_the_systems_driver_and_no_other(system, name):
    path = put(system / name)
    put(system / "radeon_icd.json", "libvulkan_radeon.so")
    found = find_driver(LAVAPIPE)
    assert found
    assert found.environment() == {"VK_DRIVER_FILES": str(path), "VK_ICD_FILENAMES": str(path)}
    assert found.origin == f"the system's ({path})"


def test_other_manifests_are_skipped(system, tmp_path):
    put(system / "lvp_icd.sparc.json")
    put(system / "intel_icd.json", "libvulkan_intel.so")
    put(system / "lvp_gone_icd.json", str(tmp_path / "gone" / "libvulkan_lvp.so"))
    (system / "lvp_broken_icd.json").write_text("{")
    (system / "lvp_list_icd.json").write_text("[]")
    assert found_path() is None
    path = put(system / "lvp_icd.json")
    assert found_path() == path


def test_a_private_copy_comes_before_the_systems_and_the_users_word_before_both(system, tmp_path, monkeypatch):
    installed = put(system / "lvp_icd.json")
    private = make_private()
    assert found_path() == private
    named = put(tmp_path / "mine.json")
    nvidia = put(tmp_path / "nvidia.json", "libGLX_nvidia.so.0")
    monkeypatch.setenv("VK_ICD_FILENAMES", str(named))
    assert found_path() == named
    monkeypatch.setenv("VK_DRIVER_FILES", f"{nvidia}{os.pathsep}{named}")
    assert found_path() == named
    assert found_path(NVIDIA) == nvidia
    monkeypatch.setenv("VK_DRIVER_FILES", str(nvidia))
    assert found_path() == private
    private.with_name("complete").unlink()
    assert found_path() == installed


def test_a_private_copys_libraries_come_first(system, monkeypatch):
    folder = make_private().parent / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    found = find_driver(LAVAPIPE)
    assert found
    assert found.environment()["LD_LIBRARY_PATH"] == str(folder)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    assert found.environment()["LD_LIBRARY_PATH"] == f"{folder}:/elsewhere"
    assert found.origin == f"a copy of its own, mesa-vulkan-drivers 25.0.7-2 ({drivers.private_folder(LAVAPIPE)})"
    assert found.has_library("X11")
    assert not found.has_library("X")


def test_a_private_copy_that_was_moved_is_none(system):
    private = make_private()
    elsewhere = private.parent.with_name("elsewhere")
    private.parent.rename(elsewhere)
    elsewhere.rename(private.parent)
    assert found_path() == private
    (private.parent / "root").rename(private.parent / "moved")
    assert found_path() is None


@pytest.mark.parametrize(
    ("version", "usable"), [("1.1.230", False), ("1.3.266", False), ("1.3.267", True), ("1.4", True), ("", True)]
)
def test_a_driver_that_is_too_old_is_none(system, tmp_path, monkeypatch, version, usable):
    path = put(system / "lvp_icd.json", version=version)
    assert (found_path() == path) is usable
    monkeypatch.setenv("VK_DRIVER_FILES", str(path))
    assert found_path() == path, "what the user names is given a try"


@pytest.fixture
def simpler_renderer(system, monkeypatch):
    """A function that returns the chosen renderer, or why there is none."""

    def choose(apt=True):
        monkeypatch.setattr(drivers.shutil, "which", lambda name: f"/usr/bin/{name}" if apt else None)
        try:
            return choose_renderer(load_spec("simpler"))
        except VlarigError as error:
            return str(error)

    return choose


def test_the_renderer_leads_to_its_driver(system, simpler_renderer):
    path = put(system / "lvp_icd.json")
    renderer = simpler_renderer()
    assert renderer.name == "lavapipe"
    assert renderer.environment["VK_DRIVER_FILES"] == str(path)
    assert renderer.environment["VLARIG_SAPIEN_DEVICE"] == "cpu"
    assert str(path) in renderer.origin


def test_without_a_driver_the_sentence_says_what_to_do(system, simpler_renderer):
    begin = "the runtime 'simpler' cannot render images here: Mesa's software Vulkan driver (lavapipe)"
    assert simpler_renderer() == f"{begin} is missing; run: vlarig runtime install simpler"
    assert simpler_renderer(apt=False).startswith(f"{begin} is missing; install Mesa 23.3 or newer with lavapipe")
    path = put(system / "lvp_icd.json", version="1.1.230")
    old = f"{begin} of Mesa 23.3 or newer (that of {path} is older) is missing; run: vlarig runtime install simpler"
    assert simpler_renderer() == old


def test_a_library_beside_the_driver_may_be_missing_too(system, simpler_renderer, monkeypatch):
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: None)
    put(system / "lvp_icd.json")
    assert simpler_renderer().endswith("cannot render images here: libX11 is missing; run: vlarig runtime install simpler")
    assert re.search(r"libX11 is missing; run: (sudo )?apt-get install -y libx11-6$", simpler_renderer(apt=False))
    make_private()
    assert isinstance(simpler_renderer(), Renderer), "the private copy has the library beside it"


def test_a_card_is_used_where_requested_or_nothing_else_is_here(system, simpler_renderer, monkeypatch):
    nvidia = put(system / "nvidia_icd.json", "libGLX_nvidia.so.0", "1.3.277")
    assert simpler_renderer().name == "gpu"
    assert simpler_renderer().environment == {"VLARIG_SAPIEN_DEVICE": "cuda", **dict.fromkeys(drivers.VARIABLES, str(nvidia))}
    put(system / "lvp_icd.json")
    assert simpler_renderer().name == "lavapipe"
    monkeypatch.setenv("VLARIG_RENDERER", "gpu")
    assert simpler_renderer().name == "gpu"
    nvidia.unlink()
    assert "NVIDIA's Vulkan driver is missing; install the Vulkan part of NVIDIA's driver" in simpler_renderer()


def test_an_unknown_driver_gets_the_nearest_name():
    with pytest.raises(VlarigError, match="unknown graphics driver 'lavapip'; did you mean lavapipe\\?"):
        load_driver("lavapip")


RED_BOX = """
import warnings
warnings.simplefilter("ignore")
import sapien.render
assert "llvmpipe" in sapien.render.get_device_summary()
sapien.render.set_camera_shader_dir("trivial")
scene = sapien.Scene([sapien.physx.PhysxCpuSystem(), sapien.render.RenderSystem("cpu")])
scene.set_ambient_light([1, 1, 1])
builder = scene.create_actor_builder()
builder.add_box_visual(half_size=[0.1, 0.1, 0.1], material=[1, 0, 0])
builder.initial_pose = sapien.Pose([1, 0, 0])
builder.build_kinematic()
camera = scene.add_camera("front", 32, 32, 1, 0.01, 10)
scene.update_render()
camera.take_picture()
image = camera.get_picture("Color")
assert image[16, 16].tolist() == [1, 0, 0, 1], image[16, 16]
assert image[0, 0].tolist()[3] == 0, image[0, 0]
"""


def test_the_installed_runtime_renders(monkeypatch):
    monkeypatch.setenv("VLARIG_RENDERER", "lavapipe")
    try:
        runtime, renderer = find_runtime("simpler"), choose_renderer(load_spec("simpler"))
    except VlarigError as error:
        pytest.skip(f"no simulator: {error}")
    command = [str(runtime.python), "-I", "-c", RED_BOX]
    done = subprocess.run(command, env=os.environ | renderer.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
