"""Checkpoints: a folder in the manner of the Hugging Face hub that holds everything of a policy, and presets with random weights.

====================== ===============================================================================================
file                   holds
====================== ===============================================================================================
``config.json``        the architecture, :class:`~.config.ModelConfig`, the backbone's sizes within it
``model.safetensors``  the weights; of a large model several files, and ``model.safetensors.index.json``
``tokenizer.json``     the tokenizer, view tokens included
``statistics.json``    quantiles of actions and states by data set (paper, equation 5)
``embodiments.json``   the embodiments of the policy's training, each with its control convention
``eigengrasps.json``   what the eigengrasp channels of human hands mean; only where an embodiment has such channels
``training.json``      the stages that made the weights; only where there are any
====================== ===============================================================================================

Nothing in it is code, and nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerFast

from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError
from ...envs.untrusted import convert
from ..api import PolicyError
from ..conventions import embodiment_from_data, embodiment_to_data
from .backbone import read_backbone_config
from .config import ModelConfig
from .model import QwenVla, build
from .named import PRESETS, SAMPLED_IN_PLACE, Description, TrainedStage, find_checkpoint
from .normalization import DatasetStatistics, Statistics, statistics_from_data, statistics_to_data
from .poses import Eigengrasps
from .tensors import share
from .tokenizer import TOKENIZER_FILE, add_view_tokens, load_tokenizer, save_tokenizer, small_tokenizer, token_ids

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
STATISTICS_FILE = "statistics.json"
EMBODIMENTS_FILE = "embodiments.json"
EIGENGRASPS_FILE = "eigengrasps.json"
TRAINING_FILE = "training.json"

#: Raised when the files' meaning changes.
FORMAT = 1

#: What ``config.json`` holds beside the architecture, so that tools recognise the folder.
MODEL_TYPE = "qwen_vla"


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy in memory.

    Attributes:
        description: Architecture, statistics, embodiments and eigengrasps.
        model: The network.
        tokenizer: Its tokenizer.
        revision: Changes whenever one of the three does: a SHA-256 over the checkpoint's files, or over a preset's weights.
    """

    description: Description
    model: QwenVla
    tokenizer: PreTrainedTokenizerFast
    revision: str


def load(
    source: str,
    *,
    seed: int = 0,
    backbone: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    shared: Path | None = None,
    adapt: Callable[[ModelConfig], ModelConfig] | None = None,
) -> LoadedPolicy:
    """The policy that ``source`` names.

    Args:
        source: A preset's name (random weights), a checkpoint's folder, a hub's ``owner/name``, or nothing for the package's own.
        seed: Seed of a preset's random weights, of 64 bits. They are sampled on the CPU, so that they are the same on every device;
            those of ``4b`` alone are sampled where they are to be, because a CPU needs minutes for them.
        backbone: For a preset: folder or hub id of a trained Qwen3.5, whose weights, sizes and tokenizer it takes.
        device: Where to put the weights.
        dtype: Their precision.
        compute: Precision to compute in; by default the weights'.
        shared: A file in memory for weights on the CPU, which processes that load the same weights share, see :func:`~.tensors.share`.
        adapt: For a preset: makes another architecture of its own.
    """
    if torch.device(device).type != "cpu":
        shared = None
    if source not in PRESETS:
        if backbone is not None:
            raise PolicyError(
                f"backbone={backbone} was given beside the checkpoint {source!r}, which has its own; give it with a preset"
            )
        return load_checkpoint(find_checkpoint(source), device, dtype, compute, shared)
    if not 0 <= seed < 2**64:
        raise PolicyError(f"seed={seed} has more than 64 bits or is negative; choose one from 0 to 2^64 - 1")
    deviations = PRESETS[source]().deviations
    if backbone is not None and deviations:
        named = ", ".join(f"{field} {value}" for field, value in deviations.items())
        raise PolicyError(
            f"the preset {source!r} takes no trained Qwen3.5: it deviates from one by {named}; take 4b, or no backbone"
        )
    tokenizer = small_tokenizer() if backbone is None else load_tokenizer(backbone)
    add_view_tokens(tokenizer)
    config = PRESETS[source](tokens=token_ids(tokenizer))
    if backbone is not None:
        config = dataclasses.replace(config, backbone=read_backbone_config(backbone))
    if adapt is not None:
        config = adapt(config)

    def sampled() -> QwenVla:
        return build(config, seed, backbone, device if source in SAMPLED_IN_PLACE else "cpu", dtype, compute).to(device)

    def fill() -> str:
        model.load_state_dict(sampled().state_dict())
        return _weights_hash(model)

    model = sampled() if shared is None else build(config, seed=None, device=device, dtype=dtype, compute=compute)
    weights = _weights_hash(model) if shared is None else share(model, shared, fill)
    return LoadedPolicy(Description(config), model, tokenizer, f"{source}, seed {seed}, sha256 {weights}")


