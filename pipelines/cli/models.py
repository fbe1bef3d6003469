"""The commands about models: list, predict, serve, promote, roll back; inspect and verify a bundle."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli.options import MODELS, AsJson, RequestLog, SampleRate, Stored, of_server
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import NAME_COLUMN, borderless, console, errors, plain, print_json, styled
from gauntlet.serving.settings import Batching, Settings, Shape

if TYPE_CHECKING:
    from gauntlet.backends.registry import ModelVersion, Registry
    from gauntlet.serving.bundle import TensorSpec
    from gauntlet.serving.interface import Answer, Request
    from gauntlet.serving.supervisor import Source

app = typer.Typer()

ModelName = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="The model's name; needed if there are several.")
]
SameName = Annotated[str | None, typer.Option("--model", help="The same as MODEL.")]
bundle = typer.Typer(help="Inspect or verify a model bundle.", no_args_is_help=True)
app.add_typer(bundle, name="bundle", rich_help_panel=MODELS)
BundleFolder = Annotated[Path, typer.Argument(metavar="PATH", help="A bundle's folder.")]


@app.command(rich_help_panel=MODELS)
def registry(
    name: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A model's name; lists its history too.")
    ] = None,
    model: SameName = None,
    as_json: AsJson = False,
) -> None:
    """List the registered versions and their aliases; for one model, also when each became champion.

    Example: `gauntlet registry tickets`
    """
    from gauntlet.backends.factory import open_registry

    store = open_registry(gauntlet_home().registry_uri)
    wanted = _one(name, model)
    by_model = {one: store.versions(one) for one in ([wanted] if wanted else store.names())}
    if as_json:
        print_json(row for versions in by_model.values() for row in _rows(versions))
        return
    columns = ("model", "version", "aliases", "since (UTC)", "quality", NAME_COLUMN("run"), "bundle")
    table = borderless(*columns)
    for versions in by_model.values():
        since = _alias_times(versions)
        for one in versions:
            table.add_row(
                one.name,
                one.version,
                ", ".join(one.aliases),
                _minute(since.get(one.version, "")),
                ", ".join(f"{key} {value}" for key, value in _quality(one).items()),
                one.tags.get("run_id", ""),
                one.tags.get("bundle_sha256", "")[:12],
            )
    if table.row_count:
        console.print(table)
    else:
        where = gauntlet_home().registry_uri
        console.say(f"nothing is registered in {where}: `gauntlet run MANIFEST` registers a model")
    if wanted is not None:
        _print_history(by_model[wanted])


@app.command(rich_help_panel=MODELS)
def predict(
    rows: Annotated[
        list[str],
        typer.Argument(
            metavar="ROW",
            help="What to score: texts, or image files; for cards, front and back in turn. "
            "`-` reads one per line from stdin.",
        ),
    ],
    model: Annotated[
        str | None, typer.Option("--model", help="The model's name; needed if there are several.")
    ] = None,
    alias: Annotated[
        Literal["champion", "staging", "challenger", "previous"] | None,
        typer.Option(help="Which version to use. Default: champion."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="A running server to ask instead of a registered bundle, such as http://127.0.0.1:8080."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="The most tokens of a language model's answer.")
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
    """Score texts or images with a registered bundle or a running server, or have a language model answer.

    Example: `gauntlet predict "my card was charged twice" --model tickets`
    """
    from gauntlet.serving.interface import InputError, Request

    def given() -> Request:
        found = _from_stdin(as_json) if rows == ["-"] else rows
        _require_readable(found)
        return Request(found, max_new_tokens)

    try:
        answered = _asked(url, model, alias, given) if url else _answered(model, alias or "champion", given)
    except InputError as error:
        raise UsageError(str(error)) from None
    answers, name, version = answered
    if as_json:
        print_json(answer.content for answer in answers)
    else:
        table = borderless(*answers[0].cells)
        for answer in answers:
            table.add_row(*map(plain, answer.cells.values()))
        console.print(table)
    notes = errors if as_json else console
    for number, answer in enumerate(answers, start=1):
        if answer.note is not None:
            notes.print(f"text {number}: {answer.note}")
    notes.print(styled("[dim]{} version {}[/]", name, version))


def _answered(model: str | None, alias: str, given: Callable[[], Request]) -> tuple[list[Answer], str, str]:
    """The answers of a registered bundle, with its name and version."""
    from gauntlet.backends.factory import bundle_folder, open_registry
    from gauntlet.backends.registry import BUNDLE_TAG
    from gauntlet.serving.bundle import open_model

    store = open_registry(gauntlet_home().registry_uri)
    asked = _by_alias(store, model_name(store, model), alias)
    request = given()
    with bundle_folder(asked) as folder:
        answers = open_model(folder, asked.tags.get(BUNDLE_TAG)).answer(request)
    return answers, asked.name, asked.version


def _asked(
    url: str, model: str | None, alias: str | None, given: Callable[[], Request]
) -> tuple[list[Answer], str, str]:
    """The answers of a running server, with its model's name and version."""
    from gauntlet.serving.client import ask, served_models

    if alias is not None:
        raise UsageError("--alias: the server at --url decided which version it serves. Leave it out.")
    served = served_models(url.rstrip("/"))
    one = served[_chosen(list(served), model)]
    answers, version = ask(url.rstrip("/"), one, given())
    return answers, one["name"], version


