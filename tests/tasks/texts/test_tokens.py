"""Texts as their encoder reads them: a vocabulary of words, framed by two tokens, 64 positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.text_classification.data import check_table
from gauntlet.tasks.text_classification.manifest import TextDataset
from gauntlet.tasks.texts.data import CheckedTexts, TokenCounter
from tests.text_tables import text_rows

KNOWN = ("good", "bad", "day", "night", "very")
FRAMING = 2


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *KNOWN)
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)  # as published files have it, and which must not hide anything
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "bert", "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def _inspected(encoder: Path, texts: list[str], most: int = 16, **checks: Any) -> CheckedTexts:
    labels = ("a", "b") * (len(texts) // 2)
    rows = text_rows(
        [(text, label, "train") for text, label in zip(texts, labels, strict=True)], first_line=2
    )
    content = {"name": "d", "version": "1", "uri": "/d", "labels": ["a", "b"], "checks": checks}
    dataset = TextDataset.model_validate(content | {"tokenizer": str(encoder), "max_tokens": most})
    return check_table(rows, dataset)


def _result(checked: CheckedTexts, name: str) -> Any:
    return next(result for result in checked.results if result.check == name)


def test_tokens_are_counted_whatever_the_tokenizers_file_says_of_length(encoder: Path) -> None:
    texts = pl.Series(["good day", "good " * 20, "guten tag"])
    tokens, unknown = TokenCounter(encoder / "tokenizer.json").count(texts)
    assert tokens.tolist() == [2 + FRAMING, 20 + FRAMING, 2 + FRAMING]
    assert unknown.tolist() == [0, 0, 2]


def test_a_unigram_tokenizer_has_its_unknown_token_by_number(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.Unigram([("a", -1.0), ("<unk>", -9.0)], unk_id=1, byte_fallback=False))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    _, unknown = TokenCounter(tmp_path / "tokenizer.json").count(pl.Series(["aa", "aé"]))
    assert unknown.tolist() == [0, 1]


def test_rows_that_the_encoder_hardly_knows_are_counted_and_named(encoder: Path) -> None:
    texts = [*(["good day"] * 97), "guten tag", "good tag night", "very bad wetter"]
    checks = {"max_fraction": 0.02, "max_row_share": 0.33}
    result = _result(_inspected(encoder, texts, unknown_tokens=checks), "unknown_tokens")
    assert (result.rows_affected, result.verdict) == (3, "fail")
    assert result.examples[0] == f"1.98 % of all tokens are unknown to {encoder}"  # 4 of 202
    assert result.examples[1] == "train.csv line 99: 100 % of 2 tokens unknown: “guten tag”"
    fewer = checks | {"max_row_share": 0.34}
    result = _result(_inspected(encoder, texts, unknown_tokens=fewer), "unknown_tokens")
    assert (result.rows_affected, result.verdict) == (1, "pass")


@pytest.mark.parametrize(
    ("severity", "max_share", "verdict"),
    [("fail", 0.24, "fail"), ("fail", 0.25, "pass"), ("warn", 0.24, "warn"), ("drop", 0.24, "fail")],
)
def test_the_share_of_all_tokens_has_a_bound_of_its_own(
    encoder: Path, severity: str, max_share: float, verdict: str
) -> None:
    rule = {"severity": severity, "max_row_share": 0.5, "max_share": max_share}
    result = _result(_inspected(encoder, ["good bad day tag"] * 4, unknown_tokens=rule), "unknown_tokens")
    assert result.verdict == verdict
    assert result.rows_affected == 0
    if verdict != "pass":
        assert result.found == "25 % of all tokens unknown"
        assert result.key == "dataset.checks.unknown_tokens.max_share"
    assert dict(result.settings) == ({result.key: 0.25} if verdict == "fail" else {})


def test_dropped_rows_do_not_count_in_the_share_of_all_tokens(encoder: Path) -> None:
    rule = {"severity": "drop", "max_fraction": 0.5, "max_share": 0.0}
    checked = _inspected(encoder, ["guten tag", "good day", "bad day", "good night"], unknown_tokens=rule)
    assert _result(checked, "unknown_tokens").verdict == "drop"
    assert len(checked.rows) == 3


def test_texts_that_are_cut_are_a_warning_that_says_how_much_is_never_read(encoder: Path) -> None:
    texts = ["good " * 30, "bad day", "night " * 10, "very " * 14]
    result = _result(_inspected(encoder, texts), "context_length")
    assert (result.rows_affected, result.verdict) == (1, "warn")
    assert result.examples[0] == (  # 16 of 30 + 2 tokens are read, of 56 tokens in all
        "1 text is cut at 16 tokens (training.max_length; the encoder reads up to 64): 28.6 % of all "
        "tokens are never read, and the longest text has 32"
    )
    assert result.examples[1].startswith("train.csv line 2: 32 tokens: “good good")
    dropped = _inspected(encoder, texts, context_length={"severity": "drop", "max_fraction": 0.5})
    assert len(dropped.rows) == 3


def test_more_tokens_than_the_encoder_reads_are_refused(encoder: Path) -> None:
    assert _result(_inspected(encoder, ["good day"] * 2, most=64), "context_length").verdict == "pass"
    with pytest.raises(UsageError, match=r"training.max_length: found 65, expected at most 64"):
        _inspected(encoder, ["good day"] * 2, most=65)


@pytest.mark.parametrize("content", ["{}", "no json", '{"model": {"type": "Nothing"}}'])
def test_a_file_that_is_no_tokenizer_is_refused_by_name(encoder: Path, content: str) -> None:
    (encoder / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"training.encoder: .*tokenizer.json: found no tokenizer"):
        _inspected(encoder, ["good day"] * 2)
