"""The policy server: it batches over all clients, trusts none, and a sweep through it equals one in process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from asyncio import CancelledError
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from comparing import results
from conftest import TESTS, Cli
from served import served
from toy.env import TOY_POINT
from toy.policies import ImageReader, WithOptions
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from vlarig.envs.access import own_token
from vlarig.envs.api import Needs, Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.errors import BadMessageError, VlarigError
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.harness import evaluate
from vlarig.harness.commands.policy import ServePolicy
from vlarig.policies.api import Policy, PolicyError, Reply, Request
from vlarig.policies.batching import Batching
from vlarig.policies.conventions import embodiment_to_data
from vlarig.policies.registry import load_policy
from vlarig.policies.remote.openpi import OpenpiPolicy
from vlarig.policies.remote.openpi_layouts import VLARIG
from vlarig.policies.remote.serving import GRACE_SECONDS, RequestReader, ServerConfig
from vlarig.policies.remote.wire import pack, unpack
from vlarig.policies.scripted import ExpertPolicy, RandomPolicy, ZeroPolicy


class Notebook(Policy):
    """Answers with its count of the env's chunks and with the env, after a while; raises on a state that begins with -13."""

    name, revision, needs, horizon = "notebook", "4", Needs(images=False), 2

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[int] = []
        self.requests: list[Request] = []
        self.states: dict[int, int] = {}

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        time.sleep(self.seconds)
        self.batches.append(len(requests))
        self.requests += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Reply:
        first = request.observation["state"][0]
        if first == -13:
            raise ValueError("thirteen\nTraceback (most recent call last)")
        self.states[request.env] = 0 if request.chunk == 0 else self.states[request.env] + 1
        return Reply(np.tile(np.array([first, self.states[request.env], request.env], np.float32), (2, 1)))


@contextmanager
def client(url: str, token: str = "") -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Api-Key {token}"} if token else None
    with connect(url, additional_headers=headers, compression=None, max_size=None, close_timeout=1) as connection:
        unpack(connection.recv(timeout=5))  # the server's metadata
        yield connection


def seen(first: float = 0.0, **more: Any) -> dict[str, Any]:
    return {"observation/state": np.array([first, 0, 0], np.float32), "prompt": "go"} | more


def ask(connection: ClientConnection, message: Any) -> Any:
    connection.send(message if isinstance(message, (bytes, str)) else pack(message))
    answer = connection.recv(timeout=10)
    return answer if isinstance(answer, str) else unpack(answer)


def refused(url: str, message: Any) -> str:
    """The answer to a client whose message is malformed; its connection must end with code 1011."""
    with client(url) as connection:
        text = ask(connection, message)
        assert isinstance(text, str), "the message was answered"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
    return text


def test_many_clients_are_answered_in_batches_each_with_its_own() -> None:
    policy = Notebook(0.05)
    with served(policy, batching=Batching(16, wait_seconds=0.2)) as server, ThreadPoolExecutor(24) as threads:
        all_clients = threading.Barrier(24)

        def play(number: int) -> list[Any]:
            with client(server.address) as connection:
                all_clients.wait(10)
                return [ask(connection, seen(number)) for _ in range(5)]

        answers = list(threads.map(play, range(24)))
    for number, mine in enumerate(answers):
        assert [answer["actions"][0, 0] for answer in mine] == [number] * 5
        assert [answer["actions"][0, 1] for answer in mine] == [0, 1, 2, 3, 4]
        assert mine[0]["actions"].shape == (2, 3)
        assert mine[0]["actions"].dtype == np.float32
        assert mine[0]["server_timing"]["infer_ms"] >= 50
        assert mine[1]["server_timing"]["prev_total_ms"] >= 50
    assert sum(policy.batches) == 120
    assert max(policy.batches) <= 16
    assert len(policy.batches) <= 20


