"""The commands about what is served: start and end the gateway on this machine; what is served where."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gauntlet.manifests.errors import GauntletError, UsageError
from gauntlet.pipelines.cli.options import MODELS, RequestLog, SampleRate, Stored
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import borderless, console, errors, plain, print_json
from gauntlet.serving.settings import Settings, Store

if TYPE_CHECKING:
    from rich.table import Table

    from gauntlet.backends.deployment import Release, Service
    from gauntlet.contracts.rollout import DeploymentRecord

app = typer.Typer()

LOCAL = "local"
READY_SECONDS, LIVE_SECONDS = 600.0, 1.0
COLUMNS = ("model", "version", "aliases", "target", "share", "state", "since (UTC)", "rollout")


@app.command(rich_help_panel=MODELS)
def up(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL[=PATH]", help="Registered models, whose champion is served, or a bundle at PATH."
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the models are ready.")] = False,
    host: Annotated[str | None, typer.Option(help="Default: the last one, or 127.0.0.1.")] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Default: the last one, or 8080; 0 takes a free one."),
    ] = None,
    request_log: RequestLog = None,
    sample_rate: SampleRate = Settings.sample_rate,
    store: Stored = "features",
) -> None:
    """Serve models behind one address, where versions are exchanged without a lost request.

    Without MODEL it serves what it served when it was ended, or the only registered model. Without a request
    log its servers log as they did; an empty one ends the log.

    Example: `gauntlet up emotion_sample --detach`
    """
    from gauntlet.backends.local.deployment import LocalDeployment, LocalGateway

    home = gauntlet_home()
    releases = [_release(one) for one in models or ()]
    gateway = LocalGateway(home.folder)
    log = None if request_log is None else _log(request_log, sample_rate, store)
    if log is not None and gateway.is_running():
        raise UsageError(
            "--request-log: the gateway runs already, and its servers keep their log. End it with "
            "`gauntlet down`, then start it again with the log."
        )
    process = gateway.start(host, port, log, is_detached=detach)
    if process is None and (host is not None or port is not None):
        console.say(f"the gateway runs already, on {gateway.call('status')['address']}")
    try:
        if not models and not gateway.call("status")["services"]:
            releases = [_release(None)]
        for release in releases:
            target = LocalDeployment(release.model, home.registry_uri, {"local": log or {}})
            if target.service() is None:
                target.start(release)
        for name in gateway.call("status")["services"]:
            console.say(_when_ready(LocalDeployment(name, home.registry_uri, {})))
        if process is not None and not detach:
            raise typer.Exit(process.wait())
    except (GauntletError, KeyboardInterrupt):
        with suppress(GauntletError):
            for name, service in gateway.call("status")["services"].items():
                if not any(one["weight"] for one in service["revisions"]):  # it was never ready
                    gateway.call("remove", model=name)
        if process is not None:
            process.terminate()
            process.wait()
        raise


@app.command(rich_help_panel=MODELS)
def down() -> None:
    """End the gateway on this machine and its servers, after what they have begun is answered.

    Example: `gauntlet down`
    """
    from gauntlet.backends.local.deployment import LocalGateway

    ended = LocalGateway(gauntlet_home().folder).end()
    console.say("the gateway has ended" if ended else "no gateway runs here")


def _log(place: str, sample_rate: float, store: Store) -> dict[str, Any]:
    """The settings of the servers' request logs; empty without a place."""
    if not place:
        return {}
    Settings(sample_rate=sample_rate)  # refuses a rate that is none
    at = place if "://" in place else str(Path(place).absolute())
    return {"request_log": at, "sample_rate": sample_rate, "store": store}


def _release(given: str | None) -> Release:
    from gauntlet.backends.deployment import Release
    from gauntlet.backends.factory import open_registry
    from gauntlet.backends.registry import BUNDLE_TAG
    from gauntlet.serving.bundle import BUNDLE_FILE, file_sha256

    name, is_pair, place = (given or "").partition("=")
    if is_pair:
        bundle = Path(place) / BUNDLE_FILE
        if not bundle.is_file():
            raise UsageError(f"{place}: found no {BUNDLE_FILE}, expected the folder of a bundle.")
        sha256 = file_sha256(bundle)
        return Release(name, sha256[:12], place, sha256)
    store = open_registry(gauntlet_home().registry_uri)
    known = store.names()
    if not name and len(known) == 1:
        [name] = known
    if name not in known:
        raise UsageError(
            f"MODEL: found {given or 'none'}, expected one of {', '.join(known) or 'no models yet'}, "
            "or NAME=PATH."
        )
    version = store.champion(name)
    if version is None:
        raise UsageError(f"{name}: no version is the champion. See `gauntlet promote`.")
    return Release(name, version.version, version.bundle_uri, version.tags[BUNDLE_TAG])