@app.command(rich_help_panel=MODELS)
def serve(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH", help="A bundle: a folder or gs://BUCKET/FOLDER. Default: the champion."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME[=PATH]",
            help="A registered model, or the bundle at PATH under that name; may be repeated.",
        ),
    ] = None,
    alias: Annotated[
        Literal["champion", "staging", "challenger", "previous"],
        typer.Option(help="Which version of a registered model."),
    ] = "champion",
    host: Annotated[str | None, of_server("host")] = None,
    port: Annotated[int | None, of_server("port")] = None,
    batching: Annotated[Batching, of_server("batching")] = "safe",
    shape: Annotated[Shape, of_server("shape")] = "auto",
    timeout: Annotated[float, of_server("timeout")] = Settings.timeout,
    batch_tokens: Annotated[int, of_server("batch_tokens")] = Settings.batch_tokens,
    queue_tokens: Annotated[int, of_server("queue_tokens")] = Settings.queue_tokens,
    queue_mb: Annotated[float, of_server("queue_mb")] = Settings.queue_mb,
    max_body_mb: Annotated[float, of_server("max_body_mb")] = Settings.max_body_mb,
    max_instances: Annotated[int, of_server("max_instances")] = Settings.max_instances,
    max_pixels: Annotated[int, of_server("max_pixels")] = Settings.max_pixels,
    allow_gs: Annotated[str | None, of_server("allow_gs")] = None,
    request_log: RequestLog = None,
    sample_rate: SampleRate = Settings.sample_rate,
    store: Stored = "features",
) -> None:
    """Answer over HTTP with one or several bundles: docs/how-to/serve.md.

    Example: `gauntlet serve --model tickets --port 8080`
    """
    settings = Settings(
        host=host, port=port, batching=batching, shape=shape, timeout=timeout, batch_tokens=batch_tokens,
        queue_tokens=queue_tokens, queue_mb=queue_mb, max_body_mb=max_body_mb,
        max_instances=max_instances, max_pixels=max_pixels, allow_gs=allow_gs,
        request_log=request_log, sample_rate=sample_rate, store=store,
    )  # fmt: skip
    from gauntlet.serving.supervisor import serve as serve_bundles

    with ExitStack() as copies:
        code = serve_bundles(_sources(place, model or [], alias, copies), settings)
    raise typer.Exit(code)


def _sources(place: str | None, models: Sequence[str], alias: str, copies: ExitStack) -> list[Source]:
    """The bundles to serve; copies of those in buckets are deleted with `copies`."""
    from gauntlet.backends.factory import bundle_folder, open_registry
    from gauntlet.backends.registry import BUNDLE_TAG
    from gauntlet.backends.storage import download
    from gauntlet.serving.supervisor import Source

    def folder(uri: str) -> Path:
        if "://" not in uri:
            return Path(uri)
        copy = Path(copies.enter_context(TemporaryDirectory(prefix="gauntlet-bundle-")))
        download(uri, copy)
        return copy

    def registered(name: str | None) -> Source:
        store = open_registry(gauntlet_home().registry_uri)
        version = _by_alias(store, model_name(store, name), alias)
        at = copies.enter_context(bundle_folder(version))
        return Source(at, version.name, version.version, version.tags.get(BUNDLE_TAG))

    found = [] if place is None else [Source(folder(place))]
    for pair in models:
        name, is_pair, uri = pair.partition("=")
        found.append(Source(folder(uri), name) if is_pair else registered(name))
    return found or [registered(None)]


def _by_alias(store: Registry, name: str, alias: str) -> ModelVersion:
    found = store.by_alias(name, alias)
    if found is None:
        raise UsageError(
            f"{name}: no version has the alias {alias}. See `gauntlet registry`, then `gauntlet promote`."
        )
    return found


