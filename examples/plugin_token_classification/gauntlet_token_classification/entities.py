"""Spans of tagged words, and how well predicted spans match: as in the CoNLL-2003 shared task.

A tag is `O` (outside), `B-KIND` (the first word of a span) or `I-KIND` (a further one). A predicted entity is
right if its first word, its last word and its kind are those of a true one (Tjong Kim Sang & De Meulder,
2003, https://aclanthology.org/W03-0419).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

OUTSIDE = "O"
Span = tuple[int, int, str]
"""The positions of the first word and after the last one, and the kind."""


def spans(tags: Sequence[str]) -> set[Span]:
    """The entities of a sentence. Like conlleval, an `I-` that continues no span of its kind begins one."""
    found, start, kind = set(), 0, None
    for at, tag in enumerate((*tags, OUTSIDE)):
        prefix, _, named = tag.partition("-")
        if kind is not None and (prefix != "I" or named != kind):
            found.add((start, at, kind))
            kind = None
        if kind is None and prefix != OUTSIDE:
            start, kind = at, named
    return found


def is_broken(tags: Sequence[str]) -> bool:
    """Whether an `I-` tag continues no span of its kind."""
    before = (OUTSIDE, *tags)
    return any(
        tag.startswith("I-") and previous[2:] != tag[2:] for previous, tag in zip(before, tags, strict=False)
    )


def outcomes(truth: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int, int, int]:
    """Of one sentence: right entities, predicted ones, true ones, words with the right tag, words."""
    true_spans, predicted_spans = spans(truth), spans(predicted)
    words = sum(one == other for one, other in zip(truth, predicted, strict=True))
    return len(true_spans & predicted_spans), len(predicted_spans), len(true_spans), words, len(truth)


def scores(summed: npt.NDArray[np.float64]) -> Mapping[str, npt.NDArray[np.float64]]:
    """Metrics of sums of `outcomes` (..., 5); an F1 of no entities at all is 1, as nothing was missed."""
    right, predicted, true, words, all_words = np.moveaxis(np.asarray(summed, dtype=np.float64), -1, 0)
    entities = predicted + true
    return {
        "entity_f1": np.where(entities > 0, 2 * right / np.maximum(entities, 1), 1.0),
        "token_accuracy": words / np.maximum(all_words, 1),
    }
