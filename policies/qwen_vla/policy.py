"""Qwen-VLA behind the policy API: requests become one padded batch, the batch becomes chunks in the env's own units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import transformers
from pydantic import Field
from torch import Tensor

from ...envs.api import Needs, Observation
from ...envs.embodiments import TABLETOP_PANDA, Embodiment
from ..api import PolicyError, Reply, Request
from ..conventions import differences, refuse_differences
from ..options import Options, read_options
from .acceleration import check_acceleration, compile_model, uses_kernels
from .checkpoint import Bundle, load
from .flow import SdeNoise, draw, euler, sample_chain, start_noise
from .inputs import InputBuilder, prompted
from .layout import ActionLayout
from .model import Context
from .navigation import WAYPOINTS
from .normalization import Statistics, bounds_statistics, denormalize, normalize, state_bins

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class QwenVlaOptions(Options):
    """What can be said of a Qwen-VLA beside its checkpoint."""

    steps: int = Field(default=4, ge=1, le=1000)
    """Euler steps of a chunk, 'a few' in the paper."""
    temperature: float = Field(default=0.6, ge=0)
    """Standard deviation of the noise that a chunk starts from; 0.6 is the paper's at evaluation (section 4.2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; what the flow is computed in stays float32."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """Threads on a CPU. The simulators need the other cores, and threads that wait for each other are far slower than one."""
    compile: bool = False
    """Let torch.compile translate the model; its first chunk is compared with the plain model's."""
    seed: int = 0
    """Seed of a preset's random weights."""
    backbone: str | None = None
    """For a preset: folder or hub id of a trained Qwen3.5 to take the backbone from."""


@dataclass(frozen=True)
class Recording:
    """What training wants to know of each answer; chunks are then sampled with the SDE, at its own temperature.

    Attributes:
        sde: Which steps are stochastic, and how much.
        states: Whether to keep the backbone's states too, so that an update needs only the action expert.
    """

    sde: SdeNoise
    states: bool = True


@dataclass(frozen=True)
class _Role:
    """One embodiment, as this checkpoint plays it."""

    embodiment: Embodiment
    actions: Statistics
    state: Statistics | None
    rows: int
    index: int | None