def _when_ready(target: Any) -> str:
    """Wait until a model's requests are answered; say by what and where."""
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends:
        service: Service | None = target.service()
        if service is None:
            raise GauntletError(f"{target.name}: is not served any more.")
        ready = [one for one in service.revisions if one.state == "ready" and one.weight]
        if ready:
            said = ", ".join(f"version {one.version} ({one.weight} %)" for one in ready)
            return f"{service.name} {said} is ready on {service.address}"
        if service.revisions and all(one.state == "failed" for one in service.revisions):
            raise GauntletError(f"{service.name}: {service.revisions[0].reason}")
        time.sleep(LIVE_SECONDS / 10)
    raise GauntletError(f"{target.name}: no server was ready within {READY_SECONDS:g} s.")


def print_models(live: bool, as_json: bool) -> bool:
    """Print what is registered and served of each model; whether there is any."""
    rows = _rows()
    if as_json:
        print_json(rows)
    elif live:
        from rich.live import Live

        with Live(_table(rows), console=console, auto_refresh=False) as view:
            while True:
                time.sleep(LIVE_SECONDS)
                view.update(_table(_rows()), refresh=True)
    elif rows:
        console.print(_table(rows))
    return bool(rows)


def _table(rows: list[dict[str, object]]) -> Table:
    table = borderless(*COLUMNS)
    for row in rows:
        share = "" if row["share"] is None else f"{row['share']} %"
        since = str(row["since"] or "")[:16].replace("T", " ")
        aliases = row["aliases"] if isinstance(row["aliases"], list) else []
        target, state = row["target"] or "", row["state"] or ""
        cells = (
            row["model"],
            row["version"],
            ", ".join(aliases),
            target,
            share,
            state,
            since,
            row["rollout"],
        )
        table.add_row(*map(plain, cells))
    return table


def _rows() -> list[dict[str, object]]:
    """A row for each version that has an alias or is served."""
    from gauntlet.backends.factory import open_registry
    from gauntlet.backends.local.deployment import LocalGateway, NoGateway

    home = gauntlet_home()
    store = open_registry(home.registry_uri)
    registered = {name: store.versions(name) for name in store.names()}
    try:
        served = LocalGateway(home.folder).call("status")["services"]
    except NoGateway:
        served = {}
    rows: list[dict[str, object]] = []
    for name in sorted({*registered, *served}):
        record = _record(name, home.registry_uri)
        targets = _revisions(name, record, home.registry_uri, name in served)
        seen: set[str] = set()
        for target, one in targets:
            found = [each for each in registered.get(name, []) if each.version == one.version]
            aliases = list(found[0].aliases) if found else []
            seen.add(one.version)
            rows.append(
                {
                    "model": name,
                    "version": one.version,
                    "aliases": aliases,
                    "target": target,
                    "share": one.weight,
                    "state": one.state + (f": {one.reason}" if one.reason else ""),
                    "since": one.since,
                    "restarts": one.restarts,
                    "rollout": _said(record, one.version),
                }
            )
        for version in registered.get(name, []):
            if version.aliases and version.version not in seen:
                empty = dict.fromkeys(("target", "share", "state", "since", "restarts"))
                rows.append(
                    {"model": name, "version": version.version, "aliases": list(version.aliases), **empty,
                     "rollout": _said(record, version.version)}
                )  # fmt: skip
    return rows


def _revisions(
    name: str, record: DeploymentRecord | None, registry_uri: str, is_local: bool
) -> list[tuple[str, Any]]:
    """What each target serves of a model: this machine, and the target of its last rollout."""
    from gauntlet.backends.factory import open_deployment

    settings: Mapping[str, Any] = {} if record is None else record.settings
    asked = {str(settings.get("target", LOCAL)), *([LOCAL] if is_local else [])}
    found = []
    for target in sorted(asked - {"none"} - (set() if is_local else {LOCAL})):
        service = open_deployment(target, name, registry_uri, settings).service()
        found += [(target, one) for one in (service.revisions if service else ())]
    return found


def _record(name: str, registry_uri: str) -> DeploymentRecord | None:
    """The record of a model's rollouts; None if there is none, or it cannot be read, which is said."""
    from gauntlet.backends.rollouts import open_records

    try:
        return open_records(name, registry_uri).read()[0]
    except GauntletError as error:
        errors.say(f"warning: {error}")
        return None


def _said(record: DeploymentRecord | None, version: str) -> str:
    """What the A/B test or the rollout of a version says, and the judge."""
    experiment = None if record is None else record.experiment
    if experiment is not None and experiment.state != "stopped":
        for one in experiment.variants:
            if one.version == version:
                seen = experiment.analysis
                said = f": {seen.decision}: {seen.why}" if seen else ""
                return f"A/B test {experiment.id}, variant {one.name}{said}"
    rollout = None if record is None else record.rollout
    if rollout is None or rollout.version != version:
        return ""
    return rollout.phase + (f": {rollout.why}" if rollout.why else "")
