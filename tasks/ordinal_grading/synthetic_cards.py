"""Synthetic scans of trading cards with known defects, for machines without real data.

    python -m gauntlet.tasks.ordinal_grading.synthetic_cards --out FOLDER --cards 2000 --seed 7

writes JPEG files and a `splits.json` (`docs/explanation/card_grading.md`). The grade follows from the
defects by `grade_of`: each point lost is a grade lost. A tenth of the cards are scanned twice, under the same
certificate and in the same split.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gauntlet.tasks.ordinal_grading.manifest import SIDES, Side

Colour = tuple[int, ...]
Random = np.random.Generator

SCAN = (240, 330)  # pixels wide and high
SCALE = 2  # cards are drawn so many times larger, then reduced
CARD = (416, 582)  # pixels at that scale: 63 × 88 mm
BORDER = 28  # pixels of a border of a centred card
CORNER = 16  # radius of a new card's corners
WHITE_INK = (238, 234, 226)
SPLIT_SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
RESCANNED = 0.1
# The share of cards for each grade from 10 down to 1: most cards that are sent in are good.
GRADE_SHARES = (0.12, 0.15, 0.16, 0.14, 0.12, 0.10, 0.08, 0.06, 0.04, 0.03)

FREE_OFFSET = 2.0  # percentage points from the middle that cost nothing
OFFSET_PER_POINT = 4.0  # percentage points
CORNER_PER_POINT = 22.0  # pixels of worn corner, added up over the eight corners
EDGE_PER_POINT = 0.12  # share of the edges that is white, mean of both sides
SCRATCH_PER_POINT = 0.55  # card widths of scratches, added up over both sides
MOST_POINTS = (4.5, 4.5, 4.5, 4.5)  # centering, corners, edges, surface


@dataclass(frozen=True)
class Defects:
    """The defects of one side.

    Attributes:
        centering: The left border's percentage of left and right, and the top one's of top and bottom.
        corners: How far each is worn, in pixels from its tip; 0 for a sharp one.
        edge_damage: Share of the edges, 0 to 1, that is worn white.
        scratches: Length of all scratches, in card widths.
    """

    centering: tuple[float, float]
    corners: tuple[int, int, int, int]
    edge_damage: float
    scratches: float


def points_lost(front: Defects, back: Defects) -> float:
    """The points that the defects of both sides cost together, by the constants of the rule."""
    offset = max(abs(share - 50) for side in (front, back) for share in side.centering)
    return (
        max(0.0, offset - FREE_OFFSET) / OFFSET_PER_POINT
        + sum(front.corners + back.corners) / CORNER_PER_POINT
        + (front.edge_damage + back.edge_damage) / 2 / EDGE_PER_POINT
        + (front.scratches + back.scratches) / SCRATCH_PER_POINT
    )


def grade_of(front: Defects, back: Defects) -> int:
    """10 less the points lost, to the nearest whole number, and at least 1."""
    return max(1, math.floor(10.5 - points_lost(front, back)))


@dataclass(frozen=True)
class Design:
    """The look of a card. Cards of a `series` share their back."""

    series: int
    border: Colour
    paper: Colour
    ink: Colour
    name: str
    number: int
    art_seed: int


SERIES_COLOURS: tuple[Colour, ...] = ((28, 52, 110), (112, 28, 34), (24, 88, 70), (64, 40, 96))
BORDERS: tuple[Colour, ...] = ((222, 184, 62), (70, 92, 140), (52, 52, 58), (150, 60, 48), (92, 128, 86))
SYLLABLES = "bra dor fen gul kar lim mor nax pyr quel ris syl tan vul"
WORDS = "draw two cards then your rival may discard one coin if heads this attack does more damage"


def draw_design(random: Random) -> Design:
    """A design that no other card has."""
    series = int(random.integers(len(SERIES_COLOURS)))
    name = "".join(random.choice(SYLLABLES.split(), int(random.integers(2, 4)))).capitalize()
    paper = tuple(int(level) for level in random.integers(190, 240, 3))
    ink = tuple(int(level) for level in random.integers(10, 60, 3))
    border = BORDERS[int(random.integers(len(BORDERS)))]
    number, art_seed = int(random.integers(1, 151)), int(random.integers(2**31))
    return Design(series, border, paper, ink, name, number, art_seed)


def draw_front(design: Design, size: tuple[int, int]) -> Image.Image:
    """The inside of the front's borders: name bar, art, text, rarity."""
    width, height = size
    random = np.random.default_rng(design.art_seed)
    panel = Image.new("RGB", size, design.paper)
    pen = ImageDraw.Draw(panel)
    bar = tuple(level - 40 for level in design.paper)
    pen.rounded_rectangle((10, 10, width - 11, 50), 12, fill=bar, outline=design.ink, width=2)
    pen.text((22, 16), design.name, font=_font(26), fill=design.ink)
    points = f"{random.integers(4, 30) * 10} HP"
    pen.text((width - 20, 18), points, font=_font(20), fill=(150, 30, 30), anchor="ra")
    art_height = int(height * 0.46)
    panel.paste(draw_art(random, (width - 28, art_height)), (14, 60))
    pen.rectangle((13, 59, width - 14, 60 + art_height), outline=design.ink, width=3)
    top = 60 + art_height + 14
    pen.rectangle((14, top, width - 15, height - 44), fill=tuple(level + 12 for level in design.paper))
    for line in range(int((height - 52 - top) / 24)):
        text = " ".join(random.choice(WORDS.split(), 6))
        pen.text(
            (20, top + 6 + line * 24), text[: 34 if line % 4 != 3 else 18], font=_font(17), fill=design.ink
        )
    pen.text((20, height - 34), f"{design.number:03d}/150", font=_font(18), fill=design.ink)
    x, y = width - 40, height - 36
    star = [
        (x + 11 + r * math.sin(a), y + 11 - r * math.cos(a))
        for a, r in ((step * math.pi / 5, 11 if step % 2 == 0 else 5) for step in range(10))
    ]
    rarities = (
        lambda: pen.ellipse((x, y, x + 20, y + 20), fill=design.ink),
        lambda: pen.polygon(star, design.ink),
    )
    rarities[design.number % 2]()
    return panel


