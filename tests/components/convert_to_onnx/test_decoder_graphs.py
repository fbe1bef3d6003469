from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)
from transformers.models.cohere.modeling_cohere import apply_rotary_pos_emb as interleaved
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as in_halves

from gauntlet.components.convert_to_onnx.export import ConversionError
from gauntlet.serving.bundle import BundleInfo, TensorSpec, open_session, write_bundle
from gauntlet.serving.generation import Decoder, Tokens, pad_left
from gauntlet.tasks.causal_lm.conversion import (
    DecoderParity,
    ScoredBatch,
    compare,
    measure_neighbours,
    pytorch_logits,
)
from gauntlet.tasks.causal_lm.decoder import (
    DecoderGraph,
    export_decoder,
    is_usual_rotary,
    quantize_int8,
    quantize_per_token,
    quantize_weights,
)

REPOSITORY = Path(__file__).parents[3]
WORDS, LAYERS, COLUMNS, STOP = 64, 2, 12, 7
PROMPTS = [[3, 1, 4], [15, 9, 26, 5, 35, 8, 9, 7, 9], [32], [38, 46, 26, 43, 38, 32]]
TokensAndMask = tuple[Tokens, Tokens]


def pytorch_continuations(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_tokens: Sequence[int]
) -> list[list[int]]:
    """What `model.generate` adds greedily to prompts, padded on the left, without what ends a text."""
    ids, mask = (torch.from_numpy(array) for array in pad_left(prompts))
    with torch.inference_mode():
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=[*stop_tokens, -1],  # -1 is no token: an empty list would mean the model's own
            pad_token_id=0,
        )
    rows = found[:, ids.shape[1] :].tolist()
    ends = [next((at for at, token in enumerate(row) if token in stop_tokens), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def llama() -> PreTrainedModel:
    return wide_apart(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=WORDS,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=48,
                eos_token_id=STOP,
            )
        )
    )


def gpt2() -> PreTrainedModel:
    return wide_apart(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=WORDS,
                n_embd=32,
                n_layer=LAYERS,
                n_head=4,
                n_positions=48,
                bos_token_id=1,
                eos_token_id=STOP,
                tie_word_embeddings=False,  # a tied head repeats what it reads, as long as nothing is trained
            )
        )
    )


