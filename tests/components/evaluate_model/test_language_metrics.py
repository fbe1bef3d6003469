from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer

from gauntlet.tasks.language.answers import Answers, Prompts
from gauntlet.tasks.language.evaluation import Contender, assess
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.metrics import (
    RowFigures,
    _rouge,
    _Words,
    draws,
    figures,
    measure_rows,
)
from gauntlet.tasks.language.packing import TokenRow
from gauntlet.tasks.language.scores import Scores

REFERENCES = ("the cat sat on the mat today", "rain fell on the old town", "bees make honey in spring")
ANSWERS = ("the cat sat on a mat", "rain fell on the old town", "nothing at all")
PROMPTS = Prompts(
    ids=(4, 7, 9),
    questions=("a", "b", "c"),
    asked=("a", "b", "c"),
    references=REFERENCES,
    conversations=(0, 1, 2),
    rows=(TokenRow([1], [1, 2]), TokenRow([1], [1] * 6), TokenRow([1], [1] * 2)),
)
SETTINGS = LanguageEvaluation(bootstrap_resamples=500)
RNG = np.random.default_rng(6)


def answers(greedy: tuple[str, ...] = ANSWERS, losses: tuple[float, ...] = (2.0, 3.0, 5.0)) -> Answers:
    return Answers(np.array(losses), greedy, greedy)


def test_figures_are_those_of_the_libraries_and_perplexity_is_weighted_by_token() -> None:
    found = figures(measure_rows(PROMPTS, answers()), np.ones((1, 3)))
    assert found["perplexity"][0] == pytest.approx(math.exp((2 + 3 + 5) / (2 + 6 + 2)))
    assert found["bleu"][0] == pytest.approx(sacrebleu.corpus_bleu(ANSWERS, [REFERENCES]).score / 100)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(*pair) for pair in zip(REFERENCES, ANSWERS, strict=True)]
    for key, name in (("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rougeL", "rouge_l")):
        assert found[name][0] == pytest.approx(np.mean([score[key].fmeasure for score in scores]))
    assert found["rouge_l"][0] == pytest.approx((10 / 13 + 1 + 0) / 3)  # 5 of 6 and 5 of 7 words in order


def test_a_resample_has_the_figures_of_the_rows_that_it_drew() -> None:
    weights = np.array([[2.0, 0.0, 1.0]])
    found = figures(measure_rows(PROMPTS, answers()), weights)
    assert found["perplexity"][0] == pytest.approx(math.exp((2 * 2 + 5) / (2 * 2 + 2)))
    drawn = [0, 0, 2]
    expected = sacrebleu.corpus_bleu([ANSWERS[at] for at in drawn], [[REFERENCES[at] for at in drawn]]).score
    assert found["bleu"][0] == pytest.approx(expected / 100)
    assert draws((0, 1, 2), 50, seed=1).sum(axis=1).tolist() == [3.0] * 50


def test_rows_of_one_conversation_are_drawn_together() -> None:
    weights = draws((5, 8, 5, 9, 5), 200, seed=1)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 0] == weights[:, 4]).all()
    assert set(weights[:, [0, 1, 3]].sum(axis=1)) == {3.0}


def test_more_references_to_the_same_questions_make_no_interval_narrower() -> None:
    """Four copies of a row hold no more than the row; drawn one by one they would halve the interval."""
    once = (RNG.normal(3, 1, 80), RNG.integers(5, 20, 80).astype(float))
    widths = []
    for copies in (1, 4):
        losses, tokens = (np.repeat(part, copies) for part in once)
        rows = RowFigures(losses, tokens, means={}, bleu=np.ones((len(losses), 10)))
        drawn = figures(rows, draws(np.repeat(np.arange(80), copies).tolist(), 2_000, seed=3))["perplexity"]
        low, high = np.quantile(drawn, (0.025, 0.975))
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0], rel=1e-9)


def test_a_champion_is_compared_on_the_prompts_that_neither_model_was_trained_on() -> None:
    theirs = answers(("the cat", "rain fell on the old town", "bees make"), (3.0, 0.5, 6.0))
    seen, clean = np.array([False, True, False]), np.array([True, False, True])
    champion = Contender("version 3", theirs, "3", seen)
    found = assess(
        PROMPTS, answers(), Contender("base", theirs), champion, SETTINGS, 2, np.zeros(3, dtype=bool)
    )
    alone = assess(
        PROMPTS.where(clean),
        answers().where(clean),
        Contender("base", theirs.where(clean)),
        Contender("version 3", theirs.where(clean), "3"),
        SETTINGS,
        2,
    )
    assert found.champion == alone.champion
    assert found.champion is not None and found.champion.conversations == 2
    # exp(9/4) less exp(7/4): the second prompt, which the champion was trained on, does not count
    assert found.champion.gains["perplexity"].value == pytest.approx(math.exp(9 / 4) - math.exp(7 / 4))
    assert found.baseline != alone.baseline
    assert (found.rows, found.training_overlap.champion, found.training_overlap.clean_rows) == (3, 1, 2)


