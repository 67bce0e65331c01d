"""Encrypted connections: the server shows a certificate, the client checks it.

Both ends take files in PEM format. A context holds no path and may be used for any number of connections.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NoReturn, Optional

from .errors import VlarigError


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """What a server shows its clients.

    Args:
        certificate: File with the server's certificate, and those between it and its authority.
        key: File with the certificate's private key, without a password.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    text = _read(certificate, "certificate")
    _read(key, "private key")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise VlarigError(
            f"{certificate} holds no certificate in PEM format ('-----BEGIN CERTIFICATE-----'); give the server's"
        )
    try:
        context.load_cert_chain(certificate, key, password=lambda: _refuse_password(key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise VlarigError(
                f"the private key in {key} is not that of the certificate in {certificate}; give its own"
            ) from None
        raise VlarigError(
            f"{certificate} and {key} do not read as a certificate and its private key in PEM format ({_reason(error)})"
        ) from None
    return context


def client_context(authority: Optional[Path] = None) -> ssl.SSLContext:
    """How a client checks the certificate that it is shown, and that it names the host of the address.

    Args:
        authority: File with the certificates of the authorities to trust, or a server's own that it signed itself; those of the
            system where ``None``.
    """
    if authority is not None:
        _read(authority, "authority's certificate")
    try:
        context = ssl.create_default_context(cafile=authority)
    except ssl.SSLError as error:
        raise VlarigError(
            f"{authority} holds no certificate of an authority in PEM format ({_reason(error)}); give the file that signs the "
            "server's certificate"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def handshake_failure(error: BaseException, encrypted: bool) -> Optional[str]:
    """Why two ends did not come together that disagree on encryption or on a certificate, in some words with what to do.

    Args:
        error: What connecting raised.
        encrypted: Whether the address began with ``wss://``.

    Returns:
        The words, or ``None`` where it must have been something else.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted: {error.verify_message.rstrip('.')}; name the file of the authority that signed it, "
            "and the host that it is made out to"
        )
    if encrypted and isinstance(error, (ssl.SSLError, ConnectionResetError)):
        return "it does not answer in TLS; if it serves without encryption, write ws:// instead of wss://"
    if not encrypted and isinstance(error.__cause__, EOFError):
        return "it ended the connection without an answer; if it serves with encryption, write wss:// instead of ws://"
    return None


def _read(path: Path, role: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise VlarigError(
            f"the {role} {path} cannot be read ({error.strerror or error}); give the path of a PEM file"
        ) from None


def _refuse_password(key: Path) -> NoReturn:
    """OpenSSL would prompt for it on the terminal."""
    raise VlarigError(f"the private key in {key} has a password; give one without, that only its owner can read")


def _reason(error: ssl.SSLError) -> str:
    return error.reason.replace("_", " ").lower() if error.reason else "what is between the lines BEGIN and END does not decode"