def wide_apart(model: PreTrainedModel) -> PreTrainedModel:
    """Weights far enough apart that the likeliest token is no matter of rounding."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module", params=[llama, gpt2], ids=["llama", "gpt2"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreTrainedModel, Path]:
    model = request.param()
    path = tmp_path_factory.mktemp("decoder") / "model.onnx"
    export_decoder(model, path)
    return model, path


@pytest.fixture(scope="module")
def texts() -> TokensAndMask:
    """Four rows: whole, padded on the left, padded on the right, and padded on both sides."""
    tokens = np.random.default_rng(0).integers(0, WORDS, (4, COLUMNS))
    mask = np.ones_like(tokens)
    mask[1, :5] = mask[2, 8:] = mask[3, :2] = mask[3, 9:] = 0
    return tokens, mask


def parity(model: PreTrainedModel, path: Path, texts: TokensAndMask, prompt: int = COLUMNS) -> DecoderParity:
    theirs = pytorch_logits(model, *texts, prompt=prompt)
    return compare([ScoredBatch(*texts, theirs, Decoder(path, threads=1).logits(*texts, prompt=prompt))])


@pytest.mark.parametrize("prompt", [COLUMNS, 5, 1])
def test_logits_of_ragged_rows_are_pytorchs_at_prefill_and_at_each_step_after_it(
    exported: tuple[PreTrainedModel, Path], texts: TokensAndMask, prompt: int
) -> None:
    found = parity(*exported, texts, prompt)
    assert found.tokens == texts[1].sum()
    assert found.max_abs_difference < 1e-4
    assert found.next_token_agreement == 1


def test_a_row_that_is_padded_has_the_logits_that_pytorch_gives_it_alone(
    exported: tuple[PreTrainedModel, Path], texts: TokensAndMask
) -> None:
    model, path = exported
    tokens, mask = texts
    logits = Decoder(path, threads=1).logits(tokens, mask)
    for row, real in enumerate(mask.astype(bool)):
        alone = model(torch.from_numpy(tokens[row, real])[None]).logits[0]
        np.testing.assert_allclose(logits[row, real], alone.detach().numpy(), atol=1e-4)


def test_greedy_continuations_of_ragged_prompts_are_those_of_generate(
    exported: tuple[PreTrainedModel, Path],
) -> None:
    model, path = exported
    decoder = Decoder(path, threads=1)
    endless = pytorch_continuations(model, PROMPTS, 30, [])
    assert all(len(set(row)) > 5 for row in endless)  # no row repeats itself
    decoder.stop_tokens = [endless[0][10]]
    together = pytorch_continuations(model, PROMPTS, 30, decoder.stop_tokens)
    alone = [pytorch_continuations(model, [prompt], 30, decoder.stop_tokens)[0] for prompt in PROMPTS]
    assert len(alone[0]) <= 10
    assert decoder.continue_tokens(PROMPTS, 30) == together == alone


def test_each_layer_has_one_attention_node_and_no_fallback_of_it(
    exported: tuple[PreTrainedModel, Path],
) -> None:
    model, path = exported
    operators = [node.op_type for node in onnx.load(path).graph.node]
    assert operators.count("Attention") == LAYERS
    assert "Softmax" not in operators
    assert operators.count("RotaryEmbedding") == (2 * LAYERS if model.config.model_type == "llama" else 0)


def test_the_model_is_left_as_it_was(exported: tuple[PreTrainedModel, Path]) -> None:
    model, _ = exported
    untouched = {"llama": llama, "gpt2": gpt2}[model.config.model_type]()
    tokens = torch.tensor([PROMPTS[0]])
    assert model.config._attn_implementation == "sdpa"
    torch.testing.assert_close(model(tokens).logits, untouched(tokens).logits, rtol=0, atol=0)


def test_only_rotary_positions_in_halves_become_a_node() -> None:
    assert is_usual_rotary(in_halves)
    assert not is_usual_rotary(interleaved)


def test_a_model_with_rotary_positions_of_its_own_is_exported_as_it_is(
    tmp_path: Path, texts: TokensAndMask
) -> None:
    model = wide_apart(
        CohereForCausalLM(
            CohereConfig(
                vocab_size=WORDS,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=STOP,
            )
        )
    )
    export_decoder(model, tmp_path / "model.onnx")
    assert parity(model, tmp_path / "model.onnx", texts, prompt=4).max_abs_difference < 1e-4


def sliding_window() -> PreTrainedModel:
    config = MistralConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=64, num_hidden_layers=1, sliding_window=4
    )
    return MistralForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: llama().bfloat16(), r"expected float32 weights, found torch\.bfloat16"),
        (sliding_window, "mistral: expected a decoder all of whose layers see every token"),
    ],
    ids=["bfloat16", "sliding-window"],
)
def test_a_model_that_the_graph_could_not_hold_is_refused(
    tmp_path: Path, make: Callable[[], PreTrainedModel], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        export_decoder(make(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_attention_with_a_soft_cap_is_refused() -> None:
    states = torch.zeros(1, 4, 3, 8)
    with pytest.raises(ConversionError, match="the model's attention uses softcap, which the export lacks"):
        DecoderGraph(llama()).attend(torch.nn.Module(), states, states, states, states, softcap=50.0)


def test_what_does_not_trace_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    class Untraceable(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states * float(states.sum())

    model = llama()
    model.model.norm = Untraceable()
    with pytest.raises(ConversionError, match="could not be exported: "):
        export_decoder(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    assert model.config._attn_implementation == "sdpa"


@pytest.fixture(scope="module")
def quantized(exported: tuple[PreTrainedModel, Path]) -> dict[str, Path]:
    _, graph = exported
    paths = {name: graph.with_name(f"{name}.onnx") for name in ("int8", "per token", "8 bits", "4 bits")}
    quantize_int8(graph, paths["int8"])
    quantize_per_token(graph, paths["per token"])
    quantize_weights(graph, paths["8 bits"], 8)
    quantize_weights(graph, paths["4 bits"], 4)
    return paths


def test_every_product_is_quantized(
    exported: tuple[PreTrainedModel, Path], quantized: dict[str, Path]
) -> None:
    products = {"llama": 7 * LAYERS + 1, "gpt2": 4 * LAYERS + 1}[exported[0].config.model_type]
    operator_of = {"int8": "MatMulInteger", "per token": "MatMulIntegerToFloat"}
    for name, path in quantized.items():
        operators = [node.op_type for node in onnx.load(path).graph.node]
        assert operators.count(operator_of.get(name, "MatMulNBits")) == products, name
        assert not {"MatMul", "Gemm"} & set(operators), name


def test_a_head_that_is_tied_to_the_embedding_is_quantized_too(tmp_path: Path) -> None:
    table = np.random.default_rng(0).normal(size=(WORDS, 32)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["embedding", "input_ids"], ["states"]),
        helper.make_node("Transpose", ["embedding"], ["head"], perm=[1, 0]),
        helper.make_node("MatMul", ["states", "head"], ["logits"]),
    ]
    tokens = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", WORDS])
    graph = helper.make_graph(
        nodes, "tied", [tokens], [logits], [numpy_helper.from_array(table, "embedding")]
    )
    opsets = [helper.make_opsetid("", 23)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "tied.onnx")
    for quantize in (quantize_int8, quantize_per_token, partial(quantize_weights, bits=8)):
        quantize(tmp_path / "tied.onnx", tmp_path / "small.onnx")
        assert not {"MatMul", "Transpose"} & {
            node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node
        }
        (found,) = open_session(tmp_path / "small.onnx", 1).run(None, {"input_ids": np.arange(WORDS)[None]})
        # Products of 32 numbers, of a deviation of 6: rounding weights to 7 bits costs about 0.07.
        assert np.sqrt(np.mean((found[0] - table @ table.T) ** 2)) < 0.09


def test_eight_bits_are_closer_than_four_and_both_can_still_generate(
    exported: tuple[PreTrainedModel, Path], quantized: dict[str, Path], texts: TokensAndMask
) -> None:
    found = {name: parity(exported[0], path, texts, prompt=6) for name, path in quantized.items()}
    # Weights of int8 have 7 bits, so their rounding step is twice that of 8 bits.
    for name, bound in (("int8", 0.04), ("8 bits", 0.02)):
        assert found[name].max_abs_difference < 0.5 * found["4 bits"].max_abs_difference
        assert abs(found[name].perplexity_change) < bound
        assert found[name].next_token_agreement > 0.9
    for path in quantized.values():
        assert Decoder(path, threads=1).stop_tokens == [STOP]
        assert len(Decoder(path, threads=1).continue_tokens(PROMPTS, 5)) == len(PROMPTS)


def test_a_scale_per_token_is_closer_to_pytorch_than_one_per_batch(
    exported: tuple[PreTrainedModel, Path], quantized: dict[str, Path]
) -> None:
    draw = np.random.default_rng(0)
    texts = pad_left([draw.integers(1, WORDS - 1, size).tolist() for size in draw.integers(8, 13, 30)])
    found = {name: parity(exported[0], path, texts, prompt=6) for name, path in quantized.items()}
    assert found["per token"].max_abs_difference < found["int8"].max_abs_difference
    assert found["per token"].next_token_agreement > 0.9
    assert abs(found["per token"].perplexity_change) < 0.02


def test_prompts_change_each_others_next_token_only_where_a_batch_shares_a_scale(
    quantized: dict[str, Path],
) -> None:
    rows = [list(range(1, 2 + at % 9)) for at in range(10)]
    effect = {name: measure_neighbours(Decoder(path, threads=1), rows) for name, path in quantized.items()}
    assert effect["per token"].max_difference < 1e-4 < effect["int8"].max_difference
    assert all(found.rows == 10 for found in effect.values())


def test_a_bundle_generates_where_torch_and_transformers_cannot_be_imported(
    exported: tuple[PreTrainedModel, Path], tmp_path: Path
) -> None:
    model, graph = exported
    tokenizer = Tokenizer(models.WordLevel({f"w{at}": at for at in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    info = BundleInfo(
        name="words",
        task="causal_lm",
        labels=(),
        inputs=(TensorSpec("input_ids", "int64", ("batch", "tokens")),),
        outputs=(TensorSpec("logits", "float32", ("batch", "kept", WORDS)),),
        max_length=48,
        opset=23,
        candidate="plain",
        precision="fp32",
        quality={},
        latency_ms={},
        speedup={},
        lineage={},
    )
    files = {"model.onnx": graph, "tokenizer.json": tmp_path / "tokenizer.json"}
    write_bundle(tmp_path / "bundle", info, files)
    program = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "pandas", "onnx"):
            raise ModuleNotFoundError(f"{{name}} is not in the serving image")

sys.meta_path.insert(0, Blocker())
from gauntlet.serving.generation import Generator, pad_left
prompts = [" ".join(f"w{{token}}" for token in prompt) for prompt in {PROMPTS}]
print(*Generator({str(tmp_path / "bundle")!r}, threads=1).generate(prompts, 8), sep="\\n")
"""
    served = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert served.stderr == ""
    expected = pytorch_continuations(model, PROMPTS, 8, [STOP])
    assert served.stdout.splitlines() == [" ".join(f"w{token}" for token in row) for row in expected]