@app.command(rich_help_panel=MODELS)
def promote(
    name: ModelName = None,
    version: Annotated[
        str | None, typer.Option(help="Default: the challenger; for production the version in staging.")
    ] = None,
    to: Annotated[
        Literal["staging", "production"] | None,
        typer.Option(help="The stage, for a model whose manifest has stages."),
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
    """Make a registered version the champion, or `staging`; the old champion becomes `previous`.

    Example: `gauntlet promote tickets --version 2 --by NAME`
    """
    from gauntlet.backends.factory import open_registry
    from gauntlet.pipelines.promotion import approval_of, promote_rejected, promote_version

    home = gauntlet_home()
    store = open_registry(home.registry_uri)
    if run is None:
        console.say(promote_version(store, model_name(store, name), version, to, approver, reason))
        return
    approval = approval_of(approver, reason)
    if version is not None or to is not None or approval is None or not approval.reason:
        raise UsageError(
            "--run: a rejected model is promoted with --by NAME and --reason TEXT, and without --version and "
            "--to."
        )
    console.say(promote_rejected(home, store, name or home.find_run(run).name, run, approval))


@app.command(rich_help_panel=MODELS)
def rollback(
    name: ModelName = None,
    model: SameName = None,
    version: Annotated[
        str | None,
        typer.Option(
            "--version", "--to", help="Default: the previous champion; needed directly after a rollback."
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who asks. Default: the user.")] = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, in one line; recorded with the name.")
    ] = None,
) -> None:
    """Make the previous champion, or an earlier one, the champion again; of a deployed model also serve it.

    A rollout that is going on ends. The version that is rolled back is not deployed again unless told.

    Example: `gauntlet rollback tickets --by NAME --reason "complaints since noon"`
    """
    from gauntlet.backends.factory import open_registry
    from gauntlet.pipelines.deployments import rollback as roll_back

    uri = gauntlet_home().registry_uri
    store = open_registry(uri)
    roll_back(store, uri, model_name(store, _one(name, model)), version, by, reason, console.say)


@app.command(rich_help_panel=MODELS)
def deploy(
    what: Annotated[
        str, typer.Argument(metavar="MANIFEST|MODEL", help="A manifest, or a model that was deployed before.")
    ],
    version: Annotated[str | None, typer.Option(help="Default: the champion.")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also if the version was rolled back, or its rollout is held.")
    ] = False,
) -> None:
    """Serve a registered version: it gets the requests step by step, and is rolled back if it is worse.

    Example: `gauntlet deploy tickets.yaml --version 3`
    """
    from gauntlet.pipelines.deployments import deploy_version

    ended = deploy_version(gauntlet_home().registry_uri, what, version, again, console.say)
    console.say(f"{ended.phase}: {ended.why}")


def _alias_times(versions: Sequence[ModelVersion]) -> dict[str, str]:
    """Since when each version has its aliases: champion and previous by the last move, others by creation."""
    from gauntlet.backends.registry import CHAMPION, PREVIOUS, turns

    found = {one.version: one.created.astimezone(UTC).isoformat() for one in versions if one.aliases}
    last = max(turns(versions), key=lambda turn: turn.at, default=None)
    for version in versions:
        if last and {CHAMPION, PREVIOUS} & set(version.aliases):
            found[version.version] = last.at
    return found


def _rows(versions: Sequence[ModelVersion]) -> list[dict[str, object]]:
    from gauntlet.backends.registry import APPROVED_BY_TAG, OVERRULED_TAG, REASON_TAG, turns

    since = _alias_times(versions)
    return [
        {
            "model": one.name,
            "version": one.version,
            "aliases": list(one.aliases),
            "since": since.get(one.version),
            "created": one.created.astimezone(UTC).isoformat(),
            "quality": {key: float(value) for key, value in _quality(one).items()},
            "run_id": one.tags.get("run_id"),
            "bundle_sha256": one.tags.get("bundle_sha256"),
            "champion_turns": [{"at": turn.at, "by": turn.kind} for turn in turns([one])],
            "approved_by": one.tags.get(APPROVED_BY_TAG),
            "reason": one.tags.get(REASON_TAG),
            "overruled": one.tags.get(OVERRULED_TAG),
        }
        for one in versions
    ]


def _quality(version: ModelVersion) -> dict[str, str]:
    """The metrics that register-model has recorded as tags of the version."""
    from gauntlet.manifests.kinds import registered_metrics

    return {name: version.tags[name] for name in registered_metrics() if name in version.tags}


def _print_history(versions: Sequence[ModelVersion]) -> None:
    """Print each time that a version became champion, newest first, with who approved it and why."""
    from gauntlet.backends.registry import APPROVED_BY_TAG, OVERRULED_TAG, REASON_TAG, turns

    table = borderless("champion since (UTC)", "version", "by", "approved by", "reason")
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


def _one(name: str | None, model: str | None) -> str | None:
    """A model's name, as an argument or as the option `--model`."""
    if name is not None and model not in (None, name):
        raise UsageError(f"--model: found {model}, but the argument is {name}. Leave one of them out.")
    return name or model


def model_name(store: Registry, given: str | None) -> str:
    """The model that is meant: the given one, or the only one; else a `UsageError`."""
    names = store.names()
    if not names:
        raise UsageError(f"{gauntlet_home().registry_uri}: nothing is registered. Run a manifest first.")
    return _chosen(names, given)


def _chosen(names: Sequence[str], given: str | None) -> str:
    if given is None and len(names) == 1:
        return names[0]
    if given is not None and given in names:
        return given
    found = "nothing" if given is None else repr(given)
    raise UsageError(f"model: found {found}, expected one of {', '.join(names)}.")


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


def _require_readable(given: Sequence[str]) -> None:
    """Python turns bytes that are not UTF-8 into lone surrogates, which no tokenizer takes."""
    if not given:
        raise UsageError("stdin: found nothing, expected one text or image file per line.")
    for number, text in enumerate(given, start=1):
        if not text.strip():
            raise UsageError(f"text {number}: it is empty. Remove it; if you use `-`, remove its line.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise UsageError(f"text {number}: found bytes that are not UTF-8. Convert it with iconv.")


@bundle.command()
def inspect(path: BundleFolder, as_json: AsJson = False) -> None:
    """Print what a bundle is, its inputs and outputs, its quality and speed, and what made it.

    Example: `gauntlet bundle inspect bundle`
    """
    from gauntlet.serving.bundle import BUNDLE_FILE, PARITY_FILE, file_sha256, read_certificate, read_info

    info = read_info(path)
    certificate = read_certificate(path / PARITY_FILE) if PARITY_FILE in info.files else {}
    certified = {key: certificate[key] for key in ("cpu_class", "portable") if key in certificate}
    sha256 = file_sha256(path / BUNDLE_FILE)
    if as_json:
        print_json([asdict(info) | {"certificate": certified, "bundle_sha256": sha256}])
        return
    rows = {
        "name": f"{info.name} ({info.task})",
        "labels": ", ".join(info.labels),
        "candidate": f"{info.candidate}, {info.precision}, opset {info.opset}",
    }
    rows |= {"made for": "a GPU"} if info.device is not None else {}
    rows |= {"max_length": str(info.max_length)} if info.max_length is not None else {}
    for kind, specs in (("input", info.inputs), ("output", info.outputs)):
        rows |= {f"{kind} {name}": tensor for name, tensor in _tensors(specs).items()}
    rows |= {name: _number(value, "{:.4g}") for name, value in info.quality.items()}
    rows |= {
        f"batch of {size}": f"{_number(latency, '{:.2f} ms')}, "
        f"{_number(info.speedup.get(size), '{:.2f} times as fast as PyTorch')}"
        for size, latency in info.latency_ms.items()
    }
    rows |= dict(info.lineage)
    rows |= {key: str(value).lower() for key, value in certified.items()}
    rows |= {
        name: f"{(path / name).stat().st_size:,} bytes, sha256 {of_file[:12]}…"
        for name, of_file in info.files.items()
    }
    rows[BUNDLE_FILE] = f"sha256 {sha256}"
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows.items():
        table.add_row(key, plain(value))
    console.print(table)


@bundle.command()
def verify(path: BundleFolder, as_json: AsJson = False) -> None:
    """Check a bundle's hashes, its certificate, its tensors and a prediction; exit 1 when one fails.

    Example: `gauntlet bundle verify bundle`
    """
    from gauntlet.serving.verification import verify as verify_bundle

    checks = verify_bundle(path)
    if as_json:
        print_json(asdict(check) for check in checks)
    else:
        table = borderless("check", "verdict", "found")
        for check in checks:
            verdict = Text("fail", "red") if check.fault else "pass"
            table.add_row(check.name, verdict, plain(check.fault or check.found))
        console.print(table)
    if any(check.fault for check in checks):
        raise typer.Exit(1)


def _number(value: float | None, form: str) -> str:
    return "unknown" if value is None else form.format(value)


def _tensors(specs: Sequence[TensorSpec]) -> dict[str, str]:
    """Type and shape of each tensor by name; those of a cache have one line for all layers."""
    rows: dict[str, str] = {}
    for spec in specs:
        name = re.sub(r"\.\d+\.(key|value)$", r".{layer}.\1", spec.name)
        rows[name] = f"{spec.dtype} {list(spec.shape)}"
    return rows
