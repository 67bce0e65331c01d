"""The walkable surface, against answers of the real Detour and on damaged files.

``data/detour.json.gz``: ways with their corners, and moves with and without sliding, by Detour as habitat-sim 0.1.7 to 0.3.3 has it
(erikwijmans/recastnavigation@8eef00b, compiled), called as habitat's PathFinder does; each move begins where one before it ended, so
that walls are met. The bundle has answers of another build (recast-navigation 0.43.1).
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from bundles import bundle_folder

from vlarig.envs.errors import VlarigError
from vlarig.envs.vlnce.navmesh import NavMesh

MESHES = [f"proc_house_0{number}.{agent}navmesh" for number in (1, 2, 3) for agent in ("", "h0.88_r0.18.")]


def place(name: str) -> Path:
    """Where a mesh of the bundle is."""
    return bundle_folder("vlnce_r2r") / "data/scene_datasets/mp3d" / name.partition(".")[0] / name


def answers(name: str) -> tuple[dict, dict]:
    """What Detour answers on a mesh: the bundle's, and ours."""
    bundled = gzip.decompress((bundle_folder("vlnce_r2r") / "detour_golden.json.gz").read_bytes())
    ours = gzip.decompress((Path(__file__).parent / "data" / "detour.json.gz").read_bytes())
    return json.loads(bundled)[name], json.loads(ours)[name]


@pytest.mark.parametrize("name", MESHES)
def test_detours_answers_are_matched(name: str) -> None:
    mesh = NavMesh.read(place(name))
    bundled, ours = answers(name)
    for point, snapped in zip(bundled["points"], bundled["snap"], strict=True):
        np.testing.assert_allclose(mesh.snap(point), snapped, atol=2e-6)
    for (start, end), length in zip(bundled["pairs"], bundled["geodesic"], strict=True):
        assert mesh.way(start, end).length == (math.inf if length is None else pytest.approx(length, abs=1e-5))
    for (start, end), moved in zip(bundled["steps"], bundled["moved"], strict=True):
        np.testing.assert_allclose(mesh.move(start, end, True), moved, atol=2e-6)
    for start, end, length, corners in ours["ways"]:
        way = mesh.way(start, end)
        assert way.length == (math.inf if length is None else pytest.approx(length, abs=1e-5))
        if length:
            np.testing.assert_allclose(way.points, np.reshape(corners, (-1, 3)), atol=2e-6)
    for sliding, start, end, moved in ours["moves"]:
        np.testing.assert_allclose(mesh.move(start, end, sliding), moved, atol=2e-6)


def test_without_sliding_a_move_stops_where_the_line_meets_the_wall() -> None:
    mesh = NavMesh.read(place(MESHES[0]))
    stopped = [
        (np.array(start), np.array(end), np.array(moved))
        for sliding, start, end, moved in answers(MESHES[0])[1]["moves"]
        if not sliding and math.dist(end, moved) > 0.05 and math.dist(start, moved) > 0.05
    ]
    assert len(stopped) > 3
    for start, end, _ in stopped:
        moved = mesh.move(start, end, False)
        share = math.dist(start, moved) / math.dist(start, end)
        np.testing.assert_allclose(moved[[0, 2]], (start + share * (end - start))[[0, 2]], atol=1e-5)
        slid = mesh.move(start, end, True)
        assert math.dist(slid, end) < math.dist(moved, end)


def test_a_point_far_from_the_surface_has_no_nearest_one() -> None:
    mesh = NavMesh.read(place(MESHES[0]))
    assert np.isnan(mesh.snap([500, 0, 0])).all() and np.isnan(mesh.snap([math.nan, 0, 0])).all()
    assert mesh.way([500, 0, 0], [2, 0, -2]).length == math.inf
    start = mesh.snap([2, 0, -2])
    assert np.array_equal(mesh.move(start, [500, 0, 0], True), start)


def test_the_floor_is_what_can_be_walked_on() -> None:
    mesh = NavMesh.read(place(MESHES[0]))
    floor = mesh.floor()
    assert floor.shape[1:] == (3, 3) and len(floor) > 40
    for triangle in floor[::7]:
        centre = triangle.mean(axis=0)
        np.testing.assert_allclose(mesh.snap(centre), centre, atol=1e-4)


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    whole, damaged = place(MESHES[0]).read_bytes(), tmp_path / "house.navmesh"
    with pytest.raises(VlarigError, match=r"house.navmesh cannot be read \(No such file or directory\); put the scene's"):
        NavMesh.read(damaged)
    rng, refused = np.random.default_rng(0), 0
    for number in range(400):
        data = bytearray(whole)
        if number % 4 == 0:
            data = data[: rng.integers(len(data))]
        for _ in range(int(rng.integers(1, 6))):
            if data:
                data[rng.integers(min(len(data), 400) if number % 2 else len(data))] = int(rng.integers(256))
        damaged.write_bytes(bytes(data))
        try:
            mesh = NavMesh.read(damaged)
        except VlarigError as error:
            refused += 1
            assert str(error).count("house.navmesh is no intact .navmesh of habitat's") == 1 and "\n" not in str(error)
        else:  # what still reads is a surface, if another one: it answers
            mesh.way(mesh.snap([2, 0, -2]), mesh.snap([8, 0, -6]))
    assert refused > 150
