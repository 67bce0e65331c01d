"""Qwen-VLA behind the policy API: requests become one padded batch, the batch becomes chunks in the env's own units."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from pydantic import Field
from torch import Tensor

from ...envs.api import Needs, Observation
from ...envs.embodiments import TABLETOP_PANDA, Embodiment
from ..api import SHARED_FILE_VARIABLE, Policy, PolicyError, Recorded, Reply, Request
from ..conventions import differences, refuse_differences
from ..options import Options, read_options
from .acceleration import check_acceleration, compile_model, kernels_in_use, use_torch_kernels
from .checkpoint import LoadedPolicy, load
from .description import chunk_steps
from .flow import draw, euler, sample_chain, start_noise
from .inputs import InputBuilder, prompted
from .layout import ActionLayout
from .model import Context, coarsest_precision
from .normalization import Statistics, bounds_statistics, denormalize, normalize_state, state_bins
from .recording import Recording, recorded_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class QwenVlaOptions(Options):
    """Options of a Qwen-VLA beside its checkpoint."""

    steps: int = Field(default=4, ge=1, le=1000)
    """Euler steps of a chunk, 'a few' in the paper."""
    temperature: float = Field(default=0.6, ge=0, allow_inf_nan=False)
    """Standard deviation of the noise that a chunk starts from; 0.6 is the paper's at evaluation (section 4.2)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights; what the flow is computed in stays float32."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1; auto takes a GPU where there is one."""
    threads: int = Field(default=1, ge=1)
    """Threads on a CPU. The simulators need the other cores, and threads that wait for each other are far slower than one."""
    compile: bool = False
    """Let torch.compile translate the model; its first chunks are compared with the plain model's."""
    kernels: Literal["auto", "off"] = "auto"
    """Kernels of flash-linear-attention and causal-conv1d, where they are installed: auto takes them for bfloat16 on a GPU."""
    seed: int = 0
    """Seed of a preset's random weights, of 64 bits."""
    backbone: str | None = None
    """For a preset: folder or hub id of a trained Qwen3.5 to take the backbone from."""


@dataclass(frozen=True)
class _Role:
    """One embodiment, as this checkpoint plays it."""

    embodiment: Embodiment
    actions: Statistics
    state: Statistics | None
    steps: int
    index: int | None