def save_checkpoint(folder: Path, bundle: LoadedPolicy, largest_file: str = "5GB", base: Path | None = None) -> None:
    """Write a checkpoint. Where processes share the weights (FSDP2), all of them call it, and the first one writes.

    Args:
        folder: Where to; made if need be.
        bundle: What to write.
        largest_file: Weights beyond this size are split into several files.
        base: Folder of the checkpoint that has the weights that the model does not train: links to its files are written for them.
    """
    if (folder / CONFIG_FILE).exists():
        raise PolicyError(f"{folder} holds a checkpoint already; name another folder")
    weights = {
        name: tensor.full_tensor().detach().cpu().clone() if isinstance(tensor, DTensor) else tensor.detach()
        for name, tensor in _own_weights(bundle.model)
        if base is None or tensor.requires_grad
    }
    if distributed.is_initialized() and distributed.get_rank():
        return
    folder.mkdir(parents=True, exist_ok=True)
    description = bundle.description
    save_torch_state_dict(weights, folder, max_shard_size=largest_file)
    own = _weight_map(folder)
    if base is not None:
        _refer(folder, base, own)
    save_tokenizer(bundle.tokenizer, folder)
    for path in set(own.values()):
        path.chmod((folder / TOKENIZER_FILE).stat().st_mode)  # safetensors lets the owner alone read its files
    _write(folder / STATISTICS_FILE, statistics_to_data(description.statistics))
    _write(folder / EMBODIMENTS_FILE, [embodiment_to_data(each) for each in description.embodiments.values()])
    for name in (EIGENGRASPS_FILE, TRAINING_FILE):
        (folder / name).unlink(missing_ok=True)  # of a checkpoint that was not written to its end
    if description.eigengrasps is not None:
        _write(folder / EIGENGRASPS_FILE, description.eigengrasps.to_data())
    if description.trained:
        _write(folder / TRAINING_FILE, [dataclasses.asdict(each) for each in description.trained])
    head = {"model_type": MODEL_TYPE, "architectures": ["QwenVla"], "format": FORMAT}
    _write(folder / CONFIG_FILE, head | description.config.to_data())  # last: a folder with it is whole


def describe_checkpoint(folder: Path) -> Description:
    """A checkpoint without its weights."""
    data = _read(folder / CONFIG_FILE)
    if not isinstance(data, dict) or data.get("model_type") != MODEL_TYPE:
        found = data.get("model_type") if isinstance(data, dict) else None
        raise PolicyError(
            f"{folder / CONFIG_FILE} is of a {found or 'model without model_type'}; expected a {MODEL_TYPE} checkpoint"
        )
    if data.get("format") != FORMAT:
        raise PolicyError(
            f"{folder} has format {data.get('format')!r}, this version reads {FORMAT}; take the version that wrote it"
        )
    config = _named(
        folder / CONFIG_FILE,
        lambda: ModelConfig.from_data({k: v for k, v in data.items() if k not in ("model_type", "architectures", "format")}),
    )
    statistics = _named(folder / STATISTICS_FILE, lambda: statistics_from_data(_read(folder / STATISTICS_FILE)))
    embodiments = _named(folder / EMBODIMENTS_FILE, lambda: _embodiments(_read(folder / EMBODIMENTS_FILE)))
    for embodiment in embodiments.values():
        _check_fits(folder, config, statistics, embodiment)
    path = folder / EIGENGRASPS_FILE
    eigengrasps = _named(path, lambda: Eigengrasps.from_data(_read(path))) if path.exists() else None
    stages = folder / TRAINING_FILE
    trained = (
        _named(stages, lambda: convert(_read(stages), list[TrainedStage], "the list of stages")) if stages.exists() else ()
    )
    return _named(path, lambda: Description(config, statistics, embodiments, eigengrasps, tuple(trained)))


def load_checkpoint(
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    compute: torch.dtype | None = None,
    shared: Path | None = None,
) -> LoadedPolicy:
    """The policy in a folder; arguments as for :func:`load`."""
    description = describe_checkpoint(folder)
    tokenizer = load_tokenizer(folder)
    model = build(description.config, seed=None, device=device, dtype=dtype, compute=compute)

    def fill() -> str:
        places = _weight_map(folder)
        _fill(model, places)
        return _digests(sorted(set(places.values())))

    names = [CONFIG_FILE, TOKENIZER_FILE, STATISTICS_FILE, EMBODIMENTS_FILE]
    names += [EIGENGRASPS_FILE] if description.eigengrasps is not None else []
    names += [TRAINING_FILE] if description.trained else []
    others = _digests([folder / name for name in names])
    weights = fill() if shared is None else share(model, shared, fill)
    return LoadedPolicy(description, model, tokenizer, f"sha256 {hashlib.sha256((others + weights).encode()).hexdigest()}")


def _own_weights(model: QwenVla) -> Iterator[tuple[str, Tensor]]:
    """Weights by name, without those that repeat an earlier one (the head that is the embedding); of a sharded model its own shards."""
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


