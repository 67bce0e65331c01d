"""Workers that die, are stopped, or do not start: each is replaced, no episode is charged, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chaos.processes import children, is_launcher
from comparing import results
from toy.policies import ImageReader
from toy.suite import STUMBLING_SUITE, TOY_SUITE

from vlarig.benchmarks.suite import Patience
from vlarig.envs import backoff
from vlarig.envs.api import Camera, Needs
from vlarig.envs.errors import VlarigError
from vlarig.envs.framing import MOST_ENVS
from vlarig.envs.messages import CRASH, LOST
from vlarig.envs.wire import MAX_MESSAGE_BYTES
from vlarig.harness import evaluate, plan, workers
from vlarig.harness.children.child import Launcher
from vlarig.harness.children.simulator import KEPT_BYTES, WorkerSpec
from vlarig.harness.children.supervisor import SimulatorFault
from vlarig.harness.durable_env import MOST_LOSSES, DurableEnv, Losses
from vlarig.harness.workers import LocalWorker, local_workers
from vlarig.policies.api import Reply, Request
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt

EPISODE = TOY_SUITE.episodes(per_task=1)[0]
ACTIONS = np.zeros((1, 3), np.float32)

pytestmark = pytest.mark.usefixtures("toy_home")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are replaced after short pauses."""
    monkeypatch.setattr(workers, "START_MARGIN", 2.0)
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)


def inject_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    folder = tmp_path / "counts"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)


class Meddler(ImageReader):
    """Meddles with the workers, or with their launcher, at its fifth query."""

    def __init__(self, meddle: Callable[[int], None], with_launcher: bool) -> None:
        super().__init__()
        self.meddle = meddle
        self.with_launcher = with_launcher

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        if len(self.batches) == 4:
            (launcher,) = filter(is_launcher, children(os.getpid()))
            workers = children(launcher)
            for pid in [launcher] if self.with_launcher else workers:
                self.meddle(pid)
            while self.meddle is kill and any(map(is_alive, workers)):
                time.sleep(0.01)
        return super().act(requests)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("meddle", "with_launcher", "workers", "envs"),
    [(kill, False, 1, 1), (stop, False, 1, 1), (stop, False, 2, 2), (kill, True, 2, 2), (stop, True, 2, 2)],
)
def test_a_dead_launcher_or_idle_worker_is_replaced_and_no_episode_is_charged(
    monkeypatch: pytest.MonkeyPatch, meddle: Callable[[int], None], with_launcher: bool, workers: int, envs: int
) -> None:
    monkeypatch.setattr(plan, "load_suite", lambda name: replace(TOY_SUITE, patience=Patience(reset=10.0, step=0.1)))
    runs = {"undisturbed": lambda pid: None, "disturbed": meddle}
    for name, each in runs.items():
        policy = Meddler(each, with_launcher)
        assert evaluate("toy", policy, workers=workers, num_envs=workers * envs, episodes=2, run=Path(name)).complete
    with Ledger.open_read_only(Path("disturbed")) as ledger:
        assert ledger.attempts() == []
    assert results(Path("disturbed")) == results(Path("undisturbed"))


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["stopped", "launcher-stopped"])
def test_what_is_stopped_while_it_starts_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    inject_fault(tmp_path, monkeypatch, f"{kind}::1")

    suite = replace(STUMBLING_SUITE, patience=Patience(load=5.0))

    async def run() -> int:
        async with local_workers(WorkerSpec.of(suite), 1, Path("logs")) as (worker,):
            return (await (await worker.running()).start(0, EPISODE, Needs())).step

    assert asyncio.run(run()) == 0
    assert len(list((tmp_path / "counts").iterdir())) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_a_simulator_that_never_loads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inject_fault(tmp_path, monkeypatch, "stopped::1000")
    suite = replace(STUMBLING_SUITE, patience=Patience(load=0.5))

    async def run() -> None:
        async with local_workers(WorkerSpec.of(suite), 1, Path("logs")):
            pass

    with pytest.raises(
        VlarigError, match=r"worker-0 died 6 times .*did not load: the simulator's process was stopped by a signal"
    ):
        asyncio.run(run())


@pytest.mark.usefixtures("impatient")
def test_a_server_that_cannot_be_started_is_given_up() -> None:
    worker_spec = WorkerSpec.of(TOY_SUITE)
    nowhere = replace(worker_spec, runtime=replace(worker_spec.runtime, python=Path("/nowhere/python")))

    async def run() -> None:
        async with local_workers(nowhere, 2, Path("logs")):
            pass

    with pytest.raises(VlarigError, match=r"worker-\d died 6 times .*it cannot be started .*No such file"):
        asyncio.run(run())


