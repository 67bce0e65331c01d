"""A training in a process of its own, for tests: its losses go to a file, line by line, and it may kill itself.

python training_process.py RUN LOSSES KILL_AT [NAME=VALUE ...]
python training_process.py serve
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from vlarig.envs.errors import VlarigError
from vlarig.training import trainer
from vlarig.training.config import TrainConfig, read_config
from vlarig.training.samples import Sample, Stream

#: The smallest model, all parts trained in float32 at rates that move them.
OVERRIDES = (
    "model.source=tiny",
    "model.compute=float32",
    "steps=20",
    "batch_size=8",
    "micro_batch_size=2",
    "data.source=demonstrations:Mixed",
    "optimizer.backbone.lr=1e-3",
    "optimizer.expert.lr=1e-3",
    "report_every=1",
    "checkpoints.every=5",
    "checkpoints.keep=9",
    "track=[]",
)


class LossFile:
    """A reporter that appends each step's numbers to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def start(self, step: int, steps: int) -> None:
        pass

    def report(self, step: int, numbers: dict[str, float]) -> None:
        with self.file.open("a") as opened:
            opened.write(json.dumps({"step": step} | numbers) + "\n")

    def note(self, sentence: str) -> None:
        pass


def configuration(*overrides: str) -> TrainConfig:
    return read_config("sft", None, (*OVERRIDES, *overrides))


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    run, losses, kill_at, *overrides = arguments
    config = configuration(*overrides)
    if kill_at != "never":
        position = int(kill_at) * config.batch_size + 3
        whole = trainer.find_stream

        class Killing(Stream):
            def __init__(self, stream: Stream) -> None:
                self.stream, self.embodiments, self.statistics = stream, stream.embodiments, stream.statistics

            def __getitem__(self, index: int) -> Sample:
                if index == position:
                    os.kill(os.getpid(), signal.SIGKILL)
                return self.stream[index]

        trainer.find_stream = lambda source, options: Killing(whole(source, options))
    try:
        trainer.train(config, Path(run), LossFile(Path(losses)))
    except VlarigError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def serve() -> None:
    """Trainings that are forked from this process, which has imported what they need: importing takes longer than 20 steps.

    A line in is a list of processes that run at once, each with its arguments, its variables, and the file that gets what it
    writes; the line out has their exit statuses.
    """
    for line in sys.stdin:
        children = [forked(**each) for each in json.loads(line)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(codes) + "\n")
        sys.stdout.flush()


def forked(arguments: Sequence[str], variables: dict[str, str], file: str) -> int:
    """The id of a process that is a copy of this one and trains."""
    child = os.fork()
    if child:
        return child
    code: Any = 1
    try:
        os.environ.update(variables)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        main(arguments)
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(sys.argv[1:])
