"""Draws docs/images/architecture.svg: the steps of a run, and what becomes of the model.

python docs/draw_architecture.py
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent / "images/architecture.svg"
WIDTH, HEIGHT = 1000, 430
BOX = (150, 56)
STEP, NEUTRAL, STORE = "#dbe7ff", "#f1f1f1", "#e2f4e2"

# name: x and y of the middle, its lines of text, its colour
BOXES = {
    "manifest": (90, 50, ("manifest", "one section per step"), NEUTRAL),
    "data": (90, 150, ("data", "files, buckets, BigQuery"), NEUTRAL),
    "validate": (290, 150, ("validate-data", "12 checks, 3 splits"), STEP),
    "train": (470, 150, ("train-model", "PyTorch, exact resume"), STEP),
    "convert": (650, 150, ("convert-to-onnx", "candidates, parity"), STEP),
    "evaluate": (830, 150, ("evaluate-model", "against the champion"), STEP),
    "gate": (830, 260, ("gate-model", "rules with intervals"), STEP),
    "register": (650, 260, ("register-model", "moves the alias"), STEP),
    "deploy": (470, 260, ("deploy-model", "canary and its judge"), STEP),
    "registry": (650, 370, ("registry", "bundles, champion"), STORE),
    "servers": (290, 260, ("gateway, servers", "HTTP, request log"), STORE),
    "monitor": (290, 370, ("monitor", "change, harm, labels"), STORE),
}
ARROWS = (
    ("manifest", "validate"), ("data", "validate"), ("validate", "train"), ("train", "convert"),
    ("convert", "evaluate"), ("evaluate", "gate"), ("gate", "register"), ("register", "registry"),
    ("register", "deploy"), ("deploy", "servers"), ("servers", "monitor"),
)  # fmt: skip
LOOP = "M 215 370 H 90 V 186"
LOOP_TEXT = (98, 300, ("new labelled rows:", "run again"))


def picture() -> str:
    """The SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    line = 'fill="none" stroke="#555" stroke-width="1.5" marker-end="url(#head)"'
    parts += [f'<path d="{_path(one, other)}" {line}/>' for one, other in ARROWS]
    parts.append(f'<path d="{LOOP}" {line} stroke-dasharray="6 4"/>')
    for x, y, texts, colour in BOXES.values():
        left, top = x - BOX[0] // 2, y - BOX[1] // 2
        parts.append(
            f'<rect x="{left}" y="{top}" width="{BOX[0]}" height="{BOX[1]}" rx="8" fill="{colour}" '
            'stroke="#888"/>'
        )
        parts += _texts(x, y - 4, texts, "middle")
    x, y, texts = LOOP_TEXT
    return "\n".join([*parts, *_texts(x, y, texts, "start"), "</svg>", ""])


def _texts(x: int, y: int, texts: tuple[str, ...], anchor: str) -> list[str]:
    sizes = (15, 12) if anchor == "middle" else (12, 12)
    return [
        f'<text x="{x}" y="{y + 18 * number}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
        for number, (text, size) in enumerate(zip(texts, sizes, strict=True))
    ]


def _path(one: str, other: str) -> str:
    """A line between the borders of two boxes, with a corner where they are not in line."""
    (x, y, *_), (to_x, to_y, *_) = BOXES[one], BOXES[other]
    if x == to_x:
        down = BOX[1] // 2 if to_y > y else -BOX[1] // 2
        return f"M {x} {y + down} V {to_y - down}"
    right = BOX[0] // 2 if to_x > x else -BOX[0] // 2
    if y == to_y:
        return f"M {x + right} {y} H {to_x - right}"
    return f"M {x + right} {y} H {to_x} V {to_y - BOX[1] // 2}"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
