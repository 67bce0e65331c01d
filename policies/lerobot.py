"""LeRobot's policies: ``lerobot:DIRECTORY`` loads a pretrained policy and answers with its chunks.

LeRobot's own policy server unpickles what it is sent, so no such server is spoken to. This class loads the directory where LeRobot is
installed, in the sweep's process or, as its dependencies are many, in an environment of its own behind ``vlarig serve policy``.

Read against huggingface/lerobot 0.4.4: src/lerobot/policies/factory.py, src/lerobot/policies/utils.py
(``prepare_observation_for_inference``). Shapes: ``B`` batch, ``H`` chunk steps, ``A`` action channels, ``P`` state numbers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..envs.api import Needs
from ..envs.embodiments import Embodiment
from .api import Policy, PolicyError, Reply, Request
from .conventions import ImageFit, find_embodiment, fit_image, refuse_differences
from .registry import Options, Views, read_options

#: Files of a directory that ``save_pretrained`` of a policy and of its two processors makes; states of processors are beside them.
_PROCESSORS = ("policy_preprocessor.json", "policy_postprocessor.json")
_FILES = ("config.json", "model.safetensors", *_PROCESSORS)

_STATE, _ENV_STATE, _ACTION = "observation.state", "observation.environment_state", "action"
_IMAGES = "observation.images."

#: Types of policies that sample nothing, so that a batch cannot change what a request's seed means. All others answer one at a time.
_WITHOUT_CHANCE = ("act",)


class LerobotOptions(Options):
    """Options of the policy, given as ``--policy-options NAME=VALUE``."""

    convention: str | None = None
    """the embodiment that the policy moves: its name, or a JSON file with one"""
    images: Views | None = None
    """VIEW:FEATURE,..., such as ego:observation.images.image; to be left out where the features bear the views' names"""
    image_fit: ImageFit = "pad"
    """how an image gets the size that the policy names: pad, stretch or crop"""
    device: str = "cpu"
    """where it computes: cpu, cuda, cuda:1"""