class QwenVlaPolicy(Policy):
    """The embedded policy (paper, section 2): ``qwen-vla:CHECKPOINT``, or ``qwen-vla:small`` for a preset with random weights.

    An answer's randomness comes from the request's seed alone. Its numbers depend on the others in the batch as far as rounding
    does; ``--strict`` computes one request at a time.
    """

    name = "qwen-vla"
    needs = Needs()
    batch_sensitive = True
    stateful = False

    def __init__(self, source: str, **options: str) -> None:
        """Load or make it.

        Args:
            source: A preset's name, a checkpoint's folder, or a hub's ``owner/name``.
            options: Fields of :class:`QwenVlaOptions`.

        Raises:
            PolicyError: There is no such policy, or an option is not possible.
        """
        chosen = read_options(QwenVlaOptions, options, f"qwen-vla:{source}")
        transformers.logging.set_verbosity_error()  # it would warn of each kernel that is not installed; inspect lists them
        device = _device(chosen.device)
        if device.type == "cpu":
            torch.set_num_threads(chosen.threads)
        shared = os.environ.get(SHARED_FILE_VARIABLE)
        bundle = load(
            source,
            seed=chosen.seed,
            backbone=chosen.backbone,
            device=device,
            dtype=_DTYPES[chosen.dtype],
            shared=None if shared is None else Path(shared),
        )
        self._open(bundle, chosen)

    @classmethod
    def of(cls, bundle: LoadedPolicy, **options: Any) -> QwenVlaPolicy:
        """The policy of a model in memory, as training has it; options as on the command line.

        Precision and device are those of its weights, whatever the options say, and torch's threads stay as they are.
        """
        policy = cls.__new__(cls)
        policy._open(bundle, read_options(QwenVlaOptions, options, "qwen-vla"))
        return policy

    def _open(self, bundle: LoadedPolicy, options: QwenVlaOptions) -> None:
        config = bundle.description.config
        self.bundle = bundle
        self.model = bundle.model
        self.options = options
        self.revision = bundle.revision
        self.horizon = config.horizon
        self.reads_state = config.state != "none"
        self.embodiments = tuple(bundle.description.embodiments.values())
        self.recording: Recording | None = None
        """What to record with each reply, if anything."""
        self._config = config
        self._inputs = InputBuilder(config, bundle.tokenizer)
        self._layout = ActionLayout(config.horizon, config.channels)
        self._roles: dict[str, tuple[Embodiment, _Role]] = {}
        self._device = next(bundle.model.parameters()).device
        self._dtype = coarsest_precision(bundle.model)
        self._accelerate()

    def _accelerate(self) -> None:
        """Take the faster ways that the options allow, and compare them with the plain one."""
        remedies = []
        if self.options.compile:
            compile_model(self.model)
            remedies.append("drop compile=true")
        if self.options.kernels == "off" or self._device.type != "cuda" or self._dtype != torch.bfloat16:
            use_torch_kernels()
        elif any(kernels_in_use().values()):
            remedies.append("give kernels=off")
        if remedies:
            check_acceleration(self._probe, self._dtype, remedies)

    # What the sweep calls before it starts.

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the checkpoint was made for this robot, and for this convention of controlling it.

        Raises:
            PolicyError: It was not; the sentence names the difference.
        """
        self._role_of(embodiment, suite)

    def strict(self) -> None:
        """Compute in one thread, in float32, with torch's own kernels.

        Raises:
            PolicyError: The weights are in another precision.
        """
        if self._dtype != torch.float32:
            raise PolicyError(
                f"--strict computes in float32 and the policy's weights are {str(self._dtype).removeprefix('torch.')}; "
                "drop --strict or the option dtype"
            )
        use_torch_kernels()
        torch.set_num_threads(1)

    def horizon_for(self, embodiment: Embodiment) -> int:
        """The steps of each chunk for this embodiment."""
        return self._role_of(embodiment, embodiment.name).steps

    # What the engine calls.

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """A chunk for each request: ``float32[steps, A]``, denormalised by the embodiment's statistics."""
        roles = [self._role_of(request.embodiment, request.key) for request in requests]
        with torch.no_grad():
            context = self._context(requests, roles)
            return self._replies(requests, roles, context)

    def record(self, options: Mapping[str, Any] | None) -> None:
        """Sample chunks with the SDE from now on, and record them.

        Args:
            options: Fields of :class:`~.recording.Recording`; ``None`` goes back to Euler's steps.

        Raises:
            PolicyError: An option is unknown or not possible.
        """
        self.recording = None if options is None else Recording.of(options)

    def load_weights(self, version: int, state: Mapping[str, Any]) -> None:
        """Take new weights; those that ``state`` lacks stay as they are.

        Raises:
            PolicyError: The model has no weight of that name, or one of another shape.
        """
        own = self.model.state_dict()
        for name, tensor in state.items():
            if name not in own or own[name].shape != tensor.shape:
                has = f"of shape {tuple(own[name].shape)}" if name in own else "none of that name"
                raise PolicyError(
                    f"weights of version {version} have {name!r} of shape {tuple(tensor.shape)}, the model has {has}"
                )
        self.model.load_state_dict(dict(state), strict=False)
        self.version = version

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
            samples.append(prompted({**request.observation, "images": seen}, role.embodiment, role.steps, bins))
        return self.model.encode(self._inputs.build(samples, self._device))

    def _replies(self, requests: Sequence[Request], roles: Sequence[_Role], context: Context) -> list[Reply]:
        seeds = [request.seed for request in requests]
        shapes = [(role.steps, role.embodiment.action_size) for role in roles]
        mask = self._mask(roles)
        embodiment, state = self._indices(roles), self._states(requests, roles)
        velocity = self.model.velocity_field(context, mask, embodiment, state)
        steps = self.options.steps
        if self.recording is None:
            chunks = euler(velocity, self._noise(seeds, self.options.temperature), steps)
            recorded: Sequence[Recorded | None] = [None] * len(requests)
        else:
            sde = self.recording.sde
            draws = draw(seeds, self._layout.horizon, self._layout.channels, steps, sde, self._device)
            chain = sample_chain(velocity, draws, mask, steps, sde)
            kept = context if self.recording.states else None
            chunks, recorded = chain.actions, recorded_of(chain, mask, self.model.value(context), embodiment, state, kept)
        taken = self._layout.take_batch(chunks.float().cpu().numpy(), shapes)
        return [Reply(denormalize(chunk, role.actions), kept) for chunk, role, kept in zip(taken, roles, recorded, strict=True)]

    def _mask(self, roles: Sequence[_Role]) -> Tensor:
        masks = self._layout.masks([(role.steps, role.embodiment.action_size) for role in roles])
        return torch.from_numpy(masks).to(self._device)

    def _indices(self, roles: Sequence[_Role]) -> Tensor | None:
        """``int64[B]`` for the action projections that need it."""
        if self._config.projection == "zero_pad":
            return None
        return torch.tensor([role.index for role in roles], device=self._device)

    def _states(self, requests: Sequence[Request], roles: Sequence[_Role]) -> Tensor | None:
        """``float32[B, state_size]`` where the action expert reads the state."""
        if self._config.state != "dit":
            return None
        padded = [self._padded_state(request, role) for request, role in zip(requests, roles, strict=True)]
        return torch.from_numpy(np.stack(padded)).to(self._device)

    def _probe(self) -> Tensor:
        """Normalised chunks, ``float32[3, H, K]``, of made-up moments in which each view of the first robot shows grey noise.

        The first is computed by itself, the other two as one batch with prompts of different lengths: neither batches nor padding
        take the way of a single sample.
        """
        trained = self.bundle.description.embodiments
        embodiment = next(iter(trained.values()), TABLETOP_PANDA)
        noise = np.random.default_rng(0).integers(0, 256, (1, *self._config.image_size, 3), np.uint8)
        requests = []
        for instruction in ("put the red cube in the tray", "push it", "put the red cube in the tray, then the blue one on it"):
            observation = Observation(
                images=dict.fromkeys(embodiment.cameras, noise),
                state=np.zeros(len(embodiment.state_layout), np.float32),
                instruction=instruction,
            )
            requests.append(Request(0, "probe", 0, 0, observation, embodiment, n_action_steps=1))
        return torch.cat([self._normalized_chunks(requests[:1]), self._normalized_chunks(requests[1:])])

    def _normalized_chunks(self, requests: Sequence[Request]) -> Tensor:
        """``float32[B, H, K]`` at temperature 1, zero outside the masks."""
        roles = [self._role_of(request.embodiment, request.key) for request in requests]
        mask = self._mask(roles)
        with torch.no_grad():
            context = self._context(requests, roles)
            velocity = self.model.velocity_field(context, mask, self._indices(roles), self._states(requests, roles))
            return euler(velocity, self._noise(range(len(requests)), 1.0), self.options.steps) * mask

    def _noise(self, seeds: Sequence[int], temperature: float) -> Tensor:
        return start_noise(seeds, self._layout.horizon, self._layout.channels, temperature, self._device)

    def _padded_state(self, request: Request, role: _Role) -> np.ndarray:
        """The normalised state in the leading numbers of ``float32[state_size]``."""
        state = normalize_state(request.observation["state"], self._state_statistics(role))
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
        seen, role = self._roles.get(embodiment.name, (None, None))
        if role is None or seen != embodiment:  # two suites may have a robot of one name and control it differently
            role = self._make_role(embodiment, asker)
            self._roles[embodiment.name] = embodiment, role
        return role

    def _make_role(self, embodiment: Embodiment, asker: str) -> _Role:
        description = self.bundle.description
        if not description.embodiments:
            known, actions, state = embodiment, bounds_statistics(embodiment), None
        else:
            known = self._trained_as(embodiment, asker)
            dataset = description.statistics[known.statistics_key]
            actions, state = dataset.actions, dataset.state
        steps = chunk_steps(known, self._config.horizon)
        self._layout.mask(steps, known.action_size)  # refuses what does not fit
        self._config.check_embodiment(known.name, known.action_size)
        return _Role(known, actions, state, steps, self._config.embodiment_index(known.name))

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


def _device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        PolicyError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise PolicyError(f"device={name} is none that a policy can use; choose auto, cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0]
        raise PolicyError(f"device={name} cannot be used here ({first}); choose cpu, or a GPU that torch sees") from None
    return device
