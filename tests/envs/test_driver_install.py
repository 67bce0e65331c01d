"""A driver's private copy, made with stand-ins for apt and dpkg."""

from __future__ import annotations

import threading

import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes import drivers
from vlarig.envs.runtimes import runtime as runtimes
from vlarig.envs.runtimes import spec as runtime_spec
from vlarig.envs.runtimes.drivers import LAVAPIPE, find_driver, install_driver, own_sources, private_folder

#: Writes down how it was called and with which sources, and brings two packages unless it is set to fail.
APT_GET = """
echo "$@" >> "$WORLD/calls"
for word in "$@"; do
    case "$word" in
        --option=Dir::Etc::SourceList=*) cp "${word#*SourceList=}" "$WORLD/sources" ;;
        --option=Dir::Cache::Archives=*) archives="${word#*Archives=}" ;;
    esac
done
case " $* " in
    *" update "*) [ -e "$WORLD/no-network" ] && echo "cannot be reached" && exit 100 ;;
    *" install "*)
        [ -e "$WORLD/no-network" ] && echo "unable to locate package" && exit 100
        touch "$archives/mesa-vulkan-drivers_25.0.7-2~bpo12+1_amd64.deb" "$archives/libx11-6_2%3a1.8.4-2_amd64.deb" ;;
esac
exit 0
"""

#: Unpacks a driver of the version that the file ``version`` gives, and stops in the middle where there is a file ``power-cut``.
DPKG_DEB = """
mkdir -p "$3/usr/lib/x86_64-linux-gnu" "$3/usr/share/vulkan/icd.d"
case "$2" in
    *mesa*)
        [ -e "$WORLD/power-cut" ] && echo "no more" && exit 2
        touch "$3/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so"
        sed "s/VERSION/$(cat "$WORLD/version")/" > "$3/usr/share/vulkan/icd.d/lvp_icd.json" <<END
{"ICD": {"api_version": "VERSION", "library_path": "libvulkan_lvp.so"}, "file_format_version": "1.0.0"}
END
        echo '{"ICD": {"library_path": "libvulkan_radeon.so"}}' > "$3/usr/share/vulkan/icd.d/radeon_icd.json" ;;
    *) touch "$3/usr/lib/x86_64-linux-gnu/libX11.so.6" ;;
esac
"""

DEB822 = """
# made by the installer
Types: deb deb-src
URIs: https://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb-src
URIs: https://mirror.example/sources
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: https://mirror.example/off
Suites: bookworm
Components: main

Types: deb
URIs: https://tools.example/
Suites: nodistro
Components: main
"""

ONE_LINE = """
# deb https://mirror.example/comment bookworm main
deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main
deb [arch=amd64 trusted=yes] https://mirror.example/debian bookworm main  # the usual one
deb https://mirror.example/debian-security bookworm-security main non-free
deb https://tools.example/ bookworm stable
deb-src https://mirror.example/debian bookworm main
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A Debian 12 without graphics drivers; apt has a source and brings a new enough Mesa."""
    for name, script in {"apt-get": APT_GET, "dpkg-deb": DPKG_DEB}.items():
        path = tmp_path / "programs" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:/usr/bin:/bin")
    monkeypatch.setenv("WORLD", str(tmp_path))
    monkeypatch.setenv("VLARIG_HOME", str(tmp_path / "a home"))
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "LD_LIBRARY_PATH", "VLARIG_RENDERER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(drivers, "SYSTEM_FOLDERS", ())
    monkeypatch.setattr(drivers, "APT_SOURCES", tmp_path / "apt")
    monkeypatch.setattr(drivers, "OS_RELEASE", tmp_path / "os-release")
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "apt" / "sources.list.d" / "debian.sources").write_text(DEB822)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME=bookworm\nNAME="Debian GNU/Linux"\n')
    (tmp_path / "version").write_text("1.4.305")
    return tmp_path


def install(world):
    lines = []
    install_driver(LAVAPIPE, ["libx11-6"], lambda: find_driver(LAVAPIPE) is None, lines.append)
    return lines


def test_a_copy_is_made_and_found(world):
    lines = install(world)
    folder = private_folder(LAVAPIPE)
    found = find_driver(LAVAPIPE)
    assert found
    assert found.manifest.path == folder / "icd.json"
    assert found.manifest.library == str(folder / "root" / "usr" / "lib" / "x86_64-linux-gnu" / "libvulkan_lvp.so")
    assert found.manifest.headers == 305
    assert found.has_library("X11")
    assert found.origin == f"a copy of its own, mesa-vulkan-drivers 25.0.7-2~bpo12+1 ({folder})"
    assert sorted(path.name for path in folder.iterdir()) == ["complete", "icd.json", "root"]
    assert len(lines) == 2
    update, call = (world / "calls").read_text().splitlines()
    assert update.endswith(" update")
    assert call.endswith("--no-install-recommends --target-release=bookworm-backports mesa-vulkan-drivers libx11-6")
    assert "--download-only" in call
    assert install(world) == [], "one that is there is kept"


def test_apt_is_given_the_machines_own_sources(world):
    install(world)
    options = "[signed-by=/usr/share/keyrings/debian.gpg] "
    suites = ["bookworm", "bookworm-updates", "bookworm-backports"]
    assert (world / "sources").read_text() == "".join(
        f"deb {options}https://mirror.example/debian/ {suite} main\n" for suite in suites
    )