def draw_art(random: Random, size: tuple[int, int]) -> Image.Image:
    """A landscape with a sun, ridges and a creature."""
    width, height = size
    sky, ground = random.integers(60, 230, 3), random.integers(30, 180, 3)
    fade = np.linspace(0, 1, height)[:, None, None]
    rows = sky * (1 - fade) + (sky * 0.4 + 140) * fade
    art = Image.fromarray(np.broadcast_to(rows, (height, width, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(art)
    x, y, r = random.uniform(30, width - 30), random.uniform(20, height / 2), random.uniform(15, 40)
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 236, 170))
    for ridge in range(3):
        base = height * (0.55 + 0.15 * ridge)
        heights = base + random.normal(0, 16, 9).cumsum() * 0.6
        places = [(at * width / 8, level) for at, level in enumerate(heights)]
        shade = tuple(int(level * (1.1 - 0.25 * ridge)) for level in ground)
        pen.polygon([(0, height), *places, (width, height)], fill=shade)
    body = tuple(int(level) for level in random.integers(60, 250, 3))
    x, y = width * random.uniform(0.3, 0.7), height * random.uniform(0.5, 0.65)
    across, down = width * random.uniform(0.13, 0.2), height * random.uniform(0.2, 0.3)
    for side in (-1, 1):
        tip = (x + side * across * random.uniform(0.9, 1.5), y - down * random.uniform(1.1, 1.6))
        pen.polygon([(x + side * across * 0.2, y - down * 0.7), tip, (x + side * across * 0.9, y)], fill=body)
    pen.ellipse((x - across, y - down, x + across, y + down), fill=body, outline=(20, 20, 20), width=2)
    for side in (-1, 1):
        eye = (x + side * across * 0.4, y - down * 0.3)
        pen.ellipse((eye[0] - 9, eye[1] - 9, eye[0] + 9, eye[1] + 9), fill=(250, 250, 250))
        pen.ellipse((eye[0] - 4, eye[1] - 4, eye[0] + 4, eye[1] + 4), fill=(10, 10, 10))
    return art


@lru_cache(maxsize=64)
def draw_back(series: int, size: tuple[int, int]) -> Image.Image:
    """The inside of a back's borders: rings around an emblem."""
    width, height = size
    colour = np.array(SERIES_COLOURS[series])
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(x - width / 2, (y - height / 2) * 0.8)
    angle = np.arctan2(y - height / 2, x - width / 2)
    waves = np.sin(radius / 15 + angle * (3 + series)) * 0.5 + 0.5
    pixels = colour[None, None] * (0.75 + 0.75 * waves[..., None])
    panel = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(panel)
    box = (width * 0.14, height * 0.36, width * 0.86, height * 0.64)
    pen.ellipse(box, fill=tuple(int(level * 0.6) for level in colour), outline=(226, 196, 96), width=6)
    pen.text((width / 2, height / 2), "ORDEAL", font=_font(52), fill=(240, 216, 120), anchor="mm")
    return panel


@lru_cache(maxsize=16)
def _font(size: int) -> Any:
    return ImageFont.load_default(size)  # the one that comes with Pillow, the same on every machine


def draw_side(design: Design, side: Side, defects: Defects, random: Random) -> Image.Image:
    """A side of the card with its defects, RGBA of the size `CARD`; around its corners it is transparent."""
    width, height = CARD
    border = design.border if side == "front" else tuple(c // 2 + 8 for c in SERIES_COLOURS[design.series])
    card = Image.new("RGB", CARD, border)
    size = (width - 2 * BORDER, height - 2 * BORDER)
    panel = draw_front(design, size) if side == "front" else draw_back(design.series, size)
    card.paste(panel, (_border(defects.centering[0]), _border(defects.centering[1])))
    pen = ImageDraw.Draw(card)
    _scratch(pen, defects.scratches, random)
    _whiten_edges(pen, defects.edge_damage, random)
    shape = Image.new("L", CARD, 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, width - 1, height - 1), CORNER, fill=255)
    _wear_corners(pen, ImageDraw.Draw(shape), defects.corners, random)
    card.putalpha(shape)
    return card


def _border(share: float) -> int:
    return round(share / 100 * 2 * BORDER)


def _scratch(pen: ImageDraw.ImageDraw, length: float, random: Random) -> None:
    width, height = CARD
    left = length * width
    while left > 1:
        reach = min(left, random.uniform(0.15, 0.45) * width)
        left -= reach
        x, y = random.uniform(0.12, 0.88) * width, random.uniform(0.12, 0.88) * height
        angle, bend = random.uniform(0, 2 * math.pi), random.normal(0, 0.15)
        line = [(x, y)]
        for _ in range(4):
            if not (20 < x < width - 20 and 20 < y < height - 20):
                angle += math.pi * 0.7  # a scratch stays on the card, or its length would not count
            x, y = x + reach / 4 * math.cos(angle), y + reach / 4 * math.sin(angle)
            angle += bend
            line.append((x, y))
        pen.line([(px + 2, py + 2) for px, py in line], fill=(40, 38, 36), width=2, joint="curve")
        pen.line(line, fill=(246, 244, 240), width=4, joint="curve")


def _whiten_edges(pen: ImageDraw.ImageDraw, share: float, random: Random) -> None:
    """Pieces of the edges, each a fortieth of the circumference, that together have the wanted share."""
    width, height = CARD
    pieces = [
        (side, at)
        for side, count in (("top", 8), ("bottom", 8), ("left", 12), ("right", 12))
        for at in range(count)
    ]
    for chosen in random.permutation(len(pieces))[: round(share * len(pieces))]:
        side, at = pieces[chosen]
        reach = (width if side in ("top", "bottom") else height) / (8 if side in ("top", "bottom") else 12)
        for step in np.arange(at * reach, (at + 1) * reach - 3, 4):
            deep = random.integers(4, 10)
            box = {
                "top": (step, 0, step + 4, deep),
                "bottom": (step, height - 1 - deep, step + 4, height - 1),
                "left": (0, step, deep, step + 4),
                "right": (width - 1 - deep, step, width - 1, step + 4),
            }[side]
            pen.rectangle(box, fill=WHITE_INK)


def _wear_corners(
    pen: ImageDraw.ImageDraw, shape: ImageDraw.ImageDraw, corners: tuple[int, ...], random: Random
) -> None:
    width, height = CARD
    for worn, (x, y) in zip(corners, ((0, 0), (width, 0), (0, height), (width, height)), strict=True):
        if not worn:
            continue
        inward = (1 if x == 0 else -1, 1 if y == 0 else -1)
        reach = [(CORNER / 2 + worn) * random.uniform(0.9, 1.1) for _ in range(5)]
        for pencil, share, fill in ((pen, 1.0, WHITE_INK), (shape, 0.45, 0)):
            places = [
                (x + inward[0] * r * share * math.cos(a), y + inward[1] * r * share * math.sin(a))
                for r, a in zip(reach, np.linspace(0, math.pi / 2, 5), strict=True)
            ]
            pencil.polygon([(x, y), *places], fill=fill)


def scan(card: Image.Image, random: Random) -> Image.Image:
    """The card on a scanner: background, slightly rotated, with shadow, uneven light and noise."""
    canvas = (SCAN[0] * SCALE, SCAN[1] * SCALE)
    ground = int(random.choice([24, 60, 205, 235]))
    tint = tuple(int(level) for level in np.clip(ground + random.normal(0, 6, 3), 0, 255))
    picture = Image.new("RGB", canvas, tint)
    turned = card.rotate(random.uniform(-1.2, 1.2), Image.Resampling.BICUBIC, expand=True)
    slack = (canvas[0] - turned.width, canvas[1] - turned.height)
    place = tuple(round(free / 2 + random.uniform(-0.2, 0.2) * free) for free in slack)
    shadow = Image.new("L", canvas, 0)
    shadow.paste(turned.getchannel("A").point(lambda level: level * 0.5), (place[0] + 5, place[1] + 6))
    picture.paste((0, 0, 0), (0, 0), shadow.filter(ImageFilter.BoxBlur(6)))
    picture.paste(turned, (place[0], place[1]), turned)
    pixels = np.asarray(picture.reduce(SCALE), dtype=np.float32)
    y, x = np.mgrid[: SCAN[1], : SCAN[0]].astype(np.float32)
    direction = random.uniform(0, 2 * math.pi)
    slope = (x / SCAN[0] - 0.5) * math.cos(direction) + (y / SCAN[1] - 0.5) * math.sin(direction)
    light = random.uniform(0.88, 1.08) * (1 + random.uniform(0, 0.14) * slope)
    warmth = 1 + random.normal(0, 0.02, 3)
    lit = pixels * light[..., None] * warmth + random.normal(0, 2.0, pixels.shape)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def draw_defects(random: Random) -> tuple[Defects, Defects]:
    """Defects of front and back that aim at a grade drawn from `GRADE_SHARES`."""
    aim = int(random.choice(len(GRADE_SHARES), p=GRADE_SHARES)) + random.uniform(-0.45, 0.45)
    points = np.maximum(aim, 0) * random.dirichlet([1.2] * len(MOST_POINTS))
    while (points > MOST_POINTS).any():
        points = np.maximum(aim, 0) * random.dirichlet([2.5] * len(MOST_POINTS))
    offset, corner, edge, scratch = points
    worst = FREE_OFFSET + offset * OFFSET_PER_POINT
    offsets = random.uniform(-0.8, 0.8, 4) * worst
    offsets[random.integers(4)] = worst * random.choice([-1, 1])
    shares = [100 * _border(50 + at) / (2 * BORDER) for at in offsets]  # as rounded to whole pixels
    worn = np.rint(random.dirichlet([0.8] * 8) * corner * CORNER_PER_POINT).astype(int).clip(0, 40).tolist()
    part = random.uniform(0.25, 0.75, 2)
    pieces = [round(2 * edge * EDGE_PER_POINT * share * 40) / 40 for share in (part[0], 1 - part[0])]
    lengths = [scratch * SCRATCH_PER_POINT * share for share in (part[1], 1 - part[1])]
    front = Defects((shares[0], shares[1]), (worn[0], worn[1], worn[2], worn[3]), pieces[0], lengths[0])
    back = Defects((shares[2], shares[3]), (worn[4], worn[5], worn[6], worn[7]), pieces[1], lengths[1])
    return front, back


def write_cards(folder: Path, cards: int, seed: int) -> None:
    """Write `cards` cards as JPEG files and `splits.json`, last; the same seed gives the same files."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLIT_SHARES}
    bounds = np.cumsum(list(SPLIT_SHARES.values()))
    for card in range(cards):
        split = list(SPLIT_SHARES)[int(np.searchsorted(bounds, (card + 0.5) / cards))]
        splits[split] += _write_card(folder, card, seed)
    temporary = folder / "splits.json.tmp"
    temporary.write_text(json.dumps(splits, indent=1), encoding="utf-8")
    temporary.replace(folder / "splits.json")


def _write_card(folder: Path, card: int, seed: int) -> list[dict[str, Any]]:
    """Draw a card and scan it once, or twice; returns an entry of the splits for each time."""
    random = np.random.default_rng((seed, card))
    design = draw_design(random)
    defects = dict(zip(SIDES, draw_defects(random), strict=True))
    drawn = {side: draw_side(design, side, defects[side], random) for side in SIDES}
    entries = []
    for number in range(2 if random.random() < RESCANNED else 1):
        entry: dict[str, Any] = {side: f"images/{card:06d}-{number}-{side}.jpg" for side in SIDES}
        for side in SIDES:
            scan(drawn[side], random).save(folder / entry[side], quality=int(random.integers(86, 95)))
        entry["certificate"] = f"S{seed}-{card:06d}"
        entry["grade"] = grade_of(defects["front"], defects["back"])
        entry["centering"] = {side: [round(share, 3) for share in defects[side].centering] for side in SIDES}
        entry["edge_damage"] = {side: round(defects[side].edge_damage, 4) for side in SIDES}
        entries.append(entry)
    return entries


def main(arguments: list[str] | None = None) -> int:
    """Write a set of cards."""
    parser = argparse.ArgumentParser(
        prog="python -m gauntlet.tasks.ordinal_grading.synthetic_cards", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--cards", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    write_cards(options.out, options.cards, options.seed)
    print(f"{options.cards} cards: {options.out / 'splits.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
