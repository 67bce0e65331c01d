"""Certificates and their files: every error is one sentence, and no password is prompted for."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import certificates
from cryptography.hazmat.primitives import serialization

from vlarig.envs.errors import VlarigError
from vlarig.envs.tls import client_context, handshake_failure, server_context


def mangle(path: Path) -> None:
    text = path.read_text()
    path.write_text(text.replace("MII", "!!!", 1))


def lock(path: Path) -> None:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        )
    )


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        (
            "certificate.pem",
            Path.unlink,
            "certificate.pem cannot be read (No such file or directory); give the path of a PEM file",
        ),
        ("certificate.pem", replace_by_folder, "certificate.pem cannot be read (Is a directory)"),
        ("certificate.pem", lambda path: path.write_text("hello"), "certificate.pem holds no certificate in PEM format"),
        ("certificate.pem", lambda path: path.write_bytes(b"\xff\x00"), "certificate.pem holds no certificate in PEM format"),
        ("certificate.pem", mangle, "do not read as a certificate and its private key in PEM format"),
        ("key.pem", Path.unlink, "the private key"),
        ("key.pem", lambda path: path.write_text(""), "do not read as a certificate and its private key in PEM format"),
        ("key.pem", lambda path: certificates(path.parent / "other").key.rename(path), "is not that of the certificate in"),
        ("key.pem", lock, "key.pem has a password; give one without"),
    ],
)
def test_a_servers_files(tmp_path: Path, file: str, damage: Callable[[Path], object], says: str) -> None:
    made = certificates(tmp_path)
    assert isinstance(server_context(made.certificate, made.key), ssl.SSLContext)
    damage(tmp_path / file)
    with pytest.raises(VlarigError) as error:
        server_context(made.certificate, made.key)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (Path.unlink, "authority.pem cannot be read (No such file or directory)"),
        (lambda path: path.write_text("hello"), "authority.pem holds no certificate of an authority in PEM format"),
        (mangle, "authority.pem holds no certificate of an authority in PEM format"),
    ],
)
def test_an_authoritys_file(tmp_path: Path, damage: Callable[[Path], object], says: str) -> None:
    authority = certificates(tmp_path).authority
    context = client_context(authority)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    damage(authority)
    with pytest.raises(VlarigError) as error:
        client_context(authority)
    assert says in str(error.value)


def test_without_a_file_the_systems_authorities_are_used() -> None:
    context = client_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname


def test_old_versions_are_not_spoken(tmp_path: Path) -> None:
    made = certificates(tmp_path)
    for context in (server_context(made.certificate, made.key), client_context(made.authority)):
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_what_has_another_reason_is_left_to_others() -> None:
    assert handshake_failure(ConnectionRefusedError(), encrypted=True) is None
    assert handshake_failure(ConnectionResetError(), encrypted=False) is None
    assert handshake_failure(TimeoutError(), encrypted=False) is None
