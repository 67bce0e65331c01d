"""Checkpoints: what was saved comes back to the bit, and what does not fit is refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from trained_policy import human_bundle, trained_bundle

from vlarig.policies.api import PolicyError
from vlarig.policies.qwen_vla import checkpoint
from vlarig.policies.qwen_vla.checkpoint import describe_checkpoint, load, load_checkpoint, save_checkpoint
from vlarig.policies.qwen_vla.inspection import describe
from vlarig.policies.qwen_vla.tokenizer import save_tokenizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(folder, trained_bundle())
    return folder


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_everything_comes_back_to_the_bit(saved: Path) -> None:
    bundle, again = trained_bundle(), load_checkpoint(saved)
    assert again.description == bundle.description
    theirs = again.model.state_dict()
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name
    text = "put the spoon on the towel<|ego_start|><|image_pad|>"
    assert again.tokenizer.backend_tokenizer.encode(text).ids == bundle.tokenizer.backend_tokenizer.encode(text).ids


def test_the_folder_is_in_the_manner_of_the_hub_and_holds_no_code(saved: Path) -> None:
    names = {path.name for path in saved.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "statistics.json", "embodiments.json"}
    assert json.loads((saved / "config.json").read_text())["model_type"] == "qwen_vla"


def test_weights_in_several_files_are_the_same_weights(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "split", trained_bundle(), largest_file="200KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert (tmp_path / "split" / "model.safetensors.index.json").is_file()
    one, several = load_checkpoint(saved).model.state_dict(), load_checkpoint(tmp_path / "split").model.state_dict()
    assert all(torch.equal(one[name], several[name]) for name in one)


def test_the_revision_changes_with_any_file(saved: Path, copied: Path) -> None:
    before = load_checkpoint(saved).revision
    assert load_checkpoint(copied).revision == before
    text = (copied / "statistics.json").read_text()
    (copied / "statistics.json").write_text(text.replace("made up", "made otherwise"))
    assert load_checkpoint(copied).revision != before


def test_preset_weights_follow_from_the_seed() -> None:
    first, same, other = load("tiny", seed=1), load("tiny", seed=1), load("tiny", seed=2)
    assert first.revision == same.revision != other.revision
    assert first.revision.startswith("tiny, seed 1, sha256 ")


def test_a_preset_takes_a_trained_backbone_with_its_tokenizer(tmp_path: Path) -> None:
    other = load("tiny", seed=7)
    other.model.backbone.save_pretrained(tmp_path)
    save_tokenizer(other.tokenizer, tmp_path)
    bundle, usual = load("tiny", backbone=str(tmp_path)), load("tiny")
    theirs, ours = other.model.backbone.state_dict(), bundle.model.backbone.state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    expert = usual.model.expert.state_dict()
    assert all(torch.equal(expert[name], tensor) for name, tensor in bundle.model.expert.state_dict().items())
    with pytest.raises(PolicyError, match=r"backbone=.* was given beside the checkpoint"):
        load(str(tmp_path), backbone=str(tmp_path))


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        change(data)
        (folder / name).write_text(json.dumps(data))

    return apply


def projects(*embodiments: list[object]) -> Callable[[dict], object]:
    return lambda data: data.update(projection="multi_mlp", projection_embodiments=embodiments)


def state_of(size: int, reads: int = 9) -> Callable[[Path], None]:
    """The model reads a state, and the statistics of the first robot's have this size."""

    def apply(folder: Path) -> None:
        edit("config.json", lambda data: data.update(state="dit", state_size=reads))(folder)
        edit("statistics.json", lambda data: data["libero"]["state"].update(q01=[0] * size, q99=[1] * size))(folder)

    return apply


def reshape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["value_head.readout.weight"] = torch.zeros(1, 5)
    save_file(weights, folder / "model.safetensors")


