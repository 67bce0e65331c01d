"""Entry point of a worker process, run by path in a simulator's own interpreter: ``python -I worker.py ROLE``.

The simulator's virtual environment holds the simulator and four small libraries, but not vlarig: the few modules that a worker needs
are taken from where the driver has them, so that both ends always run the same code. Isolated mode keeps the working directory
off the import path, where our room ``envs`` would otherwise be found as a top-level package.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import json
import sys
from pathlib import Path


class PackageFinder:
    """Finds the named packages and modules, and nothing else, at the files given for them."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files
        self.namespaces = {name.rpartition(".")[0] for name in files} - {""}

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        """The import system's question, answered for our packages alone."""
        if name in self.files:
            file = Path(self.files[name])
            folder = [str(file.parent)] if file.name == "__init__.py" else None
            return importlib.util.spec_from_file_location(name, file, submodule_search_locations=folder)
        if name in self.namespaces:
            return importlib.machinery.ModuleSpec(name, None, is_package=True)
        return None


def main() -> None:
    """Read the configuration, one line of JSON on standard input, and become what the command line says."""
    roles = {"server": "sim_server", "simulator": "simulator", "check": "sim_check"}
    config = json.loads(sys.stdin.buffer.readline())
    sys.meta_path.insert(0, PackageFinder(config["packages"]))
    importlib.import_module(f"vlarig.harness.{roles[sys.argv[1]]}").main(config)


if __name__ == "__main__":
    main()