def test_a_plain_clients_seeds_differ_by_connection_and_request_and_follow_from_the_servers() -> None:
    def seeds(seed: int) -> list[int]:
        policy = Notebook()
        with served(policy, seed=seed) as server:
            for _ in range(2):
                with client(server.address) as connection:
                    for _ in range(3):
                        ask(connection, seen())
        assert [request.chunk for request in policy.requests] == [0, 1, 2, 0, 1, 2]
        return [request.seed for request in policy.requests]

    first = seeds(0)
    assert len(set(first)) == 6
    assert seeds(0) == first
    assert not set(seeds(1)) & set(first)


def ours(client: str, env: int, chunk: int, **more: Any) -> dict[str, Any]:
    keys = {"client": client, "env": env, "key": f"{client}/{env}", "chunk": chunk, "seed": 2**64 - 1, "n_action_steps": 3}
    return seen(**{f"vlarig/{key}": value for key, value in keys.items()}) | more


def test_envs_of_different_clients_are_kept_apart_and_may_change_connections() -> None:
    policy = Notebook()
    with served(policy) as server, client(server.address) as a, client(server.address) as b, client(server.address) as other:
        assert ask(a, ours("me", 0, 0))["actions"][0, 1] == 0
        assert ask(other, ours("you", 0, 0))["actions"][0, 1] == 0
        assert ask(other, ours("you", 0, 1))["actions"][0, 1] == 1
        assert ask(b, ours("me", 0, 1))["actions"][0, 1] == 1
        assert ask(a, ours("me", 0, 2))["actions"][0, 1] == 2
        assert {request.env for request in policy.requests} == {0, 1}
        assert policy.requests[0].seed == 2**64 - 1
        assert policy.requests[0].n_action_steps == 3
        assert "first request did not arrive here" in refused(server.address, ours("they", 0, 3))


def request_of_ours(chunk: int) -> Request:
    images = {"ego": np.zeros((1, 8, 8, 3), np.uint8)}
    observation = Observation(images=images, state=np.zeros(3, np.float32), instruction="go")
    return Request(0, "an episode", chunk, 1, observation, TOY_POINT, 2)


def test_an_episode_goes_on_after_all_connections_were_lost() -> None:
    policy = Notebook()
    with served(policy) as server:
        remote = load_policy(f"openpi:{server.address}", {"connections": "1"})
        assert isinstance(remote, OpenpiPolicy)
        for chunk in range(2):
            remote.act([request_of_ours(chunk)])
        for connection in remote._pool._idle:
            connection.transport.abort()
        time.sleep(0.3)
        (reply,) = remote.act([request_of_ours(2)])
        assert reply.actions[0, 1] == 2  # the policy's state is that of this episode
        remote.close()


def reader_of(now: list[float]) -> RequestReader:
    with served(Notebook()) as server:
        return RequestReader(server.announcement, VLARIG, 0, 8, lambda: now[0])


def test_a_client_that_stays_away_is_forgotten_and_its_env_used_again() -> None:
    now = [0.0]
    reader = reader_of(now)
    assert reader.read(ours("me", 0, 0), 1).env == 0
    reader.forget(1)
    now[0] = GRACE_SECONDS - 1
    assert reader.read(ours("you", 0, 0), 2).env == 1
    assert reader.read(ours("me", 0, 1), 3).env == 0
    reader.forget(3)
    now[0] += GRACE_SECONDS + 1
    assert reader.read(ours("other", 0, 0), 4).env == 0
    with pytest.raises(BadMessageError, match="its first request did not arrive here"):
        reader.read(ours("me", 0, 2), 5)


