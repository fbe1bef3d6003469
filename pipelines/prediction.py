"""What `gauntlet predict` prints: the likeliest class of each row, or a language model's answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gauntlet.backends.factory import bundle_folder
from gauntlet.backends.registry import BUNDLE_TAG, ModelVersion
from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.terminal import borderless, console, errors, plain
from gauntlet.serving.bundle import MANAGED_TASK, Bundle, read_info
from gauntlet.serving.generation import Generator, PromptError
from gauntlet.serving.inputs import Image, InputError, Rows


def print_predictions(
    version: ModelVersion, given: Sequence[str], max_new_tokens: int, as_json: bool
) -> None:
    """Score the rows with a version's bundle.

    Raises:
        UsageError: A row cannot be read.
        BundleError: The bundle is incomplete or altered.
    """
    with bundle_folder(version) as folder:
        task = read_info(folder, version.tags.get(BUNDLE_TAG)).task
        if task == MANAGED_TASK:
            _print_answers(given, _managed_answers(folder, given, max_new_tokens), as_json)
        elif task == "causal_lm":
            _print_answers(given, _local_answers(version, folder, given, max_new_tokens), as_json)
        else:
            _classify(version, folder, given, as_json)


def _classify(version: ModelVersion, folder: Path, given: Sequence[str], as_json: bool) -> None:
    """Print the likeliest class of each text, image or card."""
    bundle = Bundle(folder, sha256=version.tags.get(BUNDLE_TAG))
    grades = bundle.info.task == "ordinal_grading"
    inputs: Rows = given
    if bundle.info.max_length is None:
        inputs = _read_cards(bundle, given) if grades else _read_images(bundle, given)
    columns = ["text" if bundle.info.max_length is not None else "image", "label"]
    if grades:
        columns = ["front", "back", "grade"]
    own = _grading(bundle, inputs) if grades else {}
    table = borderless(*columns, "probability", *own)
    try:
        scores = bundle.probabilities(inputs)
    except InputError as error:
        raise UsageError(str(error)) from None
    for row, probabilities in enumerate(scores):
        if as_json:
            asked = given[2 * row : 2 * row + 2] if grades else [given[row]]
            said = dict(zip(columns, asked, strict=False)) | {
                "label": bundle.info.labels[int(probabilities.argmax())],
                "probabilities": dict(zip(bundle.info.labels, map(float, probabilities), strict=True)),
                **{column: cells[row] for column, cells in own.items()},
            }
            print(json.dumps(said, ensure_ascii=False))
            continue
        best = int(probabilities.argmax())
        names = given[2 * row : 2 * row + 2] if grades else [given[row]]
        found = [f"{probabilities[best]:.3f}", *(cells[row] for cells in own.values())]
        table.add_row(*map(plain, names), bundle.info.labels[best], *found)
    notes = errors if as_json else console
    if not as_json:
        console.print(table)
    most = bundle.info.max_length
    for row in bundle.cut(inputs):
        notes.print(f"text {row + 1}: cut at {most} tokens, as in training; the rest is not read")


def _grading(bundle: Bundle, cards: Rows) -> dict[str, list[str]]:
    """What a grader says beside the grade, by column."""
    expected, centering = bundle.outputs(cards, ("expected_grade", "centering"))
    shares = [[f"{share:.0f}/{100 - share:.0f}" for share in of_card] for of_card in centering]
    return {
        "expected": [f"{grade:.2f}" for grade in expected],
        "centering of the front": [", ".join(of_card[:2]) for of_card in shares],
        "of the back": [", ".join(of_card[2:]) for of_card in shares],
    }


def _read_cards(bundle: Bundle, paths: Sequence[str]) -> list[Image]:
    """Front and back of each card, one after the other."""
    if len(paths) % 2:
        raise UsageError(
            f"{paths[-1]}: found {len(paths)} image files, expected front and back of each card, in turn."
        )
    sides = _read_images(bundle, paths)
    return [np.stack(pair) for pair in zip(sides[::2], sides[1::2], strict=True)]


def _read_images(bundle: Bundle, paths: Sequence[str]) -> list[Image]:
    from gauntlet.serving.images import read_image

    try:
        return [read_image(Path(path), bundle.info.inputs[0].shape[1:]) for path in paths]
    except InputError as error:
        raise UsageError(str(error)) from None


def _local_answers(
    version: ModelVersion, folder: Path, questions: Sequence[str], max_new_tokens: int
) -> Sequence[str]:
    """What a language model answers each question, by its likeliest tokens, one after the other.

    Together the longest question would say how much memory all of them take.
    """
    generator = Generator(folder, sha256=version.tags.get(BUNDLE_TAG))
    answers = []
    for number, prompt in enumerate(_prompts(generator.framed, questions), start=1):
        try:
            answers += generator.generate([prompt], max_new_tokens)
        except PromptError as error:
            raise UsageError(f"text {number}: {error}.") from None
    return answers


def _managed_answers(folder: Path, questions: Sequence[str], max_new_tokens: int) -> Sequence[str]:
    """What a vendor's endpoint answers."""
    from gauntlet.tasks.language.manifest import LanguageEvaluation
    from gauntlet.tasks.managed_causal_lm.evaluation import ManagedModel

    model = ManagedModel(folder, LanguageEvaluation(max_new_tokens=max_new_tokens))
    return model.ask(_prompts(model.framed, questions))


def _prompts(framed: Callable[[str], str], questions: Sequence[str]) -> list[str]:
    prompts = []
    for number, question in enumerate(questions, start=1):
        try:
            prompts.append(framed(question))
        except PromptError as error:
            raise UsageError(f"text {number}: {error}.") from None
    return prompts


def _print_answers(questions: Sequence[str], answers: Sequence[str], as_json: bool) -> None:
    if as_json:
        for question, answer in zip(questions, answers, strict=True):
            print(json.dumps({"question": question, "answer": answer.strip()}, ensure_ascii=False))
        return
    table = borderless("question", "answer")
    for question, answer in zip(questions, answers, strict=True):
        table.add_row(plain(question), plain(answer.strip()))
    console.print(table)
