"""A training step, counted without computing it: its tensors have shapes and no contents, so a model of any size fits anywhere.

Forward and backward pass run as the trainer runs them, by torch's FakeTensorMode on the CPU: float32 weights, computing in the stage's
precision, torch's own linear attention and its attention without scores. Samples are as long as each other, without padding.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from marks import operations_by_part
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlarig.policies.qwen_vla.backbone import BackboneInputs
from vlarig.policies.qwen_vla.config import ModelConfig
from vlarig.policies.qwen_vla.model import Batch, Chunks, QwenVla, build
from vlarig.policies.qwen_vla.vision import image_grids
from vlarig.training.config import TrainConfig, read_config

#: Tokens of a prompt's text (an assumption), and those around a picture's own: start and end of the view and of the vision.
TEXT, AROUND = 60, 4


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        name: Its name.
        stage: Stage of the recipe, whose settings hold.
        views: Pictures of a sample.
        horizon: Steps of a chunk.
    """

    name: str
    stage: str
    views: int
    horizon: int

    def settings(self) -> TrainConfig:
        """The stage's own."""
        return read_config(self.stage, None, ["data.source=none:none"])

    def tokens(self, config: ModelConfig) -> int:
        """Length of a prompt."""
        return TEXT + self.views * (config.image_tokens() + AROUND)


@contextlib.contextmanager
def uncomputed(job: Job, config: ModelConfig, samples: int, checkpointed: bool) -> Iterator[tuple[QwenVla, Batch]]:
    """The model and a batch, and no contents for all tensors of the block."""
    settings, vision, pictures = job.settings(), config.vision, job.views * samples
    height, width = config.image_size
    grids = image_grids(pictures, height, width, vision["patch_size"]) if pictures else None
    patches = pictures * config.image_tokens() * vision["spatial_merge_size"] ** 2
    pixels = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    with FakeTensorMode(allow_non_fake_inputs=True), _Unpadded():
        model = build(config, None, dtype=torch.float32, compute=getattr(torch, settings.model.compute)).train()
        model.freeze(*settings.model.frozen)
        model.checkpoint_activations(*(settings.model.checkpointed if checkpointed else ()))
        ids = torch.zeros(samples, job.tokens(config), dtype=torch.int64)
        seen = torch.zeros(patches, pixels) if pictures else None
        chunk = torch.zeros(samples, job.horizon, config.channels)
        chunks = Chunks(torch.arange(samples), chunk, torch.ones_like(chunk).bool(), chunk, chunk[:, 0, 0])
        yield model, Batch(BackboneInputs(ids, torch.ones_like(ids).bool(), ids.expand(3, -1, -1), seen, grids), chunks)


def operations(job: Job, config: ModelConfig, checkpointed: bool) -> dict[str, int]:
    """Floating-point operations of a sample, by part."""
    with uncomputed(job, config, 1, checkpointed) as (model, batch):
        return operations_by_part(model, batch)


def activations(job: Job, config: ModelConfig, checkpointed: bool, samples: int) -> int:
    """Bytes beside weights and gradients at the worst moment of a micro-batch, when there are gradients of an earlier one."""
    with uncomputed(job, config, samples, checkpointed) as (model, batch):
        for weight in model.parameters():
            weight.grad = torch.zeros_like(weight) if weight.requires_grad else None
        held = [each for weight in model.parameters() for each in (weight, weight.grad) if each is not None]
        with Live(held) as live:
            model(batch).action.mean.backward()
        return live.most


class Live(TorchDispatchMode):
    """Bytes of tensors that come to be in the block and are still there: now, and at most.

    Args:
        known: Tensors that are not counted.
    """

    def __init__(self, known: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = weakref.WeakSet(each.untyped_storage() for each in known)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return result

    def _gone(self, size: int) -> None:
        self.now -= size


class _Unpadded(TorchDispatchMode):
    """Answers the one thing that the model reads of a tensor: yes, every token is valid."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        try:
            return function(*arguments, **(options or {}))
        except DataDependentOutputException:
            return True
