"""How a language model is timed: by continuing prompts. It imports little, since memory is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gauntlet.components.convert_to_onnx.timing_worker import Batches, Forward
from gauntlet.serving.bundle import Device

NEW_TOKENS = 16  # by which each prompt of a batch is continued


def generating(folder: Path, batches: Batches, threads: int, device: Device) -> Forward:  # noqa: ARG001
    """A language model's checkpoint as transformers continues prompts, greedily and with its cache."""
    import torch

    from gauntlet.tasks.causal_lm.training import network_of

    torch.set_num_threads(threads)
    network: Any = network_of(folder)

    def forward(size: int, index: int) -> None:
        inputs = {name: torch.from_numpy(array) for name, array in batches[size][index].items()}
        with torch.inference_mode():
            network.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )

    return forward


def generating_onnx(path: Path, batches: Batches, threads: int, device: Device) -> Forward:  # noqa: ARG001
    """A language model's graph as serving continues prompts, greedily and with its cache."""
    from gauntlet.serving.generation import Decoder

    decoder = Decoder(path, threads)
    decoder.stop_tokens = []  # as many tokens as the other makes

    def forward(size: int, index: int) -> None:
        batch = batches[size][index]
        rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
        decoder.continue_tokens([ids[mask == 1].tolist() for ids, mask in rows], NEW_TOKENS)

    return forward
