from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tokenizers import AddedToken
from transformers import AutoTokenizer

from gauntlet.backends import memory
from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError, UsageError
from gauntlet.tasks.causal_lm.tiny import END
from gauntlet.tasks.language.data import read_table
from gauntlet.tasks.language.manifest import ConversationDataset, RoleMarkers
from gauntlet.tasks.language.turns import EmptyError, Turn, conversation_of, examples_of
from gauntlet.tasks.managed_causal_lm.data import request_of
from tests.language_models import conversations, write_gpt2, write_jsonl


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("gpt2"))


def validate(folder: Path, model: Path, uri: Path, task: str = "causal_lm", **section: Any) -> dict[str, Any]:
    dataset = ConversationDataset.model_validate(
        {"name": "talk", "version": "1", "uri": str(uri), "tokenizer": str(model), "max_tokens": 96} | section
    )
    run(task, dataset, folder / "splits", folder / "checks", folder / "report.html")
    statistics: dict[str, Any] = json.loads((folder / "splits/statistics.json").read_text())
    return statistics


def checks(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "checks").read_text())["checks"]
    return {check["check"]: check for check in found}


def turns(record: dict[str, Any]) -> list[Turn]:
    return list(conversation_of(record, None, RoleMarkers()).turns)


def test_the_three_forms_of_a_record_say_the_same() -> None:
    expected = [Turn("user", "I am: tired."), Turn("assistant", "Since when?")]
    assert turns({"text": "Client: I am: tired.\ntherapist : Since when?"}) == expected
    assert turns({"input_text": "I am: tired.", "output_text": "Since when?"}) == expected
    messages = [{"role": "user", "content": "I am: tired."}, {"role": "assistant", "content": "Since when?"}]
    assert turns({"messages": messages}) == expected
    assert turns({"questionText": "I am: tired.", "answerText": "Since when?"}) == expected


def test_each_answer_is_an_example_with_all_turns_before_it() -> None:
    talk = "Therapist: Welcome.\nClient: Hello.\nClient: I am tired.\nTherapist: Since when?"
    talk += "\nClient: May.\nAI: I see."
    first, second = examples_of(turns({"text": talk}))
    assert first.context == (Turn("user", "Hello.\nI am tired."),)
    assert first.response == "Since when?"
    assert [turn.role for turn in second.context] == ["user", "assistant", "user"]
    assert second.response == "I see."
    assert first.opening == second.opening


def test_splits_hold_what_the_tokenizers_own_template_renders(tmp_path: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}\n{% endfor %}"
    )
    tokenizer.chat_template += "{% if add_generation_prompt %}[assistant]{% endif %}"
    folder = tmp_path / "model"
    tokenizer.save_pretrained(folder)
    statistics = validate(tmp_path, folder, write_jsonl(tmp_path / "talk.jsonl", conversations()))
    row = pd.read_parquet(tmp_path / "splits/test.parquet").iloc[0]
    assert row["prompt"] == f"[user]{row['question']}{END}\n[assistant]"
    assert row["target"] == row["response"] + END
    assert statistics["frame"] == ["[user]", f"{END}\n[assistant]"]
    assert sum(statistics["rows"].values()) == len(conversations())
    lengths = [
        len(tokenizer(prompt + target, add_special_tokens=False)["input_ids"])
        for prompt, target in pd.read_parquet(tmp_path / "splits/train.parquet")[["prompt", "target"]].values
    ]
    assert statistics["token_length"]["train"]["max"] == max(lengths)
    assert sum(statistics["token_length"]["train"]["counts"]) == len(lengths)


def test_answers_to_one_question_stay_in_one_split(tmp_path: Path, model: Path) -> None:
    rows = [(question, f"{answer} {turn}") for question, answer in conversations() for turn in ("a", "b")]
    validate(tmp_path, model, write_jsonl(tmp_path / "talk.jsonl", rows))
    splits = {
        name: pd.read_parquet(tmp_path / f"splits/{name}.parquet") for name in ("train", "validation", "test")
    }
    questions = [set(frame["question"]) for frame in splits.values()]
    assert all(len(frame) for frame in splits.values())
    assert (
        not questions[0] & questions[1]
        and not questions[0] & questions[2]
        and not questions[1] & questions[2]
    )


@pytest.mark.parametrize(
    ("check", "record"),
    [
        ("empty_conversations", {"text": ""}),
        ("empty_conversations", {"input_text": "Hello?", "output_text": " "}),
        ("role_markers", {"text": "I said hello and she said hello."}),
        ("role_markers", {"messages": [{"role": "narrator", "content": "It rained."}]}),
        ("encoding", {"input_text": "A bell \u0007 rings.", "output_text": "Oh."}),
        ("special_tokens", {"input_text": f"Stop{END}", "output_text": "Oh."}),
        ("context_length", {"input_text": "tea " * 120, "output_text": "Oh."}),
        ("exact_duplicates", {"input_text": conversations()[0][0], "output_text": conversations()[0][1]}),
    ],
)
def test_a_record_that_cannot_be_trained_on_is_refused_by_its_check(
    tmp_path: Path, model: Path, check: str, record: dict[str, Any]
) -> None:
    path = write_jsonl(tmp_path / "talk.jsonl", conversations())
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(DataError, match=rf"failed 1 of 10 checks[\s\S]*{check}: found 1 row"):
        validate(tmp_path, model, path)
    assert checks(tmp_path)[check]["examples"][0].find(f"line {len(conversations()) + 1}") >= 0
    assert not (tmp_path / "splits").exists()


