"""How many tokens an encoder reads, held against networks that are run with so many."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from gauntlet.manifests.errors import UsageError
from gauntlet.tasks.text_classification.manifest import TextTraining
from gauntlet.tasks.text_classification.training import TextClassification
from gauntlet.tasks.texts.encoder_files import (
    EncoderFiles,
    find_encoder,
    find_here,
    require_positions,
)

SIZES = {
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
POSITIONS = 24


def _reads(folder: Path, tokens: int) -> bool:
    network = AutoModel.from_config(AutoConfig.from_pretrained(folder)).eval()
    ids = torch.full((1, tokens), 5)
    try:
        with torch.no_grad():
            network(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("bert", {}, 24),
        ("electra", {"embedding_size": 8}, 24),
        ("albert", {"embedding_size": 8}, 24),
        ("distilbert", {"dim": 8, "hidden_dim": 8, "n_layers": 1, "n_heads": 2}, 24),
        ("roberta", {"pad_token_id": 1}, 22),
        ("xlm-roberta", {"pad_token_id": 1}, 22),
        ("camembert", {"pad_token_id": 3}, 20),
        ("mpnet", {"pad_token_id": 1}, 22),
    ],
)
def test_the_positions_are_those_that_the_network_can_read(
    kind: str, settings: dict[str, int], expected: int, tmp_path: Path
) -> None:
    config = AutoConfig.for_model(kind, **SIZES, max_position_embeddings=POSITIONS, **settings)
    config.save_pretrained(tmp_path)
    assert EncoderFiles(tmp_path).positions == expected
    assert _reads(tmp_path, expected)
    assert not _reads(tmp_path, expected + 1)


def test_relative_positions_have_no_end(tmp_path: Path) -> None:
    settings = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    config = AutoConfig.for_model("deberta-v2", **SIZES, max_position_embeddings=24, **settings)
    config.save_pretrained(tmp_path)
    assert EncoderFiles(tmp_path).positions is None
    assert _reads(tmp_path, 40)


def test_the_packaged_encoder_reads_512_tokens() -> None:
    name = "sentence-transformers/all-MiniLM-L6-v2"
    files = find_encoder(name)
    assert files.positions == 512
    require_positions(files, name, 512)
    with pytest.raises(UsageError, match=r"training.max_length: found 1024, expected at most 512"):
        require_positions(files, name, 1024)


def test_an_encoder_on_the_hub_is_not_here(tmp_path: Path) -> None:
    assert find_here("somebody/encoder") is None
    with pytest.raises(UsageError, match=r"lacks config.json, model.safetensors, tokenizer.json"):
        find_here(str(tmp_path))


def test_training_refuses_texts_longer_than_the_encoder_reads_before_it_reads_any(
    tiny_encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"training.max_length: found 129, expected at most 128"):
        TextClassification(TextTraining(encoder=str(tiny_encoder), max_length=129), tmp_path / "no splits")


def test_the_log_says_how_many_texts_are_cut(tiny_encoder: Path, tiny_splits: Path) -> None:
    section = TextTraining(encoder=str(tiny_encoder), max_length=8)
    assert TextClassification(section, tiny_splits).remarks == []
    shorter = section.model_copy(update={"max_length": 6})  # framed, texts have 6 to 8 tokens
    assert TextClassification(shorter, tiny_splits).remarks == [
        "48 of 72 training texts are cut at training.max_length, 6 tokens",
        "18 of 24 validation texts are cut at training.max_length, 6 tokens",
    ]
