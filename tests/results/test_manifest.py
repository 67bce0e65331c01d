"""The manifest: what identifies a run is saved, and a resumed run must have the same."""

import json
from dataclasses import asdict

import pytest
from sample_runs import PROTOCOL, TASKS, make_episode, make_manifest

from vlarig.envs.errors import VlarigError
from vlarig.results.manifest import MANIFEST_FORMAT, Identity, Manifest, SuitePlan, Surroundings, TaskPlan, check_same
from vlarig.results.planning import suite_plans


def changed(manifest: Manifest, **changes) -> Manifest:
    return manifest.model_copy(update={"identity": manifest.identity.model_copy(update=changes)})


def test_saved_and_loaded_it_is_the_same(tmp_path):
    manifest = make_manifest()
    manifest.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded == manifest
    assert loaded.identity_hash() == manifest.identity_hash()
    check_same(loaded, manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_the_file_is_for_people(tmp_path):
    make_manifest().save(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    data = json.loads(text)
    assert text == json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    assert data["identity"]["suites"][0]["protocol"]["success_rule"] == "first"
    assert [task["name"] for task in data["identity"]["suites"][0]["tasks"]] == list(TASKS)


def test_the_surroundings_do_not_identify_a_run():
    moved = make_manifest().model_copy(update={"record": Surroundings(host="another", git_revision="f" * 40)})
    assert moved.identity_hash() == make_manifest().identity_hash()
    check_same(make_manifest(), moved)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 7}, "seed was 0, now 7"),
        ({"policy": "octo"}, 'policy was "expert", now "octo"'),
        ({"policy_revision": None}, 'policy_revision was "expert 1", now null'),
        ({"strict": True}, "strict was false, now true"),
        ({"renderer": "egl"}, 'renderer was "osmesa", now "egl"'),
        ({"runtimes": {"tabletop": "b" * 64}}, r'runtimes\.tabletop was "a{44}\.\.\.a{11}", now "b{44}\.\.\.b{11}"'),
        ({"runtimes": {}}, r"runtimes\.tabletop was .*, now absent"),
        ({"assets": {"meshes": "1"}}, r'assets\.meshes was absent, now "1"'),
        ({"suites": suite_plans([])}, r"suites\[tabletop\] was present, now absent"),
    ],
)
def test_every_difference_is_named_with_both_values(change, reason):
    with pytest.raises(
        VlarigError, match=f"^the run expert-1 was started with another identity: {reason}; use another --run, or"
    ):
        check_same(make_manifest(), changed(make_manifest(), **change), "expert-1")
    assert changed(make_manifest(), **change).identity_hash() != make_manifest().identity_hash()


def test_differences_within_protocols_and_tasks_are_told_by_name():
    plan = make_manifest().identity.suites[0]
    derived = plan.model_copy(update={"protocol": plan.protocol | {"n_action_steps": 4}, "tasks": plan.tasks[:2]})
    with pytest.raises(VlarigError) as caught:
        check_same(make_manifest(), changed(make_manifest(), suites=[derived], seed=1))
    reason = str(caught.value)
    assert "suites[tabletop].protocol.n_action_steps was 8, now 4; " in reason
    assert "suites[tabletop].tasks[open_drawer/base] was " in reason
    assert "seed was 0, now 1; " in reason


def test_one_is_not_true():
    plan = make_manifest().identity.suites[0]
    derived = plan.model_copy(update={"protocol": plan.protocol | {"stop_on_success": 1}})
    with pytest.raises(VlarigError, match=r"protocol\.stop_on_success was true, now 1;"):
        check_same(make_manifest(), changed(make_manifest(), suites=[derived]))


def test_a_changed_order_of_tasks_is_told():
    plan = make_manifest().identity.suites[0]
    turned = plan.model_copy(update={"tasks": plan.tasks[::-1]})
    with pytest.raises(VlarigError, match=r"order of suites\[tabletop\]\.tasks was"):
        check_same(make_manifest(), changed(make_manifest(), suites=[turned]))


def test_missing(tmp_path):
    with pytest.raises(VlarigError, match=r"holds no run: .*manifest\.json is missing; `vlarig runs list`"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no manifest: it is not JSON"),
        ("[]", r"is no manifest: it is a list and should be an object of named values; restore it from a copy$"),
        ('{"format": 1}', "is no manifest: identity is missing; restore it"),
        ('{"format": 1, "identity": 3}', "is no manifest: identity is 3 and should be an object of named values; restore it"),
        ('{"format": [], "identity": {}}', "is no manifest: format is a list and should be a valid integer; restore it"),
        ('{"format": "x"}', "is no manifest: format is 'x' and should be a valid integer; restore it"),
        (json.dumps({"format": MANIFEST_FORMAT + 1, "news": 1}), "install a newer vlarig"),
    ],
)
def test_damaged_or_newer(tmp_path, text, reason):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(VlarigError, match=reason) as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_fields_are_refused(tmp_path):
    make_manifest().save(tmp_path)
    data = json.loads((tmp_path / "manifest.json").read_text())
    data["identity"]["sede"] = 3
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(VlarigError, match=r"identity\.sede is not known"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("model", [Identity, SuitePlan, TaskPlan, Surroundings, Manifest])
def test_every_field_says_what_it_is(model):
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_suites_of_different_variants_are_planned_apart():
    episodes = [make_episode(0), make_episode(1), make_episode(0, variant="dark"), make_episode(0, suite="other")]
    plans = suite_plans(episodes)
    assert [(plan.name, plan.protocol_name, plan.episodes) for plan in plans] == [
        ("tabletop", "standard@1", 3),
        ("other", "standard@1", 1),
    ]
    assert [(task.name, task.variant, task.episodes) for task in plans[0].tasks] == [("stack", "base", 2), ("stack", "dark", 1)]
    assert plans[0].protocol["cameras"] == [asdict(camera) for camera in PROTOCOL.cameras]
    assert plans[0].protocol["step_limit"] == PROTOCOL.step_limit


def test_notes_stand_in_the_order_of_policy_suites_assets():
    """They are not what identifies a run: a definition's words may change, its payloads' hash may not."""
    manifest = make_manifest(
        assets={"meshes": "1 of 2 files are stand-ins; sha256 abc", "maps": "official, 3 files; sha256 def"}
    )
    noted = manifest.model_copy(update={"record": Surroundings(suite_notes={"toy": "ours"})})
    assert noted.notes() == ["toy: ours", "meshes assets: 1 of 2 files are stand-ins"]
    assert noted.identity_hash() == manifest.identity_hash()
    truth = noted.model_copy(update={"identity": noted.identity.model_copy(update={"policy_privileged": True})})
    assert truth.notes() == ["policy expert acts on the simulator's own truth, so it is not ranked", *noted.notes()]
