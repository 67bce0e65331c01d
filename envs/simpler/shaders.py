"""Shaders that compute light for what an overlaid image shows, and nothing for the nine tenths of it that a photograph covers."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import sapien

from ..errors import VlarigError
from ..home import home

#: SAPIEN's passes, by what ``RenderBodyComponent.shading_mode`` has for them. Pass 0 is not used: SAPIEN moves translucent materials
#: from it into the next one (haosulab/sapien-vulkan-2@62e2511, src/renderer/renderer.cpp, "classify shapes").
UNLIT, LIT = 1, 2

_SAPIENS = Path(str(sapien.__file__)).parent / "vulkan_shader"


def overlaid_shaders() -> str:
    """The folder of the shaders: for :data:`LIT` SAPIEN's own ``minimal`` (sapien 3.0.3), which mani-skill renders with.

    The pass :data:`UNLIT` writes depth, the entity's id and no colour, so that the image's alpha is 0 but where bodies are lit. The
    background, whose alpha is 0 too, is not looked up in the environment map, which is black in a scene that has none.
    """
    files = {file.name: file.read_text() for file in (_SAPIENS / "minimal").iterdir()}
    files[f"gbuffer{LIT}.frag"] = files["gbuffer.frag"]
    nothing = "outColorRaw = vec4(0.0); outPositionSegmentation = ivec4(0, 0, 0, inSegmentation[1]); }\n"
    files["gbuffer.frag"] = files[f"gbuffer{UNLIT}.frag"] = _until(files, "gbuffer.frag", "  frm.r =") + nothing
    files[f"gbuffer{LIT}.vert"] = files[f"gbuffer{UNLIT}.vert"] = files["gbuffer.vert"]
    background = "void main() { vec4 color = texture(samplerColorRaw, inUV); outColor = vec4(color.rgb * color.a, color.a); }\n"
    files["composite0.frag"] = _until(files, "composite0.frag", "void main()") + background
    files = {name: text.replace('"../common/', f'"{_SAPIENS}/common/') for name, text in files.items()}
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:12]
    folder = home() / "shaders" / f"overlaid-{digest}"
    try:
        if not folder.is_dir():
            _write(folder, files)
    except OSError as error:
        raise VlarigError(f"the shaders {folder} cannot be written: {error}; set VLARIG_HOME to a folder for vlarig") from error
    return str(folder)


def _until(files: dict[str, str], name: str, mark: str) -> str:
    before, found, _ = files[name].partition(mark)
    if not found:
        raise VlarigError(f"SAPIEN's shader minimal/{name} has no {mark!r}, as that of 3.0.3 has; install the runtime again")
    return before


def _write(folder: Path, files: dict[str, str]) -> None:
    """Another process may write the same one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent))
    for name, text in files.items():
        (draft / name).write_text(text)
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not folder.is_dir():
            raise
