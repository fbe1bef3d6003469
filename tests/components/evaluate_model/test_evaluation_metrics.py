from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_score, recall_score

from gauntlet.tasks.classification.metrics import MISTAKE_CHARS, measure, worst_mistakes

CLASSES = ("joy", "fear", "love")


def test_figures_agree_with_a_hand_calculation() -> None:
    # joy: 2 of 3 found, 1 wrongly added; fear: 1 of 2 found, 1 wrongly added; love: nowhere
    figures = measure(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), CLASSES)
    assert figures.accuracy == pytest.approx(3 / 5)
    assert figures.confusion == ((2, 1, 0), (1, 1, 0), (0, 0, 0))
    joy, fear, love = figures.per_class
    assert (joy.label, joy.precision, joy.recall, joy.f1, joy.support) == pytest.approx(
        ("joy", 2 / 3, 2 / 3, 2 / 3, 3)
    )
    assert (fear.precision, fear.recall, fear.f1, fear.support) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2))
    assert (love.precision, love.recall, love.f1, love.support) == (0, 0, 0, 0)
    assert figures.macro_f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert figures.weighted_f1 == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)


@pytest.mark.parametrize("seed", range(3))
def test_figures_agree_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels, predicted = generator.integers(0, 3, (2, 200))
    figures = measure(labels, predicted, CLASSES)
    assert figures.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert figures.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert figures.weighted_f1 == pytest.approx(f1_score(labels, predicted, average="weighted"))
    assert [c.precision for c in figures.per_class] == pytest.approx(
        precision_score(labels, predicted, average=None)
    )
    assert [c.recall for c in figures.per_class] == pytest.approx(
        recall_score(labels, predicted, average=None)
    )
    assert np.array(figures.confusion).tolist() == confusion_matrix(labels, predicted).tolist()


def test_mistakes_are_the_wrong_rows_with_the_surest_first() -> None:
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6], [0.05, 0.95, 0.0]], dtype=np.float32
    )
    texts = ["right", "wrong at 0.7", "wrong at 0.6", "wrong at 0.95"]
    mistakes = worst_mistakes(texts, np.array([0, 0, 1, 2]), probabilities, CLASSES, count=2)
    assert [(m.text, m.label, m.predicted) for m in mistakes] == [
        ("wrong at 0.95", "love", "fear"),
        ("wrong at 0.7", "joy", "fear"),
    ]
    assert [m.confidence for m in mistakes] == pytest.approx([0.95, 0.7])


def test_no_mistakes_are_listed_when_none_are_asked_for_or_none_were_made() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0]], dtype=np.float32)
    assert worst_mistakes(["a"], np.array([1]), probabilities, CLASSES, count=0) == ()
    assert worst_mistakes(["a"], np.array([0]), probabilities, CLASSES, count=5) == ()


def test_a_long_text_is_cut_and_shows_that_it_was() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0]] * 2, dtype=np.float32)
    texts = ["x" * MISTAKE_CHARS, "y" * (MISTAKE_CHARS + 1)]
    whole, cut = worst_mistakes(texts, np.array([1, 1]), probabilities, CLASSES, count=2)
    assert whole.text == texts[0]
    assert (len(cut.text), cut.text[-1]) == (MISTAKE_CHARS, "…")
