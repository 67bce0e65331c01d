"""Running an installation's steps: programs that download and unpack, and where they find packages."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

#: Where systems keep their certificates, a company's own among them; uv uses these only by an option.
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")

#: Settings of pip that say where packages are, and uv's variables for the same. Not ``extra-index-url``: pip takes the best version of
#: all its indexes, uv the first index that has the package, and a lock's versions are on the main one.
PACKAGE_SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS"}


def run_step(command: list[str], lock: int, report: Callable[[str], None], quiet: bool = False) -> bool:
    """Run a program: its progress bars go to a terminal, elsewhere only a failure's last output is reported.

    Args:
        command: The program and its arguments.
        lock: File descriptor of the held lock; children keep it, so that no second install starts beside an orphan.
        report: Called with the last output.
        quiet: Report nothing.

    Returns:
        Whether it ended with exit status 0; a program that is not there did not.
    """
    shown = sys.stderr.isatty() and not quiet
    output = None if shown else subprocess.PIPE
    errors = None if shown else subprocess.STDOUT
    environment = {**package_settings(), **os.environ}
    if any(Path(path).exists() for path in CERTIFICATES):
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    try:
        run = subprocess.run(command, check=False, stdout=output, stderr=errors, pass_fds=(lock,), text=True, env=environment)
    except OSError as error:
        report(f"  {error}")
        return False
    if run.returncode and run.stdout and not quiet:
        for line in run.stdout.strip().splitlines()[-15:]:
            report(f"  {line}")
    return run.returncode == 0


def package_settings() -> dict[str, str]:
    """pip's package indexes as uv's environment variables; uv reads none of pip's settings by itself.

    pip's own variables win over its files, and a later file over an earlier one (pip's documentation, "Configuration").
    """
    found: dict[str, str] = {}
    for path in _pip_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("global", "install"):
            for setting in PACKAGE_SETTINGS:
                if value := parser.get(section, setting, fallback=""):
                    found[setting] = value
    for setting in PACKAGE_SETTINGS:
        if value := os.environ.get(f"PIP_{setting.upper().replace('-', '_')}"):
            found[setting] = value
    if os.environ.get("UV_INDEX_URL"):  # uv's older name for its main index
        found.pop("index-url", None)
    return {PACKAGE_SETTINGS[setting]: ",".join(value.split()) for setting, value in found.items()}


def _pip_files() -> list[Path]:
    """pip's configuration files on Linux, in the order in which it reads them."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    home = Path.home()
    folders = [Path(folder) for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep) if folder]
    own = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [*(folder / "pip" / "pip.conf" for folder in folders), Path("/etc/pip.conf")]
    files += [home / ".pip" / "pip.conf", own / "pip" / "pip.conf", Path(sys.prefix) / "pip.conf"]
    return [*files, Path(chosen)] if chosen else files