def rename(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["value_head.weight"] = weights.pop("value_head.readout.weight")
    save_file(weights, folder / "model.safetensors")


def leave_out(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["value_head.readout.weight"]
    save_file(weights, folder / "model.safetensors")


def cut_off(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:400])  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"has no config\.json; it is no Qwen-VLA checkpoint"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"has no model\.safetensors; take a whole checkpoint"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer"),
        (cut_off("config.json"), r"config\.json does not read as JSON"),
        (cut_off("model.safetensors"), r"model\.safetensors does not read as safetensors"),
        (edit("config.json", lambda data: data.update(model_type="pi0")), r"is of a pi0; expected a qwen_vla checkpoint"),
        (edit("config.json", lambda data: data.update(format=9)), r"has format 9, this version reads 1"),
        (edit("config.json", lambda data: data.update(horizn=9)), r"unknown key 'horizn'; did you mean horizon"),
        (edit("config.json", lambda data: data.update(channels=4)), r"'libero_panda' has 7 action channels, the model 4"),
        (edit("config.json", lambda data: data["expert"].update(width=64)), r"has shape \[.*\], config\.json makes it \[.*\]"),
        (
            edit("statistics.json", lambda data: data.pop("bridge")),
            r"'widowx_bridge' needs statistics 'bridge' of 7 .* has none",
        ),
        (
            edit("config.json", projects(["libero_panda", 5], ["widowx_bridge", 7])),
            r"has weights for 5 action channels of 'libero_panda', which has 7",
        ),
        (edit("config.json", projects(["libero_panda", 7])), r"projection 'multi_mlp' has no weights for 'widowx_bridge'"),
        (
            edit("config.json", lambda data: data.update(state="prompt")),
            r"'widowx_bridge' needs statistics 'bridge' of its \d+ numbers; statistics\.json has none",
        ),
        (state_of(7), r"'libero_panda' needs statistics 'libero' of its 8 numbers; statistics\.json has those of 7 numbers"),
        (state_of(8, reads=4), r"the state of 'libero_panda' has 8 numbers, the model reads 4"),
        (reshape, r"'value_head\.readout\.weight' .* has shape \[1, 5\], config\.json makes it \[1, 32\]"),
        (rename, r"gives 'value_head\.weight', and this model has no such weight"),
        (leave_out, r"the weights lack 1 of \d+ tensors, 'value_head\.readout\.weight' first"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_one_sentence(copied: Path, spoil: Callable[[Path], object], sentence: str) -> None:
    spoil(copied)
    with pytest.raises(PolicyError, match=sentence) as caught:
        load_checkpoint(copied)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def human(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("human") / "tiny"
    save_checkpoint(folder, human_bundle())
    return folder


def test_eigengrasps_come_back_to_the_bit_and_are_part_of_the_revision(human: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(human)
    assert loaded.description == human_bundle().description
    for path in human.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert load_checkpoint(tmp_path).revision == loaded.revision
    edit("eigengrasps.json", lambda data: data["mean"].reverse())(tmp_path)
    assert load_checkpoint(tmp_path).revision != loaded.revision
    assert describe_checkpoint(tmp_path) != loaded.description


def test_a_checkpoint_without_eigengrasps_has_the_revision_that_it_always_had(saved: Path) -> None:
    names = ("config.json", "tokenizer.json", "statistics.json", "embodiments.json", "model.safetensors")
    lines = "".join(f"{name} {hashlib.sha256((saved / name).read_bytes()).hexdigest()}\n" for name in names)
    assert load_checkpoint(saved).revision == f"sha256 {hashlib.sha256(lines.encode()).hexdigest()}"


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda folder: (folder / "eigengrasps.json").unlink(),
            r"eigengrasps\.json: 'real_human' has 10 eigengrasps a hand, and the description has 0; give those",
        ),
        (
            edit("eigengrasps.json", lambda data: [data[name].pop() for name in ("components", "explained")]),
            r"eigengrasps\.json: 'real_human' has 10 eigengrasps a hand, and the description has 9",
        ),
        (cut_off("eigengrasps.json"), r"eigengrasps\.json does not read as JSON"),
        (edit("eigengrasps.json", lambda data: data.pop("mean")), r"eigengrasps\.json: eigengrasps are expected as a mean"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_hands_without_their_eigengrasps_are_refused(
    human: Path, tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    for path in human.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)
    with pytest.raises(PolicyError, match=sentence) as caught:
        describe_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_hands_without_eigengrasps_are_not_even_described(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="'real_human' has 10 eigengrasps a hand, and the description has 0"):
        dataclasses.replace(human_bundle().description, eigengrasps=None)


def test_eigengrasps_of_a_checkpoint_that_was_not_finished_are_not_taken_over(human: Path, tmp_path: Path) -> None:
    (tmp_path / "eigengrasps.json").write_bytes((human / "eigengrasps.json").read_bytes())
    save_checkpoint(tmp_path, trained_bundle())
    assert describe_checkpoint(tmp_path).eigengrasps is None


def test_a_checkpoint_is_not_written_over(saved: Path) -> None:
    with pytest.raises(PolicyError, match="holds a checkpoint already; name another folder"):
        save_checkpoint(saved, trained_bundle())


@pytest.mark.parametrize("source", ["smal", "nowhere/at all", "folder/that/is/not/there"])
def test_a_source_that_is_none_is_refused(source: str) -> None:
    with pytest.raises(PolicyError, match="no checkpoint"):
        load(source)


def test_a_hub_that_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PolicyError, match="there is no folder 'owner/qwen-vla', and the hub has not given it"):
        load("owner/qwen-vla")


@pytest.mark.parametrize(("weights", "patterns"), [(True, {"*.json", "*.safetensors"}), (False, {"*.json"})])
def test_weights_are_downloaded_where_they_are_needed(
    saved: Path, monkeypatch: pytest.MonkeyPatch, weights: bool, patterns: set[str]
) -> None:
    requested: list[set[str]] = []

    def download(source: str, allow_patterns: list[str]) -> str:
        requested.append(set(allow_patterns))
        return str(saved)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    source = "owner/qwen-vla"
    assert (load(source).description if weights else describe(source)) == describe_checkpoint(saved)
    assert requested == [patterns]


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_beyond_64_bits_is_refused(seed: int) -> None:
    with pytest.raises(PolicyError, match=r"has more than 64 bits or is negative; choose one from 0 to 2\^64 - 1"):
        load("tiny", seed=seed)


def test_a_presets_weights_are_sampled_on_the_cpu_and_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[str] = []
    made = checkpoint.build
    monkeypatch.setattr(
        checkpoint,
        "build",
        lambda config, seed, backbone, device, dtype, compute: places.append(str(device)) or made(config, None, device="meta"),
    )
    monkeypatch.setattr(checkpoint, "_weights_hash", lambda model: "none")
    load("small", device="meta")
    load("4b", device="meta")
    assert places == ["cpu", "meta"]


def test_a_description_needs_no_weights(copied: Path) -> None:
    (copied / "model.safetensors").unlink()
    assert list(describe_checkpoint(copied).embodiments) == ["libero_panda", "widowx_bridge"]


def test_a_preset_that_deviates_from_qwen_takes_no_backbone_of_it(tmp_path: Path) -> None:
    with pytest.raises(
        PolicyError, match=r"'small' takes no trained Qwen3.5: it deviates from one by stem conv, kept_tokens 12"
    ):
        load("small", backbone=str(tmp_path))
