"""Sentences with names of people, places and organisations, which a tiny tagger learns in seconds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from gauntlet.manifests.schema import Manifest

PEOPLE = ("Ada", "Ben", "Carla", "Deniz", "Emil", "Farah", "Goran", "Hana", "Ines", "Kemal", "Lena", "Nils")
SURNAMES = ("Abend", "Brandt", "Castro", "Demir", "Ferrari", "Grant", "Ito", "Jansen", "Keller", "Novak")
PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Turin", "Porto", "Delhi", "Osaka", "Tunis", "Lagos", "Austin")
FIRMS = ("Northwind", "Contoso", "Acme", "Globex", "Initech", "Umbra", "Vandelay", "Hooli", "Wayne", "Tyrell")
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
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "spring", "summer", "autumn", "winter")


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


def settings(_manifest: Manifest, folder: Path, at_hand: bool) -> tuple[dict[str, Any], str]:
    """What `gauntlet smoke` sets so that any manifest of the kind trains in seconds."""
    small: dict[str, Any] = {"training.epochs": 3, "training.width": 32, "gates.min_entity_f1": 0.0}
    if at_hand:
        return small, "its own"
    file = folder / "sentences.conll"
    file.write_text(sentences(200), encoding="utf-8")
    dataset = {"name": "drawn", "version": "1", "uri": str(file), "entities": ["PER", "ORG", "LOC"]}
    return {"dataset": dataset, **small}, "drawn"
