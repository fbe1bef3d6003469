from __future__ import annotations

from gauntlet.manifests.kinds import Metric, known_metric, registered_metrics, task_kind


def test_a_metric_says_its_title_its_direction_and_its_score() -> None:
    perplexity = task_kind("causal_lm").metric("perplexity")
    assert (perplexity.title, perplexity.better, perplexity.as_score(20.0)) == ("perplexity", "lower", -20.0)
    assert known_metric("macro_f1").as_score(0.5) == 0.5
    assert known_metric("loss").as_score(0.5) == -0.5


def test_a_metric_that_no_table_has_is_shown_by_its_name() -> None:
    assert known_metric("token_kindness") == Metric("token_kindness", "token kindness")
    assert task_kind("causal_lm").metric("macro_f1").title == "macro f1"


def test_a_version_has_the_metrics_of_its_kind_as_tags() -> None:
    assert set(registered_metrics()) == {"macro_f1", "perplexity", "rouge_l", "mae", "r2"}
