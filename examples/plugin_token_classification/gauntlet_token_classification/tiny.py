"""Sentences with names of people, places and organisations, which a tiny tagger learns in seconds."""

from __future__ import annotations

import random
from pathlib import Path

PEOPLE = [
    "Ada",
    "Ben",
    "Carla",
    "Deniz",
    "Emil",
    "Farah",
    "Goran",
    "Hana",
    "Ines",
    "Jonas",
    "Kemal",
    "Lena",
    "Mara",
    "Nils",
    "Olga",
    "Pavel",
]
SURNAMES = [
    "Abend",
    "Brandt",
    "Castro",
    "Demir",
    "Eriksen",
    "Ferrari",
    "Grant",
    "Hoffman",
    "Ito",
    "Jansen",
    "Keller",
    "Lopez",
    "Meyer",
    "Novak",
]
PLACES = [
    "Oslo",
    "Lima",
    "Cairo",
    "Quito",
    "Turin",
    "Porto",
    "Delhi",
    "Osaka",
    "Tunis",
    "Lagos",
    "Bergen",
    "Austin",
    "Malmo",
    "Dakar",
]
FIRMS = [
    "Northwind",
    "Contoso",
    "Acme",
    "Globex",
    "Initech",
    "Umbra",
    "Vandelay",
    "Hooli",
    "Stark",
    "Wayne",
    "Tyrell",
    "Cyberdyne",
]
SUFFIXES = ("Corp", "Ltd", "Group", "AG")
TEMPLATES = (
    "{P} met {P} in {L} on {D} .",
    "{O} opened an office in {L} last {D} .",
    "The board of {O} appointed {P} as chair .",
    "{P} moved from {L} to {L} for {O} .",
    "Prices rose in {D} , said {P} of {O} .",
    "Nobody expected the weather of that {D} .",
    "Rain is likely in {L} and near {L} .",
    "{O} and {O} signed a contract .",
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "spring", "summer", "autumn", "winter"]


def sentences(count: int, seed: int = 0) -> str:
    """So many different sentences in the CoNLL format."""
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made.setdefault(_sentence(draw))
    return "\n\n".join(made) + "\n"


def _sentence(draw: random.Random) -> str:
    lines: list[tuple[str, str]] = []
    for part in draw.choice(TEMPLATES).split():
        if part == "{P}":
            lines += [(draw.choice(PEOPLE), "B-PER"), (draw.choice(SURNAMES), "I-PER")]
        elif part == "{O}":
            lines += [(draw.choice(FIRMS), "B-ORG"), (draw.choice(SUFFIXES), "I-ORG")]
        elif part == "{L}":
            lines.append((draw.choice(PLACES), "B-LOC"))
        else:
            lines.append((draw.choice(DAYS) if part == "{D}" else part, "O"))
    return "\n".join(f"{word}\t{tag}" for word, tag in lines)


def write(folder: Path) -> Path:
    """A file of sentences in `folder`."""
    file = folder / "sentences.conll"
    file.write_text(sentences(200), encoding="utf-8")
    return file
