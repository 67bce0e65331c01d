"""Certificates made for a test, with the authority that signs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Files in PEM format.

    Attributes:
        authority: The authority's certificate.
        certificate: A certificate for this machine that it signed.
        key: That one's private key.
    """

    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path, host: str = "127.0.0.1") -> Certificates:
    """An authority and a certificate for ``host``, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert(host)
    made = Certificates(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(made.authority))
    made.certificate.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(made.key))
    return made