class LerobotPolicy(Policy):
    """A policy that LeRobot's ``save_pretrained`` wrote to a directory.

    Such a directory gives the sizes of its images, its state and its actions, but not their conventions. The user declares these;
    without a declaration the run stops. Images get the size that the policy names. A reply has as many steps as the policy would
    execute (its ``n_action_steps``). Each request is answered by itself, so a policy that reads several past steps is refused.

    Args:
        argument: The directory.
        options: What :class:`LerobotOptions` names.
    """

    name = "lerobot"

    def __init__(self, argument: str, **options: Any) -> None:
        settings = read_options(LerobotOptions, options, f"the policy {self.name!r}")
        self._folder = Path(argument)
        self._refuse_incomplete(settings)
        self._model = _Model(self._folder, settings.device)
        assert settings.convention is not None
        self._embodiment = find_embodiment(settings.convention)
        self._fit: ImageFit = settings.image_fit
        self._views = self._viewed(settings.images)
        self._refuse_unfit(self._embodiment, f"convention={settings.convention}")
        self.embodiments = (self._embodiment,)
        self.needs = Needs(images=bool(self._model.images))
        self.reads_state = self._model.state_size is not None
        self.horizon = self._model.steps
        self.revision = f"{self._model.kind}-{_fingerprint(self._folder)}"

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, self._embodiment, embodiment, self.reads_state)
        self._refuse_unfit(embodiment, f"suite {suite!r}")

    def strict(self) -> None:
        self._model.strict()

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        if self._model.kind in _WITHOUT_CHANCE:
            return self._answer(requests)
        return [reply for request in requests for reply in self._answer([request])]

    def _answer(self, requests: Sequence[Request]) -> list[Reply]:
        frame: dict[str, Any] = {"task": [request.observation["instruction"] for request in requests]}
        if self.reads_state:
            frame[_STATE] = np.stack([np.asarray(request.observation["state"], np.float32) for request in requests])
        for feature, view in self._views.items():
            frame[feature] = np.stack([self._image(request, feature, view) for request in requests])
        return [Reply(actions) for actions in self._model.chunks(frame, requests[0].seed)]

    def _image(self, request: Request, feature: str, view: str) -> np.ndarray:
        images = request.observation["images"]
        if view not in images:
            raise PolicyError(
                f"the policy in {self._folder} needs the view {view!r} as {feature}, and the protocol shows "
                f"{', '.join(images) or 'no images'}; choose another protocol, or another view by images={view}:{feature}"
            )
        return fit_image(images[view][-1], *self._model.images[feature], self._fit)

    def _refuse_incomplete(self, settings: LerobotOptions) -> None:
        if not self._folder.is_dir():
            raise PolicyError(
                f"there is no directory {self._folder}; give one that LeRobot's save_pretrained wrote (a policy of the hub has "
                "to be downloaded)"
            )
        missing = [name for name in _FILES if not (self._folder / name).is_file()]
        if missing:
            raise PolicyError(
                f"{self._folder} lacks {', '.join(missing)}; it has to hold what LeRobot's "
                "save_pretrained writes of a policy and its processors"
            )
        if settings.convention is None:
            raise PolicyError(
                f"the policy in {self._folder} does not say what its numbers mean; declare it: --policy-options "
                "convention=EMBODIMENT (such as libero_panda, or a JSON file)"
            )
        for name in _PROCESSORS:
            _refuse_code(self._folder / name)
        if importlib.util.find_spec("lerobot") is None:
            raise PolicyError(
                "lerobot is not installed here; in an environment with vlarig and lerobot run: vlarig serve policy --policy "
                f"lerobot:{self._folder} --policy-options convention={settings.convention}, and sweep with "
                "--policy openpi:ws://127.0.0.1:8000"
            )

    def _viewed(self, declared: dict[str, str] | None) -> dict[str, str]:
        """Feature to view."""
        wanted = self._model.images
        views = {feature: view for view, feature in (declared or {}).items()}
        unknown = [feature for feature in views if feature not in wanted]
        if unknown:
            raise PolicyError(
                f"the policy in {self._folder} has no image {unknown[0]!r}; it has {', '.join(wanted) or 'no images'}"
            )
        if declared is None:
            views = {feature: feature.removeprefix(_IMAGES) for feature in wanted}
            unnamed = [feature for feature, view in views.items() if view not in self._embodiment.cameras]
        else:
            unnamed = [feature for feature in wanted if feature not in views]
        if unnamed:
            example = ",".join(f"VIEW:{feature}" for feature in wanted)
            raise PolicyError(
                f"which view does the policy in {self._folder} see as {' and '.join(unnamed)}? Declare it: --policy-options "
                f"images={example} (views: {', '.join(self._embodiment.cameras)})"
            )
        return views

    def _refuse_unfit(self, embodiment: Embodiment, name: str) -> None:
        model, found = self._model, []
        if model.action_size != embodiment.action_size:
            found.append(
                f"its actions have {model.action_size} numbers and those of {embodiment.name} {embodiment.action_size}"
            )
        if model.state_size not in (None, len(embodiment.state_layout)):
            found.append(
                f"its state has {model.state_size} numbers and that of {embodiment.name} {len(embodiment.state_layout)}"
            )
        missing = [view for view in self._views.values() if view not in embodiment.cameras]
        if missing:
            found.append(f"{embodiment.name} has no view {missing[0]!r}")
        if found:
            raise PolicyError(f"the policy in {self._folder} does not fit {name}: {'; '.join(found)}")


