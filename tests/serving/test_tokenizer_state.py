from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from gauntlet import manifests
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli import main
from gauntlet.serving.texts import TextInputs, TokenizerError, largest_id, open_tokenizer
from gauntlet.tasks.language.language_models import LanguageModelFiles, load_tokenizer
from gauntlet.tasks.texts.vocabulary import check_local_model, require_embedded
from tests.language_models import write_llama

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "fine")
TEXT = "good bad fine good bad fine good bad fine"


def tokenizer(words: tuple[str, ...] = WORDS) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, words.index(word)) for word in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return made


def written(folder: Path, made: Tokenizer, change: Any = None) -> Path:
    content = json.loads(made.to_str())
    if change:
        change(content)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("state", ["cuts", "pads", "pads to the longest"])
def test_a_tokenizer_that_cuts_or_pads_by_itself_does_neither_once_it_is_opened(
    tmp_path: Path, state: str
) -> None:
    expected = tokenizer().encode(TEXT).ids
    made = tokenizer()
    if state == "cuts":
        made.enable_truncation(4)
    else:
        made.enable_padding(length=32 if state == "pads" else None, pad_id=3, pad_token="[SEP]")
    opened = open_tokenizer(written(tmp_path, made))
    longer = [encoding.ids for encoding in opened.tokenizer.encode_batch([TEXT, "good"])]
    assert longer == [expected, [2, 4, 3]]
    assert opened.pad_id == (0 if state == "cuts" else 3)


def test_padding_of_a_file_that_says_nothing_of_it_is_by_the_vocabulary_s_own_token(tmp_path: Path) -> None:
    path = written(tmp_path, tokenizer(("<s>", *WORDS[1:], "<pad>")))
    assert (open_tokenizer(path).pad_id, open_tokenizer(path).pad_token) == (7, "<pad>")
    assert TextInputs.open(path, 8).batch(["good bad", "good"])["input_ids"].tolist() == [
        [2, 4, 5, 3],
        [2, 4, 3, 7],
    ]


def test_a_template_with_a_token_that_the_file_lacks_is_a_fault_and_no_panic(tmp_path: Path) -> None:
    path = written(tmp_path, tokenizer(), lambda file: file["post_processor"]["special_tokens"].pop("[CLS]"))
    with pytest.raises(TokenizerError, match=r"tokenizer.json: .*names the special token \[CLS\]"):
        open_tokenizer(path)


@pytest.mark.parametrize("content", ["{", "[]", '{"model": 3}', ""])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer.json: found no tokenizer"):
        open_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused_before_training(tmp_path: Path) -> None:
    path = written(tmp_path, tokenizer())
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 7}), encoding="utf-8")
    check_local_model(str(tmp_path), "training.encoder")
    with pytest.raises(UsageError, match="token ids up to 6, expected at most 5"):
        require_embedded(largest_id(open_tokenizer(path).tokenizer), 6, "model", "training.encoder")
    path = written(tmp_path, tokenizer(), _with_a_template_token_of(102))
    with pytest.raises(UsageError, match="token ids up to 102, expected at most 6"):
        check_local_model(str(tmp_path), "training.encoder")


def _with_a_template_token_of(number: int) -> Any:
    def change(file: dict[str, Any]) -> None:
        file["post_processor"]["special_tokens"]["[SEP]"]["ids"] = [number]

    return change


def test_a_language_model_s_tokenizer_neither_cuts_nor_pads_and_fits_its_embedding(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "model")
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = made.encode(TEXT * 20).ids
    made.enable_truncation(24)
    made.enable_padding(length=128)
    made.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(LanguageModelFiles(folder))
    assert loaded.backend_tokenizer.encode(TEXT * 20).ids == expected
    made.add_tokens(["<new>"])
    made.save(str(folder / "tokenizer.json"))
    with pytest.raises(UsageError, match=r"training\.model: .*: found a tokenizer with token ids up to"):
        load_tokenizer(LanguageModelFiles(folder))


def test_check_names_a_tokenizer_with_more_tokens_than_the_embedding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, tokenizer())
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 6}), encoding="utf-8")
    sample = Path(manifests.__path__[0]) / "emotion_sample.yaml"
    with pytest.raises(SystemExit) as ended:
        main(["check", str(sample), "--set", f"training.encoder={tmp_path}"])
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert "training.encoder" in printed and "token ids up to 6, expected at most 5" in printed
