"""Replicas: one policy in several processes gives the results of one in this process, whichever of them die in between."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chaos.processes import children
from comparing import results
from processes import workers_of
from served import served
from toy import unsteady
from toy.env import TOY_POINT
from toy.policies import ImageReader
from toy.unsteady import Notebook
from websockets.sync.client import ClientConnection, connect

from vlarig.envs import backoff
from vlarig.envs.api import Observation
from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.harness import replicas as replicas_module
from vlarig.harness.replicas import Replica, replicated_policy
from vlarig.policies import batching as batching_module
from vlarig.policies.api import Policy, PolicyError, PolicyLost, Reply, Request, policy_seed
from vlarig.policies.batching import Batcher, Batching
from vlarig.policies.pool import PolicyPool
from vlarig.policies.registry import load_policy
from vlarig.policies.remote.serving import PolicyServer
from vlarig.policies.remote.wire import pack
from vlarig.policies.replica_messages import Order

NOTEBOOK, FORGETFUL, TRAPPED = (f"toy.unsteady:{name}" for name in ("Notebook", "Forgetful", "Trapped"))

#: Chunks of an episode.
CHUNKS = 4


def request(env: int, key: str, chunk: int, size: int = 4) -> Request:
    rng = np.random.default_rng([env, chunk])
    image = rng.integers(0, 256, (1, size, size, 3), np.uint8)
    observation = Observation(
        images={"ego": image}, state=rng.normal(size=3).astype(np.float32), instruction=f"go on with {key}"
    )
    return Request(env, key, chunk, policy_seed(0, key, chunk), observation, TOY_POINT, 2, {"goal": rng.normal(size=2)})


def episode_key(number: int) -> str:
    return f"toy/standard@1/reach/base/{number}/0"


class Players:
    """Envs that play episodes as an engine does; one that was lost restarts."""

    def __init__(self, policy: Policy, batching: Batching, order: list[int], envs: int = 6, size: int = 4) -> None:
        self.policy, self.batching, self.envs, self.size = policy, batching, envs, size
        self.left = list(order)
        self.replies: dict[str, list[Reply]] = {}
        self.lost = 0
        self.answered = [0] * envs
        """Chunks of the episode that each env plays."""
        self.after_chunk: Callable[[], None] = lambda: None

    def play(self) -> dict[str, bytes]:
        """The actions of each episode."""
        asyncio.run(self._play())
        return {key: b"".join(reply.actions.tobytes() for reply in replies) for key, replies in self.replies.items()}

    async def _play(self) -> None:
        async with Batcher(self.policy, self.batching) as self.batcher:
            self.batcher.playing = self.envs
            await asyncio.gather(*(self._env(env) for env in range(self.envs)))

    async def _env(self, env: int) -> None:
        while self.left:
            key = episode_key(self.left.pop(0))
            while key not in self.replies:
                try:
                    self.replies[key] = [await self._chunk(env, key, chunk) for chunk in range(CHUNKS)]
                except PolicyLost:
                    self.lost += 1
        self.batcher.playing -= 1
        self.batcher.forget(env)

    async def _chunk(self, env: int, key: str, chunk: int) -> Reply:
        number = int(key.split("/")[-2])
        sent = request(number, key, chunk, self.size)  # what it sees is the episode's, whichever env plays it
        answer = await self.batcher.ask(Request(**{**vars(sent), "env": env}))
        self.answered[env] = chunk + 1
        self.after_chunk()
        return answer.reply


def expected(policy: Policy, episodes: int) -> dict[str, bytes]:
    """What the policy answers in this process, one request at a time."""
    return {
        key: b"".join(np.float32(policy.act([request(number, key, chunk)])[0].actions).tobytes() for chunk in range(CHUNKS))
        for number, key in enumerate(map(episode_key, range(episodes)))
    }


@contextmanager
def replicated(name: str, count: int = 2, **options: Any) -> Iterator[PolicyPool[Replica]]:
    policy = replicated_policy(name, {key: str(value) for key, value in options.items()}, count)
    try:
        yield policy
    finally:
        policy.close()


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "trap"


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.0)


def kill(policy: PolicyPool[Replica], number: int) -> int:
    """Kill a replica; its process id."""
    pid = policy.members[number].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("most", [1, 8])
def test_results_are_those_of_the_policy_in_this_process(count: int, most: int) -> None:
    orders = [list(range(12)), [*range(11, -1, -1)]]
    with replicated(NOTEBOOK, count) as policy:
        for order in orders:
            players = Players(policy, Batching(most), order)
            assert players.play() == expected(Notebook(), 12)
            assert players.lost == 0


def test_an_episode_keeps_to_one_replica_and_episodes_are_spread() -> None:
    with replicated(NOTEBOOK, 3) as policy:
        players = Players(policy, Batching(4), list(range(9)), envs=9)
        players.play()
        homes = [{reply.recorded.arrays["pid"] for reply in replies} for replies in players.replies.values()]
        assert all(len(pids) == 1 for pids in homes)
        assert Counter(pid for (pid,) in homes) == dict.fromkeys([each.pid for each in policy.members], 3)


@pytest.mark.timeout(60)
def test_a_batch_is_full_where_every_replica_has_its_share() -> None:
    with replicated(NOTEBOOK, 2) as policy:
        players = Players(policy, Batching(8, wait_seconds=3600), list(range(6)), envs=6)
        players.play()
        assert {reply.recorded.arrays["batch"] for replies in players.replies.values() for reply in replies} == {3}


@pytest.mark.slow
@pytest.mark.parametrize("name", [NOTEBOOK, FORGETFUL])
def test_killed_replicas_cost_nothing_but_time(name: str, no_pauses: None) -> None:
    with replicated(name, 3) as policy:
        players = Players(policy, Batching(8), list(range(30)))
        chunks, killed = 0, []

        def kill_some() -> None:
            nonlocal chunks
            chunks += 1
            standing = [number for number, each in enumerate(policy.members) if each.pid not in (None, *killed)]
            if chunks % 15 == 0 and len(killed) < 5 and standing:
                killed.append(kill(policy, standing[len(killed) % len(standing)]))

        players.after_chunk = kill_some
        assert players.play() == expected(load_policy(name), 30)
        assert len(killed) == 5
        assert (players.lost > 0) == (name == NOTEBOOK)


def test_an_episode_in_mid_course_is_lost_with_its_replica_and_can_be_begun_again() -> None:
    async def run(policy: PolicyPool[Replica]) -> None:
        async with Batcher(policy, Batching(4)) as batcher:
            batcher.playing = 2
            for env in (0, 1):
                await batcher.ask(request(env, episode_key(env), 0))
            kill(policy, 0)
            with pytest.raises(PolicyLost, match=r"replica 0 of the policy .* is dead: it was ended by SIGKILL"):
                await batcher.ask(request(0, episode_key(0), 1))
            with pytest.raises(PolicyLost):
                await batcher.ask(request(0, episode_key(0), 1))
            await batcher.ask(request(1, episode_key(1), 1))  # the other's episode goes on
            for chunk in range(2):
                await batcher.ask(request(0, episode_key(0), chunk))

    with replicated(NOTEBOOK) as policy:
        asyncio.run(run(policy))


def test_an_episode_that_has_not_begun_is_not_lost() -> None:
    async def run(policy: PolicyPool[Replica]) -> None:
        async with Batcher(policy, Batching(4)) as batcher:
            batcher.playing = 4
            kill(policy, 0)
            await asyncio.gather(*(batcher.ask(request(env, episode_key(env), 0)) for env in range(4)))

    with replicated(NOTEBOOK) as policy:
        asyncio.run(run(policy))


@pytest.mark.parametrize(("kind", "reason"), [("die", "was ended by SIGKILL"), ("exit", "exited with status 3")])
def test_a_replica_that_dies_in_a_batch_restarts(trap: Path, kind: str, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with replicated(TRAPPED, 2, trap=trap) as policy:
        before = {each.pid for each in policy.members}
        players = Players(policy, Batching(8), list(range(12)))

        def set_trap() -> None:
            """The replica of the episode that has just begun is dead when it is to go on."""
            begun = next(env for env, chunks in enumerate(players.answered) if chunks)
            trap.with_name("ready").write_text(f"{kind} {episode_key(begun)}")
            trap.with_name("ready").rename(trap)  # at once: a replica that finds half a trap ignores it
            players.after_chunk = lambda: None

        players.after_chunk = set_trap
        assert players.play() == expected(Notebook(), 12)
        assert players.lost > 0
        assert before != {each.pid for each in policy.members}
    assert "I feel strange" in caplog.text
    assert f"is dead: it {reason}; its last output: I feel strange" in caplog.text


@pytest.mark.timeout(60)
def test_a_replica_that_restarts_over_edited_code_is_another_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from toy.policies import ImageReader\nclass Mine(ImageReader):\n    gain = {}\n"
    (tmp_path / "edited_policy.py").write_text(code.format(1))
    monkeypatch.chdir(tmp_path)
    with replicated("edited_policy:Mine", 1) as policy:
        (replica,) = policy.members
        (tmp_path / "edited_policy.py").write_text(code.format(2))
        kill(policy, 0)
        with pytest.raises(PolicyLost):
            replica.act([request(0, episode_key(0), 0)])
        with pytest.raises(VlarigError, match="describes another policy than before; begin a new run"):
            policy.revive(replica)


def test_a_replica_that_gives_no_answer_is_killed(
    trap: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas_module, "ANSWER_SECONDS", 1.0)
    with replicated(TRAPPED, 1, trap=trap) as policy:
        players = Players(policy, Batching(8), list(range(3)), envs=3)
        trap.write_text("hang")
        assert players.play() == expected(Notebook(), 3)
        assert not trap.exists()
    assert "it gave no answer within 1 s and was killed" in caplog.text


def test_a_replica_that_is_stopped_and_goes_on_has_lost_nothing(trap: Path) -> None:
    with replicated(TRAPPED, 1, trap=trap) as policy:
        pid = policy.members[0].pid
        assert pid is not None
        trap.write_text("stop")
        players = Players(policy, Batching(8), list(range(3)), envs=3)

        def wake() -> None:
            while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
                time.sleep(0.01)
            os.kill(pid, signal.SIGCONT)

        async def run() -> None:
            await asyncio.gather(players._play(), asyncio.to_thread(wake))

        with pytest.raises(PolicyError, match="AssertionError"):  # what it does when it wakes up
            asyncio.run(run())
        assert policy.members[0].pid == pid


@pytest.mark.slow
def test_time_in_which_the_driver_was_stopped_is_not_the_replicas_and_its_policy_is_closed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stand_still() -> None:
        time.sleep(2.5)  # noqa: ASYNC251  (as if a signal had stopped us)

    monkeypatch.setattr(replicas_module, "ANSWER_SECONDS", 1.25)
    note = tmp_path / "note"
    with replicated("toy.unsteady:Slow", 1, note=note) as policy, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(policy.members[0].act, [request(0, episode_key(0), 0)])
        time.sleep(0.3)
        policy.members[0]._loop.run(stand_still())
        assert len(answer.result()) == 1
        assert not note.exists()
    assert note.read_text() == "closed"


@pytest.mark.usefixtures("no_pauses")
def test_an_episode_that_kills_replicas_again_and_again_is_named(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching_module, "MOST_DEATHS", 2)
    with replicated(TRAPPED, 1, trap=trap) as policy:
        policy.act([request(0, episode_key(0), 0)])
        trap.write_text(f"always-die {episode_key(1)}")
        with pytest.raises(PolicyError, match=rf"SIGKILL.*; that happened 3 times while it acted for {episode_key(1)}"):
            Players(policy, Batching(1), list(range(3)), envs=1).play()


@pytest.mark.usefixtures("no_pauses")
def test_a_replica_that_keeps_dying_is_given_up(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES_AT_FIRST", 2)
    with replicated(TRAPPED, 2, trap=trap) as policy:
        trap.write_text("always-exit")
        with pytest.raises(
            VlarigError, match=r"died 3 times without carrying out one request in between .the last time: it exited with stat"
        ):
            Players(policy, Batching(1), list(range(3)), envs=1).play()


@pytest.mark.usefixtures("no_pauses")
def test_what_waits_for_two_replicas_goes_to_the_one_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with replicated(NOTEBOOK, 2) as policy:
        interrupted = threading.Event()

        def stay_away(orders: Sequence[Order]) -> None:
            interrupted.wait()
            raise PolicyLost("it was interrupted")

        monkeypatch.setattr(policy.members[1], "revive", stay_away)
        monkeypatch.setattr(policy.members[1], "interrupt", interrupted.set)
        for number in range(2):
            kill(policy, number)
        assert Players(policy, Batching(8), list(range(12))).play() == expected(Notebook(), 12)


@pytest.mark.usefixtures("no_pauses")
def test_the_others_go_on_without_a_replica_that_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "MOST_FAILURES_IN_A_ROW", 1)
    with replicated("toy.unsteady:Limited", 2, births=tmp_path / "births") as policy:
        for each in policy.members:
            each.act([request(0, episode_key(0), 0)])
        players, pid = Players(policy, Batching(8), list(range(20))), kill(policy, 1)
        assert players.play() == expected(Notebook(), 20)
        pids = {reply.recorded.arrays["pid"] for replies in players.replies.values() for reply in replies}
        assert pids == {policy.members[0].pid}
        assert policy.members[1].pid is None
        assert pid not in pids


@pytest.mark.slow
@pytest.mark.usefixtures("no_pauses")
def test_a_policy_that_cannot_be_loaded_is_refused_with_the_sentence_of_the_one_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, options in (("toy.unsteady:Notebok", {}), (NOTEBOOK, {"steps": "4"})):
        with pytest.raises(PolicyError) as here:
            load_policy(name, options)
        with pytest.raises(PolicyError) as there, replicated(name, 2, **options):
            pass
        assert str(there.value) == str(here.value)
    monkeypatch.setattr(backoff, "MOST_FAILURES_AT_FIRST", 1)
    with pytest.raises(
        VlarigError, match=r"died 2 times .* exited with status 7; its last output: libfoo.so: cannot open shared"
    ):
        replicated_policy("toy.unsteady:Stillborn", {}, 1)
    with pytest.raises(PolicyError, match="describe themselves differently: revision is"):
        replicated_policy("toy.unsteady:Fickle", {}, 2)


def test_what_a_policy_raises_keeps_its_message(trap: Path) -> None:
    trap.write_text("raise")
    with replicated(TRAPPED, trap=trap) as policy:
        sentence = (
            f"the policy 'notebook' raised KeyError while it acted for {episode_key(0)}: 'ego_view' ({unsteady.__file__}:"
        )
        with pytest.raises(PolicyError) as raised:
            Players(policy, Batching(1), [0], envs=1).play()
        assert str(raised.value).startswith(sentence)
        assert "KeyError: 'ego_view'" in raised.value.traceback
        with pytest.raises(PolicyError, match="does not go elsewhere"):
            policy.check("elsewhere", TOY_POINT)
        assert policy.act([request(0, episode_key(0), 0)])  # it is as well as before


@pytest.mark.parametrize("kind", ["leave", "interrupt"])
def test_a_replica_whose_policy_tries_to_end_it_lives_on(trap: Path, kind: str) -> None:
    trap.write_text(kind)
    with replicated(TRAPPED, 1, trap=trap) as policy:
        (pid,) = (replica.pid for replica in policy.members)
        with pytest.raises(PolicyError, match=r"tried to exit|raised KeyboardInterrupt"):
            policy.act([request(0, episode_key(0), 0)])
        assert policy.act([request(0, episode_key(0), 0)])
        assert policy.members[0].pid == pid


def test_members_are_the_policys_own() -> None:
    with replicated(NOTEBOOK) as policy:
        own = Notebook()
        names = ["name", "revision", "needs", "horizon", "n_action_steps", "embodiments", "reads_state", "table_note"]
        for name in [*names, "transport_options"]:
            assert getattr(policy, name) == getattr(own, name), name
        assert (policy.stateful, policy.batch_sensitive) == (True, False)
        assert policy.horizon_for(TOY_POINT) is None
        policy.act([request(0, episode_key(0), 0)] * 3)
        assert policy.members[0].version == 3


def test_a_replica_that_restarts_gets_all_its_orders_again() -> None:
    with replicated(NOTEBOOK, 1) as policy:
        policy.strict()
        policy.check("toy", TOY_POINT)
        old = kill(policy, 0)
        (reply,) = policy.act([request(0, episode_key(0), 0)])
        assert reply.recorded.arrays["pid"] != old
        assert (reply.recorded.arrays["strict"], reply.recorded.arrays["checked"]) == (1, ["toy"])
        assert reply.recorded.arrays["note"].dtype == np.uint8


LOADING = """
import numpy as np
from toy.policies import ImageReader

