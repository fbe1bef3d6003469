"""The forms that data for fine-tuning come in: Alpaca's, ShareGPT's, OpenAI's, TRL's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gauntlet.components.validate_data.run import run
from gauntlet.manifests.errors import DataError
from gauntlet.tasks.causal_lm.data import ChatRenderer
from gauntlet.tasks.language.manifest import ConversationDataset, PromptColumns, RoleMarkers
from gauntlet.tasks.language.turns import (
    EmptyError,
    Example,
    Turn,
    conversation_of,
    examples_of,
)
from gauntlet.tasks.managed_causal_lm.data import ManagedRenderer
from tests.language_models import conversations, write_llama

TOOL_TEMPLATE = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}{% set called = call.function %}"
    "<call>{{ called.name }} {{ called.arguments | tojson }}</call>{% endfor %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def examples(record: dict[str, Any], columns: PromptColumns | None = None) -> list[Example]:
    return list(examples_of(conversation_of(record, columns, RoleMarkers()).turns))


def said(record: dict[str, Any], columns: PromptColumns | None = None) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation_of(record, columns, RoleMarkers()).turns]


def message(role: str, content: Any = None, **keys: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"instruction": "Add.", "input": "1 and 2", "output": "3", "text": "### Instruction: …"},
            [("user", "Add.\n\n1 and 2"), ("assistant", "3")],
        ),
        ({"instruction": "Greet.", "input": "", "output": "Hi."}, [("user", "Greet."), ("assistant", "Hi.")]),
        (
            {"instruction": "Sum up.", "context": "A text.", "response": "Short.", "category": "qa"},
            [("user", "Sum up.\n\nA text."), ("assistant", "Short.")],
        ),
        ({"prompt": "Why?", "completion": " Because."}, [("user", "Why?"), ("assistant", "Because.")]),
        (
            {"prompt": [message("user", "Why?")], "completion": [message("assistant", "Because.")]},
            [("user", "Why?"), ("assistant", "Because.")],
        ),
        (
            {
                "system": "Be kind.",
                "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}],
            },
            [("system", "Be kind."), ("user", "Why?"), ("assistant", "Because.")],
        ),
        (
            {"messages": [message("developer", "Be kind."), message("user", "a"), message("assistant", "b")]},
            [("system", "Be kind."), ("user", "a"), ("assistant", "b")],
        ),
        (
            {
                "messages": [
                    message("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
                    message("assistant", "c", tool_calls=None, name=None),
                ]
            },
            [("user", "a\nb"), ("assistant", "c")],
        ),
    ],
)
def test_each_known_form_of_a_record_is_read(record: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert said(record) == expected


def test_a_column_for_the_input_is_joined_in_where_the_manifest_names_it() -> None:
    columns = PromptColumns(prompt="q", response="a", input="passage", system="role")
    record = {"q": "Who?", "passage": "A text.", "a": "He.", "role": "Be brief.", "source": "web", "n": 3}
    assert said(record, columns) == [
        ("system", "Be brief."),
        ("user", "Who?\n\nA text."),
        ("assistant", "He."),
    ]
    assert conversation_of(record, columns, RoleMarkers()).unread_columns == ("source",)


def test_an_answer_of_weight_0_stays_in_the_context_and_is_not_learned() -> None:
    record = {
        "messages": [
            message("user", "a"),
            message("assistant", "b", weight=0),
            message("user", "c", weight=0),
            message("assistant", "d", weight=1),
        ]
    }
    (one,) = examples(record)
    assert [turn.text for turn in one.context] == ["a", "b", "c"]
    assert one.response == "d"
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]}
    with pytest.raises(EmptyError, match="each has the weight 0"):
        examples(shared)


def test_the_messages_of_a_prompt_are_not_learned() -> None:
    prompt = [message("user", "a"), message("assistant", "b"), message("user", "c")]
    (one,) = examples({"prompt": prompt, "completion": [message("assistant", "d")]})
    assert one.response == "d" and len(one.context) == 3


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([message("user", "a"), message("assistant", "b", weight=0.5)], "found the weight “0.5”"),
        ([message("user", "a", weight=1), message("assistant", "b")], "only answers are learned"),
        (
            [message("user", "a"), message("assistant", "b", weight=0), message("assistant", "c")],
            "two answers in a row, of which one has the weight 0",
        ),
        (
            [
                message("user", [{"type": "image_url", "image_url": {"url": "http://x"}}]),
                message("assistant", "b"),
            ],
            "a part of the type “image_url”: a language model reads only text here",
        ),
        (
            [message("user", "a"), message("assistant", tool_calls=[{"function": {"arguments": "{}"}}])],
            "where the call of a tool should be, with its name",
        ),
        (
            [message("user", "a"), message("assistant", function_call={"name": "f", "arguments": "{"})],
            "where JSON should be",
        ),
        ([message("user", "a"), message("assistant", None)], "an empty turn of the assistant"),
    ],
)
def test_what_cannot_be_learned_as_it_is_meant_is_a_fault(messages: list[Any], words: str) -> None:
    with pytest.raises(EmptyError, match=words):
        examples({"messages": messages})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def tool_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_llama(tmp_path_factory.mktemp("tools"))
    (folder / "chat_template.jinja").write_text(TOOL_TEMPLATE, encoding="utf-8")
    return folder


def tool_messages() -> list[dict[str, Any]]:
    called = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
    }
    return [
        message("user", "Is it warm in Bern?"),
        message("assistant", tool_calls=[called]),
        message("tool", '{"celsius": 21}', tool_call_id="call_1"),
        message("assistant", "It is 21 degrees."),
    ]


def test_calls_of_tools_are_rendered_by_the_chat_template_and_learned(tool_model: Path) -> None:
    conversation = conversation_of({"messages": tool_messages(), "tools": [WEATHER]}, None, RoleMarkers())
    calling, telling = examples_of(conversation.turns)
    renderer = ChatRenderer(str(tool_model))
    for one in (calling, telling):
        assert renderer.unrendered(one.context, one.answer, conversation.tools) is None
    first, second = renderer.render(
        [calling.context, telling.context], [calling.answer, telling.answer], [conversation.tools] * 2
    )
    assert first.prompt == "[weather]user: Is it warm in Bern?\nassistant: "
    assert first.response == '<call>weather {"city": "Bern"}</call>'
    assert first.target == first.response + "<|end|>"
    assert second.prompt.endswith('</call><|end|>\ntool: {"celsius": 21}\nassistant: ')


def test_a_function_is_the_older_name_of_a_tool() -> None:
    record = {
        "messages": [
            message("user", "a"),
            message("assistant", function_call={"name": "weather", "arguments": "{}"}),
            message("function", "21", name="weather"),
            message("assistant", "b"),
        ],
        "functions": [{"name": "weather"}],
    }
    conversation = conversation_of(record, None, RoleMarkers())
    assert conversation.turns[2] == Turn("tool", "21", name="weather")
    assert json.loads(conversation.tools) == [{"type": "function", "function": {"name": "weather"}}]
    assert conversation.unread_keys == () and conversation.unread_columns == ()


def test_tools_that_the_template_leaves_out_are_a_fault_and_no_silence(model: Path) -> None:
    turns = conversation_of({"messages": tool_messages()}, None, RoleMarkers()).turns
    *context, answer = turns
    plain = ChatRenderer(str(model))
    assert plain.unrendered(context, answer, "") == "the chat template leaves out the call of weather"
    assert plain.unrendered(context[:1], answer, "") is None
    told = "the chat template leaves out the tool weather"
    assert plain.unrendered(context[:1], answer, json.dumps([WEATHER])) == told
    assert "only texts" in str(ManagedRenderer().unrendered(context, answer, ""))


def validate(folder: Path, model: Path, uri: Path, **section: Any) -> None:
    content = {"name": "talk", "version": "1", "uri": str(uri), "tokenizer": str(model), "max_tokens": 128}
    dataset = ConversationDataset.model_validate(content | section)
    run("causal_lm", dataset, folder / "splits", folder / "checks.json", folder / "report.html")


def checks(folder: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((folder / "checks.json").read_text(encoding="utf-8"))["checks"]
    return {check["check"]: check for check in found}


def alpaca() -> list[dict[str, Any]]:
    return [
        {
            "instruction": question,
            "input": f"Note {at}." if at % 3 else "",
            "output": answer,
            "source": "web",
            "votes": at / 2,
        }
        for at, (question, answer) in enumerate(conversations())
    ]


@pytest.mark.parametrize("form", ["parquet", "json", "jsonl", "csv"])
def test_alpaca_data_keep_their_input_in_every_format_and_other_columns_are_named(
    tmp_path: Path, model: Path, form: str
) -> None:
    path = tmp_path / f"alpaca.{form}"
    if form == "parquet":
        pd.DataFrame(alpaca()).to_parquet(path)
    elif form == "csv":
        pd.DataFrame(alpaca()).to_csv(path, index=False)
    else:
        lines = "\n".join(map(json.dumps, alpaca()))
        path.write_text(lines if form == "jsonl" else json.dumps(alpaca()), encoding="utf-8")
    validate(tmp_path, model, path)
    frame = pd.concat([pd.read_parquet(file) for file in (tmp_path / "splits").glob("*.parquet")])
    with_input = frame[frame["question"].str.contains(r"\n\nNote \d+\.$")]
    assert (len(frame), len(with_input)) == (72, 48)
    unused = checks(tmp_path)["unused_columns"]
    assert (unused["verdict"], unused["found"]) == ("warn", "source in 72 rows")


def test_a_column_with_text_that_the_manifest_leaves_out_is_named(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "alpaca.jsonl"
    path.write_text("\n".join(map(json.dumps, alpaca())), encoding="utf-8")
    columns = {"prompt": "instruction", "response": "output"}
    with pytest.raises(DataError, match="unused_columns: found input in 48 rows"):
        validate(
            tmp_path,
            model,
            path,
            columns=columns,
            checks={"unused_columns": {"severity": "fail", "ignore": ["source"]}},
        )
    advised = checks(tmp_path)["unused_columns"]["settings"]
    assert advised == {"dataset.checks.unused_columns.ignore": ["source", "input"]}


def test_messages_in_parquet_are_read_without_the_keys_that_are_null(tmp_path: Path, model: Path) -> None:
    records = [
        {"messages": [message("user", question), message("assistant", answer, weight=at % 2)]}
        for at, (question, answer) in enumerate(conversations())
    ]
    pd.DataFrame(records).to_parquet(tmp_path / "talk.parquet")
    with pytest.raises(DataError, match="empty_conversations: found 36 rows"):
        validate(tmp_path, model, tmp_path / "talk.parquet")
    drop = {"empty_conversations": {"severity": "drop", "max_fraction": 0.5}}
    validate(tmp_path / "again", model, tmp_path / "talk.parquet", checks=drop)
    assert checks(tmp_path / "again")["message_keys"]["verdict"] == "pass"


def plain_messages() -> list[dict[str, Any]]:
    return [
        {"messages": [message("user", question), message("assistant", answer)]}
        for question, answer in conversations()
    ]


def test_a_key_of_a_message_that_nothing_reads_is_a_fault(tmp_path: Path, model: Path) -> None:
    records = [
        {"messages": [message("user", question), message("assistant", answer)]}
        for question, answer in conversations()
    ]
    records[4]["messages"][1]["train"] = False
    path = tmp_path / "talk.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    with pytest.raises(DataError, match="message_keys: found 1 row"):
        validate(tmp_path, model, path)
    told = "talk.jsonl line 5: nothing reads train of a message of the assistant"
    assert checks(tmp_path)["message_keys"]["examples"] == [told]
    validate(tmp_path / "kept", model, path, checks={"message_keys": {"severity": "warn"}})


def test_rows_with_tools_are_refused_where_the_model_s_template_has_none(tmp_path: Path, model: Path) -> None:
    records = [
        {"messages": [message("user", question), message("assistant", answer)]}
        for question, answer in conversations()
    ]
    records.append({"messages": tool_messages()})
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(DataError, match="tool_messages: found 2 rows"):
        validate(tmp_path, model, path)
    assert checks(tmp_path)["tool_messages"]["examples"][0].startswith(
        "talk.json conversation 73: the chat template"
    )