class _Model:
    """LeRobot's side: the policy between its two processors. Everything of torch and lerobot is in here."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from lerobot.configs.policies import PreTrainedConfig  # pyright: ignore[reportMissingImports]
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors  # pyright: ignore[reportMissingImports]

        if device.startswith("cuda") and not torch.cuda.is_available():
            raise PolicyError(f"device={device} was requested, and torch finds no such device here; use device=cpu")
        self._torch = torch
        try:
            config = PreTrainedConfig.from_pretrained(folder)
            self._read(config, folder)
            config.device = device
            if getattr(config, "pretrained_backbone_weights", None) is not None:
                config.pretrained_backbone_weights = None  # would be downloaded, only to be overwritten by the directory's
            self._policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
            to_device = {"device_processor": {"device": device}}
            self._before, self._after = make_pre_post_processors(config, str(folder), preprocessor_overrides=to_device)
        except PolicyError:
            raise
        except Exception as error:
            lines = str(error).strip().splitlines() or ["no reason given"]
            raise PolicyError(f"LeRobot cannot load {folder} ({type(error).__name__}: {lines[0][:300]})") from error
        self._policy.eval()

    def _read(self, config: Any, folder: Path) -> None:
        """Record the policy's inputs, and refuse a policy that cannot answer one chunk at a time."""
        looks_back = int(getattr(config, "n_obs_steps", 1) or 1)
        if looks_back > 1:
            raise PolicyError(
                f"the policy in {folder} ({config.type}) looks back over {looks_back} steps, but gets one request a chunk, without "
                "the steps between; only policies with n_obs_steps=1 can be played"
            )
        if getattr(config, "temporal_ensemble_coeff", None) is not None:
            raise PolicyError(
                f"the policy in {folder} averages over its chunks by itself (temporal_ensemble_coeff), which is a protocol's business "
                "here; set it to null in config.json and sweep with a protocol that has an ensemble"
            )
        if config.action_feature is None or _ENV_STATE in (config.input_features or {}):
            raise PolicyError(f"the policy in {folder} has no feature {_ACTION!r}, or reads {_ENV_STATE}, which no env shows")
        self.kind = str(config.type)
        self.steps = int(getattr(config, "n_action_steps", None) or config.chunk_size)
        self.action_size = int(config.action_feature.shape[0])
        state = config.robot_state_feature
        self.state_size = None if state is None else int(state.shape[0])
        self.images = {name: (int(each.shape[1]), int(each.shape[2])) for name, each in config.image_features.items()}
        """Feature to height and width."""

    def strict(self) -> None:
        self._torch.set_num_threads(1)
        self._policy.float()

    def chunks(self, frame: dict[str, Any], seed: int) -> np.ndarray:
        """The chunks for a batch of observations, ``float32[B, H, A]``, in the env's own units.

        Args:
            frame: Feature to ``uint8[B, h, w, 3]`` or ``float32[B, P]``, and ``task`` to ``B`` instructions.
            seed: Seed of what the policy samples.
        """
        torch = self._torch
        batch = {name: self._tensor(value) if isinstance(value, np.ndarray) else value for name, value in frame.items()}
        with torch.inference_mode(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self._policy.reset()
            chunk = self._after(self._policy.predict_action_chunk(self._before(batch))[:, : self.steps])
        return chunk.to("cpu", torch.float32).numpy()

    def _tensor(self, value: np.ndarray) -> Any:
        """Images as ``float32[B, 3, h, w]`` from 0 to 1, all else as it is."""
        tensor = self._torch.from_numpy(value)
        return tensor.permute(0, 3, 1, 2).to(self._torch.float32) / 255 if value.dtype == np.uint8 else tensor


def _refuse_code(path: Path) -> None:
    """Make sure that a processor's steps are all of LeRobot's own registry.

    LeRobot imports and calls whatever else a step names as its ``class`` (src/lerobot/processor/pipeline.py, lerobot 0.4.4), before
    it looks whether that is a step at all.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{path} cannot be read ({error}); it has to be what LeRobot's save_pretrained writes") from None
    steps = data.get("steps") if isinstance(data, dict) else None
    if not isinstance(steps, list):
        raise PolicyError(f"{path} has no list of steps; it has to be what LeRobot's save_pretrained writes")
    for number, step in enumerate(steps):
        if not (isinstance(step, dict) and isinstance(step.get("registry_name"), str)):
            named = step.get("class") if isinstance(step, dict) else step
            raise PolicyError(
                f"step {number} of {path} ({str(named)[:80]!r}) has no registry_name, so loading it would run code that the folder "
                "names; play only policies whose steps are LeRobot's own"
            )


def _fingerprint(folder: Path) -> str:
    """The policy's revision: a hash of all that is loaded."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors") and path.is_file():
            digest.update(path.name.encode() + b"\0")
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