class Loading(ImageReader):
    def __init__(self, checkpoint):
        super().__init__()
        self.gain = np.load(checkpoint)
"""


def test_a_replica_that_restarts_with_another_checkpoint_is_another_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_restarted.py").write_text(LOADING)
    np.save("w.npy", np.ones(1), allow_pickle=False)
    with replicated("my_restarted:Loading", 1, checkpoint="w.npy") as policy:
        (before,) = policy.act([request(0, episode_key(0), 0)])
        kill(policy, 0)
        (after,) = policy.act([request(0, episode_key(0), 0)])
        assert np.array_equal(before.actions, after.actions)
        np.save("w.npy", np.zeros(1), allow_pickle=False)
        kill(policy, 0)
        with pytest.raises(VlarigError, match=r"replica 0 of the policy .* describes another policy than before"):
            policy.act([request(0, episode_key(0), 0)])


@pytest.mark.parametrize("kind", ["object", "numbers", "half", "deep"])
def test_recorded_values_that_cannot_travel_are_refused_in_a_sentence(kind: str) -> None:
    with (
        replicated("toy.unsteady:Odd", 1, recorded=kind) as policy,
        pytest.raises(PolicyError, match=r"'notebook' recorded what cannot leave its process \(.*\); make it of arrays"),
    ):
        policy.act([request(0, episode_key(0), 0)])


def test_a_batch_may_be_larger_than_a_message() -> None:
    with replicated(NOTEBOOK, 1) as policy:
        requests = [request(env, episode_key(env), 0, size=600) for env in range(70)]  # 75 MB of images
        assert len(policy.act(requests)) == 70


def test_replicas_take_turns_on_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    with replicated(NOTEBOOK, 3) as policy:
        devices = [each.act([request(0, episode_key(0), 0)])[0].recorded.arrays["devices"] for each in policy.members]
    assert devices == ["3", "5", "3"]


def test_no_process_is_left(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys, time\n"
        "from vlarig.harness.replicas import replicated_policy\n"
        f"policy = replicated_policy({NOTEBOOK!r}, {{}}, 2)\n"
        "print(*(each.pid for each in policy.members), flush=True)\n"
        "time.sleep(100)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    driver = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment)
    assert driver.stdout is not None
    pids = [int(word) for word in driver.stdout.readline().split()]
    (launcher,) = children(driver.pid)
    assert sorted(pids) == sorted(children(launcher))
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in (launcher, *pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_a_batcher_that_ends_interrupts_what_is_under_way(trap: Path) -> None:
    async def run(policy: PolicyPool[Replica]) -> None:
        async with Batcher(policy, Batching(4)) as batcher:
            answer = asyncio.create_task(batcher.ask(request(0, episode_key(0), 0)))
            await asyncio.to_thread(sprung)
            answer.cancel()

    def sprung() -> None:
        while trap.exists():
            time.sleep(0.01)

    with replicated(TRAPPED, 1, trap=trap) as policy:
        trap.write_text("hang")
        asyncio.run(run(policy))


def test_the_answer_to_a_request_that_was_interrupted_goes_to_no_other(tmp_path: Path) -> None:
    def act(episode: int) -> bytes:
        (reply,) = replica.act([request(0, episode_key(episode), 0)])
        return np.float32(reply.actions).tobytes()

    with replicated("toy.unsteady:Slow", 1, note=tmp_path / "note") as policy, ThreadPoolExecutor(1) as threads:
        (replica,) = policy.members
        pid, answer = replica.pid, threads.submit(act, 0)
        while not answer.done():
            replica.interrupt()
            time.sleep(0.1)
        with pytest.raises(PolicyLost, match="was interrupted"):
            answer.result()
        (reply,) = Notebook().act([request(0, episode_key(1), 0)])
        assert act(1) == np.float32(reply.actions).tobytes()
        assert replica.pid == pid


def test_the_log_hears_what_a_replica_prints(trap: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    trap.write_text("raise")
    with replicated(TRAPPED, 1, trap=trap) as policy, pytest.raises(PolicyError):
        policy.act([request(0, episode_key(0), 0)])
    assert "replica 0: I feel strange" in caplog.text


# Behind a policy server.


@pytest.mark.slow
def test_a_served_sweep_goes_on_where_replicas_die(toy_home: Path) -> None:
    local = results(evaluate("toy", ImageReader(), episodes=6, workers=1, run=Path("local")).run)
    with (
        replicated("toy.unsteady:ServedReader") as policy,
        served(policy, batching=Batching(4, wait_seconds=0.01)) as server,
        ThreadPoolExecutor(1) as threads,
    ):

        def kill_both() -> None:
            for number in (0, 1):
                while server.answered < 5 + 10 * number:
                    time.sleep(0.01)
                kill(policy, number)

        killed = threads.submit(kill_both)
        run = evaluate("toy", f"openpi:{server.address}", episodes=6, workers=1, num_envs=4, run=Path("served")).run
        killed.result()
    assert results(run) == local


def test_a_client_gets_the_loss_of_its_episode(trap: Path) -> None:
    with replicated("toy.unsteady:Served", 1, trap=trap) as policy, served(policy) as server:
        remote: Any = load_policy(f"openpi:{server.address}")
        try:
            remote.act([request(0, episode_key(0), 0)])
            kill(policy, 0)
            with pytest.raises(
                PolicyLost, match="has lost an episode: the policy's state of the episode is lost; begin the episode again"
            ):
                remote.act([request(0, episode_key(0), 1)])
            for chunk in range(2):
                assert len(remote.act([request(0, episode_key(0), chunk)])) == 1
        finally:
            remote.close()


def test_clients_that_left_are_no_longer_counted_as_their_replicas_work() -> None:
    def ask_all(server: PolicyServer, count: int) -> list[ClientConnection]:
        connections = [stack.enter_context(connect(server.address, compression=None)) for _ in range(count)]
        for connection in connections:
            connection.recv(timeout=5)  # the server's metadata
            connection.send(pack({"observation/state": np.zeros(3, np.float32), "prompt": "go"}))
            assert isinstance(connection.recv(timeout=10), bytes)
        return connections

    def chunks() -> list[int]:
        return [each.version for each in policy.members]

    with replicated("toy.unsteady:Served", trap="nowhere") as policy, served(policy) as server, ExitStack() as stack:
        connections = ask_all(server, 4)
        assert chunks() == [2, 2]
        for left, number in enumerate((1, 3, 0, 2)):  # the first replica's last: their envs are the first to be given out again
            connections[number].close()
            while len(server._connections) > 3 - left:
                time.sleep(0.01)
        ask_all(server, 2)
        assert chunks() == [3, 3]


def test_the_serve_policy_command_starts_replicas(toy_home: Path, tmp_path: Path) -> None:
    words = ["serve", "policy", "--policy", "random", "--embodiment", "libero_panda", "--port", "0", "--replicas", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "serving random for libero_panda" in process.stdout.readline()
        assert len(workers_of(process.pid)) == 2
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (0, "")
