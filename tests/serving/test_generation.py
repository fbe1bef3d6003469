"""Generation with a language model that adds, which can be computed by hand: tests/adding_bundles.py."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from gauntlet.serving.bundle import BundleError
from gauntlet.serving.generation import (
    Decoder,
    Generator,
    PromptError,
    Sampling,
    Stream,
    Streams,
    penalised,
    readable,
)
from tests.adding_bundles import adding_model, write_adding
from tests.serving.running import SECONDS, running, start


@pytest.fixture
def adding_bundle(tmp_path: Path) -> Path:
    return write_adding(tmp_path, "moods")


@pytest.fixture
def decoder(adding_bundle: Path) -> Decoder:
    return Decoder(adding_bundle / "model.onnx", threads=1)


def test_prompts_of_different_lengths_are_continued_greedily(adding_bundle: Path) -> None:
    prompts = ["one two", "three", "one one one one one", "four one two"]
    assert Generator(adding_bundle).generate(prompts, 4) == [
        "three six two four",  # 1 + 2 = 3, 6, 12, 24
        "three six two four",
        "five",  # 5, 10: the last digit is 0, which ends the text
        "seven four eight six",  # 7, 14, 28, 56
    ]


def test_tokens_that_follow_the_stop_token_are_no_part_of_the_text(decoder: Decoder) -> None:
    steps = list(decoder.steps([[5], [1, 1]], 6))
    assert [step.tolist() for step in steps] == [[5, 2], [0, 4], [0, 8], [0, 6], [0, 2], [0, 4]]
    assert decoder.continue_tokens([[5], [1, 1]], 6) == [[5], [2, 4, 8, 6, 2, 4]]


def test_generation_ends_once_every_row_has(decoder: Decoder) -> None:
    assert [step.tolist() for step in decoder.steps([[5], [2, 3]], 6)] == [[5, 5], [0, 0]]
    assert decoder.continue_tokens([[4, 6], [9, 1]], 6) == [[], []]


def test_no_prompts_have_no_continuations(decoder: Decoder) -> None:
    assert decoder.continue_tokens([], 3) == []
    assert decoder.continue_tokens([[1], [2]], 0) == [[], []]


def test_a_stream_gives_the_same_text_in_pieces_and_not_the_stop_token(adding_bundle: Path) -> None:
    generator = Generator(adding_bundle)
    assert list(generator.stream("one two", 3)) == ["three", " six", " two"]
    assert list(generator.stream("five", 9)) == ["five"]


@pytest.mark.parametrize("prompt", [1, 3, 6])
def test_logits_are_the_same_however_many_columns_are_read_at_once(decoder: Decoder, prompt: int) -> None:
    tokens = np.array([[1, 2, 3, 4, 5, 6], [9, 9, 7, 1, 1, 1], [2, 2, 2, 2, 9, 9]])
    mask = np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    digits = [[1, 3, 6, 0, 5, 1], [0, 0, 7, 8, 9, 0], [2, 4, 6, 8, 8, 8]]  # of the sums of what is not masked
    logits = decoder.logits(tokens, mask, prompt)
    assert logits.shape == (3, 6, 10)
    assert logits.argmax(axis=2).tolist() == digits
    np.testing.assert_array_equal(logits[0, 1], -((np.arange(10) - 3.0) ** 2))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7),
        Sampling(temperature=1.5, top_k=3),
        Sampling(temperature=1.0, top_p=0.8),
        Sampling(temperature=2.0, top_k=6, top_p=0.5),
        Sampling(temperature=1.0, top_k=99, top_p=1e-9),
    ],
    ids=str,
)
def test_probabilities_are_those_of_transformers(sampling: Sampling) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (5, 10)).astype(np.float32)
    scores = TemperatureLogitsWarper(sampling.temperature)(None, torch.from_numpy(logits))
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    np.testing.assert_allclose(sampling.probabilities(logits), scores.softmax(dim=1).numpy(), atol=1e-6)


def test_tokens_that_are_there_already_are_penalised_as_by_transformers() -> None:
    draw = np.random.default_rng(0)
    logits, rows = draw.normal(0, 2, (5, 10)).astype(np.float32), draw.integers(0, 10, (5, 4))
    seen = np.zeros((5, 10), dtype=bool)
    np.put_along_axis(seen, rows, True, axis=1)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.from_numpy(rows), torch.from_numpy(logits.copy()))
    np.testing.assert_allclose(penalised(logits, seen, 1.3), expected.numpy(), rtol=1e-6)
    np.testing.assert_array_equal(penalised(logits, seen, 1.0), logits)


def test_a_penalty_is_for_tokens_of_the_prompt_and_of_the_answer(tmp_path: Path) -> None:
    model = adding_model()
    for node in model.graph.node:
        node.output[:] = ["negative" if name == "logits" else name for name in node.output]
    model.graph.node.append(helper.make_node("Add", ["negative", "ten"], ["logits"]))  # else the best is 0
    onnx.save(model, tmp_path / "model.onnx")
    two = [[2]]
    assert Decoder(tmp_path / "model.onnx", 1).continue_tokens(two, 3) == [[2, 4, 8]]
    # Of 9 for 1 and 3 and 10 / 2 for 2, 1 is the first; then the sums are 3 and 6, which are new.
    worn = Decoder(tmp_path / "model.onnx", 1, repetition_penalty=2.0)
    assert worn.continue_tokens(two, 3) == [[1, 3, 6]]
    assert worn.continue_tokens([[1, 1]], 1) == [[2]]
    assert worn.continue_tokens([[1, 1], *two], 3)[1] == [1, 3, 6]


def test_a_bundle_says_which_penalty_its_model_answers_with(adding_bundle: Path) -> None:
    assert Generator(adding_bundle).decoder.repetition_penalty == 1.0
    content = json.loads((adding_bundle / "bundle.json").read_text())
    (adding_bundle / "bundle.json").write_text(json.dumps(content | {"repetition_penalty": 1.5}))
    assert Generator(adding_bundle).decoder.repetition_penalty == 1.5


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits = np.log(np.array([[0.0, 0.5, 0.2, 0.3]], dtype=np.float32) + 1e-30)
    drawn = Sampling(temperature=1.0).draw(np.repeat(logits, 20_000, axis=0), np.random.default_rng(0))
    shares = Counter(drawn.tolist())
    assert set(shares) == {1, 2, 3}
    for token, share in ((1, 0.5), (2, 0.2), (3, 0.3)):
        assert shares[token] / 20_000 == pytest.approx(share, abs=0.015)  # four standard deviations


def test_a_seed_draws_the_same_text_again_and_another_seed_another(decoder: Decoder) -> None:
    sampling = Sampling(temperature=3.0)
    first, again, other = (decoder.continue_tokens([[1, 2], [3]], 8, sampling, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_sampling_outside_its_range_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected temperature >= 0, top_k >= 0 and 0 < top_p <= 1"):
        Sampling(**settings)


def test_a_prompt_that_the_model_cannot_read_is_refused(adding_bundle: Path) -> None:
    generator = Generator(adding_bundle)
    with pytest.raises(PromptError, match="prompt 2 has no tokens"):
        generator.generate(["one", " "], 2)
    long = " ".join(["one"] * 10)
    assert generator.generate([long], 2) == [""]  # twelve tokens just fit; the sum's last digit is 0
    with pytest.raises(PromptError, match="prompt 1 has 10 tokens, with 3 new ones more than the 12"):
        generator.generate([long], 3)


def test_a_bundle_of_another_task_does_not_generate(bundle_folder: Path) -> None:
    with pytest.raises(BundleError, match="not the graph of a causal language model"):
        Generator(bundle_folder)


def test_a_question_is_framed_as_training_read_it_or_refused(adding_bundle: Path) -> None:
    generator = Generator(adding_bundle)
    assert generator.framed("  one two\n") == "one two"
    with pytest.raises(PromptError, match="found nothing"):
        generator.framed(" \n")
    with pytest.raises(PromptError, match=r"control character U\+001B"):
        generator.framed("one \x1b[31m")
    with pytest.raises(PromptError, match=r"found <\|end\|>, a token of the model's template"):
        readable("one <|end|> two", ["<|end|>"])
    assert readable("a\tb\r\nc ") == "a\tb\r\nc"


def test_streams_that_join_and_end_at_any_step_have_the_tokens_that_each_has_alone(decoder: Decoder) -> None:
    prompts = [[1, 2], [4, 1, 2], [5], [1], [3, 3, 3, 4], [7]]
    streams, running_ = [Stream(prompt, 5) for prompt in prompts], Streams(decoder)
    for stream in streams:  # each joins when those before it have made a step more
        running_.join(stream)
        running_.step()
    assert len(running_) == 3
    while len(running_):
        running_.step()
    assert [stream.tokens for stream in streams] == [
        [3, 6, 2, 4, 8],  # 1 + 2 = 3, 6, 12, 24, 48
        [7, 4, 8, 6, 2],  # 7, 14, 28, 56, 112
        [5],  # 5, 10: the last digit is 0, which ends a text
        [1, 2, 4, 8, 6],
        [3, 6, 2, 4, 8],
        [7, 4, 8, 6, 2],
    ]
    assert [stream.finish for stream in streams] == ["length", "length", "stop", "length", "length", "length"]


def test_a_stream_that_is_dropped_changes_no_other(decoder: Decoder) -> None:
    short, long, other = Stream([1, 1], 6), Stream([9, 9, 9, 4], 6), Stream([2, 5], 3)
    running_ = Streams(decoder)
    for stream in (short, long, other):
        running_.join(stream)
    assert running_.step() == [short, long, other]
    running_.drop(long)
    assert (len(long.tokens), len(running_)) == (2, 2)
    while len(running_):
        running_.step()
    assert (short.tokens, other.tokens) == ([2, 4, 8, 6, 2, 4], [7, 4, 8])
    with pytest.raises(PromptError, match="has 10 tokens, with 3 new ones more than the 12"):
        running_.join(Stream([1] * 10, 3))


def test_streams_draw_with_a_penalty_and_a_seed_of_their_own(adding_bundle: Path) -> None:
    decoder = Decoder(adding_bundle / "model.onnx", threads=1, repetition_penalty=1.3)
    for sampling, seed in ((Sampling(), 0), (Sampling(temperature=2.0, top_k=5), 3)):
        alone = decoder.continue_tokens([[1, 2]], 6, sampling, seed)[0]
        streams = Streams(decoder)
        streams.join(Stream([3, 1, 4], 6, Sampling(temperature=1.5), seed=8))
        one = Stream([1, 2], 6, sampling, seed)
        streams.join(one)
        while len(streams):
            streams.step()
        assert one.tokens == alone


EVENT = "data: "


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of each server-sent event before the last one, which says that it is the last."""
    *found, last, end = answer.text.split("\n\n")
    assert (last, end) == (EVENT + "[DONE]", "")
    return [json.loads(one.removeprefix(EVENT)) for one in found]


