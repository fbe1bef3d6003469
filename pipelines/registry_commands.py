"""The commands that look into the registry: its versions, the champion's answers, and moving the alias."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.table import Table

from gauntlet.backends.registry import (
    APPROVED_BY_TAG,
    BUNDLE_TAG,
    CHAMPION,
    OVERRULED_TAG,
    PREVIOUS,
    REASON_TAG,
    ModelVersion,
    Registry,
    bundle_folder,
    open_registry,
    turns,
)
from gauntlet.contracts.verdict import StageName
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.kinds import registered_metrics
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.overruling import promote_rejected
from gauntlet.pipelines.promotion import approval_of, promote_version
from gauntlet.pipelines.terminal import NAME_COLUMN, console, errors, plain, styled
from gauntlet.serving.bundle import MANAGED_TASK, Bundle, read_info
from gauntlet.serving.generation import Generator, PromptError
from gauntlet.serving.inputs import Image, InputError, Rows
from gauntlet.tasks.language.manifest import LanguageEvaluation

ModelName = Annotated[
    str | None, typer.Option("--model", help="The model's name; needed if there are several.")
]


def registry(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model's name; lists its history too.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The same.")] = None,
) -> None:
    """List the registered versions and their aliases; for one model, also when each became champion."""
    store = open_registry(gauntlet_home().registry_uri)
    wanted = _one(name, model)
    quality = registered_metrics()
    columns = ("model", "version", "aliases", "since (UTC)", "quality", NAME_COLUMN("run"), "bundle")
    table = Table(*columns, box=None, pad_edge=False)
    for one in [wanted] if wanted else store.names():
        versions = store.versions(one)
        since = alias_times(versions)
        for version in versions:
            tags = version.tags
            table.add_row(
                one,
                version.version,
                ", ".join(version.aliases),
                since.get(version.version, ""),
                ", ".join(f"{key} {tags[key]}" for key in quality if key in tags),
                tags.get("run_id", ""),
                tags.get("bundle_sha256", "")[:12],
            )
    if table.row_count:
        console.print(table)
    else:
        where = plain(gauntlet_home().registry_uri)
        message = f"nothing is registered in {where}: `gauntlet run MANIFEST` registers a model"
        console.print(message, soft_wrap=True, highlight=False)
    if wanted is not None:
        _print_history(store.versions(wanted))


def alias_times(versions: Sequence[ModelVersion]) -> dict[str, str]:
    """Since when each version has its aliases: champion and previous by the last move, others by creation."""
    found = {one.version: f"{one.created.astimezone(UTC):%Y-%m-%d %H:%M}" for one in versions if one.aliases}
    last = max(turns(versions), key=lambda turn: turn.at, default=None)
    for version in versions:
        if last and {CHAMPION, PREVIOUS} & set(version.aliases):
            found[version.version] = _minute(last.at)
    return found


def _print_history(versions: Sequence[ModelVersion]) -> None:
    """Print each time that a version became champion, newest first, with who approved it and why."""
    table = Table("champion since (UTC)", "version", "by", "approved by", "reason", box=None, pad_edge=False)
    tags = {version.version: version.tags for version in versions}
    for turn in reversed(turns(versions)):
        own = tags[turn.version] if turn.kind == "promote" else {}
        reason = own.get(REASON_TAG, "")
        if OVERRULED_TAG in own:
            reason += f" (the gate had rejected it for {own[OVERRULED_TAG]})"
        cells = (_minute(turn.at), turn.version, turn.kind, own.get(APPROVED_BY_TAG, ""), reason)
        table.add_row(*map(plain, cells))
    if table.row_count:
        console.print()
        console.print(table)


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")


def predict(
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="ROW",
            help="What to score: texts, or image files (PNG, JPEG), of cards front and back in turn; "
            "`-` reads one per line from stdin.",
        ),
    ],
    model: ModelName = None,
    alias: Annotated[
        Literal["champion", "staging", "challenger", "previous"], typer.Option(help="Which version is asked.")
    ] = "champion",
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Of a language model's answer, the most tokens.")
    ] = 64,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print a JSON object per row, with the probability of every class; with `-` read a JSON "
            "string per line, which may hold several lines of text.",
        ),
    ] = False,
) -> None:
    """Score texts or images with a registered bundle, or have its language model answer."""
    store = open_registry(gauntlet_home().registry_uri)
    name = _model_name(store, model)
    asked = store.by_alias(name, alias)
    if asked is None:
        raise UsageError(f"{name}: no version is {alias}. See `gauntlet registry`, then `gauntlet promote`.")
    given = _from_stdin(as_json) if rows == ["-"] else rows
    _require_readable(given)
    with bundle_folder(asked) as folder:
        task = read_info(folder, asked.tags.get(BUNDLE_TAG)).task
        if task == MANAGED_TASK:
            _print_answers(asked, given, _managed_answers(folder, given, max_new_tokens), as_json)
        elif task == "causal_lm":
            _print_answers(asked, given, _local_answers(asked, folder, given, max_new_tokens), as_json)
        else:
            _classify(asked, folder, given, as_json)


def _from_stdin(as_json: bool) -> list[str]:
    """A row per line: as it is, or a JSON string."""
    lines = [line.rstrip("\n") for line in sys.stdin]
    if not as_json:
        return lines
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, str):
            raise UsageError(f'line {number}: found {line!r:.60}, expected a JSON string, such as "a text".')
        rows.append(row)
    return rows


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
    table = Table(*columns, "probability", *own, box=None, pad_edge=False)
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
    notes.print(styled("[dim]{} version {}[/]", version.name, version.version))


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


def _print_answers(
    version: ModelVersion, questions: Sequence[str], answers: Sequence[str], as_json: bool
) -> None:
    if as_json:
        for question, answer in zip(questions, answers, strict=True):
            print(json.dumps({"question": question, "answer": answer.strip()}, ensure_ascii=False))
        errors.print(styled("[dim]{} version {}[/]", version.name, version.version))
        return
    table = Table("question", "answer", box=None, pad_edge=False)
    for question, answer in zip(questions, answers, strict=True):
        table.add_row(plain(question), plain(answer.strip()))
    console.print(table)
    console.print(styled("[dim]{} version {}[/]", version.name, version.version))


def promote(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model's name; needed if there are several.")
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Default: the challenger; for production what is in staging.")
    ] = None,
    to: Annotated[
        StageName | None, typer.Option(help="The stage, for a model whose manifest has stages.")
    ] = None,
    approver: Annotated[
        str | None,
        typer.Option("--approver", "--by", metavar="NAME", help="Who approves it; needed for production."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, in one line; recorded with the name.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Instead of a version: a run whose model the gate rejected; needs --by and --reason.",
        ),
    ] = None,
) -> None:
    """Make a registered version the champion, or `staging`; the old champion becomes `previous`."""
    home = gauntlet_home()
    store = open_registry(home.registry_uri)
    if run is None:
        name = _model_name(store, name)
        moved = promote_version(store, name, version, to, approver, reason)
        console.print(plain(moved), highlight=False, soft_wrap=True)
        return
    approval = approval_of(approver, reason)
    if version is not None or to is not None or approval is None or not approval.reason:
        raise UsageError(
            "--run: a rejected model is promoted with --by NAME and --reason TEXT, and without --version and "
            "--to."
        )
    move = promote_rejected(home, store, name or home.find_run(run).name, run, approval)
    console.print(plain(move), highlight=False, soft_wrap=True)


def rollback(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="The model's name; needed if there are several.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="The same.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Default: the previous champion; needed directly after a rollback.")
    ] = None,
) -> None:
    """Make the previous champion, or an earlier one, the champion again."""
    store = open_registry(gauntlet_home().registry_uri)
    console.print(plain(store.rollback(_model_name(store, _one(name, model)), version)), highlight=False)


def _one(name: str | None, model: str | None) -> str | None:
    """A model's name, as an argument or as the option `--model`."""
    if name is not None and model not in (None, name):
        raise UsageError(f"--model: found {model}, but the argument is {name}. Leave one of them out.")
    return name or model


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


def _require_readable(given: Sequence[str]) -> None:
    """Python hands on bytes that are not UTF-8 as lone surrogates, which no tokenizer takes."""
    if not given:
        raise UsageError("stdin: found nothing, expected one text or image file per line.")
    for number, text in enumerate(given, start=1):
        if not text.strip():
            raise UsageError(f"text {number}: it is empty. Leave it out, or with `-` the line.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"text {number}: found bytes that are not UTF-8. Convert it with iconv.")


def _model_name(store: Registry, given: str | None) -> str:
    names = store.names()
    if given is None and len(names) == 1:
        return names[0]
    if given in names and given is not None:
        return given
    if not names:
        raise UsageError(f"{gauntlet_home().registry_uri}: nothing is registered. Run a manifest first.")
    found = "nothing" if given is None else repr(given)
    raise UsageError(f"model: found {found}, expected one of {', '.join(names)}.")
