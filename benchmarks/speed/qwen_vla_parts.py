"""A Qwen-VLA taken apart: the work of a chunk, from observations to actions, and each of its parts on its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from qwen_vla_flops import Flops, count, weight_bytes

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import TABLETOP_PANDA
from vlarig.policies.api import Request
from vlarig.policies.images import fit_image
from vlarig.policies.qwen_vla.backbone import BackboneInputs, hidden_states
from vlarig.policies.qwen_vla.checkpoint import Bundle, Description
from vlarig.policies.qwen_vla.config import PRESETS
from vlarig.policies.qwen_vla.flow import euler, start_noise
from vlarig.policies.qwen_vla.inputs import InputBuilder, Prompted, prompted
from vlarig.policies.qwen_vla.layout import ActionLayout
from vlarig.policies.qwen_vla.model import Context, QwenVla, build
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.tokenizer import add_view_tokens, small_tokenizer, token_ids
from vlarig.policies.qwen_vla.vision import image_features, patchify

#: Euler steps that are measured.
STEPS = (4, 10)
#: Height and width of an observation's pictures: those of the LIBERO evaluators' default protocol.
PICTURE = 224
INSTRUCTION = "put the red cube in the tray"


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        name: What it is.
        work: Does it once, for the whole batch.
        flops: Its operations for the whole batch; 0 where it multiplies no matrices.
        read: Bytes of weights that it reads at least.
    """

    name: str
    work: Callable[[], object]
    flops: float = 0.0
    read: int = 0


@dataclass(frozen=True)
class Moment:
    """A batch on its way through a model.

    Attributes:
        inputs: What the backbone takes.
        context: What it made of them.
        mask: ``bool[B, H, K]``.
        flops: Operations of one sample.
    """

    inputs: BackboneInputs
    context: Context
    mask: torch.Tensor
    flops: Flops

    @property
    def tokens(self) -> int:
        """Prompt tokens of a sample."""
        return self.inputs.input_ids.shape[1]


class Subject:
    """A preset with random weights, asked for chunks of the embedded suite's robot."""

    def __init__(self, preset: str, device: torch.device, dtype: torch.dtype, views: int, compiled: bool = False) -> None:
        tokenizer = small_tokenizer()
        add_view_tokens(tokenizer)
        self.config = PRESETS[preset](tokens=token_ids(tokenizer))
        self.device = device
        self.model: QwenVla = build(self.config, device=device, dtype=dtype)
        self.builder = InputBuilder(self.config, tokenizer)
        cameras = dict(list(TABLETOP_PANDA.cameras.items())[:views])
        self.embodiment = dataclasses.replace(TABLETOP_PANDA, cameras=cameras)
        bundle = Bundle(Description(self.config), self.model, tokenizer, preset)
        dtype_name = str(dtype).removeprefix("torch.")
        options = {"dtype": dtype_name, "device": str(device), "compile": str(compiled).lower(), "steps": str(STEPS[0])}
        self.policy = QwenVlaPolicy.of(bundle, **options)

    def requests(self, batch: int) -> list[Request]:
        """Questions of different episodes: other pictures, the same words."""
        pictures = np.random.default_rng(0).integers(0, 256, (batch, 1, PICTURE, PICTURE, 3), np.uint8)
        state = np.zeros(len(self.embodiment.state_layout), np.float32)
        return [
            Request(
                slot, f"episode {slot}", 0, slot, self._observation(frames, state), self.embodiment, execute=self.config.horizon
            )
            for slot, frames in enumerate(pictures)
        ]

    def _observation(self, frames: np.ndarray, state: np.ndarray) -> Observation:
        return Observation(images=dict.fromkeys(self.embodiment.cameras, frames), state=state, instruction=INSTRUCTION)

    def samples(self, requests: list[Request]) -> list[Prompted]:
        """What the policy makes of the questions first."""
        return [prompted(request.observation, request.embodiment, self.config.horizon) for request in requests]

    @torch.no_grad()
    def moment(self, batch: int) -> Moment:
        """A batch, encoded."""
        inputs = self.builder.build(self.samples(self.requests(batch)), self.device)
        shape = (self.config.horizon, self.embodiment.action_size)
        mask = torch.from_numpy(ActionLayout(self.config.horizon, self.config.channels).masks([shape] * batch))
        flops = count(self.config, inputs.input_ids.shape[1], len(self.embodiment.cameras))
        return Moment(inputs, self.model.encode(inputs), mask.to(self.device), flops)

    def chunk_part(self, batch: int) -> Part:
        """Everything: observations to actions."""
        requests, flops = self.requests(batch), self.moment(batch).flops
        return Part("act", lambda: self.policy.act(requests), batch * flops.chunk(STEPS[0]), weight_bytes(self.model, STEPS[0]))

    def parts(self, batch: int) -> list[Part]:
        """The parts of a chunk, each with what it needs at hand. They add up to the whole, but for what is indented under another."""
        moment, model = self.moment(batch), self.model
        each, inputs, context = moment.flops, moment.inputs, moment.context
        field = model.velocity_field(context, moment.mask)
        noise = start_noise(range(batch), self.config.horizon, self.config.channels, device=self.device)
        now = torch.ones(batch, device=self.device)
        once, stepwise = weight_bytes(model, 0), weight_bytes(model, 1) - weight_bytes(model, 0)
        parts = [
            *self._input_parts(batch),
            Part("backbone", lambda: hidden_states(model.backbone, inputs), batch * each.backbone, once),
            Part("  vision", self._vision(inputs), batch * each.vision),
            Part("  language model", self._language(inputs), batch * each.language),
            Part("conditioning", lambda: model.condition(context, moment.mask), batch * each.condition),
            Part("Euler step", lambda: field(noise, now), batch * each.step, stepwise),
        ]
        for steps in STEPS:
            work = _euler(field, noise, steps)
            parts.append(Part(f"{steps} Euler steps", work, steps * batch * each.step, steps * stepwise))
        return parts

    def _input_parts(self, batch: int) -> list[Part]:
        """From observations to tensors."""
        requests, vision = self.requests(batch), self.config.vision
        pictures = [picture for sample in self.samples(requests) for _, picture in sample.views]
        fitted = [fit_image(picture, *self.config.image_size, self.config.image_fit) for picture in pictures]
        pixels = torch.from_numpy(np.stack(fitted)).to(self.device)
        sizes = vision["patch_size"], vision["spatial_merge_size"], vision["temporal_patch_size"]
        return [
            Part("inputs", lambda: self.builder.build(self.samples(requests), self.device)),
            Part("  resize", lambda: [fit_image(each, *self.config.image_size, self.config.image_fit) for each in pictures]),
            Part("  patchify", lambda: patchify(pixels, *sizes)),
        ]

    def _vision(self, inputs: BackboneInputs) -> Callable[[], object]:
        visual, pixels, grids = self.model.backbone.model.visual, inputs.pixel_values, inputs.image_grid_thw
        assert pixels is not None
        assert grids is not None
        return lambda: image_features(visual, pixels, grids)

    def _language(self, inputs: BackboneInputs) -> Callable[[], object]:
        model = self.model.backbone.model
        embedded = model.get_input_embeddings()(inputs.input_ids)
        return lambda: model.language_model(inputs_embeds=embedded, position_ids=inputs.positions, use_cache=False)


def _euler(
    field: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], noise: torch.Tensor, steps: int
) -> Callable[[], object]:
    return lambda: euler(field, noise, steps)