def test_a_server_has_openais_completions_whole_and_as_events(adding_bundle: Path) -> None:
    with running(str(adding_bundle)) as server:

        def ask(route: str, **content: object) -> httpx.Response:
            return httpx.post(server.url + route, json={"model": "moods", **content}, timeout=SECONDS)

        chat, text = "/v1/chat/completions", "/v1/completions"
        messages = [{"role": "user", "content": "one two"}]
        usage = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
        whole = ask(chat, messages=messages, max_tokens=4).json()
        assert whole["choices"][0] == {
            "index": 0,
            "message": {"role": "assistant", "content": "three six two four"},
            "finish_reason": "length",
        }
        assert (whole["object"], whole["usage"]) == ("chat.completion", usage)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = ask(chat, messages=messages, max_completion_tokens=4, **options)
        assert streamed.headers["content-type"].startswith("text/event-stream")
        first, *pieces, last, with_usage = events(streamed)
        assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(one["choices"][0]["delta"]["content"] for one in pieces) == "three six two four"
        assert last["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "length"}
        assert (with_usage["choices"], with_usage["usage"]) == ([], usage)
        assert {one["object"] for one in (first, *pieces, last)} == {"chat.completion.chunk"}
        stopped = ask(text, prompt="five", max_tokens=7).json()["choices"][0]
        assert (stopped["text"], stopped["finish_reason"]) == ("five", "stop")  # 5, 10: a digit 0 ends it
        assert [
            one["choices"][0]["text"] for one in events(ask(text, prompt="five", max_tokens=7, stream=True))
        ] == [
            "five",
            "",
        ]
        drawn = [ask(text, prompt="one", max_tokens=6, temperature=3.0, seed=5).json() for _ in range(2)]
        assert drawn[0]["choices"] == drawn[1]["choices"]
        paths = httpx.get(server.url + "/openapi.json", timeout=SECONDS).json()["paths"]
        schema = paths[chat]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema["example"]["messages"][0]["role"] == "user"
        listed = httpx.get(server.url + "/v1/models", timeout=SECONDS).json()
        assert [one["id"] for one in listed["data"]] == ["moods"]
        for content, message in (
            ({"prompt": "one", "n": 2}, "n: this server cannot do that"),
            ({"prompt": "one", "tools": [{}]}, "tools: this server cannot do that"),
            (
                {"prompt": "one", "temprature": 1},
                "found the key 'temprature', which this server does not know",
            ),
            ({"prompt": "one", "max_tokens": 64}, "prompt 1 has 1 tokens, with 64 new ones"),
            ({"prompt": " "}, "it is empty"),
            ({}, "prompt: found none"),
        ):
            refused = ask(text, **content)
            assert refused.status_code == 400
            assert message in refused.json()["error"]["message"]
        system = [{"role": "system", "content": "Add."}, *messages]
        assert (
            "expected one message of the role user" in ask(chat, messages=system).json()["error"]["message"]
        )
        assert ask(text, model="other", prompt="one").status_code == 404


def test_a_server_ends_when_the_second_of_its_models_cannot_be_opened(adding_bundle: Path) -> None:
    for other, message in ((adding_bundle, "two models are named 'moods'"), ("/nowhere", "no such file")):
        process = start((str(adding_bundle), "--model", f"moods={other}"))
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode in (1, 2)
        assert message in errors


def test_answers_that_are_asked_for_together_are_those_that_each_has_alone(adding_bundle: Path) -> None:
    with running(str(adding_bundle), "--batching", "on") as server:
        content = {
            "instances": ["one two", "three", "four one two", "five"] * 4,
            "parameters": {"max_new_tokens": 4},
        }
        answer = httpx.post(server.url + "/predict", json=content, timeout=SECONDS).json()
        expected = ["three six two four", "three six two four", "seven four eight six", "five"] * 4
        assert [one["answer"] for one in answer["predictions"]] == expected
        _, [line], _ = server.end()
        assert line["batch_rows"] > 1


def test_a_server_answers_questions_with_as_many_tokens_as_a_request_allows(adding_bundle: Path) -> None:
    with running(str(adding_bundle)) as server:

        def ask(content: object) -> httpx.Response:
            return httpx.post(server.url + "/predict", json=content, timeout=SECONDS)

        answer = ask({"instances": ["one two", {"question": "three"}], "parameters": {"max_new_tokens": 4}})
        assert answer.json()["predictions"] == [{"answer": "three six two four"}] * 2
        for parameters, message in (
            (
                {"max_new_tokens": 64},
                "instances[0]: prompt 1 has 2 tokens, with 64 new ones more than the 12",
            ),
            (
                {"max_new_tokens": 0},
                "instances[0]: found 0 new tokens and the seed 0, expected 1 and 0 at least",
            ),
            ({"max_new_tokens": 1.5}, "parameters.max_new_tokens: found 1.5, expected a whole number"),
            ({"max_new_tokens": 4, "temperature": -1}, "expected temperature >= 0"),
            ({"beams": 1}, 'parameters: found "beams", expected one of max_new_tokens, temperature'),
        ):
            refused = ask({"instances": ["one two"], "parameters": parameters})
            assert refused.status_code == 400
            assert message in refused.json()["error"]
