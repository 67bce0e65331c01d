"""Policy servers that encrypt: a client that trusts their certificate is served, and every disagreement is one sentence."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from certificates import Certificates, certificates
from comparing import results
from conftest import TESTS
from served import served
from toy.policies import ImageReader

from vlarig.envs.tls import client_context, server_context
from vlarig.harness import evaluate
from vlarig.policies.api import PolicyError
from vlarig.policies.registry import load_policy
from vlarig.policies.remote.openpi import OpenpiPolicy


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def encryption(made: Certificates) -> ssl.SSLContext:
    return server_context(made.certificate, made.key)


def test_a_sweep_through_an_encrypted_connection_equals_one_in_process(
    toy_home: Path, made: Certificates, encryption: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLARIG_POLICY_TOKEN", "secret")
    local = results(evaluate("toy", ImageReader(), episodes=2, workers=1, run=Path("local")).run)
    with served(ImageReader(), encryption=encryption, token="secret") as server:
        assert server.address.startswith("wss://127.0.0.1:")
        options = {"policy_options": (f"ca_file={made.authority}",)}
        run = evaluate("toy", f"openpi:{server.address}", episodes=2, workers=1, run=Path("served"), **options).run
    assert results(run) == local


def test_the_authoritys_file_is_no_part_of_the_identity(made: Certificates, encryption: ssl.SSLContext) -> None:
    assert "ca_file" in OpenpiPolicy.transport_options
    with served(ImageReader(), encryption=encryption) as server:
        policy = load_policy(f"openpi:{server.address}", {"ca_file": str(made.authority)})
        assert policy.name == "image-reader"
        policy.close()  # pyright: ignore[reportAttributeAccessIssue]


def refusal(address: str, **options: str) -> str:
    with pytest.raises(PolicyError) as error:
        load_policy(f"openpi:{address}", options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_certificate_without_a_trusted_authority(made: Certificates, encryption: ssl.SSLContext, tmp_path: Path) -> None:
    with served(ImageReader(), encryption=encryption) as server:
        for options in ({}, {"ca_file": str(certificates(tmp_path).authority)}):
            reason = refusal(server.address, **options)
            assert f"the policy server at {server.address} cannot be used: its certificate is not accepted: " in reason
            assert "the policy option ca_file names it" in reason


def test_a_certificate_that_is_made_out_to_another_host(tmp_path: Path) -> None:
    other = certificates(tmp_path, host="example.org")
    with served(ImageReader(), encryption=server_context(other.certificate, other.key)) as server:
        assert "certificate is not valid for '127.0.0.1'" in refusal(server.address, ca_file=str(other.authority))


def test_ends_that_disagree_on_encryption_get_that_reason(made: Certificates, encryption: ssl.SSLContext) -> None:
    with served(ImageReader(), encryption=encryption) as server:
        reason = refusal(server.address.replace("wss://", "ws://"))
        assert (
            "it ended the connection without an answer; if it serves with encryption, write wss:// instead of ws://" in reason
        )
    with served(ImageReader()) as server:
        reason = refusal(server.address.replace("ws://", "wss://"), ca_file=str(made.authority))
        assert "it does not answer in TLS; if it serves without encryption, write ws:// instead of wss://" in reason
        assert "is not encrypted; write wss://" in refusal(server.address, ca_file=str(made.authority))
    assert "cannot be read (No such file or directory)" in str(refused_file("nowhere.pem"))


def refused_file(name: str) -> Exception:
    with pytest.raises(Exception, match=r"authority's certificate nowhere.pem") as error:
        load_policy("openpi:wss://127.0.0.1:9", {"ca_file": name})
    return error.value


def test_a_client_without_tls_disturbs_no_other(
    made: Certificates, encryption: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    with served(ImageReader(), encryption=encryption) as server:
        port = int(server.address.rpartition(":")[2])
        silent = socket.create_connection(("127.0.0.1", port))
        for rubbish in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 100, b""):
            with socket.create_connection(("127.0.0.1", port)) as rude:
                rude.sendall(rubbish)
        policy = load_policy(f"openpi:{server.address}", {"ca_file": str(made.authority)})
        policy.close()  # pyright: ignore[reportAttributeAccessIssue]
        silent.close()
    assert not caplog.records


def test_the_command_encrypts(toy_home: Path, made: Certificates) -> None:
    words = ["serve", "policy", "--policy", "random", "--embodiment", "libero_panda", "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "vlarig.harness", *words, "--certificate", str(made.certificate), "--key", str(made.key)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    ) as process:
        assert process.stdout is not None
        found = re.search(r" at wss(://127\.0\.0\.1:\d+)", process.stdout.readline())
        assert found
        with urllib.request.urlopen(f"https{found[1]}/healthz", timeout=5, context=client_context(made.authority)) as answer:
            assert answer.read() == b"OK\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--certificate", "certificate.pem"], "--certificate and --key go together; give both, or neither"),
        (["--key", "key.pem"], "--certificate and --key go together"),
        (["--certificate", "nowhere.pem", "--key", "key.pem"], "the certificate nowhere.pem cannot be read"),
        (["--certificate", "key.pem", "--key", "certificate.pem"], "key.pem holds no certificate in PEM format"),
        (["--replicas", "0"], "--replicas is 0; expected 1 or more"),
    ],
)
def test_a_mistake_gets_one_sentence(
    capsys: pytest.CaptureFixture[str], made: Certificates, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    from vlarig.harness.cli import main

    monkeypatch.chdir(made.key.parent)
    assert main(["serve", "policy", "--policy", "random", "--embodiment", "libero_panda", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.strip().splitlines()) == 1
