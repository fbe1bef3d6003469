from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gauntlet.tasks.therapy import crisis, validation
from gauntlet.tasks.therapy.__main__ import table
from gauntlet.tasks.therapy.validation import Validation, labelled_rows, validate


@pytest.mark.parametrize("found", validate(), ids=lambda found: f"{found.evaluator}-{found.judgement}")
def test_every_judgement_holds_on_rows_that_it_was_not_tuned_on(found: Validation) -> None:
    assert found.rows >= 15
    assert found.positives >= 4
    assert found.precision >= 0.75
    assert found.recall >= 0.75


def test_precision_and_recall_are_those_of_the_rows() -> None:
    rows = labelled_rows("crisis.tsv", "held_out")
    labels = [row["crisis"] == "1" for row in rows]
    said = [crisis.is_crisis(row["text"]) for row in rows]
    hits = sum(label and yes for label, yes in zip(labels, said, strict=True))
    found = validate()[0]

    assert (found.evaluator, found.version, found.judgement) == ("crisis", crisis.VERSION, "crisis")
    assert (found.rows, found.positives) == (len(rows), sum(labels))
    assert found.precision == pytest.approx(hits / sum(said))
    assert found.recall == pytest.approx(hits / sum(labels))
    content = (Path(str(validation.FIXTURES)) / "crisis.tsv").read_bytes()
    assert found.fixture_sha256 == hashlib.sha256(content).hexdigest()


def test_no_row_is_both_tuned_on_and_held_out() -> None:
    fixtures = {path.name for path in Path(str(validation.FIXTURES)).glob("*.tsv")} - {"privacy_training.tsv"}
    for name in fixtures:
        tuning, held_out = (
            {
                tuple(value for key, value in row.items() if key != "split")
                for row in labelled_rows(name, split)
            }
            for split in ("tuning", "held_out")
        )
        assert tuning
        assert not tuning & held_out
    assert len(fixtures) == 8


def test_a_good_answer_scores_over_a_bad_one_in_every_pair() -> None:
    (order,) = (found for found in validate() if found.judgement == "ordered")

    assert (order.precision, order.recall, order.positives) == (1.0, 1.0, 12)


def test_the_documentation_has_the_table_of_today() -> None:
    page = (Path(__file__).parents[4] / "docs" / "explanation/therapy_evaluation.md").read_text(
        encoding="utf-8"
    )

    assert "\n".join(table()) in page