BAD = [
    (b"\xc1", "not a msgpack message"),
    ("hello", "a message of text; expected msgpack"),
    ([1, 2], "a request has to be a map of observations; got list"),
    ({"observation/state": np.zeros(3, np.float32)}, "'prompt' has to be a text; got nothing"),
    ({"prompt": "go"}, "'observation/state' has to be 3 numbers; got nothing"),
    (seen() | {"observation/state": np.zeros(4)}, "'observation/state' has to be 3 numbers; got float32[4]"),
    (seen() | {"observation/state": np.array([0, np.nan, 0])}, "has a value that is not finite"),
    (seen() | {"observation/state": ["a", "b", "c"]}, "got no array of numbers"),
    (seen(-13), "the policy failed on this request (connection/"),
    (
        ours("me", 0, 0, **{"observation/state": np.array([-13.0, 0, 0])}),
        "failed on this request (me/0); the server's log says how",
    ),
    (ours("me", 0, 0, **{"vlarig/seed": -1}), "Expected `int` >= 0 - at `$.vlarig/seed`"),
    (ours("me", 5000, 0), "Expected `int` <= 4095 - at `$.vlarig/env`"),
    (ours("me", 0, 0, **{"vlarig/key": 3}), "Expected `str`, got `int` - at `$.vlarig/key`"),
    (ours("x" * 65, 0, 0), "Expected `str` of length <= 64 - at `$.vlarig/client`"),
    (
        msgpack.packb(
            {"prompt": "go", "observation/state": {b"__ndarray__": True, b"data": b"", b"dtype": "|O", b"shape": []}}
        ),
        "dtype",
    ),
]


def test_a_bad_message_gets_its_reason_in_a_sentence_and_costs_its_own_connection_alone() -> None:
    with served(Notebook()) as server, client(server.address) as bystander:
        for message, says in BAD:
            text = refused(server.address, message)
            assert says in text
            assert "\n" not in text
            assert "File " not in text
            assert len(text) <= 500
            assert ask(bystander, seen(7))["actions"][0, 0] == 7


IMAGES = [
    ({}, "the message shows no image; expected one or more of observation/images/ego"),
    ({"observation/images/back": np.zeros((8, 8, 3), np.uint8)}, "toy_point has no view 'back'; it has ego, cam_left_wrist"),
    (
        {"observation/images/ego": np.zeros((8, 8), np.uint8)},
        "has to be an image, uint8[M, h, w, 3] or uint8[h, w, 3]; got uint8[8, 8]",
    ),
    ({"observation/images/ego": np.zeros((8, 8, 3))}, "got float64[8, 8, 3]"),
    ({"observation/images/ego": "jpeg"}, "got str"),
]


def test_images_that_are_none_are_refused() -> None:
    with served(ImageReader()) as server:
        for images, says in IMAGES:
            assert says in refused(server.address, seen() | images)
        with client(server.address) as connection:
            assert ask(connection, seen() | {"observation/images/ego": np.zeros((8, 8, 3), np.uint8)})["actions"].shape == (
                10,
                3,
            )
    with served(ImageReader(), LIBERO_PANDA, "libero") as server:
        text = refused(server.address, seen() | {"observation/image": np.zeros((8, 8, 3), np.uint8)})
        assert "'observation/wrist_image' has to be an image, uint8[h, w, 3]; got nothing" in text


class Leaky(Notebook):
    def act(self, requests: Sequence[Request]) -> list[Reply]:
        raise FileNotFoundError(2, "No such file", "/secret/place/weights.bin\nTraceback (most recent call last):")


def test_what_goes_wrong_in_the_policy_is_for_the_servers_log_alone(caplog: pytest.LogCaptureFixture) -> None:
    with served(Leaky()) as server:
        text = refused(server.address, seen())
    assert text == "the policy failed on this request (connection/0); the server's log says how"
    (record,) = [each for each in caplog.records if each.name == "vlarig.policies.remote.serving"]
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert "/secret/place/weights.bin" in caplog.text
    assert "FileNotFoundError" in caplog.text


def test_a_request_that_the_policy_fails_on_costs_no_other_in_its_batch() -> None:
    policy = Notebook(0.05)
    with served(policy) as server, ThreadPoolExecutor(8) as threads, client(server.address) as busy:
        together = threading.Barrier(8)

        def play(number: int) -> Any:
            with client(server.address) as connection:
                together.wait(10)
                return ask(connection, seen(-13 if number == 3 else number))

        busy.send(pack(seen()))  # while it is answered, the others gather
        answers = list(threads.map(play, range(8)))
        assert isinstance(answers[3], str)
        assert [answer["actions"][0, 0] for number, answer in enumerate(answers) if number != 3] == [0, 1, 2, 4, 5, 6, 7]
        assert max(policy.batches) > 2


