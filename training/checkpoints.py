"""Checkpoints of a training, by ``torch.distributed.checkpoint``: written by any number of processes, read by any other.

A checkpoint holds weights, the optimiser's state, the average if there is one, the steps over which learning rates were planned to
fall, and the step, from which the position in the data and every random number follow. A folder is written under another name first, so
one that is there is whole.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from .config import TrainingError, differences
from .learner import Learner
from .parallel import Processes, whole

#: Beside torch's files.
PROGRESS_FILE = "training.json"


class _Progress(msgspec.Struct):
    step: int
    planned: int
    model: dict[str, Any]
    whole: bool


class Checkpoints:
    """Those of a run.

    Args:
        folder: Holds a folder for each.
        keep: How many of the newest are kept.
        whole: Whether they also have the weights that are not trained; otherwise these are the ones that the run began with.
    """

    def __init__(self, folder: Path, keep: int, whole: bool = True) -> None:
        self.folder = folder
        self._keep = keep
        self._whole = whole

    def newest(self) -> Path | None:
        found = sorted(each for each in self.folder.glob("step-*") if (each / PROGRESS_FILE).is_file())
        return found[-1] if found else None

    def go_back(self, step: int, processes: Processes) -> int:
        """Remove the checkpoints after a step; all processes call it together.

        Returns:
            The steps of the newest one that is left; 0 without one.
        """
        processes.wait()
        if processes.first:
            for each in self.folder.glob("step-*"):
                if _step(each) > step:
                    shutil.rmtree(each)
        processes.wait()
        newest = self.newest()
        return 0 if newest is None else _step(newest)

    def save(
        self, learner: Learner, step: int, write: Callable[[Path], None] = lambda folder: None, spared: int | None = None
    ) -> Path:
        """Write a checkpoint after so many steps; all processes call it together.

        ``write`` writes further files into the folder that it is given, in every process. The checkpoint of the steps ``spared`` is
        kept beside the newest.
        """
        target = self.folder / f"step-{step:08d}"
        partial = self.folder / f".{target.name}"
        processes = learner.processes
        if processes.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
        processes.wait()
        with _quiet():
            save(_state(learner, self._whole), checkpoint_id=partial, no_dist=processes.mesh is None)
        write(partial)
        processes.wait()
        if processes.first:
            progress = {
                "step": step,
                "planned": learner.steps,
                "model": learner.model.config.to_data(),
                "processes": processes.world,
                "whole": self._whole,
            }
            (partial / PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n", encoding="utf-8")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for old in sorted(self.folder.glob("step-*"))[: -self._keep]:
                if _step(old) != spared:
                    shutil.rmtree(old)
        processes.wait()
        return target


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def resume(learner: Learner, folder: Path) -> int:
    """Take a checkpoint's state; all processes call it together, as many as there are now.

    Learning rates go on as they were planned when the training began, whatever its length is now.

    Returns:
        The steps that were made before it.
    """
    progress = _progress(folder)
    found = differences(progress.model, json.loads(json.dumps(learner.model.config.to_data())))
    if found:
        raise TrainingError(
            f"{folder} is a checkpoint of another model: it differs in {found[0]}; name another run, or train that model"
        )
    state = _state(learner, progress.whole)
    try:
        with _quiet():
            load(state, checkpoint_id=folder, no_dist=learner.processes.mesh is None)
    except (CheckpointException, OSError, ValueError, RuntimeError) as error:
        reasons = [each for each, _ in error.failures.values()] if isinstance(error, CheckpointException) else [error]
        first = " ".join(f"{type(reasons[0]).__name__}: {reasons[0]}".split())
        raise TrainingError(f"{folder} cannot be loaded ({first}); remove it to go on from the checkpoint before") from error
    set_model_state_dict(learner.model, state["model"], options=StateDictOptions(strict=progress.whole))
    set_optimizer_state_dict(learner.model, learner.optimizer, state["optimizer"])
    if learner.average is not None:
        for name, tensor in learner.average.state.items():
            tensor.copy_(state["average"][name])
    learner.steps = progress.planned
    return progress.step


def full_weights(learner: Learner) -> dict[str, torch.Tensor] | None:
    """All weights as whole tensors on the CPU of the first process, those of the average in their place; ``None`` in the others.

    All processes call it together.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights: dict[str, Any] = get_model_state_dict(learner.model, options=options)
    if learner.average is not None:
        for name, tensor in learner.average.state.items():
            weights[name] = whole(tensor).cpu()
    return weights if learner.processes.first else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warning that there is one process alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)
        yield


def _state(learner: Learner, whole: bool) -> dict[str, Any]:
    frozen = {name for name, weight in learner.model.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    state: dict[str, Any] = {
        "model": {name: each for name, each in get_model_state_dict(learner.model).items() if whole or name not in frozen},
        "optimizer": get_optimizer_state_dict(learner.model, learner.optimizer),
    }
    if learner.average is not None:
        state["average"] = learner.average.state
    return state


def _progress(folder: Path) -> _Progress:
    try:
        return msgspec.json.decode((folder / PROGRESS_FILE).read_bytes(), type=_Progress)
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder} is no checkpoint of a training ({error}); name RUN/checkpoints/step-N") from None
