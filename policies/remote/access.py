"""How a policy server is addressed, and where the token comes from that a client shows it."""

from __future__ import annotations

from ..api import PolicyError

#: Environment variable with the token that a server requires.
TOKEN_VARIABLE = "VLARIG_POLICY_TOKEN"  # noqa: S105


def refuse_secrets(address: str, scheme: str) -> None:
    """Make sure that an address holds no user, password or query: addresses are saved with a run.

    Args:
        address: What the user typed after ``scheme:``.
        scheme: Names the client in the sentence.
    """
    if "@" in address or "?" in address:
        raise PolicyError(
            f"the server's address has a '@' or a '?', and addresses are saved with a run, so no secret belongs in one; write "
            f"{scheme}:ws://HOST:PORT (openpi: shows the token that the environment variable {TOKEN_VARIABLE} holds)"
        )
