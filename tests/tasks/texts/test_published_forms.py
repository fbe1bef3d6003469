"""The forms of known data sets, with rows made up for them: each is read as it is written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from gauntlet.tasks.language.data import read_table as read_conversations
from gauntlet.tasks.language.manifest import ConversationDataset
from gauntlet.tasks.text_classification.data import read_table
from gauntlet.tasks.text_classification.manifest import TextDataset


def _written(rows: list[list[str]], end: str = "\n", **settings: Any) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator=end, **settings).writerows(rows)
    return stream.getvalue()


def _read(path: Path, content: str, labels: list[str], **settings: Any) -> list[tuple[str, str]]:
    path.write_text(content, encoding="utf-8", newline="")
    dataset = {"name": "d", "version": "1", "uri": str(path), "labels": labels} | settings
    table = read_table(TextDataset.model_validate(dataset))
    assert table["fault"].isna().all()
    return list(zip(table["text"], table["label"], strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_banking77_quotes_texts_of_several_lines(tmp_path: Path, end: str) -> None:
    texts = [
        "What is the exchange rate, today?",
        'My card says "declined"',
        "I made a transfer,\nand it has not arrived\n",
        '"Hello"\n\nmy top-up, which I made yesterday,\nfailed',
        "Why?\n",
    ]
    labels = [
        "exchange_rate",
        "declined_card_payment",
        "transfer_not_received",
        "top_up_failed",
        "exchange_rate",
    ]
    rows = [list(row) for row in zip(texts, labels, strict=True)]
    content = _written([["text", "category"], *rows], end)
    assert _read(tmp_path / "train.csv", content, sorted(set(labels))) == list(
        zip(texts, labels, strict=True)
    )


def test_the_hate_speech_tweets_have_an_index_column_quotes_and_class_numbers(
    tmp_path: Path,
) -> None:
    names = ["", "count", "hate_speech", "offensive_language", "neither", "class", "tweet"]
    tweets = [
        '!!! RT @somebody: as a friend, I say "no"',
        '"""quoted from the start""" &#128514;&#128514;',
        '" @one: first line\n" @two: second line, longer" yes',
        "&quot;entity&quot;; semicolon | bar\tand tab",
        'ends in a quote"',
        "\U0001f602 an emoji as a character",
    ]
    rows = [[str(n), "3", "0", "1", "2", str(n % 3), tweet] for n, tweet in enumerate(tweets)]
    labels = ["hate_speech", "offensive_language", "neither"]
    read = _read(
        tmp_path / "labeled_data.csv",
        _written([names, *rows]),
        labels,
        columns={"text": "tweet", "label": "class"},
    )
    assert read == [(tweet, labels[n % 3]) for n, tweet in enumerate(tweets)]


def test_emotion_has_a_semicolon_before_the_label_and_no_quotes_that_mean_anything(tmp_path: Path) -> None:
    lines = [
        "i feel 'fine', really;joy",
        "i didnt feel humiliated;sadness",
        'i feel "so so;anger',
        'he said "no";joy',
    ]
    read = _read(
        tmp_path / "train.txt", "text;label\n" + "\n".join(lines) + "\n", ["joy", "sadness", "anger"]
    )
    assert read == [tuple(line.rsplit(";", 1)) for line in lines]


def test_goemotions_has_tabs_indices_no_header_and_stray_quotes(tmp_path: Path) -> None:
    texts = [
        "My favourite food is anything I didn't have to cook, [NAME].",
        '"I feel this way, and nobody asks',
        'so he said "what?" and left"',
        '"Sure" they said; fine | ok',
        "It's wonderful \U0001f602",
    ]
    rows = [f"{text}\t{n % 3}\tid{n}" for n, text in enumerate(texts)]
    labels = ["anger", "joy", "neutral"]
    columns = {"text": 0, "label": 1}
    read = _read(tmp_path / "train.tsv", "\n".join(rows) + "\n", labels, columns=columns)
    assert read == [(text, labels[n % 3]) for n, text in enumerate(texts)]


COUNSEL_NAMES = ["questionID", "questionTitle", "questionText", "topic", "answerText", "upvotes", "split"]
QUESTIONS = ['I feel low,\r\nand "alone"\n\nWhat, if anything, helps?', "", "One line"]
ANSWERS = ["<p>Talk, to\nsomebody</p>", 'A "second"\n\nanswer', "Third, and\r\nlast"]


@pytest.mark.parametrize("with_index", [False, True])
def test_counselchat_quotes_questions_and_answers_of_several_lines(tmp_path: Path, with_index: bool) -> None:
    names = ["", *COUNSEL_NAMES] if with_index else COUNSEL_NAMES
    rows = [
        [*([str(n)] if with_index else []), f"q{n}", "Title", question, "depression", answer, "2", "train"]
        for n, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
    ]
    path = tmp_path / "conversations.csv"
    path.write_text(_written([names, *rows]), encoding="utf-8", newline="")
    dataset = {"name": "d", "version": "1", "uri": str(path), "tokenizer": "none"}
    table = read_conversations(ConversationDataset.model_validate(dataset))
    assert table["empty"].notna().tolist() == [False, True, False]
    assert table["response"].dropna().tolist() == ["<p>Talk, to\nsomebody</p>", "Third, and\nlast"]
    assert table["opening"].iloc[0] == 'I feel low,\nand "alone"\n\nWhat, if anything, helps?'
    texts = {"text": "answerText", "label": "topic"}
    read = _read(path, path.read_text(encoding="utf-8"), ["depression", "anxiety"], columns=texts)
    assert [text for text, _ in read] == [answer.replace("\r\n", "\n") for answer in ANSWERS]