class Poisoned(Notebook):
    """Some requests have it raise what no ``except Exception`` catches."""

    poison = {-14: SystemExit(0), -15: CancelledError(), -16: GeneratorExit(), -17: KeyboardInterrupt()}

    def _answer(self, request: Request) -> Reply:
        if error := self.poison.get(int(request.observation["state"][0])):
            raise error
        return super()._answer(request)


@pytest.mark.timeout(30)
def test_a_poisoned_request_costs_its_own_client_alone() -> None:
    with served(Poisoned()) as server, client(server.address) as bystander:
        for number in Poisoned.poison:
            assert refused(server.address, seen(number)).startswith("the policy failed on this request")
            assert ask(bystander, seen(7))["actions"][0, 0] == 7
        assert get(f"{server.address}/healthz") == (200, b"OK\n")


def test_a_server_whose_policy_is_lost_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Notebook()) as server:
        monkeypatch.setattr(type(server._batcher), "answers", False)
        assert get(f"{server.address}/healthz") == (503, b"the policy is lost\n")


def test_a_message_that_is_too_large_ends_its_connection() -> None:
    with served(Notebook(), most_bytes=1000) as server, client(server.address) as bystander, client(server.address) as glutton:
        with pytest.raises(ConnectionClosed) as closed:
            ask(glutton, seen() | {"more": b"x" * 1000})
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert ask(bystander, seen(7))["actions"][0, 0] == 7


def get(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url.replace("ws://", "http://"), timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_only_clients_with_the_token_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Notebook(), token="secret") as server:
        for wrong in ("", "secre", "secrets", "sécret"):
            with pytest.raises(InvalidStatus) as status, client(server.address, wrong):
                pass
            assert status.value.response.status_code == 401
        with client(server.address, "secret") as connection:
            assert ask(connection, seen(7))["actions"][0, 0] == 7
        with pytest.raises(PolicyError, match=r"refuses connections .HTTP status 401.; set VLARIG_POLICY_TOKEN"):
            load_policy(f"openpi:{server.address}")
        monkeypatch.setenv("VLARIG_POLICY_TOKEN", "secret")
        load_policy(f"openpi:{server.address}").close()
        assert get(f"{server.address}/healthz") == (200, b"OK\n")
        assert "secret" not in repr(ServerConfig(token="secret"))


def test_web_pages_are_refused() -> None:
    with served(Notebook()) as server:
        with pytest.raises(InvalidStatus) as status, connect(server.address, origin="http://evil.example", compression=None):
            pass
        assert status.value.response.status_code == 403
        with client(server.address) as connection:
            assert ask(connection, seen(7))["actions"][0, 0] == 7


@pytest.mark.parametrize("token", ["two\nlines", "bell\x07", "s\u00e9cret"])
def test_a_token_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)
    monkeypatch.setenv("HELD", token)
    for options in ({"token_file": tmp_path / "token"}, {"token_env": "HELD"}):
        with pytest.raises(VlarigError, match=r"holds a token of more than one line of printable ASCII") as wrong:
            ServePolicy("random", **options).server_config()
        assert token not in str(wrong.value)


def test_the_server_is_up_while_its_policy_thinks() -> None:
    policy = Notebook(1.0)
    with served(policy) as server, client(server.address) as connection:
        connection.send(pack(seen()))
        time.sleep(0.2)
        began = time.monotonic()
        assert get(f"{server.address}/healthz") == (200, b"OK\n")
        assert time.monotonic() - began < 0.5
        assert not policy.batches, "the policy answered before"
        connection.recv(timeout=5)


def test_no_more_connections_than_allowed() -> None:
    with served(Notebook(), most_connections=2) as server, client(server.address) as one:
        with client(server.address), pytest.raises(InvalidStatus), client(server.address):
            pass
        assert ask(one, seen(7))["actions"][0, 0] == 7
        time.sleep(0.1)
        with client(server.address) as connection:
            assert ask(connection, seen(8))["actions"][0, 0] == 8


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_nothing_but_the_loopback_is_listened_on_without_a_token(host: str) -> None:
    with pytest.raises(VlarigError, match="without a token would accept every client"):
        ServerConfig(host=host)
    with pytest.raises(
        VlarigError, match=r"a token of 6 characters would accept a client that guesses it; .*base64 > token. makes one"
    ) as short:
        ServerConfig(host=host, token="secret")
    assert "secret" not in str(short.value)
    ServerConfig(host=host, token="secret" * 3)


