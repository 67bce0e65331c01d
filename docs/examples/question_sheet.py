"""Renders a sheet of rendered questions to be looked at: each image with all boxes of its answers, and a question of each kind.

    python docs/examples/question_sheet.py FOLDER... --to questions.png

FOLDER is what ``vlarig data render-questions`` wrote; one column a folder.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vlarig.training.data.boxes import boxes_in, to_pixels
from vlarig.training.data.render_questions import open_questions

SIDE, LINE, LETTERS, GAP = 420, 17, 62, 12
COLOURS = ("#e6007e", "#009fe3", "#ffa600", "#7ac943")


def images_of(folder: Path) -> dict[Path, list[dict[str, Any]]]:
    """Image to the lines that ask about it."""
    found: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for dataset in open_questions(folder):
        for index in range(len(dataset)):
            record = dataset.record(index)
            shown = record["messages"][0]["content"][0]["path"]
            found[(folder / dataset.family / shown).resolve()].append(record)
    return found


def cell(file: Path, records: list[dict[str, Any]]) -> Image.Image:
    """An image with its boxes, its questions and answers below."""
    image = Image.open(file).convert("RGB")
    width, height = image.size
    scale = SIDE / width
    image = image.resize((SIDE, round(height * scale)), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    words, boxed = [], 0
    for record in records:
        answer = record["messages"][-1]["content"]
        for found in boxes_in(answer):
            colour = COLOURS[boxed % len(COLOURS)]
            box = [side * scale for side in to_pixels(found.box, width, height)]
            pen.rectangle(box, outline=colour, width=2)
            pen.text((box[0], max(box[1] - 13, 0)), found.label, fill=colour, font=ImageFont.load_default(12))
            boxed += 1
        question = record["messages"][0]["content"][1]["text"].replace(" Output the bbox coordinates in JSON format.", "")
        words += textwrap.wrap(f"{question} {answer}", LETTERS)
    whole = Image.new("RGB", (SIDE, image.height + LINE * len(words) + GAP), "white")
    whole.paste(image, (0, 0))
    pen = ImageDraw.Draw(whole)
    for number, line in enumerate(words):
        pen.text((2, image.height + 3 + LINE * number), line, fill="black", font=ImageFont.load_default(13))
    return whole


def main() -> None:
    """Render the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--each", type=int, default=2, help="images of a folder")
    parser.add_argument("--first", type=int, default=0, help="where to begin among a folder's images")
    options = parser.parse_args()
    columns = []
    for folder in options.folders:
        chosen = sorted(images_of(folder).items())[options.first :][: options.each]
        columns.append([cell(file, records) for file, records in chosen])
    height = max(sum(each.height for each in column) for column in columns)
    sheet = Image.new("RGB", (len(columns) * (SIDE + GAP) - GAP, height), "white")
    for place, column in enumerate(columns):
        top = 0
        for each in column:
            sheet.paste(each, (place * (SIDE + GAP), top))
            top += each.height
    sheet.save(options.to)


if __name__ == "__main__":
    main()
