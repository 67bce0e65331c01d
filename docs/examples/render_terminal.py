"""Renders docs/images/live-display.svg and table.svg: what a terminal of 100 columns shows of a sweep, in its middle and at its end.

    python docs/examples/render_terminal.py docs/images

It plays the sweep in a folder of its own, which takes a few minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = "vlarig sweep tabletop --policy qwen-vla --episodes 10"
COLUMNS = 100

#: What rich writes before it renders a frame over the last one.
NEXT_FRAME = r"\r(?:\x1b\[2K)?(?:\x1b\[1A\x1b\[2K)+"

#: What loads rich's fonts from elsewhere.
FONTS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def frames() -> list[str]:
    """What the command shows, one frame after the other; the last one stays."""
    variables = {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "vlarig.harness", *COMMAND.split()[1:]]
    with tempfile.TemporaryDirectory() as folder:
        shown = subprocess.run(command, cwd=folder, env=os.environ | variables, stdout=subprocess.PIPE, check=True)
    return re.split(NEXT_FRAME, shown.stdout.decode())  # as text, carriage returns would be lost


def render(frame: str, file: Path) -> None:
    """Render a frame as the image of a terminal."""
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, force_terminal=True)
    console.print(Text.from_ansi(re.sub(r"\x1b\[\?25[lh]", "", frame).strip("\n")))
    file.write_text(FONTS.sub("", console.export_svg(title=COMMAND, unique_id=file.stem)), encoding="utf-8")


def main() -> None:
    """Render both images."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="where to write them")
    folder: Path = arguments.parse_args().folder
    shown = frames()
    render(shown[len(shown) * 2 // 3], folder / "live-display.svg")
    render(shown[-1], folder / "table.svg")


if __name__ == "__main__":
    main()