def test_policies_that_cannot_be_served() -> None:
    with pytest.raises(PolicyError, match="needs the simulator's truth"), served(ExpertPolicy()):
        pass
    with (
        pytest.raises(PolicyError, match="the layout 'aloha' shows the view 'cam_right_wrist'"),
        served(ImageReader(), layout="aloha"),
    ):
        pass


def test_strict_answers_one_request_at_a_time_and_says_so() -> None:
    class Strict(Notebook):
        made = 0

        def strict(self) -> None:
            self.made += 1

    policy = Strict(0.02)
    with served(policy, strict=True) as server, ThreadPoolExecutor(6) as threads:

        def play(number: int) -> Any:
            with client(server.address) as connection:
                return ask(connection, seen(number))

        list(threads.map(play, range(6)))
        remote = load_policy(f"openpi:{server.address}")
        remote.strict()
        remote.close()
    assert policy.made == 1
    assert set(policy.batches) == {1}


def test_a_policy_that_answers_some_robots_with_fewer_steps_announces_their_number() -> None:
    class Fewer(Notebook):
        horizon = 16

        def horizon_for(self, embodiment: Embodiment) -> int:
            return 2 if embodiment == TOY_POINT else 16

    with served(Fewer()) as server:
        remote = load_policy(f"openpi:{server.address}")
        assert remote.horizon == 2
        remote.close()
        with client(server.address) as connection:
            assert len(ask(connection, seen())["actions"]) == 2


def test_what_is_under_way_is_answered_before_the_server_stops() -> None:
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:
        with served(Notebook(0.5)) as server:
            connection = stack.enter_context(client(server.address))
            stack.enter_context(client(server.address))  # an idle one does not delay the server
            answer = threads.submit(ask, connection, seen(7))
            time.sleep(0.2)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        assert answer.result()["actions"][0, 0] == 7
        with pytest.raises(ConnectionClosed) as closed:
            ask(connection, seen(8))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


def test_a_policy_that_does_not_come_back_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarig.policies.remote.serving._STOP_SECONDS", 0.2)
    with ThreadPoolExecutor(1) as threads, ExitStack() as stack:

        def last_words(connection: ClientConnection) -> tuple[object, float]:
            return connection.recv(timeout=5), time.monotonic()

        with served(Notebook(2.0)) as server:
            connection = stack.enter_context(client(server.address))
            connection.send(pack(seen()))
            time.sleep(0.2)
            last = threads.submit(last_words, connection)
            began = time.monotonic()
        text, when = last.result()
    assert text == "the server stops, and its policy has not answered connection/0 in time"
    assert when - began < 1.0


def test_clients_that_never_pause_do_not_hold_the_server_up() -> None:
    def play(url: str) -> None:
        with pytest.raises(ConnectionClosed), client(url) as connection:
            while True:
                ask(connection, seen(7))

    with ThreadPoolExecutor(4) as threads:
        with served(Notebook(0.05), batching=Batching(1)) as server:
            players = [threads.submit(play, server.address) for _ in range(4)]
            while server.answered < 8:
                time.sleep(0.01)
            began = time.monotonic()
        assert time.monotonic() - began < 3
        for player in players:
            player.result()


# A sweep through the server.


@pytest.mark.parametrize(("policy", "envs", "connections"), [("toy.policies:ImageReader", 8, 64), ("random", 3, 1)])
def test_a_served_sweep_equals_one_in_process(toy_home: Path, policy: str, envs: int, connections: int) -> None:
    local = results(evaluate("toy", policy, episodes=6, workers=1, run=Path("local")).run)
    with served(load_policy(policy), batching=Batching(4, wait_seconds=0.01)) as server:
        remote = f"openpi:{server.address}"
        options = {"policy_options": (f"connections={connections}",), "num_envs": 2 * envs}
        run = evaluate("toy", remote, episodes=6, workers=1, run=Path("served"), **options).run
        assert server.answered >= 12
    assert len(local) == 12
    assert results(run) == local