@pytest.mark.parametrize("severity", ["fail", "drop"])
def test_a_record_of_the_test_file_that_holds_no_answer_is_counted_and_leaves(
    tmp_path: Path, severity: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    write_jsonl(data / "train.jsonl", conversations()[:20])
    with write_jsonl(data / "test.jsonl", conversations()[20:]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"messages": []}) + "\n")
    section = {
        "files": {"train": "train.jsonl", "test": "test.jsonl"},
        "checks": {"empty_conversations": {"severity": severity, "max_fraction": 0.5 * (severity == "drop")}},
    }
    model = Path("gemini-2.5-flash")
    if severity == "drop":
        statistics = validate(tmp_path, model, data, "managed_causal_lm", **section)
        assert statistics["rows"]["test"] == len(conversations()) - 20
    else:
        with pytest.raises(DataError, match="empty_conversations: found 1 row"):
            validate(tmp_path, model, data, "managed_causal_lm", **section)
    found = checks(tmp_path)["empty_conversations"]
    assert (found["rows_affected"], found["rows_dropped"]) == (1, 1)


def test_rows_that_are_too_long_are_counted_when_training_is_to_cut_them(tmp_path: Path, model: Path) -> None:
    path = write_jsonl(tmp_path / "talk.jsonl", [*conversations(), ("tea " * 120, "Oh.")])
    warn = {"context_length": {"severity": "warn"}}
    statistics = validate(tmp_path, model, path, checks=warn)
    assert checks(tmp_path)["context_length"]["verdict"] == "warn"
    assert sum(length["truncated"] for length in statistics["token_length"].values()) == 1


