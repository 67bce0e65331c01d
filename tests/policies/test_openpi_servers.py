"""Several servers of one policy: they share a sweep's episodes, and the loss of one costs no episode."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from comparing import results
from served import served
from toy.policies import ImageReader, SlowImageReader

from vlarig.envs import backoff
from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.policies.api import PolicyError
from vlarig.policies.pool import PolicyPool
from vlarig.policies.registry import load_policy
from vlarig.policies.remote import openpi_servers
from vlarig.policies.remote.openpi import OpenpiPolicy
from vlarig.results.ledger import Ledger

pytestmark = pytest.mark.usefixtures("toy_home")


def sweep(policy: str | ImageReader, run: str, episodes: int = 8) -> dict:
    assert evaluate("toy", policy, workers=2, num_envs=6, episodes=episodes, run=Path(run)).complete
    with Ledger.open_read_only(Path(run)) as ledger:
        assert ledger.attempts() == []
    return results(Path(run))


def finished(run: str) -> int:
    try:
        with Ledger.open_read_only(Path(run)) as ledger:
            return len(ledger.finished_keys())
    except VlarigError:
        return 0


@pytest.mark.slow
def test_two_servers_share_the_work_and_give_what_one_gives(tmp_path: Path) -> None:
    policies = [ImageReader(), ImageReader()]
    with served(policies[0]) as one, served(policies[1]) as other:
        file = tmp_path / "servers"
        file.write_text(f"# the GPUs\n{one.address}\n\n{other.address}  # the second\n")
        alone = sweep(f"openpi:{one.address}", "alone")
        for policy in policies:
            policy.batches.clear()
        assert sweep(f"openpi:{one.address},{other.address}", "shared") == alone
        shares = [sum(policy.batches) for policy in policies]
        assert min(shares) > 0.25 * sum(shares)
        assert sweep(f"openpi:{file}", "by-file") == alone


@pytest.mark.slow
def test_a_server_that_goes_away_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.2)
    with served(SlowImageReader()) as one, ExitStack() as stack:
        other = stack.enter_context(served(SlowImageReader()))

        def end_other() -> None:
            while finished("storm") < 2:
                time.sleep(0.01)
            stack.close()

        thread = threading.Thread(target=end_other)
        thread.start()
        found = sweep(f"openpi:{one.address},{other.address}", "storm")
        thread.join()
        assert found == sweep(f"openpi:{one.address}", "alone")


def test_a_server_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)
    with served(ImageReader()) as server:
        one = openpi_servers.OpenpiServer(server.address, {})
        monkeypatch.setattr(OpenpiPolicy, "act", lambda policy, requests: _raise_lost())
        with pytest.raises(openpi_servers.PolicyLost):
            one.act([])
        with pytest.raises(openpi_servers.PolicyLost, match="is lost"):
            one.act([])
        monkeypatch.undo()
        one.revive([])
        assert one.act([]) == []
        one.close()


def test_a_server_is_waited_for_by_the_next_batcher_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)
    with served(ImageReader()) as server:
        one = openpi_servers.OpenpiServer(server.address, {})
        one.interrupt()  # by a batcher that ends
        one.close()
        connect, tries = OpenpiPolicy, iter([_raise_lost, _raise_lost])

        def try_to_connect(address: str) -> OpenpiPolicy:
            for fail in tries:
                fail()
            return connect(address)

        monkeypatch.setattr(openpi_servers, "OpenpiPolicy", try_to_connect)
        one.revive([])
        assert one.act([]) == []
        one.close()


def test_a_server_that_comes_back_as_another_policy_is_not_used() -> None:
    with served(ImageReader()) as one, served(ImageReader()) as other, served(Other()) as changed:
        pool = load_policy(f"openpi:{one.address},{other.address}")
        assert isinstance(pool, PolicyPool)
        first = pool.members[0]
        first.close()
        first.address = changed.address
        with pytest.raises(PolicyError, match=r"the policy server at .* describes another policy than before"):
            pool.revive(first)
        with pytest.raises(openpi_servers.PolicyLost, match="is lost"):
            first.act([])
        pool.close()


def _raise_lost() -> None:
    raise openpi_servers.ServerLostError("the policy server is lost")


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(backoff, "LONGEST_ABSENCE", 0.05)
    with served(ImageReader()) as server:
        one = openpi_servers.OpenpiServer(server.address, {})
    with pytest.raises(openpi_servers.PolicyLost):
        one._use(lambda policy: policy._pool.exchange([b""]))
    with pytest.raises(PolicyError, match=r"no policy server can be reached at .* away for .* given up"):
        one.revive([])


class Other(ImageReader):
    revision = "2"


def test_servers_of_different_policies_are_refused() -> None:
    with served(ImageReader()) as one, served(Other()) as other:
        with pytest.raises(PolicyError, match="do not serve the same policy: revision is"):
            load_policy(f"openpi:{one.address},{other.address}")
        with pytest.raises(PolicyError, match="is named twice"):
            load_policy(f"openpi:{one.address},{one.address}")
        with pytest.raises(PolicyError, match="no policy server can be reached"):
            load_policy(f"openpi:{one.address},ws://127.0.0.1:9")


def test_what_is_neither_an_address_nor_a_file(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="is no address of a policy server, and no file with addresses"):
        load_policy("openpi:gpu1")
    (tmp_path / "empty").write_text("# no address\n")
    with pytest.raises(PolicyError, match="names no policy server"):
        load_policy(f"openpi:{tmp_path / 'empty'}")