@contextlib.contextmanager
def killing(launcher: Launcher, times: int) -> Iterator[None]:
    """Kill the next children of a launcher, each as soon as it is there."""

    def rage() -> None:
        killed: set[int] = set()
        while len(killed) < times and not over.is_set():
            for child in list(launcher._children.values()):
                if child._pid is not None and child._pid not in killed:
                    kill(child._pid)
                    killed.add(child._pid)
            time.sleep(0.001)

    over = threading.Event()
    thread = threading.Thread(target=rage)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_worked_survives_a_storm_in_which_a_new_one_is_given_up() -> None:
    storm = backoff.MOST_FAILURES_AT_FIRST + 2

    async def run() -> None:
        async with Launcher() as launcher:
            fresh = LocalWorker(0, launcher, WorkerSpec.of(TOY_SUITE), Path("logs/fresh"))
            with (
                killing(launcher, storm),
                pytest.raises(VlarigError, match="died 6 times without carrying out one request"),
            ):
                await fresh.__aenter__()
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            line = await worker.running()
            await line.start(0, EPISODE, Needs())
            worker.succeeded()
            with killing(worker._launcher, storm):
                with pytest.raises(SimulatorFault) as fault:
                    while True:
                        await line.step(0, ACTIONS)
                assert fault.value.kind in (CRASH, LOST)
            assert (await (await worker.running()).start(0, EPISODE, Needs())).step == 0

    asyncio.run(run())