def test_a_prompt_of_two_provided_splits_is_a_leak(tmp_path: Path, model: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", conversations())
    write_jsonl(tmp_path / "test.jsonl", [(conversations()[3][0], "Another answer.")])
    with pytest.raises(DataError, match="leakage: found 1 row"):
        validate(tmp_path, model, tmp_path)


def test_data_with_another_hash_is_refused_before_it_is_read(tmp_path: Path, model: Path) -> None:
    path = write_jsonl(tmp_path / "talk.jsonl", conversations())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=f"found sha256 {found}, expected {'0' * 64}"):
        validate(tmp_path, model, path, sha256="0" * 64)
    validate(tmp_path, model, path, sha256=found)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("talk.json", '{"conversations": [3]}', "talk.json: expected .*conversations"),
        ("talk.json", "{", "talk.json: not JSON"),
        ("talk.json", '{"conversations": []}', "talk.json: found no conversations"),
        (
            "talk.csv",
            "a,b\n1,2\n",
            "found the columns a, b, expected input_text and output_text or questionText",
        ),
        ("talk.jsonl", "\n", "talk.jsonl: found an empty file"),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_is_expected(
    tmp_path: Path, model: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        validate(tmp_path, model, tmp_path / name)


def test_more_conversations_than_the_memory_holds_are_refused_all_files_together(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        write_jsonl(tmp_path / name, conversations())
    size = sum(file.stat().st_size for file in tmp_path.glob("*.jsonl"))
    monkeypatch.setattr(memory, "usable_memory", lambda: 10 * size - 1)
    with pytest.raises(
        DataError, match=r"^test.jsonl: found .* read whole, .* Conversations are held in memory"
    ):
        validate(tmp_path, model, tmp_path)


def test_a_model_that_is_nowhere_is_a_mistake_of_the_manifest(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "talk.jsonl", conversations())
    with pytest.raises(UsageError, match=r"training.model: .*no such file"):
        validate(tmp_path, tmp_path / "absent.gguf", path)
    with pytest.raises(UsageError, match=r"package no_such_package is not installed"):
        validate(
            tmp_path,
            Path("package://no_such_package/a.gguf"),
            path,
            tokenizer="package://no_such_package/a.gguf",
        )


def test_a_managed_models_rows_are_requests_whose_sides_take_turns() -> None:
    context = (("user", "a"), ("system", "b"), ("user", "c"), ("assistant", "d"), ("user", "e"))
    request = request_of(context)
    assert request["systemInstruction"]["parts"] == [{"text": "b"}]
    assert [(turn["role"], [part["text"] for part in turn["parts"]]) for turn in request["contents"]] == [
        ("user", ["a", "c"]),
        ("model", ["d"]),
        ("user", ["e"]),
    ]


def test_bad_records_are_refused_for_a_managed_model_too(tmp_path: Path) -> None:
    records = [*conversations(), ("Hello?", " "), ("A bell \u0007 rings.", "Oh.")]
    path = write_jsonl(tmp_path / "talk.jsonl", records)
    with pytest.raises(DataError, match=r"empty_conversations: found 1 row[\s\S]*encoding: found 1 row"):
        validate(tmp_path, Path("gemini-2.5-flash"), path, "managed_causal_lm")
    assert not (tmp_path / "splits").exists()


def test_splits_that_are_too_small_are_refused_before_they_are_written(tmp_path: Path, model: Path) -> None:
    path = write_jsonl(tmp_path / "talk.jsonl", conversations()[:1])
    with pytest.raises(
        DataError, match=r"kept 1 train, 0 validation, 0 test rows.*of at least 2 conversations"
    ):
        validate(tmp_path, model, path)
    assert not (tmp_path / "splits").exists()


def test_conversations_are_numbered_by_themselves_in_each_split(tmp_path: Path, model: Path) -> None:
    """So the same test file has the same numbers whatever is trained on."""
    rows = [(question, f"{answer} {turn}") for question, answer in conversations() for turn in ("a", "b")]
    validate(tmp_path, model, write_jsonl(tmp_path / "talk.jsonl", rows))
    for split in ("train", "test"):
        frame = pd.read_parquet(tmp_path / f"splits/{split}.parquet")
        assert sorted(set(frame["conversation"])) == list(range(len(frame) // 2))
        assert (frame.groupby("question")["conversation"].nunique() == 1).all()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (
            {"question": "a", "answer": "b"},
            "found the keys question, answer; expected messages, text, or input_text",
        ),
        ({"input_text": 5, "output_text": "b"}, "found “5” where a text should be"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "where a text should be"),
    ],
)
def test_a_record_without_a_text_says_what_it_has_instead(record: dict[str, Any], words: str) -> None:
    with pytest.raises(EmptyError, match=re.escape(words)):
        turns(record)


@pytest.mark.parametrize("name", ["Клиент", "Ms. P", "P1-x"])
def test_a_speaker_may_have_any_name(name: str) -> None:
    roles = RoleMarkers(user=(name,))
    found = conversation_of({"text": f"{name}: Hello.\nTherapist: Hi."}, None, roles).turns
    assert [(turn.role, turn.text) for turn in found] == [("user", "Hello."), ("assistant", "Hi.")]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "talk.csv"
    path.write_text("input_text,input_text,output_text\na,b,c\n")
    with pytest.raises(DataError, match="found the column input_text twice"):
        validate(tmp_path, model, path)


def test_no_answer_at_all_says_what_is_wrong_with_the_first_record(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"text": "hello"}\n{"text": ""}\n')
    with pytest.raises(DataError, match="line 1: does not begin with a role marker"):
        validate(tmp_path, model, path)


def test_what_the_system_says_in_all_conversations_stands_before_a_single_prompt(
    tmp_path: Path, model: Path
) -> None:
    def write(system: Callable[[int], str]) -> Path:
        path = tmp_path / "talk.jsonl"
        records = [
            {"messages": [{"role": role, "content": text} for role, text in talk]}
            for at, (question, answer) in enumerate(conversations())
            for talk in [(("system", system(at)), ("user", question), ("assistant", answer))]
        ]
        path.write_text("\n".join(map(json.dumps, records)))
        return path

    assert validate(tmp_path / "one", model, write(lambda _: "Be kind."))["frame"] == [
        "System: Be kind.\nUser: ", "\nAssistant:",
    ]  # fmt: skip
    assert validate(tmp_path / "two", model, write(lambda at: f"Be kind {at}."))["frame"][0] == "User: "


def test_every_token_that_the_tokenizer_treats_apart_is_special(tmp_path: Path, model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens([AddedToken("<|eot|>", special=True)])
    tokenizer.save_pretrained(tmp_path / "model")
    path = write_jsonl(tmp_path / "talk.jsonl", [*conversations(), ("Stop<|eot|>", "Oh.")])
    with pytest.raises(DataError, match="special_tokens: found 1 row"):
        validate(tmp_path, tmp_path / "model", path)


def test_a_row_has_what_the_user_says_last_and_in_all(tmp_path: Path, model: Path) -> None:
    records = [
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
                {"role": "user", "content": "And why?"},
                {"role": "system", "content": "Answer in one word."},
                {"role": "assistant", "content": "Because."},
            ]
        }
        for question, answer in conversations()
    ]
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    validate(tmp_path, model, path, max_tokens=128)
    frame = pd.read_parquet(tmp_path / "splits/train.parquet")
    last = frame[frame["response"] == "Because."]
    assert set(last["question"]) == {"And why?"}
    assert {asked.partition("\n")[2] for asked in last["asked"]} == {"And why?"}
    assert {asked.partition("\n")[0] for asked in last["asked"]} == set(frame["asked"]) - set(last["asked"])


def test_a_key_that_is_not_utf8_is_named_with_a_replacement_character(tmp_path: Path) -> None:
    """It reached the table as half a character once, which no table holds."""
    file = tmp_path / "talk.jsonl"
    file.write_bytes(b'{"input_text": "a", "output_text": "b"}\n{"messages\x8c": []}\n')
    section = ConversationDataset(name="talk", version="1", uri=str(file), tokenizer="none")
    assert read_table(section)["empty"].iat[-1].startswith("found the keys messages\ufffd; expected messages")