class QwenVlaPolicy:
    """The embedded policy (paper, section 2): ``qwen-vla:CHECKPOINT``, or ``qwen-vla:small`` for a preset with random weights.

    An answer's randomness comes from the request's seed alone. Its numbers depend on the others in the batch as far as rounding
    does; ``--strict`` asks one by one.
    """

    name = "qwen-vla"
    needs = Needs()
    rounds_by_batch = True

    def __init__(self, source: str, **options: str) -> None:
        """Load or make it.

        Args:
            source: A preset's name, a checkpoint's folder, or a hub's ``owner/name``.
            options: Fields of :class:`QwenVlaOptions`.

        Raises:
            PolicyError: There is no such policy, or an option is not possible.
        """
        chosen = read_options(QwenVlaOptions, options, f"qwen-vla:{source}")
        transformers.logging.set_verbosity_error()  # it would tell of each kernel that is not installed; inspect does so
        device = _device(chosen.device)
        if device.type == "cpu":
            torch.set_num_threads(chosen.threads)
        bundle = load(source, seed=chosen.seed, backbone=chosen.backbone, device=device, dtype=_DTYPES[chosen.dtype])
        self._open(bundle, chosen)

    @classmethod
    def of(cls, bundle: Bundle, **options: Any) -> QwenVlaPolicy:
        """The policy of a model in memory, as training has it; options as on the command line."""
        policy = cls.__new__(cls)
        policy._open(bundle, read_options(QwenVlaOptions, options, "qwen-vla"))
        return policy

    def _open(self, bundle: Bundle, options: QwenVlaOptions) -> None:
        config = bundle.description.config
        self.bundle = bundle
        self.model = bundle.model
        self.options = options
        self.revision = bundle.revision
        self.horizon: int | None = config.horizon
        self.version = 0
        """Raised by training with each update."""
        self.recording: Recording | None = None
        """Set by training: then replies carry extras."""
        self._config = config
        self._inputs = InputBuilder(config, bundle.tokenizer)
        self._layout = ActionLayout(config.horizon, config.channels)
        self._roles: dict[str, _Role] = {}
        self._device = next(bundle.model.parameters()).device
        if options.compile:
            compile_model(self.model)
        if options.compile or uses_kernels():
            check_acceleration(self._probe, _DTYPES[options.dtype])

    # What the sweep asks before it starts.

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the checkpoint was made for this robot, and for this convention of controlling it.

        Raises:
            PolicyError: It was not; the sentence says in what they differ.
        """
        self._role_of(embodiment, suite)

    def make_strict(self) -> None:
        """Compute in one thread, in float32.

        Raises:
            PolicyError: The weights are in another precision.
        """
        if self.options.dtype != "float32":
            raise PolicyError(
                f"--strict computes in float32 and the policy was told dtype={self.options.dtype}; drop one of the two"
            )
        torch.set_num_threads(1)

    @property
    def reads_state(self) -> bool:
        """Whether the state vector has a say in the answers."""
        return self._config.state != "none"

    @property
    def embodiments(self) -> tuple[Embodiment, ...]:
        """Whom the checkpoint was trained on; none for random weights."""
        return tuple(self.bundle.description.embodiments.values())

    def rows(self, embodiment: Embodiment) -> int:
        """Rows of each answer to this embodiment."""
        return self._role_of(embodiment, embodiment.name).rows

    # What the engine asks.

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """A chunk for each request: ``float32[rows, A]``, denormalised by the embodiment's statistics."""
        roles = [self._role_of(request.embodiment, request.key) for request in requests]
        with torch.no_grad():
            context = self._context(requests, roles)
            return self._replies(requests, roles, context)

    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """The value head's estimate for each observation, ``float32[B]``."""
        roles = [self._role_of(request.embodiment, request.key) for request in requests]
        with torch.no_grad():
            return self.model.value(self._context(requests, roles)).cpu().numpy()

    def _context(self, requests: Sequence[Request], roles: Sequence[_Role]) -> Context:
        samples = []
        for request, role in zip(requests, roles, strict=True):
            bins = None
            if self._config.state == "prompt":
                bins = state_bins(request.observation["state"], self._state_statistics(role)).tolist()
            seen = {tag: frames for tag, frames in request.observation["images"].items() if tag in role.embodiment.cameras}
            samples.append(prompted({**request.observation, "images": seen}, role.embodiment, role.rows, bins))
        return self.model.encode(self._inputs.build(samples, self._device))

    def _replies(self, requests: Sequence[Request], roles: Sequence[_Role], context: Context) -> list[Reply]:
        seeds = [request.seed for request in requests]
        shapes = [(role.rows, role.embodiment.action_size) for role in roles]
        mask = torch.from_numpy(self._layout.masks(shapes)).to(self._device)
        velocity = self._velocity(requests, roles, context, mask)
        if self.recording is None:
            start = self._noise(seeds, self.options.temperature)
            chunks, extras = euler(velocity, start, self.options.steps), [{} for _ in requests]
        else:
            chunks, extras = self._recorded(seeds, context, mask, velocity, self.recording)
        taken = self._layout.take_batch(chunks.float().cpu().numpy(), shapes)
        return [Reply(denormalize(chunk, role.actions), extra) for chunk, role, extra in zip(taken, roles, extras, strict=True)]

    def _recorded(
        self,
        seeds: list[int],
        context: Context,
        mask: Tensor,
        velocity: Callable[[Tensor, Tensor], Tensor],
        recording: Recording,
    ) -> tuple[Tensor, list[dict[str, Any]]]:
        """Chunks sampled with the SDE, and for each sample what an update needs, on the CPU."""
        steps = self.options.steps
        draws = draw(seeds, self._layout.horizon, self._layout.channels, steps, recording.sde, self._device)
        chain = sample_chain(velocity, draws, mask, steps, recording.sde)
        whole = {
            "log_probability": chain.log_probability,
            "before": chain.transitions.before,
            "after": chain.transitions.after,
            "step": chain.transitions.step,
            "mask": mask,
            "value": self.model.value(context),
        }
        extras = [{name: tensor[index].cpu() for name, tensor in whole.items()} for index in range(len(seeds))]
        if recording.states:
            for index, extra in enumerate(extras):
                length = int(context.valid[index].sum())
                extra["states"] = context.states[index, :length].cpu()
                extra["positions"] = context.positions[:, index, :length].cpu()
        return chain.actions, extras

    def _velocity(
        self, requests: Sequence[Request], roles: Sequence[_Role], context: Context, mask: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        embodiment = state = None
        if self._config.projection != "zero_pad":
            embodiment = torch.tensor([role.index for role in roles], device=self._device)
        if self._config.state == "dit":
            state = torch.from_numpy(np.stack([self._padded_state(*pair) for pair in zip(requests, roles, strict=True)]))
            state = state.to(self._device)
        return self.model.velocity_field(context, mask, embodiment, state)

    def _probe(self) -> Tensor:
        """A normalised chunk, ``float32[H, K]``, of a made-up moment: each view of the first robot shows grey noise."""
        trained = self.bundle.description.embodiments
        embodiment = next(iter(trained.values()), TABLETOP_PANDA)
        noise = np.random.default_rng(0).integers(0, 256, (1, *self._config.image_size, 3), np.uint8)
        observation = Observation(
            images=dict.fromkeys(embodiment.cameras, noise),
            state=np.zeros(len(embodiment.state_layout), np.float32),
            instruction="put the red cube in the tray",
        )
        request = Request(0, "probe", 0, 0, observation, embodiment, execute=1)
        role = self._role_of(embodiment, "probe")
        with torch.no_grad():
            context = self._context([request], [role])
            mask = torch.from_numpy(self._layout.masks([(role.rows, embodiment.action_size)])).to(self._device)
            velocity = self._velocity([request], [role], context, mask)
            return euler(velocity, self._noise([0], 1.0), self.options.steps)[0] * mask[0]

    def _noise(self, seeds: Sequence[int], temperature: float) -> Tensor:
        return start_noise(seeds, self._layout.horizon, self._layout.channels, temperature, self._device)

    def _padded_state(self, request: Request, role: _Role) -> np.ndarray:
        """The normalised state in the leading numbers of ``float32[state_size]``."""
        state = normalize(request.observation["state"], self._state_statistics(role))
        if len(state) > self._config.state_size:
            raise PolicyError(
                f"the state of {role.embodiment.name!r} has {len(state)} numbers, the model reads {self._config.state_size}; "
                "it was trained for others"
            )
        padded = np.zeros(self._config.state_size, np.float32)
        padded[: len(state)] = state
        return padded

    def _state_statistics(self, role: _Role) -> Statistics:
        if role.state is None:
            raise PolicyError(
                f"the model reads the state, and the checkpoint has no statistics of the state of {role.embodiment.name!r}"
            )
        return role.state

    def _role_of(self, embodiment: Embodiment, asker: str) -> _Role:
        if embodiment.name not in self._roles:
            self._roles[embodiment.name] = self._make_role(embodiment, asker)
        return self._roles[embodiment.name]

    def _make_role(self, embodiment: Embodiment, asker: str) -> _Role:
        description = self.bundle.description
        if not description.embodiments:
            known, actions, state = embodiment, bounds_statistics(embodiment), None
        else:
            known = self._trained_as(embodiment, asker)
            dataset = description.statistics[known.statistics_key]
            actions, state = dataset.actions, dataset.state
        rows = chunk_rows(known, self._config.horizon)
        self._layout.mask(rows, known.action_size)  # refuses what does not fit
        return _Role(known, actions, state, rows, self._config.embodiment_index(known.name))

    def _trained_as(self, embodiment: Embodiment, asker: str) -> Embodiment:
        """The embodiment of the checkpoint that ``embodiment`` is."""
        trained = self.bundle.description.embodiments
        if embodiment.name in trained:
            refuse_differences(self.name, asker, trained[embodiment.name], embodiment, self.reads_state)
            return trained[embodiment.name]
        for each in trained.values():
            if not differences(each, embodiment, self.reads_state):
                return each
        raise PolicyError(
            f"the checkpoint was not trained on {embodiment.name!r}, which {asker!r} is played with; "
            f"it knows {', '.join(sorted(trained))}"
        )


def chunk_rows(embodiment: Embodiment, horizon: int) -> int:
    """Rows that a model of this horizon predicts for a robot: all, or :data:`WAYPOINTS` waypoints."""
    return min(horizon, WAYPOINTS) if embodiment.arms == "none" else horizon


def _device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        PolicyError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise PolicyError(f"device={name} cannot be used here ({first}); choose cpu, or a GPU that torch sees") from None
    return device
