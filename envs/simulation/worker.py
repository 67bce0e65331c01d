"""Entry point of a worker process, run by path in a simulator's own interpreter: ``python -I worker.py ROLE``.

A role is a module beside this one: ``simulator`` or ``check``. Standard input begins with the configuration, one line of JSON.

The simulator's virtual environment holds the simulator and four small libraries, but not vlarig: the few modules that a worker needs
are taken from where the driver has them, so that both ends always run the same code. Isolated mode keeps the working directory
off the import path, where vlarig's ``envs`` would otherwise be found as a top-level package.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import importlib.util
import json
import signal
import sys
from pathlib import Path

#: prctl option: the kernel sends this process a signal when the parent dies (linux/prctl.h).
_PR_SET_PDEATHSIG = 1


class PackageFinder:
    """Finds the named packages and modules, and nothing else, at the files given for them."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.namespaces = {name.rpartition(".")[0] for name in files} - {""}

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """Find vlarig's packages, and no others, for the import system."""
        if name in self.files:
            file = Path(self.files[name])
            folder = [str(file.parent)] if file.name == "__init__.py" else None
            return importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
        if name in self.namespaces:
            return importlib.machinery.ModuleSpec(name, None, is_package=True)
        return None


def die_with_parent() -> None:
    """Have the kernel kill this process with its parent, also where it is stopped (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Read the configuration, and run the role that the command line names."""
    die_with_parent()
    with open(0, "rb", buffering=0, closefd=False) as standard_input:  # not a byte more: frames may follow
        line = standard_input.readline()
    if not line:
        return  # the parent died before that
    config = json.loads(line)
    sys.meta_path.insert(0, PackageFinder(config["packages"]))
    importlib.import_module(f"vlarig.envs.simulation.{sys.argv[1]}").main(config)


if __name__ == "__main__":
    main()
