"""Trainings in processes of their own: several give what one gives, and a killed one goes on as if nothing had been."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import training_process

from vlarig.policies.qwen_vla.checkpoint import load

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """What the processes of a training leave: the exit status of the first that failed, or 0, and what all of them wrote."""

    returncode: int
    stderr: str


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """What :func:`launch` begins trainings with."""
    words = [sys.executable, training_process.__file__, "serve"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def launch(server: subprocess.Popen[str], run: Path, *overrides: str, count: int = 1, kill_at: int | str = "never") -> Ended:
    """A training in so many processes, with the variables that torchrun sets."""
    assert server.stdin is not None
    assert server.stdout is not None
    arguments = [str(run), str(run.parent / f"{run.name}.jsonl"), str(kill_at), *overrides]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())} if count > 1 else {}
    files = [run.parent / f"{run.name}-{rank}.txt" for rank in range(count)]
    jobs = [
        {
            "arguments": arguments,
            "variables": shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {},
            "file": str(file),
        }
        for rank, file in enumerate(files)
    ]
    server.stdin.write(json.dumps(jobs) + "\n")
    server.stdin.flush()
    codes = json.loads(server.stdout.readline())
    return Ended(next(filter(None, codes), 0), "".join(file.read_text() for file in files))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun(run: Path, *overrides: str, count: int) -> Ended:
    """The same by torchrun itself, as users call it."""
    words = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone", training_process.__file__]
    words += [str(run), str(run.parent / f"{run.name}.jsonl"), "never", *overrides]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=240, check=False)
    return Ended(done.returncode, done.stderr)


@pytest.mark.slow
def test_torchrun_hands_the_documented_command_on(tmp_path: Path) -> None:
    """Without the two dashes it takes ``--run`` for the beginning of options of its own, and ends."""
    (command,) = re.findall(r"^torchrun (.*)$", (ROOT / "docs" / "training.md").read_text(), re.MULTILINE)
    words = command.replace("8", "1").replace("runs/sft", str(tmp_path / "run")).split()
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "there is no file sft.toml; name a configuration in TOML or JSON" in done.stderr


def losses(run: Path, name: str = "train/loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (run.parent / f"{run.name}.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines}


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "policy" / "model.safetensors")


@pytest.fixture(scope="module")
def alone(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps by one process."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    done = launch(server, run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 steps by two processes that share the weights."""
    run = tmp_path_factory.mktemp("runs") / "two"
    done = torchrun(run, count=2)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(alone: Path, two: Path) -> None:
    for name in ("train/loss", "train/gradient_norm", "train/weight_norm"):
        expected, found = losses(alone, name), losses(two, name)
        assert list(found) == list(range(1, 21))
        assert found == pytest.approx(expected, rel=2e-5), name


@pytest.mark.slow
def test_a_sharded_model_is_exported_with_every_tensor(alone: Path, two: Path) -> None:
    expected, found = weights(alone), weights(two)
    assert found.keys() == expected.keys()
    begun = load("tiny").model.state_dict()
    for part in ("visual", "language_model", "expert"):
        assert any((found[name] - begun[name]).abs().max() > 1e-3 for name in found if part in name), part
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 4])
def test_a_checkpoint_of_two_processes_is_loaded_by_any_number(
    server: subprocess.Popen[str], two: Path, tmp_path: Path, count: int
) -> None:
    run = tmp_path / "run"
    checkpoint = "checkpoints/step-00000010"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(two / "config.json", run / "config.json")
    shutil.copytree(two / checkpoint, run / checkpoint)
    done = launch(server, run, count=count)
    assert done.returncode == 0, done.stderr
    found = losses(run)
    assert list(found) == list(range(11, 21))
    assert found == pytest.approx({step: losses(two)[step] for step in found}, rel=2e-5)


@pytest.mark.slow
def test_processes_that_each_hold_all_weights_give_the_losses_of_one(
    server: subprocess.Popen[str], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "copies"
    assert launch(
        server, run, "shard_over=1", count=2, kill_at=12
    ).returncode  # of either: one is killed, and the other misses it
    done = launch(server, run, "shard_over=1", count=2)  # from a checkpoint
    assert done.returncode == 0, done.stderr
    for name in ("train/loss", "train/gradient_norm", "train/weight_norm"):
        found = losses(run, name)
        assert {step: found[step] for step in range(1, 21)} == pytest.approx(losses(alone, name), rel=2e-5), name
    for name, tensor in weights(alone).items():
        torch.testing.assert_close(weights(run)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_killed_at_ten_random_steps_it_is_bit_equal_to_the_undisturbed(
    server: subprocess.Popen[str], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    kills = random.Random(7).choices(range(20), k=10)
    done = []
    for step in sorted(kills):
        ended = launch(server, run, "checkpoints.every=1", kill_at=step)
        done.append(ended.returncode)
    assert done == [-9] * 10
    ended = launch(server, run, "checkpoints.every=1")
    assert ended.returncode == 0, ended.stderr
    found, expected = weights(run), weights(alone)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert losses(run) == losses(alone)


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_reported_with_the_samples_of_all_processes(
    server: subprocess.Popen[str], tmp_path: Path
) -> None:
    done = launch(server, tmp_path / "run", "optimizer.expert.lr=1e30", "optimizer.clip=1e30", "micro_batch_size=4", count=2)
    (sentence,) = {line for line in done.stderr.splitlines() if "has the action loss nan" in line}  # of both, the same
    step = int(sentence.split()[1]) - 1
    named = {int(number) for number in re.findall(r"random/(\d+)", sentence)}
    assert len(named) == 5
    assert named == {step * 8 + each for each in range(5)}


@pytest.mark.slow
def test_processes_that_do_not_divide_the_batch_are_refused(server: subprocess.Popen[str], tmp_path: Path) -> None:
    done = launch(server, tmp_path / "run", "batch_size=6", "micro_batch_size=2", count=2)
    assert "batch_size 6 makes 3 micro-batches of 2, which 2 processes cannot share out evenly" in done.stderr


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_training_saves_it(tmp_path: Path) -> None:
    """As a terminal's Ctrl-C, or a scheduler: the DataLoader's workers get it too."""
    run, file = tmp_path / "run", tmp_path / "run.jsonl"
    words = [sys.executable, training_process.__file__, str(run), str(file), "never", "steps=100000", "data.workers=2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not file.exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, error = process.communicate(timeout=120)
    (step,) = re.findall(r"Stopped: stopped and saved after step (\d+); the same command goes on", error) or [error]
    assert (run / "checkpoints" / f"step-{int(step):08d}").is_dir()