@pytest.mark.slow
def test_a_server_that_dies_stops_the_sweep_and_the_same_command_goes_on(toy_home: Path, cli: Cli) -> None:
    class Slow(ImageReader):
        def act(self, requests: Sequence[Request]) -> list[Reply]:
            time.sleep(0.05)
            return super().act(requests)

    local = results(evaluate("toy", ImageReader(), episodes=6, run=Path("local")).run)
    with ThreadPoolExecutor(1) as threads:
        with served(Slow()) as server:
            port = int(server.address.rpartition(":")[2])
            words = ["sweep", "toy", "--policy", f"openpi:{server.address}", "--episodes", "6", "--workers", "1", "--run", "r"]
            sweep = threads.submit(cli, *words)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and server.answered < 10:
                time.sleep(0.01)
        done = sweep.result()
    assert done.returncode == 2
    (sentence,) = done.stderr.strip().splitlines()
    assert "the policy server at" in sentence or "no policy server can be reached" in sentence
    assert "finished episodes are kept in r" in sentence
    with served(ImageReader(), port=port):
        assert cli(*words).returncode == 0
    assert results(Path("r")) == local


def test_a_server_whose_policy_has_other_options_does_not_take_a_sweep_over(toy_home: Path) -> None:
    def options(*words: str) -> dict[str, Any]:
        return {"options": ServePolicy("toy.policies:ImageReader", words).server_config().options}

    with served(ImageReader(), **options("temperature=1", "steps=4")) as server:
        port = int(server.address.rpartition(":")[2])
        sweep = {"suites": "toy", "policy": f"openpi:{server.address}", "episodes": 1, "workers": 1, "run": Path("r")}
        evaluate(**sweep)
    with served(ImageReader(), port=port, **options("steps=4", "temperature=1")):
        evaluate(**sweep)
    with (
        served(ImageReader(), port=port, **options("steps=4", "temperature=0.6")),
        pytest.raises(VlarigError, match=r"policy_revision.*temperature=1.*temperature=0\.6"),
    ):
        evaluate(**sweep)
    with served(ImageReader(), port=port), pytest.raises(VlarigError, match=r"policy_revision.*temperature=1"):
        evaluate(**sweep)


@pytest.mark.parametrize("other", ["name", "layout", "bounds"])
def test_a_server_with_another_policy_does_not_take_a_sweep_over(toy_home: Path, other: str) -> None:
    channels = tuple(replace(channel, high=channel.high / 2) for channel in TOY_POINT.channels)
    policy, embodiment, layout = {
        "name": (RandomPolicy(), TOY_POINT, "vlarig"),
        "layout": (ZeroPolicy(), TOY_POINT, "libero"),
        "bounds": (ZeroPolicy(), replace(TOY_POINT, channels=channels), "vlarig"),
    }[other]
    with served(ZeroPolicy()) as server:
        port = int(server.address.rpartition(":")[2])
        sweep = {"suites": "toy", "policy": f"openpi:{server.address}", "workers": 1, "run": Path("r")}
        evaluate(**sweep, episodes=1)
    with served(policy, embodiment, layout, port=port), pytest.raises(VlarigError, match="policy_revision"):
        evaluate(**sweep, episodes=1)


def test_an_edited_policy_is_announced_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    announced = []
    for gain in (1, 2):
        (tmp_path / "served_policy.py").write_text(f"GAIN = {gain}\n")
        with served(ImageReader(), sources=ServePolicy("served_policy:Mine", no_token=True).server_config().sources) as server:
            announced.append(server.announcement.revision)
    assert announced[0] != announced[1]
    assert all(revision.startswith("1 served_policy.py=") for revision in announced)
    assert ServePolicy("random", no_token=True).server_config().sources == {}


def test_options_that_change_no_answer_are_not_announced() -> None:
    with served(WithOptions(), options={"patience": "5", "horizon": "10"}) as server:
        assert server.announcement.revision == "1 horizon=10"


