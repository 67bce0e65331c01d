"""The doctor's findings: a line each, with the command that fixes it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from vlarig.envs.errors import VlarigError
from vlarig.envs.runtimes.drivers import LAVAPIPE
from vlarig.envs.runtimes.runtime import Runtime, RuntimeState
from vlarig.envs.runtimes.spec import Renderer
from vlarig.harness.commands import doctor

ABSENT = RuntimeState("absent", "a runtime", None, "the runtime 'absent' is not installed; run: vlarig runtime install absent")
ADOPTED = RuntimeState("mine", "adopted", Runtime("mine", Path("/opt/python"), "0" * 64, adopted=True))
HERE = RuntimeState("tabletop", "here", Runtime("tabletop", Path("/cache/tabletop/bin/python"), "0" * 64, adopted=False))


@pytest.fixture
def runtimes(monkeypatch):
    """A function that sets which runtimes there are; installed ones work, and render."""

    def put(*states):
        monkeypatch.setattr(doctor, "list_runtimes", lambda: list(states))

    monkeypatch.setattr(doctor, "check_imports", lambda *arguments, **options: None)
    monkeypatch.setattr(doctor, "choose_renderer", lambda spec: Renderer("osmesa", (), (), {}))
    return put


def lines(capsys, status):
    assert doctor.main([]) == status
    return {line[10:].split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines()}


def test_a_machine_that_has_everything(runtimes, capsys):
    runtimes(HERE, ADOPTED)
    findings = lines(capsys, 0)
    assert {"python", "vlarig", "uv", "runtime tabletop", "renderer of tabletop", "runtime mine", "disk", "machine"} <= set(
        findings
    )
    assert "imports mujoco, robosuite, renders" in findings["runtime tabletop"]
    assert "osmesa" in findings["renderer of tabletop"]


def test_without_any_runtime_one_is_missing(runtimes, capsys):
    runtimes(ABSENT)
    findings = lines(capsys, 1)
    assert findings["runtime absent"].startswith("missing   ")
    assert findings["runtime absent"].endswith("run: vlarig runtime install absent")


def test_with_one_runtime_the_others_are_optional(runtimes, capsys):
    runtimes(HERE, ABSENT)
    assert lines(capsys, 0)["runtime absent"].startswith("optional  ")


def test_no_renderer_is_missing(runtimes, capsys, monkeypatch):
    def none(spec):
        raise VlarigError("libOSMesa is missing; run: apt-get install -y libosmesa6")

    runtimes(HERE)
    monkeypatch.setattr(doctor, "choose_renderer", none)
    findings = lines(capsys, 1)
    assert findings["renderer of tabletop"].startswith("missing")
    assert findings["renderer of tabletop"].endswith("apt-get install -y libosmesa6")


def test_the_driver_that_was_found_is_named(runtimes, capsys, monkeypatch):
    runtimes(HERE)
    found = Renderer(
        "lavapipe", (), (), {}, LAVAPIPE, "a copy of its own, mesa-vulkan-drivers 25.0.7 (/cache/drivers/lavapipe)"
    )
    monkeypatch.setattr(doctor, "choose_renderer", lambda spec: found)
    assert lines(capsys, 0)["renderer of tabletop"].partition("lavapipe: ")[2].startswith(found.origin)


def test_a_runtime_that_does_not_start_is_missing(runtimes, capsys, monkeypatch):
    def broken(*arguments, **options):
        raise VlarigError("it does not work")

    runtimes(HERE)
    monkeypatch.setattr(doctor, "check_imports", broken)
    assert " ".join(lines(capsys, 1)["runtime tabletop"].split()) == "missing runtime tabletop it does not work"


def test_no_video_is_optional_and_no_room_is_missing(runtimes, capsys, monkeypatch):
    runtimes(HERE)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "DISK_GIB", 10**9)
    findings = lines(capsys, 1)
    assert findings["video"].startswith("optional")
    assert "-m pip install" in findings["video"]
    assert findings["disk"].startswith("missing")


def test_runtimes_are_checked_at_the_same_time(runtimes, capsys, monkeypatch):
    runtimes(HERE, HERE)
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(doctor, "check_imports", lambda *arguments, **options: both.wait())
    assert "ok" in lines(capsys, 0)["runtime tabletop"]