def test_a_champion_that_was_trained_on_nearly_all_prompts_cannot_be_compared() -> None:
    champion = Contender("version 3", answers(), "3", np.array([True, True, False]))
    found = assess(PROMPTS, answers(), Contender("base", answers()), champion, SETTINGS, 2)
    assert found.champion is None
    assert str(found.champion_error).startswith("2 of 3 test prompts were in the champion's training split")


def scorecard(tuned: Answers, baseline: Answers, champion: Contender | str | None = None) -> Scores:
    return assess(PROMPTS, tuned, Contender("base", baseline), champion, SETTINGS, seed=2)


def test_gains_are_positive_where_the_tuned_model_is_better_whichever_way_the_figure_goes() -> None:
    worse = answers(("cat", "rain", "honey"), losses=(4.0, 6.0, 9.0))
    gains = scorecard(answers(), worse).baseline.gains
    assert gains["perplexity"].value == pytest.approx(math.exp(1.9) - math.exp(1.0))
    assert gains["perplexity"].interval[0] > 0
    assert gains["rouge_l"].interval[0] < gains["rouge_l"].value < gains["rouge_l"].interval[1]


def test_the_champion_is_known_by_the_version_that_the_registry_knows() -> None:
    card = scorecard(answers(), answers(), Contender("version 3", answers(), "3")).as_json()
    assert card["champion"]["version"] == "3"
    assert "version" not in card["baseline"]


def test_the_same_answers_gain_nothing_on_any_resample() -> None:
    for gain in scorecard(answers(), answers()).baseline.gains.values():
        assert (gain.value, gain.interval) == (0.0, (0.0, 0.0))


def test_a_gain_that_every_row_shares_is_surer_than_the_figures_are() -> None:
    """A paired interval knows that both models met the same rows."""
    tuned = answers(losses=(1.0, 12.0, 8.0))
    other = replace(tuned, losses=tuned.losses + np.array([0.2, 0.6, 0.2]))
    card = scorecard(tuned, other)
    own = card.challenger["perplexity"].interval
    gain = card.baseline.gains["perplexity"].interval
    assert gain[0] > 0
    assert gain[1] - gain[0] < own[1] - own[0]


def test_a_champion_that_cannot_be_asked_is_told_in_words() -> None:
    content = scorecard(answers(), answers(), "Champion talk version 3 cannot be run").as_json()
    assert content["champion_error"].startswith("Champion talk version 3")
    assert "champion" not in content


def test_words_of_every_script_count_and_those_of_ascii_are_rouge_scores_own() -> None:
    texts = ("It's 3 o'clock, isn't it?", "snake_case and CAPS", "Привет, как дела?", "你好吗")
    found = [_rouge([text], [text])["rouge_l"][0] for text in texts]
    assert found == [1.0] * 4
    ours, theirs = _Words(), DefaultTokenizer(use_stemmer=False)
    assert [ours.tokenize(text) for text in texts[:2]] == [theirs.tokenize(text) for text in texts[:2]]


@pytest.mark.parametrize(
    ("reference", "answer", "expected"),
    [
        ("वह की किताब है", "वह का काताब हो", 0.25),  # one word of four
        ("আমি ভালো আছি", "আম ভেল আছ", 0.0),
        ("cafe\u0301 noir", "caf\u00e9 noir", 1.0),  # the accent as a mark of its own, and as one letter
        ("我喜欢苹果", "我喜欢梨", 2 * 3 / (5 + 4)),  # three characters of five and of four
        ("ราคาไม่แพง", "ราคาแพง", 2 * 7 / (9 + 7)),
        ("コーヒーを 飲む", "コーヒーを飲む", 1.0),
        ("Don't go, naïve_one 3.5!", "don t go naïve one 3 5", 1.0),
    ],
)
def test_rouge_counts_words_with_their_marks_and_characters_where_no_spaces_stand(
    reference: str, answer: str, expected: float
) -> None:
    assert _rouge([reference], [answer])["rouge1"][0] == pytest.approx(expected)
