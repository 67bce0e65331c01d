"""How a policy server is reached: its address, and the token that a client shows and that the server expects."""

from __future__ import annotations

from pathlib import Path

from .api import PolicyError

#: Environment variable with the token that a server asks for.
TOKEN_VARIABLE = "VLARIG_POLICY_TOKEN"  # noqa: S105


def refuse_secrets(address: str, scheme: str) -> None:
    """Make sure that an address holds no user, password or query: addresses are saved with a run.

    Args:
        address: What the user typed after ``scheme:``.
        scheme: Names the door in the sentence.

    Raises:
        PolicyError: It may hold a secret; the sentence does not show it.
    """
    if "@" in address or "?" in address:
        raise PolicyError(
            f"the server's address has a '@' or a '?', and addresses are saved with a run, so no secret belongs in one; write "
            f"{scheme}:ws://HOST:PORT (openpi: shows the token that the environment variable {TOKEN_VARIABLE} holds)"
        )


def checked_token(token: str, place: str) -> str:
    """``token`` without white space around it; empty for none.

    Args:
        token: What was found.
        place: Where it was found, for the sentence.

    Raises:
        PolicyError: A character within it cannot travel in an HTTP header; the sentence does not show the token.
    """
    token = token.strip()
    if not (token.isascii() and token.isprintable()):
        raise PolicyError(f"{place} holds a token of more than one line of printable ASCII characters; put a plain one there")
    return token


def token_in(file: Path) -> str:
    """The token in a file.

    Raises:
        PolicyError: The file cannot be read, or holds what cannot be a token.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is no text" if isinstance(error, UnicodeDecodeError) else error
        raise PolicyError(f"the token file {file} cannot be read ({reason}); give the path of a text file") from None
    return checked_token(text, f"the file {file}")
