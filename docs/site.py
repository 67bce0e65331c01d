"""Hooks of mkdocs: links of pages to files of the tree, which the site does not hold, and formulas, shown as MathML."""

from __future__ import annotations

import html
import logging
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

#: Under mkdocs' own logger, whose warnings a strict build counts.
logger = logging.getLogger("mkdocs.hooks.site")

_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page's text with its links to files of the tree replaced.

    With ``repo_url`` in mkdocs.yml such a link leads to the repository; without one its text alone is left. A link to a file that does
    not exist is a warning, so a strict build fails.
    """
    docs, root = Path(config.docs_dir), Path(config.config_file_path).parent

    def replaced(link: re.Match[str]) -> str:
        text, target = link[1], link[2].partition("#")[0]
        if not target or "://" in target:
            return link[0]
        path = (docs / page.file.src_uri).parent.joinpath(target).resolve()
        if path.is_relative_to(docs) and files.get_file_from_path(path.relative_to(docs).as_posix()):
            return link[0]
        if not path.exists():
            logger.warning("%s links to %s, which does not exist", page.file.src_uri, target)
        if not config.repo_url:
            return text
        kind = "tree" if path.is_dir() else "blob"
        return f"[{text}]({config.repo_url.rstrip('/')}/{kind}/main/{path.relative_to(root).as_posix()})"

    return _LINK.sub(replaced, markdown)


def on_page_content(content: str, **_: Any) -> str:
    """The page with its formulas as MathML."""
    return _FORMULA.sub(
        lambda found: convert(html.unescape(found[2]), display="block" if found[1] == "div" else "inline"), content
    )
