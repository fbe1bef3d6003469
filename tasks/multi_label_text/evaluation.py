"""evaluate-model for several labels per text. N = rows, C = labels, S = distinct sets of labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from gauntlet.components import bootstrap
from gauntlet.components.evaluate_model import Evaluated, EvaluationRun
from gauntlet.serving.bundle import Bundle
from gauntlet.serving.interface import Rows
from gauntlet.tasks.classification.comparison import GIVEN, TRUE
from gauntlet.tasks.classification.evaluation import (
    HeldOutRows,
    ask_both,
    publish,
    registry_scores,
    write_predictions,
)
from gauntlet.tasks.classification.manifest import Evaluation
from gauntlet.tasks.classification.metrics import (
    Indices,
    Probabilities,
    Sets,
    class_scores,
    number_sets,
    shown,
)
from gauntlet.tasks.classification.scorecard import ChampionPredictions, Scoring, assess
from gauntlet.tasks.classification.scores import Mistake, Scored, name_labels
from gauntlet.tasks.multi_label_text.data import label_sets
from gauntlet.tasks.multi_label_text.thresholds import Thresholds, read_thresholds, sigmoid
from gauntlet.trainer.mapped import map_texts
from gauntlet.trainer.splits import read_targets

__all__ = ["evaluate", "registry_scores"]


@dataclass(frozen=True, eq=False)
class LabelScoring(Scoring):
    """The scoring of label sets, which are numbered: labels and answers are numbers of `label_sets`, (S, C).

    `thresholds` (C,) are the challenger's.
    """

    label_sets: Sets
    thresholds: Thresholds

    with_intervals: ClassVar = ("macro_f1", "micro_f1", "accuracy")
    with_bounds: ClassVar = ("macro_f1", "micro_f1")

    @property
    def sets(self) -> Sets:
        """The labels of each set."""
        return self.label_sets

    def measure(self, labels: Indices, predicted: Indices) -> Scored:
        """A figure over no rows is 0, and macro-F1 is the mean over all labels."""
        truth, given = self.sets[labels], self.sets[predicted]
        figures = precision_recall_fscore_support(truth, given, average=None, zero_division=0)
        return Scored(
            accuracy=float(accuracy_score(truth, given)),
            macro_f1=float(np.mean(figures[2])),
            micro_f1=float(f1_score(truth, given, average="micro", zero_division=0)),
            per_class=tuple(
                one.model_copy(update={"predicted": int(given[:, c].sum())})
                for c, one in enumerate(class_scores(self.classes, figures))
            ),
        )

    def with_limits(self, scored: Scored, drawn: bootstrap.Metrics, confidence: float) -> Scored:
        """With the lower limits of each label's F1 and recall."""
        per_class = tuple(
            one.model_copy(
                update={
                    f"{name}_lower_bound": bootstrap.lower_bound(drawn[f"class_{name}"][:, c], confidence)
                    for name in ("f1", "recall")
                }
            )
            for c, one in enumerate(scored.per_class)
        )
        return super().with_limits(scored.model_copy(update={"per_class": per_class}), drawn, confidence)

    def of_challenger(self, scored: Scored) -> Scored:
        """With the thresholds."""
        found = zip(scored.per_class, self.thresholds, strict=True)
        per_class = tuple(one.model_copy(update={"threshold": float(value)}) for one, value in found)
        return scored.model_copy(update={"per_class": per_class})

    def mistakes(
        self, rows: Rows, labels: Indices, probabilities: Probabilities, count: int
    ) -> tuple[Mistake, ...]:
        """At most `count` rows with a wrong label, the surest first.

        The confidence is the probability of the wrong decision about one label: that a row has a label that
        it does not have, or does not have one that it has.
        """
        truth, given = self.sets[labels], probabilities >= self.thresholds
        of_labels = np.where(given, probabilities, 1 - probabilities) * (given != truth)
        confidence = of_labels.max(axis=1)
        wrong = np.flatnonzero((given != truth).any(axis=1))
        worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:count]
        return tuple(
            Mistake(
                **shown(rows[row]),
                label=self.in_words(truth[row]),
                predicted=self.in_words(given[row]),
                confidence=float(confidence[row]),
            )
            for row in worst
        )

    def in_words(self, has: Sets) -> str:
        """The labels of one row, (C,)."""
        return name_labels([self.classes[c] for c in np.flatnonzero(has)])


def ask_labels(model: Bundle, rows: Rows) -> tuple[Probabilities, Sets]:
    """The probabilities of a model's labels and those that are at least their threshold, both (N, C)."""
    probabilities = sigmoid(model.logits(rows))
    return probabilities, probabilities >= read_thresholds(model.folder, model.info.labels)


def evaluate(run: EvaluationRun[Evaluation]) -> Evaluated:
    """Score the bundle and the champion on the test split and write the three outputs.

    Raises:
        DataError: The test split is empty or holds a label that the bundle does not know.
        GauntletError: The challenger's bundle cannot be read, or answers NaN.
    """
    texts, truth = map_texts(run.splits, "test"), read_targets(run.splits, "test", label_sets) > 0
    asked = ask_both(HeldOutRows(texts, truth, {"text": texts.column}), run, ask_labels)
    champion = asked.champion
    theirs = [champion.predicted] if isinstance(champion, ChampionPredictions) else []
    sets, (labels, answers, *of_champion) = number_sets(truth, asked.answers, *theirs)
    if isinstance(champion, ChampionPredictions):
        champion = replace(champion, predicted=of_champion[0])
    scoring = LabelScoring(asked.classes, sets, read_thresholds(run.bundle, asked.classes))
    mistakes = scoring.mistakes(texts, labels, asked.probabilities, run.settings.worst_mistakes)
    document = assess(labels, answers, champion, run.settings, run.seed, scoring, asked.trained_on, mistakes)
    names = np.array([scoring.in_words(has) for has in sets], dtype=object)
    columns = {"text": texts.column, "label": names[labels], "predicted": names[answers]}
    columns |= {f"{TRUE}{label}": truth[:, c] for c, label in enumerate(asked.classes)}
    columns |= {f"{GIVEN}{label}": asked.answers[:, c] for c, label in enumerate(asked.classes)}
    write_predictions(run.predictions, columns, asked, names[of_champion[0]] if of_champion else None)
    return Evaluated(publish(document, run))