def test_the_pauses_between_restarts_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def take_note(seconds: float) -> None:
        pauses.append(seconds)

    async def run() -> None:
        worker = LocalWorker(0, Launcher(), WorkerSpec.of(TOY_SUITE), Path("log"))
        worker.succeeded()
        with monkeypatch.context() as patch:
            patch.setattr(asyncio, "sleep", take_note)
            with pytest.raises(VlarigError, match=r"died 13 times .*\(the last time: killed\)"):
                while True:
                    await worker._count_death("killed")

    asyncio.run(run())
    assert pauses == [0, 0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_episode_that_takes_its_server_along_each_time_is_charged_at_last() -> None:
    charged: list[Attempt] = []

    async def note(attempt: Attempt) -> None:
        charged.append(attempt)

    async def run() -> None:
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            env = DurableEnv(worker, 0, Needs(), Losses(note))
            await env.begin(EPISODE)
            for losses in range(1, MOST_LOSSES + 2):
                assert worker.pid is not None
                kill(worker.pid)
                while worker.pid is not None:  # noqa: ASYNC110  (it has no event)
                    await asyncio.sleep(0.01)
                await env.step(ACTIONS)
                assert len(charged) == (losses > MOST_LOSSES)
            assert env.chunks == MOST_LOSSES + 1

    asyncio.run(run())
    (attempt,) = charged
    assert (attempt.kind, attempt.gave_up) == (CRASH, False)
    assert f"it was lost {MOST_LOSSES + 1} times by deaths that are charged to no episode" in attempt.message


#: A driver that prints when it works, and goes on until it is ended.
DRIVER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from toy.suite import TOY_SUITE
from vlarig.envs import backoff
from vlarig.envs.api import Camera, Needs
from vlarig.harness.workers import local_workers
from vlarig.harness.children.simulator import WorkerSpec

async def main():
    async with local_workers(WorkerSpec.of(TOY_SUITE), 2, Path("logs")) as workers:
        for worker in workers:
            await (await worker.running()).start(0, TOY_SUITE.episodes(per_task=1)[0], Needs())
        print(*(worker.pid for worker in workers), flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [lambda workers, launcher: workers[:1], lambda workers, launcher: [launcher, workers[0]]])
def test_nothing_is_left_of_a_driver_that_is_killed(tmp_path: Path, stopped: Callable[[list[int], int], list[int]]) -> None:
    """Neither of its workers, one of which is stopped, nor of their launcher, nor on the disk."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(scratch)}
    )
    with driver:
        assert driver.stdout is not None
        workers = [int(word) for word in driver.stdout.readline().split()]
        launcher = parent_of(workers[0])
        processes = [*workers, launcher]
        assert parent_of(launcher) == driver.pid
        for pid in stopped(workers, launcher):
            stop(pid)
        driver.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert list(scratch.iterdir()) == []


#: A sweep whose workers may take a tenth of a second for a step.
SWEEP = """
from dataclasses import replace
from pathlib import Path
from toy.policies import SlowImageReader
from toy.suite import TOY_SUITE
from vlarig.benchmarks.suite import Patience
from vlarig.harness import evaluate, plan

plan.load_suite = lambda name: replace(TOY_SUITE, patience=Patience(step=0.1))
evaluate("toy", SlowImageReader(), workers=2, num_envs=4, episodes=6, run=Path("stopped"))
"""


@pytest.mark.slow
def test_a_driver_that_was_stopped_goes_on_and_no_episode_is_charged() -> None:
    """It is stopped for longer than its workers may take."""
    evaluate("toy", ImageReader(), workers=2, num_envs=4, episodes=6, run=Path("undisturbed"))
    with subprocess.Popen([sys.executable, "-c", SWEEP]) as driver:
        deadline = time.monotonic() + 60
        while not _finished(Path("stopped")) and time.monotonic() < deadline:
            time.sleep(0.02)
        stop(driver.pid)
        time.sleep(1.5)
        os.kill(driver.pid, signal.SIGCONT)
        assert driver.wait(120) == 0
    with Ledger.open_read_only(Path("stopped")) as ledger:
        assert ledger.attempts() == []
    assert results(Path("stopped")) == results(Path("undisturbed"))


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _finished(run: Path) -> int:
    try:
        with Ledger.open_read_only(run) as ledger:
            return len(ledger.finished_keys())
    except VlarigError:
        return 0


def test_a_simulator_inherits_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (
        "VLARIG_ENVS_TOKEN",
        "VLARIG_POLICY_TOKEN",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
    )
    secrets += ("WANDB_API_KEY", "GOOGLE_APPLICATION_CREDENTIALS", "UV_INDEX_OURS_PASSWORD", "my_secret", "SSH_AUTH_SOCK")
    plain = ("TOKENIZERS_PARALLELISM", "MUJOCO_GL", "KEYBOARD", "SECRETARY")
    for name in (*secrets, *plain):
        monkeypatch.setenv(name, "hunter2")
    environment = WorkerSpec.of(TOY_SUITE).environment()
    assert {name: environment.get(name) for name in secrets} == dict.fromkeys(secrets)
    assert {name: environment.get(name) for name in plain} == dict.fromkeys(plain, "hunter2")


def test_what_a_simulator_detached_ends_with_it_and_its_log_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inject_fault(tmp_path, monkeypatch, "none::0")
    suite = replace(TOY_SUITE, adapter="toy.faulty:DetachingEnv")

    async def run() -> int:
        async with local_workers(WorkerSpec.of(suite), 1, Path("logs")):
            (detached,) = (tmp_path / "counts").iterdir()
            os.kill(int(detached.name), 0)
        return int(detached.name)

    detached = asyncio.run(run())
    deadline = time.monotonic() + 10
    while is_alive(detached):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (log,) = Path("logs").iterdir()
    text = log.read_bytes()
    assert len(text) < 3 * KEPT_BYTES + 2**17
    assert text.startswith(b"first words")
    assert b"[the middle of this log is left out" in text
    assert b"last words" in text


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_an_adapter_that_disagrees_with_its_suite_stops_before_the_first_episode() -> None:
    other = replace(TOY_SUITE, embodiment=replace(TOY_SUITE.embodiment, control_frequency=20.0))

    async def run() -> None:
        async with local_workers(WorkerSpec.of(other), 1, Path("logs")):
            pass

    with pytest.raises(
        VlarigError, match=r"disagree on the embodiment's control_frequency: 20.0 in the suite, 10.0 in the adapter"
    ):
        asyncio.run(run())


#: Its image is too large to be sent.
VAST = replace(EPISODE, protocol=replace(EPISODE.protocol, cameras=(Camera("ego", 4800, 4800),)))

REFUSED = {
    "an image that is too large": (VAST, ACTIONS, r"bytes, at most .* can be sent; request smaller or fewer images"),
    "another number of channels": (EPISODE, np.zeros((1, 4), np.float32), r"shape \[1, 4\]"),
    "no steps": (EPISODE, np.zeros((), np.float32), r"shape \[\]"),
    "no number": (EPISODE, np.full((1, 3), np.nan, np.float32), "nan"),
    "more than can be sent": (EPISODE, np.zeros((MAX_MESSAGE_BYTES // 12 + 1, 3), np.float32), "at most .* can be sent"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_an_env_refuses_costs_the_worker_nothing(kind: str) -> None:
    episode, actions, message = REFUSED[kind]

    async def run() -> None:
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            pid = worker.pid
            await (await worker.running()).start(0, EPISODE, Needs())
            with pytest.raises(VlarigError, match=message):
                await (await worker.running()).start(1, episode, Needs())
                await (await worker.running()).step(1, actions)
            assert (await (await worker.running()).step(0, ACTIONS)).snapshot.step == 1
            assert worker.pid == pid

    asyncio.run(run())


def test_there_are_so_many_envs_and_no_more() -> None:
    async def run() -> None:
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            with pytest.raises(VlarigError, match=f"at most {MOST_ENVS}; take more workers"):
                await (await worker.running()).start(MOST_ENVS, EPISODE, Needs())

    asyncio.run(run())


def test_a_request_whose_caller_gave_up_waiting_is_carried_out_before_the_envs_next_one() -> None:
    async def run() -> list[int]:
        async with local_workers(WorkerSpec.of(TOY_SUITE), 1, Path("logs")) as (worker,):
            await (await worker.running()).start(0, EPISODE, Needs())
            line = await worker.running()
            given_up = asyncio.ensure_future(line.step(0, ACTIONS))
            await asyncio.sleep(0)
            given_up.cancel()
            stepped = await (await worker.running()).step(0, ACTIONS)
            begun = await (await worker.running()).start(0, EPISODE, Needs())
            return [stepped.snapshot.step, begun.step]

    assert asyncio.run(run()) == [2, 0]