@torch.no_grad()
def _fill(model: QwenVla, places: Mapping[str, Path]) -> None:
    weights = dict(_own_weights(model))
    for path in sorted(set(places.values())):
        with _opened(path) as tensors:
            for name in (each for each, place in places.items() if place == path):
                if name not in weights:
                    raise PolicyError(
                        f"{path} gives {name!r}, and this model has no such weight; the weights are another architecture's"
                    )
                shape = list(weights[name].shape)
                if tensors.get_slice(name).get_shape() != shape:
                    raise PolicyError(
                        f"{name!r} in {path} has shape {tensors.get_slice(name).get_shape()}, {CONFIG_FILE} makes it {shape}; "
                        "the weights are another architecture's"
                    )
                weights[name].copy_(tensors.get_tensor(name))
    missing = weights.keys() - places.keys()
    if missing:
        raise PolicyError(
            f"the weights lack {len(missing)} of {len(weights)} tensors, {min(missing)!r} first; take a whole checkpoint"
        )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise PolicyError(f"{path} does not read as safetensors ({error}); copy the checkpoint again") from None


def _weight_map(folder: Path) -> dict[str, Path]:
    index = folder / WEIGHTS_INDEX_FILE
    if not index.is_file():
        if not (folder / WEIGHTS_FILE).is_file():
            raise PolicyError(f"{folder} has no {WEIGHTS_FILE}; take a whole checkpoint")
        with _opened(folder / WEIGHTS_FILE) as tensors:
            return dict.fromkeys(tensors.keys(), folder / WEIGHTS_FILE)
    data = _read(index)
    files = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(files, dict) or not files or not all(Path(str(name)).name == name for name in files.values()):
        raise PolicyError(f"{index} holds no weight_map of tensors to files of this folder; copy the checkpoint again")
    for name in sorted(set(files.values())):
        if not (folder / name).is_file():
            raise PolicyError(f"{folder} has no {name}; take a whole checkpoint")
    return {name: folder / file for name, file in files.items()}


def _refer(folder: Path, base: Path, own: Mapping[str, Path]) -> None:
    """Links to the files of a base, and an index of them and of the folder's own weights."""
    theirs = {name: path for name, path in _weight_map(base).items() if name not in own}
    for path in set(theirs.values()):
        (folder / f"base-{path.name}").symlink_to(path.resolve())
    names = {name: f"base-{path.name}" for name, path in theirs.items()} | {name: path.name for name, path in own.items()}
    _write(folder / WEIGHTS_INDEX_FILE, {"metadata": {}, "weight_map": names})


def _embodiments(data: Any) -> dict[str, Embodiment]:
    if not isinstance(data, list):
        raise PolicyError(f"embodiments are {type(data).__name__}, expected a list")
    return {each.name: each for each in map(embodiment_from_data, data)}


def _check_fits(folder: Path, config: ModelConfig, statistics: Mapping[str, DatasetStatistics], embodiment: Embodiment) -> None:
    """Make sure that an embodiment's numbers have a place in the model and statistics of their own."""
    if embodiment.action_size > config.channels:
        raise PolicyError(
            f"{folder}: {embodiment.name!r} has {embodiment.action_size} action channels, the model {config.channels}; "
            "it was trained for others"
        )
    known = statistics.get(embodiment.statistics_key)
    if known is None or known.actions.size != embodiment.action_size:
        found = "none" if known is None else f"those of {known.actions.size} channels"
        raise PolicyError(
            f"{folder}: {embodiment.name!r} needs statistics {embodiment.statistics_key!r} of {embodiment.action_size} action "
            f"channels; {STATISTICS_FILE} has {found}"
        )
    try:
        config.check_embodiment(embodiment.name, embodiment.action_size)
    except PolicyError as error:
        raise PolicyError(f"{folder}: {error}") from None
    if config.state != "none":
        _check_state_fits(folder, config, known.state, embodiment)


def _check_state_fits(folder: Path, config: ModelConfig, statistics: Statistics | None, embodiment: Embodiment) -> None:
    size = len(embodiment.state_layout)
    if statistics is None or statistics.size != size:
        found = "none" if statistics is None else f"those of {statistics.size} numbers"
        raise PolicyError(
            f"{folder}: the model reads the state, and {embodiment.name!r} needs statistics {embodiment.statistics_key!r} of its "
            f"{size} numbers; {STATISTICS_FILE} has {found}"
        )
    if config.state == "dit" and size > config.state_size:
        raise PolicyError(
            f"{folder}: the state of {embodiment.name!r} has {size} numbers, the model reads {config.state_size}; "
            "it was trained for others"
        )


def _digests(paths: list[Path]) -> str:
    """Name and SHA-256 of each file, a line each; a checkpoint's revision is the SHA-256 of all its lines."""
    lines = []
    for path in paths:
        with path.open("rb") as file:
            lines.append(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    return "".join(lines)


def _weights_hash(model: QwenVla) -> str:
    whole = hashlib.sha256()
    for name, tensor in _own_weights(model):
        whole.update(name.encode())
        whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _write(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PolicyError(f"{path.parent} has no {path.name}; it is no Qwen-VLA checkpoint, or not a whole one") from None
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} does not read as JSON ({error}); copy the checkpoint again") from None


def _named(path: Path, read: Any) -> Any:
    """What ``read`` gives; its error with the file's name before it."""
    try:
        return read()
    except VlarigError as error:
        raise error if str(path.parent) in str(error) else PolicyError(f"{path}: {error}") from None
