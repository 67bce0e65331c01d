"""The architecture as data: the backbone's sizes, the action expert's, and the options that the paper ablates.

Nothing here needs torch, so a configuration can be read, checked and printed without it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, TypeAdapter, ValidationError

from ...envs.errors import suggestion
from ..api import PolicyError
from ..conventions import ImageFit

Size = Annotated[int, Field(ge=1)]

TOKEN_FIELDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")


@dataclass(frozen=True)
class SpecialTokens:
    """Token ids that the backbone itself must know.

    Attributes:
        image_pad: ``<|image_pad|>``, of which an image has one for each merged patch.
        video_pad: ``<|video_pad|>``, of which a temporal patch of a video has one for each merged patch.
        vision_start: ``<|vision_start|>``, before an image.
        vision_end: ``<|vision_end|>``, after an image.
    """

    image_pad: int
    video_pad: int
    vision_start: int
    vision_end: int


#: Numbers of a hand's pose: its position, then the rows of its rotation matrix.
HAND_POSE = 12

#: Tokens that every prompt ends with, after its images: ``<|im_end|>``, a new line, ``<|im_start|>``, ``assistant`` and its new line.
LAST_TOKENS = 4

#: Qwen3.5's own (transformers models/qwen3_5/configuration_qwen3_5.py, v5.23.0).
QWEN_TOKENS = SpecialTokens(image_pad=248_056, video_pad=248_057, vision_start=248_053, vision_end=248_054)
#: Rows of Qwen3.5's embedding. Its tokenizer has fewer entries, so the view tokens find room.
QWEN_VOCABULARY = 248_320


def backbone_config(
    text: dict[str, Any], vision: dict[str, Any], vocabulary_size: int, tokens: SpecialTokens, interval: int = 2
) -> dict[str, Any]:
    """A backbone with these sizes and with what all Qwen3.5 models have in common; one in ``interval`` attentions is full."""
    layers = text["num_hidden_layers"]
    return {
        "text_config": {
            "vocab_size": vocabulary_size,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "linear_conv_kernel_dim": 4,
            "layer_types": ["full_attention" if (layer + 1) % interval == 0 else "linear_attention" for layer in range(layers)],
            **text,
        },
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.02,
            **vision,
        },
        "tie_word_embeddings": True,
        "image_token_id": tokens.image_pad,
        "video_token_id": tokens.video_pad,
        "vision_start_token_id": tokens.vision_start,
        "vision_end_token_id": tokens.vision_end,
    }


def rope_config(theta: float, section: list[int]) -> dict[str, Any]:
    return {
        "rope_type": "default",
        "rope_theta": theta,
        "partial_rotary_factor": 0.25,
        "mrope_section": section,
        "mrope_interleaved": True,
    }


#: The sizes of the public Qwen3.5-4B.
TEXT_4B = {
    "hidden_size": 2560,
    "intermediate_size": 9216,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 262_144,
    "rope_parameters": rope_config(10_000_000.0, [11, 11, 10]),
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
VISION_4B = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2560,
    "num_position_embeddings": 2304,
}

#: A backbone must state the fields that the paper's states here. Transformers' defaults (``Qwen3_5TextConfig``) are a larger model's
#: (4,096 wide instead of 2,560), so a field that is left out would silently be wrong.
BACKBONE_4B = backbone_config(TEXT_4B, VISION_4B, QWEN_VOCABULARY, QWEN_TOKENS, interval=4)


@dataclass(frozen=True)
class ExpertConfig:
    """Sizes of the action expert.

    The paper prints 70.8M parameters a block at width 1,536, which is 30 squares of the width. AdaLN takes 6 and an attention of 12
    heads x 128 takes 4; the 20 that are left are a SwiGLU of width 10,240. The split is ours, its sum is the paper's (section 2.2).

    Attributes:
        width: ``D``, the latent width.
        blocks: Number of transformer blocks.
        heads: Attention heads; each is ``width / heads`` wide.
        mlp_width: Hidden width of the SwiGLU.
        time_features: Sinusoidal features of the flow time.
        context: What the expert knows of the prompt. ``prompt``, the paper's: it attends to all of its tokens. ``ends``: numbers that
            the prompt's last tokens hold (:mod:`.readouts`), which steer every block beside the flow time.
    """

    width: Size = 1536
    blocks: Size = 16
    heads: Size = 12
    mlp_width: Size = 10_240
    time_features: Size = 256
    context: Literal["prompt", "ends"] = "prompt"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise PolicyError(f"expert.width is {self.width}, expected a multiple of expert.heads ({self.heads})")
        if self.time_features % 2:
            raise PolicyError(f"expert.time_features is {self.time_features}, expected an even number (sines and cosines)")

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class ModelConfig:
    """Everything that decides the shape of a Qwen-VLA's weights and inputs.

    Attributes:
        backbone: Configuration of transformers' ``Qwen3_5ForConditionalGeneration`` as plain data; every field of
            :data:`BACKBONE_4B` is stated.
        expert: Sizes of the action expert.
        horizon: ``H``, the steps of a chunk (16: paper, section 4.2).
        channels: ``K``, the padded action channels. The paper prints no value; its 4.9M parameters of action projections allow 42
            to 73, and 64 holds the widest embodiment.
        projection: How actions of different sizes enter and leave (paper, section 5.2.2): ``zero_pad``, ``multi_mlp``, ``concat``.
        projection_embodiments: Name and action size of every embodiment, in the order of their indices; for ``multi_mlp`` and
            ``concat`` alone.
        state: Where proprioception goes (paper, section 5.2.4): ``none``, ``prompt`` (as text), ``dit`` (a token of the expert).
        state_size: Numbers of the state vector; for ``dit`` alone.
        image_size: Height and width that every image is brought to, in pixels.
        image_fit: How it is brought there: ``pad`` (keep the aspect, fill), ``stretch``, ``crop`` (keep the aspect, cut).
        stem: How the vision tower begins: ``patch``, Qwen3.5's one linear layer a patch, or ``conv``, convolutions over the image.
        n_action_steps: Steps of a chunk that are best run before the next is predicted; ``None``: as many as a protocol says.
        kept_tokens: How many of an image's tokens the language model reads: those in which the tower finds an object with the greatest
            probability. 0: all of them, as in Qwen3.5.
    """

    backbone: dict[str, Any]
    expert: ExpertConfig = field(default_factory=ExpertConfig)
    horizon: Size = 16
    channels: Size = 64
    projection: Literal["zero_pad", "multi_mlp", "concat"] = "zero_pad"
    projection_embodiments: tuple[tuple[str, int], ...] = ()
    state: Literal["none", "prompt", "dit"] = "none"
    state_size: int = 0
    image_size: tuple[int, int] = (224, 224)
    image_fit: ImageFit = "pad"
    stem: Literal["patch", "conv"] = "patch"
    kept_tokens: Annotated[int, Field(ge=0)] = 0
    n_action_steps: int | None = None

    def __post_init__(self) -> None:
        _check_backbone(self.backbone)
        self._check_projection()
        self._check_state()
        self._check_images()
        if self.n_action_steps is not None and not 1 <= self.n_action_steps <= self.horizon:
            raise PolicyError(f"n_action_steps is {self.n_action_steps}, expected 1 to {self.horizon} (horizon)")
        rotary = 2 * sum(self.rope["mrope_section"])
        if rotary > self.expert.head_width:
            raise PolicyError(
                f"the backbone rotates {rotary} dimensions of a head, more than a head of the expert has "
                f"({self.expert.head_width}); take fewer expert.heads or a larger expert.width"
            )

    def _check_projection(self) -> None:
        if (self.projection == "zero_pad") == bool(self.projection_embodiments):
            raise PolicyError(
                f"projection {self.projection!r} with {len(self.projection_embodiments)} projection_embodiments; "
                "multi_mlp and concat need (name, action size) of each embodiment, zero_pad takes none"
            )
        names = [name for name, _ in self.projection_embodiments]
        if len(set(names)) != len(names):
            raise PolicyError(f"projection_embodiments are {', '.join(names)}; each name must come once")
        for name, size in self.projection_embodiments:
            if not 1 <= size <= self.channels:
                raise PolicyError(f"embodiment {name!r} has {size} action channels, expected 1 to {self.channels} (channels)")

    def _check_state(self) -> None:
        if (self.state == "dit") != (self.state_size > 0):
            raise PolicyError(
                f"state is {self.state!r} and state_size is {self.state_size}; "
                "'dit' needs a state_size of 1 or more, the others take none"
            )

    def _check_images(self) -> None:
        unit = self.vision["patch_size"] * self.vision["spatial_merge_size"]
        if len(self.image_size) != 2 or any(side < unit or side % unit for side in self.image_size):
            raise PolicyError(f"image_size is {self.image_size}, expected (height, width) in multiples of {unit} pixels")

    @property
    def text(self) -> dict[str, Any]:
        """Sizes of the backbone's language model."""
        return self.backbone["text_config"]

    @property
    def vision(self) -> dict[str, Any]:
        """Sizes of the backbone's vision tower."""
        return self.backbone["vision_config"]

    @property
    def rope(self) -> dict[str, Any]:
        """The backbone's rotary embedding, which the expert shares."""
        return self.text["rope_parameters"]

    @property
    def state_numbers(self) -> int:
        """Numbers that the action expert gets of a robot's state: the state and, where the expert reads ends, the hand's pose."""
        return self.state_size + (HAND_POSE if self.state == "dit" and self.reads_ends else 0)

    @property
    def reads_ends(self) -> bool:
        """Whether the action expert reads the numbers of :mod:`.readouts` in place of the prompt."""
        return self.expert.context == "ends"

    @property
    def deviations(self) -> dict[str, Any]:
        """The fields in which the backbone is no Qwen3.5, or the expert not the paper's, with their values."""
        found = {"stem": self.stem, "kept_tokens": self.kept_tokens, "expert.context": self.expert.context}
        return {name: value for name, value in found.items() if value not in ("patch", 0, "prompt")}

    def image_tokens(self) -> int:
        """``<|image_pad|>`` tokens of one image: one for each merged patch, or as many of them as are kept."""
        unit = self.vision["patch_size"] * self.vision["spatial_merge_size"]
        return self.tokens_of(self.image_size[0] // unit, self.image_size[1] // unit)

    def tokens_of(self, rows: int, columns: int) -> int:
        """Tokens of an image of so many merged patches."""
        return min(rows * columns, self.kept_tokens or rows * columns)

    def embodiment_index(self, name: str) -> int | None:
        """The index that ``multi_mlp`` and ``concat`` know an embodiment by; ``None`` for ``zero_pad``, which needs none."""
        if self.projection == "zero_pad":
            return None
        names = [known for known, _ in self.projection_embodiments]
        if name not in names:
            raise PolicyError(f"projection {self.projection!r} has no weights for {name!r}; {suggestion(name, names)}")
        return names.index(name)

    def check_embodiment(self, name: str, action_size: int) -> None:
        """Make sure that the action projection has weights for an embodiment, and as many channels as its actions."""
        index = self.embodiment_index(name)
        if index is not None and self.projection_embodiments[index][1] != action_size:
            raise PolicyError(
                f"projection {self.projection!r} has weights for {self.projection_embodiments[index][1]} action channels of {name!r}, "
                f"which has {action_size}; they must be the same"
            )

    def to_data(self) -> dict[str, Any]:
        return msgspec.to_builtins(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> ModelConfig:
        _check_keys("model configuration", data, [each.name for each in dataclasses.fields(cls)], required=("backbone",))
        if "expert" in data:
            _check_keys("expert", data["expert"], [each.name for each in dataclasses.fields(ExpertConfig)])
        try:
            return TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise PolicyError(f"{place} is {first['input']!r}: {first['msg'].lower()}") from None


def _check_keys(what: str, data: Any, known: Collection[str], required: Iterable[str] = ()) -> None:
    """Make sure that a map has no unknown key and all the required ones."""
    if not isinstance(data, Mapping):
        raise PolicyError(f"the {what} is {data!r}, expected a map")
    for key in data:
        if key not in known:
            raise PolicyError(f"the {what} has an unknown key {key!r}; {suggestion(str(key), known)}")
    missing = [key for key in required if key not in data]
    if missing:
        raise PolicyError(f"the {what} does not state {', '.join(missing)}; every size must be given, none has a default")


def _check_backbone(backbone: dict[str, Any]) -> None:
    """Make sure that the backbone is stated completely and that its sizes fit each other."""
    stated = BACKBONE_4B
    _check_keys("backbone", backbone, stated, stated)
    for name in ("text_config", "vision_config"):
        _check_keys(f"backbone's {name}", backbone[name], stated[name], stated[name])
    text, vision = backbone["text_config"], backbone["vision_config"]
    rope = text["rope_parameters"]
    _check_keys("backbone's rope_parameters", rope, TEXT_4B["rope_parameters"], TEXT_4B["rope_parameters"])
    rotary = int(text["head_dim"] * rope["partial_rotary_factor"])
    side = math.isqrt(vision["num_position_embeddings"])
    tokens = max(backbone[name] for name in TOKEN_FIELDS)
    fits = {
        f"mrope_section {rope['mrope_section']} must sum to half the rotary dimensions ({rotary} / 2)": (
            2 * sum(rope["mrope_section"]) == rotary
        ),
        "mrope_interleaved must be true and rope_type 'default', as in Qwen3.5": (
            rope["mrope_interleaved"] is True and rope["rope_type"] == "default"
        ),
        f"layer_types must name {text['num_hidden_layers']} layers": len(text["layer_types"]) == text["num_hidden_layers"],
        f"out_hidden_size {vision['out_hidden_size']} must be hidden_size {text['hidden_size']}": (
            vision["out_hidden_size"] == text["hidden_size"]
        ),
        f"num_position_embeddings {vision['num_position_embeddings']} must be a square": (
            side * side == vision["num_position_embeddings"]
        ),
        f"vocab_size {text['vocab_size']} must be above every special token ({tokens})": tokens < text["vocab_size"],
    }
    for rule, kept in fits.items():
        if not kept:
            raise PolicyError(f"the backbone's sizes do not fit each other: {rule}")