def test_sources_of_the_older_format(world):
    (world / "apt" / "sources.list.d" / "debian.sources").unlink()
    (world / "apt" / "sources.list").write_text(ONE_LINE)
    (world / "apt" / "sources.list.d" / "more.list").write_text("deb https://mirror.example/debian bookworm-backports main\n")
    assert list(own_sources("bookworm")) == [
        "deb [arch=amd64 trusted=yes] https://mirror.example/debian bookworm main",
        "deb [arch=amd64 trusted=yes] https://mirror.example/debian bookworm-backports main",
        "deb https://mirror.example/debian-security bookworm-security main",
        "deb https://mirror.example/debian bookworm-backports main",
    ]


def test_a_release_that_is_new_enough_needs_no_other_suite(world):
    (world / "os-release").write_text("ID=linuxmint\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n")
    (world / "apt" / "sources.list").write_text("deb https://mirror.example/ubuntu noble main universe\n")
    install(world)
    assert (world / "sources").read_text() == "deb https://mirror.example/ubuntu noble main\n"
    assert "--target-release" not in (world / "calls").read_text()


@pytest.mark.parametrize("harm", ["interrupted", "failed"])
def test_an_incomplete_copy_is_made_again(world, harm):
    if harm == "interrupted":
        install(world)
        (private_folder(LAVAPIPE) / "complete").unlink()
    else:
        (world / "power-cut").touch()
        with pytest.raises(VlarigError, match="could not be unpacked"):
            install(world)
        (world / "power-cut").unlink()
    (private_folder(LAVAPIPE) / "half").touch()
    assert find_driver(LAVAPIPE) is None
    install(world)
    assert find_driver(LAVAPIPE)
    assert not (private_folder(LAVAPIPE) / "half").exists()


def test_one_that_is_too_old_is_refused(world):
    (world / "version").write_text("1.3.255")
    with pytest.raises(
        VlarigError, match=r"25\.0\.7-2~bpo12\+1, the newest that apt offers here, is older than Mesa 23\.3; install"
    ):
        install(world)
    assert find_driver(LAVAPIPE) is None


def test_without_a_network_the_last_words_are_shown(world):
    (world / "no-network").touch()
    lines = []
    with pytest.raises(VlarigError, match="could not be downloaded \\(above is why\\); fix that, or install Mesa"):
        install_driver(LAVAPIPE, [], lambda: True, lines.append)
    assert "  cannot be reached" in lines
    assert "  unable to locate package" in lines


def test_a_missing_source_for_the_release_is_reported(world):
    (world / "os-release").write_text("VERSION_CODENAME=forky\n")
    with pytest.raises(VlarigError, match="apt has no source for forky"):
        install(world)


def test_two_at_once_make_one(world):
    threads = [threading.Thread(target=install, args=(world,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert find_driver(LAVAPIPE)
    assert (world / "calls").read_text().count(" update\n") == 1


TOY = """
title = "a toy that renders by Vulkan"
python = ">=3.11,<3.99"
imports = ["json"]
probe = "import os; assert os.path.exists(os.environ['VK_DRIVER_FILES']); print(os.environ['LD_LIBRARY_PATH'])"

[[renderers]]
name = "lavapipe"
driver = "lavapipe"
libraries = ["X11"]
apt = ["libx11-6"]
environment = { THREADS = "1" }
"""


@pytest.fixture
def toy(world, monkeypatch):
    """A runtime that needs the driver; gives a function that installs it and returns its messages."""
    locks = world / "locks"
    locks.mkdir()
    (locks / "toy.toml").write_text(TOY)
    (locks / "toy.txt").write_text("# nothing\n")
    monkeypatch.setattr(runtime_spec, "runtime_files", lambda: {path.stem: path for path in locks.glob("*.toml")})
    monkeypatch.setattr(runtime_spec.ctypes.util, "find_library", lambda name: None)

    def install_toy():
        lines = []
        runtimes.install_runtime("toy", lines.append)
        return lines

    return install_toy


def test_installing_a_runtime_brings_its_driver(toy):
    output = toy()
    assert any(line.startswith("downloading Mesa's software Vulkan driver") for line in output)
    assert output[-2] == "trying it: json, images by lavapipe"
    renderer = runtimes.choose_renderer(runtimes.load_spec("toy"))
    assert renderer.environment["THREADS"] == "1"
    assert len(toy()) == 1, "all is there"
    (private_folder(LAVAPIPE) / "complete").unlink()
    again = toy()
    assert not any("virtual environment" in line for line in again)
    assert again[-2] == "trying it: json, images by lavapipe"


def test_a_driver_that_cannot_be_had_leaves_a_runtime_that_says_so(toy, world):
    (world / "no-network").touch()
    output = toy()
    assert any(line.startswith("no driver to render with: Mesa's software Vulkan driver") for line in output)
    cannot = "not tried yet: the runtime 'toy' cannot render images here: Mesa's software Vulkan driver (lavapipe), libX11 is missing"
    assert f"{cannot}; run: vlarig runtime install toy" in output
    (world / "no-network").unlink()
    assert toy()[-2] == "trying it: json, images by lavapipe"
