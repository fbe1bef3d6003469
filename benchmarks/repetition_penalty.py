"""Which `conversion.repetition_penalty` a language model answers best with, on rows that no gate reads.

    python benchmarks/repetition_penalty.py RUN --penalties 1 1.05 1.1 1.15 1.2 --max-new-tokens 96

RUN is the `steps/<pipeline>-<time>` folder of a finished run of a language model. Its bundle answers its
validation rows once for each penalty; printed are ROUGE-1 and ROUGE-L of the likeliest answers and ROUGE-L of
drawn ones, means over the rows. The same seed draws the same answers.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from gauntlet.serving.generation import Generator
from gauntlet.tasks.language.answers import answer, read_prompts
from gauntlet.tasks.language.manifest import LanguageEvaluation
from gauntlet.tasks.language.metrics import figures, measure_rows
from gauntlet.tasks.language.packing import token_rows
from gauntlet.trainer.splits import read_split

SHOWN = ("rouge1", "rouge_l", "sampled_rouge_l")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--penalties", type=float, nargs="+", default=[1.0, 1.05, 1.1, 1.15, 1.2])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    settings = LanguageEvaluation(prompts=options.prompts, max_new_tokens=options.max_new_tokens)
    model = Generator(options.run / "convert-to-onnx/bundle")
    most, splits = model.info.max_length, options.run / "validate-data/splits"
    assert most is not None, "not the run of a language model"
    prompts = read_prompts(splits, settings, options.seed, "validation")
    drawn = read_split(splits, "validation").loc[list(prompts.ids)]
    prompts = replace(prompts, rows=tuple(token_rows(drawn, model.tokenizer, most)))
    print(f"{len(prompts.ids)} validation rows of {len(set(prompts.conversations))} conversations")
    print("penalty", *(f"{name:>15}" for name in SHOWN))
    for penalty in options.penalties:
        model.decoder.repetition_penalty = penalty
        answers = answer(model.decoder, model.tokenizer, prompts, settings, options.seed)
        found = figures(measure_rows(prompts, answers), np.ones((1, len(prompts.ids))))
        print(f"{penalty:7g}", *(f"{found[name][0]:15.4f}" for name in SHOWN), flush=True)


if __name__ == "__main__":
    main()