# The command.

STUCK = """
import time
from vlarig.envs.api import Needs
from vlarig.policies.api import Policy

class Stuck(Policy):
    name, revision, needs, horizon = "stuck", "1", Needs(images=False), 2

    def act(self, requests):
        if requests[0].observation["state"][0] == -13:
            raise ValueError("thirteen")
        time.sleep(60)
"""


@pytest.fixture
def embodiment_file(tmp_path: Path) -> Path:
    path = tmp_path / "point.json"
    path.write_text(json.dumps(embodiment_to_data(TOY_POINT)))
    return path


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(toy_home: Path, embodiment_file: Path, number: signal.Signals) -> None:
    words = ["serve", "policy", "--policy", "toy.policies:ImageReader", "--embodiment", str(embodiment_file), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"serving image-reader for toy_point at (ws://127\.0\.0\.1:\d+)", line)
    assert found, line
    assert get(f"{found[1]}/healthz") == (200, b"OK\n")
    assert (toy_home / "token").stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidStatus), client(found[1]):
        pass
    load_policy(f"openpi:{found[1]}").close()
    with client(found[1], own_token()) as connection:
        ask(connection, seen() | {"observation/images/ego": np.zeros((8, 8, 3), np.uint8)})
        process.send_signal(number)
        out, error = process.communicate(timeout=15)
    assert (process.returncode, error) == (0, "")
    assert "stopped after 1 answers" in out


def test_a_second_signal_ends_the_command_at_once(toy_home: Path, embodiment_file: Path, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    words = ["serve", "policy", "--policy", "stuck:Stuck", "--embodiment", str(embodiment_file), "--port", "0", "--no-token"]
    with subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(tmp_path)])},
    ) as process:
        assert process.stdout is not None
        found = re.search(r" at (ws://127\.0\.0\.1:\d+)", process.stdout.readline())
        assert found
        with client(found[1]) as failing:
            assert "the server's log says how" in ask(failing, seen(-13))
        with client(found[1]) as connection:
            connection.send(pack(seen()))
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            _, error = process.communicate(timeout=5)
    assert process.returncode == 1
    assert "ERROR vlarig.policies.remote.serving: the policy failed on request 'connection/0'" in error
    assert "ValueError: thirteen" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy", "random"], "the policy 'random' needs an embodiment: name one by --embodiment"),
        (["--policy", "random", "--embodiment", "libero_pand"], "unknown embodiment 'libero_pand'; did you mean libero_panda"),
        (
            ["--policy", "random", "--embodiment", "libero_panda", "--layout", "librero"],
            "unknown layout 'librero'; did you mean libero",
        ),
        (
            ["--policy", "random", "--embodiment", "libero_panda", "--host", "0.0.0.0"],
            "without a token would accept every client",
        ),
        (
            ["--policy", "random", "--embodiment", "libero_panda", "--host", "0.0.0.0", "--no-token"],
            "without a token would accept every client",
        ),
        (["--policy", "random", "--no-token", "--token-env", "HOME"], "--no-token goes with no --token-env"),
        (["--policy", "random", "--embodiment", "libero_panda", "--token-env", "NO_SUCH"], "NO_SUCH holds no token"),
        (["--policy", "random", "--embodiment", "libero_panda", "--max-batch", "0"], "--max-batch is 0; expected 1 or more"),
        (["--policy", "random", "--embodiment", "libero_panda", "--port", "80000"], "--port is 80000; expected 0 to 65535"),
        (["--policy", "expert", "--embodiment", "libero_panda"], "needs the simulator's truth"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_gets_one_sentence(toy_home: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str) -> None:
    from vlarig.harness.cli import main

    assert main(["serve", "policy", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1


def test_a_port_that_is_taken(toy_home: Path) -> None:
    with served(Notebook()) as server:
        from vlarig.harness.cli import main

        port = server.address.rpartition(":")[2]
        assert main(["serve", "policy", "--policy", "random", "--embodiment", "libero_panda", "--port", port]) == 2
