"""Trackers: they log the numbers of a run or a training, step by step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol, get_args

from ..envs.errors import VlarigError

#: Names of the trackers that come with vlarig.
TrackerName = Literal["tensorboard", "trackio", "wandb"]


class Tracker(Protocol):
    """Takes numbers as they come."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Log numbers by name, such as ``eval/tabletop/push_to``, at a step of the training."""
        ...

    def close(self) -> None:
        """Write what is left."""
        ...


class _TensorBoard:
    """Event files in a folder, which ``tensorboard --logdir`` shows."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer

        self._writer = Writer(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step=step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Hosted:
    """Weights & Biases, or Hugging Face's Trackio, which has the same interface."""

    def __init__(self, package: str, folder: Path, project: str) -> None:
        self._module = import_module(package)
        self._module.init(project=project, name=folder.name)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self._module.log(dict(numbers), step=step)

    def close(self) -> None:
        self._module.finish()


def make_tracker(name: str, folder: Path, project: str) -> Tracker:
    """The tracker of that name.

    Args:
        name: One of :data:`TrackerName`.
        folder: The run's folder.
        project: The run's project in hosted trackers.
    """
    if name not in get_args(TrackerName):
        raise VlarigError(f"unknown tracker {name!r}; expected one of {', '.join(get_args(TrackerName))}")
    try:
        return _TensorBoard(folder) if name == "tensorboard" else _Hosted(name, folder, project)
    except ImportError as error:
        raise _missing(name, error) from None


def check_trackers(names: Collection[str]) -> None:
    """Make sure that the trackers' packages are installed; none is imported."""
    for name in names:
        if find_spec(name) is None:
            raise _missing(name, ModuleNotFoundError(name=name))


def _missing(package: str, error: ImportError) -> VlarigError:
    if isinstance(error, ModuleNotFoundError):
        return VlarigError(f"{error.name} is not installed, which --track {package} needs; run: pip install {package}")
    return VlarigError(f"--track {package} needs a package that does not import ({error}); run: pip install -U {package}")
