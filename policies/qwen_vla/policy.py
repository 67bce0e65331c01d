"""Qwen-VLA behind the policy API: requests become one padded batch, the batch becomes chunks in the env's own units."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

from ...envs.api import Needs, Observation
from ...envs.embodiments import Embodiment
from ...envs.errors import suggestion
from ..api import SHARED_FILE_VARIABLE, Policy, PolicyError, Recorded, Reply, Request, weights_revision
from ..conventions import differences, refuse_differences, transferred, was_trained_on
from ..registry import read_options
from .acceleration import check_acceleration, choose_kernels, compile_model, use_torch_kernels
from .backbone import BackboneInputs, Context
from .checkpoint import LoadedPolicy, load
from .embodiments import EXAMPLE
from .flow import Prefix, Velocity, draw, euler, sample_chain, start_noise
from .inputs import InputBuilder, Query, Role, prompt_of, state_of
from .named import QwenVlaOptions, chunk_steps
from .normalization import ActionLayout, bounds_statistics, denormalize, normalize
from .recording import Recording, recorded_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Prepared:
    """A batch of requests as the model takes it, on its device.

    Attributes:
        queries: What each chunk is predicted from.
        inputs: The prompts and images.
        mask: ``bool[B, H, K]``, the valid entries of the chunks.
        embodiment: ``int64[B]``, for the projections that need it.
        state: ``float32[B, state_numbers]``, for the state mode ``dit``.
    """

    queries: list[Query]
    inputs: BackboneInputs
    mask: Tensor
    embodiment: Tensor | None
    state: Tensor | None


class QwenVlaPolicy(Policy):
    """The embedded policy (paper, section 2).

    ``qwen-vla`` is the checkpoint that the package brings along, ``qwen-vla:CHECKPOINT`` another one, and ``qwen-vla:small`` a preset
    with random weights.

    An answer's randomness comes from the request's seed alone. Its numbers depend on the others in the batch as far as rounding
    does; ``--strict`` computes one request at a time.
    """

    name = "qwen-vla"
    needs = Needs()
    batch_sensitive = True
    stateful = False
    takes_prefix = True

    def __init__(self, source: str, **options: str) -> None:
        """Load or make it.

        Args:
            source: A preset's name, a checkpoint's folder, a hub's ``owner/name``, or nothing for the package's own checkpoint.
            options: Fields of :class:`QwenVlaOptions`.
        """
        chosen = read_options(QwenVlaOptions, options, f"qwen-vla:{source}".removesuffix(":"))
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
            compute=_DTYPES[chosen.compute or chosen.dtype],
            shared=None if shared is None else Path(shared),
        )
        self._open(bundle, chosen)

    @classmethod
    def of(cls, bundle: LoadedPolicy, **options: Any) -> QwenVlaPolicy:
        """The policy of a model in memory, as training has it; options as on the command line.

        Precisions and device are the model's, whatever the options say, and torch's threads stay as they are.
        """
        policy = cls.__new__(cls)
        policy._open(bundle, read_options(QwenVlaOptions, options, "qwen-vla"))
        return policy

    def _open(self, bundle: LoadedPolicy, options: QwenVlaOptions) -> None:
        config, trained, source = bundle.description.config, bundle.description.embodiments, options.zero_shot
        if source is not None and source not in trained:
            known = suggestion(source, trained) if trained else "random weights know none, and play any robot without it"
            raise PolicyError(f"zero_shot={source} is no embodiment of the checkpoint; {known}")
        self.bundle = bundle
        self.table_note = f"zero-shot: prompt of the suite's own robot, statistics of {source}" if source is not None else ""
        self.model = bundle.model
        self.options = options
        self.revision = bundle.revision
        self.horizon, self.n_action_steps = config.horizon, config.n_action_steps
        self.reads_state = config.state != "none"
        self.embodiments = tuple(trained.values())
        self.recording: Recording | None = None
        """What to record with each reply, if anything."""
        self._config = config
        self._inputs = InputBuilder(config, bundle.tokenizer)
        self._layout = ActionLayout(config.horizon, config.channels)
        self._role_of = _remembered(self._make_role)
        self._device = next(bundle.model.parameters()).device
        self._accelerate()

    def _accelerate(self) -> None:
        """Take the faster ways that the options allow, and compare them with the plain one."""
        remedies = []
        if self.options.compile:
            compile_model(self.model)
            remedies.append("drop compile=true")
        if self.options.kernels == "off":
            use_torch_kernels(self.model)
        elif choose_kernels(self.model, self._device):
            remedies.append("give kernels=off")
        if remedies:
            check_acceleration(self.model, self._probe, remedies)

    # What the sweep calls before it starts.

    def check(self, suite: str, embodiment: Embodiment) -> None:
        """Make sure that the checkpoint was made for this robot, and for this convention of controlling it."""
        trained = self.bundle.description.embodiments
        if self.options.zero_shot is not None and was_trained_on(trained, embodiment, self.reads_state):
            raise PolicyError(
                f"the checkpoint was trained on {embodiment.name!r}, which {suite!r} is played with; play it without zero_shot"
            )
        self._role_of(embodiment, suite)

    def strict(self) -> None:
        """Compute in one thread, in float32, with torch's own kernels."""
        if self.model.compute != torch.float32:
            raise PolicyError(
                f"--strict computes in float32 and the policy in {str(self.model.compute).removeprefix('torch.')}; "
                "drop --strict or the options dtype and compute"
            )
        use_torch_kernels(self.model)
        torch.set_num_threads(1)

    def horizon_for(self, embodiment: Embodiment) -> int:
        return chunk_steps(self._role_of(embodiment, embodiment.name).embodiment, self._config.horizon)

    # What the engine calls.

    @torch.no_grad()
    def act(self, requests: Sequence[Request]) -> list[Reply]:
        """A chunk for each request: ``float32[steps, A]``, denormalised by the embodiment's statistics."""
        prepared = self.prepare(requests)
        context = self.model.encode(prepared.inputs)
        queries, seeds = prepared.queries, [request.seed for request in requests]
        shapes = [(each.steps, each.role.embodiment.action_size) for each in queries]
        velocity = self._velocity(prepared, context)
        if self.recording is None:
            noise = self._noise(seeds, self.options.temperature)
            chunks = euler(velocity, noise, self.options.steps, self._prefix(requests, queries))
            recorded: Sequence[Recorded | None] = [None] * len(requests)
        else:
            sde, executed = self.recording.sde, [request.n_action_steps for request in requests]
            draws = draw(seeds, self._layout.horizon, self._layout.channels, sde, self._device)
            run = torch.arange(self._layout.horizon) < torch.tensor(executed)[:, None]
            chain = sample_chain(velocity, draws, prepared.mask & run[:, :, None].to(self._device), sde)
            kept = context if self.recording.states else None
            value = self.model.value(context, prepared.state)
            chunks = chain.actions
            recorded = recorded_of(chain, shapes, executed, value, prepared.embodiment, prepared.state, kept)
        taken = self._layout.take_batch(chunks.float().cpu().numpy(), shapes)
        return [
            Reply(denormalize(chunk, each.role.actions), kept)
            for chunk, each, kept in zip(taken, queries, recorded, strict=True)
        ]

    def prepare(self, requests: Sequence[Request]) -> Prepared:
        config = self._config
        roles = [self._role_of(request.embodiment, request.key) for request in requests]
        queries = [
            Query(request.observation, role, chunk_steps(role.embodiment, config.horizon))
            for request, role in zip(requests, roles, strict=True)
        ]
        masks = self._layout.masks([(each.steps, each.role.embodiment.action_size) for each in queries])
        index = None if config.projection == "zero_pad" else torch.tensor([each.role.index for each in queries])
        state = torch.from_numpy(np.stack([state_of(each, config) for each in queries])) if config.state == "dit" else None
        return Prepared(
            queries=queries,
            inputs=self._inputs.build([prompt_of(each, config) for each in queries], self._device),
            mask=torch.from_numpy(masks).to(self._device),
            embodiment=None if index is None else index.to(self._device),
            state=None if state is None else state.to(self._device),
        )

    def record(self, options: Mapping[str, Any] | None) -> None:
        """Sample chunks with the SDE from now on, and record them.

        Args:
            options: Fields of :class:`~.recording.Recording`; ``None`` goes back to Euler's steps.
        """
        self.recording = None if options is None else Recording.of(options)

    def load_weights(self, version: int, state: Mapping[str, Any]) -> None:
        """Take new weights; those that ``state`` lacks stay as they are."""
        own = self.model.state_dict()
        for name, tensor in state.items():
            if name not in own or own[name].shape != tensor.shape:
                has = f"of shape {tuple(own[name].shape)}" if name in own else "none of that name"
                raise PolicyError(
                    f"weights of version {version} have {name!r} of shape {tuple(tensor.shape)}, the model has {has}"
                )
        self.model.load_state_dict(dict(state), strict=False)
        self.version, self.revision = version, weights_revision(self.bundle.revision, version)

    @torch.no_grad()
    def value(self, requests: Sequence[Request]) -> np.ndarray:
        """The value head's estimate for each observation, ``float32[B]``."""
        prepared = self.prepare(requests)
        return self.model.value(self.model.encode(prepared.inputs), prepared.state).cpu().numpy()

    def _prefix(self, requests: Sequence[Request], queries: Sequence[Query]) -> Prefix | None:
        """The first steps of the chunks as far as the requests know them; ``None`` where none does."""
        if all(request.prefix is None for request in requests):
            return None
        shape = len(requests), self._layout.horizon, self._layout.channels
        clean, known = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for place, (request, query) in enumerate(zip(requests, queries, strict=True)):
            if request.prefix is not None:
                clean[place], known[place] = self._layout.place(normalize(request.prefix, query.role.actions))
        return Prefix(torch.from_numpy(clean).to(self._device), torch.from_numpy(known).to(self._device))

    def _velocity(self, prepared: Prepared, context: Context) -> Velocity:
        mask, embodiment, state = prepared.mask, prepared.embodiment, prepared.state
        return lambda noisy, time: self.model.velocity(noisy, time, context, mask, embodiment, state)

    def _probe(self) -> Tensor:
        """Normalised chunks, ``float32[3, H, K]``, of made-up observations: grey noise in each view of the robot with the most views.

        The first is computed by itself, the other two as one batch with prompts of different lengths: neither batches nor padding
        take the way of a single sample.
        """
        trained = self.bundle.description.embodiments
        embodiment = max(trained.values(), key=lambda each: len(each.cameras), default=EXAMPLE)
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

    @torch.no_grad()
    def _normalized_chunks(self, requests: Sequence[Request]) -> Tensor:
        """``float32[B, H, K]`` at temperature 1, zero outside the masks."""
        prepared = self.prepare(requests)
        velocity = self._velocity(prepared, self.model.encode(prepared.inputs))
        return euler(velocity, self._noise(range(len(requests)), 1.0), self.options.steps) * prepared.mask

    def _noise(self, seeds: Sequence[int], temperature: float) -> Tensor:
        return start_noise(seeds, self._layout.horizon, self._layout.channels, temperature, self._device)

    def _make_role(self, embodiment: Embodiment, asker: str) -> Role:
        description = self.bundle.description
        if not description.embodiments:
            known, source, actions, state = embodiment, embodiment, bounds_statistics(embodiment), None
        else:
            known, source = self._trained_as(embodiment, asker)
            dataset = description.statistics[source.statistics_key]
            actions, state = dataset.actions, dataset.state
        self._layout.mask(chunk_steps(known, self._config.horizon), known.action_size)  # refuses what does not fit
        self._config.check_embodiment(source.name, known.action_size)
        return Role(known, actions, state, self._config.embodiment_index(source.name))

    def _trained_as(self, embodiment: Embodiment, asker: str) -> tuple[Embodiment, Embodiment]:
        """The embodiment to prompt with, and the checkpoint's one whose numbers it has; they differ in zero-shot transfer alone."""
        trained = self.bundle.description.embodiments
        zero_shot = self.options.zero_shot
        if zero_shot is not None and not was_trained_on(trained, embodiment, self.reads_state):
            return transferred(trained[zero_shot], embodiment, asker, self.reads_state), trained[zero_shot]
        if embodiment.name in trained:
            refuse_differences(self.name, asker, trained[embodiment.name], embodiment, self.reads_state)
            return trained[embodiment.name], trained[embodiment.name]
        for each in trained.values():
            if not differences(each, embodiment, self.reads_state):
                return each, each
        raise PolicyError(
            f"the checkpoint was not trained on {embodiment.name!r}, which {asker!r} is played with; "
            f"it knows {', '.join(sorted(trained))}; the option zero_shot=NAME plays it with the statistics of one of these"
        )


def _device(name: str) -> torch.device:
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


def _remembered(make: Callable[[Embodiment, str], Role]) -> Callable[[Embodiment, str], Role]:
    """The same, made once for each embodiment; what is remembered is no attribute, which would be a part of the policy's identity."""
    roles: dict[str, tuple[Embodiment, Role]] = {}

    def role_of(embodiment: Embodiment, asker: str) -> Role:
        seen, role = roles.get(embodiment.name, (None, None))
        if role is None or seen != embodiment:  # two suites may have a robot of one name and control it differently
            role = make(embodiment, asker)
            roles[embodiment.name] = embodiment, role
        return role

    return role_of
