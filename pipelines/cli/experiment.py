"""The commands about A/B tests: start one, look at it, end it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gauntlet.manifests.errors import UsageError
from gauntlet.pipelines.cli.options import MODELS
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import borderless, console, plain, print_json, styled

if TYPE_CHECKING:
    from gauntlet.pipelines.experiments import Experiments, Looked

app = typer.Typer()
ab = typer.Typer(help="Compare two versions of a model by what comes of their answers.", no_args_is_help=True)
app.add_typer(ab, name="ab", rich_help_panel=MODELS)

HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
NAME = re.compile(r"[\w.-]{1,40}")
ModelName = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="The model's name; needed if there are several.")
]


@ab.command()
def start(
    model: ModelName = None,
    *,
    variant: Annotated[
        list[str],
        typer.Option(
            "--variant",
            "-v",
            metavar="NAME=VERSION",
            help="A version by alias or number, such as A=champion; given twice. The first is the control.",
        ),
    ],
    metric: Annotated[str, typer.Option(help="The name of the outcome, such as clicked.")],
    minimal_effect: Annotated[
        float, typer.Option(min=0.0, help="A difference of the means below this one is none.")
    ],
    maximum_n: Annotated[int, typer.Option(min=10, help="So many units with an outcome at most.")],
    kind: Annotated[
        Literal["binary", "bounded", "real"],
        typer.Option("--type", help="Of the metric: 0 or 1, numbers between --bounds, or any numbers."),
    ] = "binary",
    bounds: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="Of a bounded metric."),
    ] = None,
    better: Annotated[
        Literal["higher", "lower"], typer.Option(help="Which values of the metric are better.")
    ] = "higher",
    alpha: Annotated[
        float,
        typer.Option(min=1e-9, max=0.5, help="The probability of ever declaring a winner if there is none."),
    ] = 0.05,
    share: Annotated[int, typer.Option(min=1, max=99, help="Of the second variant, in percent.")] = 50,
    key_header: Annotated[
        str, typer.Option(help="The header with the key of a user, who always gets the same variant.")
    ] = "X-Gauntlet-Key",
    without_key: Annotated[
        Literal["random", "control"],
        typer.Option(help="Requests without a key: each at random, or to the control and not in the test."),
    ] = "random",
    window_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="How long after its first request a unit's outcomes count; then it counts."
        ),
    ] = None,
) -> None:
    """Split the requests between two versions. What is compared, and when it ends, is fixed from here on.

    Example: `gauntlet ab start -v A=champion -v B=4 --metric solved --minimal-effect 0.02 --maximum-n 9000`
    """
    from gauntlet.pipelines.experiments import require_plan, warning_of

    low, high = bounds or (None, None)
    require_plan(kind, low, high, minimal_effect, alpha)
    for option, found, pattern in (("--metric", metric, NAME), ("--key-header", key_header, HEADER)):
        if not pattern.fullmatch(found):
            raise UsageError(f"{option}: found {found!r}, expected letters, digits, - and _.")
    pairs = _pairs(variant)
    tests = _experiments(model)
    experiment = tests.start(
        pairs,
        share,
        {
            "key_header": key_header,
            "without_key": without_key,
            "metric": metric,
            "type": kind,
            "low": low,
            "high": high,
            "better": better,
            "alpha": alpha,
            "minimal_effect": minimal_effect,
            "maximum_n": maximum_n,
            "window_hours": window_hours,
        },
    )
    shown = ", ".join(f"{one.name} version {one.version} {one.share} %" for one in experiment.variants)
    console.say(f"{tests.name}: A/B test {experiment.id} is going on: {shown}")
    if warning := warning_of(experiment):
        console.say(f"warning: {warning}")


@ab.command()
def status(
    model: ModelName = None,
    outcomes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Outcomes, CSV or Parquet: request_id or event_id, value, and perhaps time.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where ab.json and ab.html are written, given outcomes.")
    ] = Path("ab"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and no table.")] = False,
) -> None:
    """Say what an A/B test shows; you may look as often as you like.

    Example: `gauntlet ab status tickets --outcomes outcomes.csv`
    """
    tests = _experiments(model)
    looked = tests.look(outcomes)
    page = None
    if outcomes is not None:
        from gauntlet.components.compare_variants.report import ab_page
        from gauntlet.contracts.document import write_json, write_text

        page = output / "ab.html"
        write_json(output / "ab.json", _content(tests.name, looked))
        write_text(page, ab_page(tests.name, looked.experiment, looked.analysis))
    if as_json:
        print_json([_content(tests.name, looked)])
        return
    _print(tests.name, looked)
    if page is not None:
        console.print(styled("[dim]{}[/]", page))


@ab.command()
def stop(
    model: ModelName = None,
    winner: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The variant that becomes champion and gets all requests."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", "--approver", metavar="NAME", help="Who decides it.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why, in one line; needed for a winner that the test has not declared.")
    ] = None,
) -> None:
    """End an A/B test. Without a winner the control gets all requests.

    Example: `gauntlet ab stop tickets --winner B`
    """
    _experiments(model).stop(winner, by, reason, console.say)


def _pairs(given: Sequence[str]) -> dict[str, str]:
    pairs = [one.partition("=") for one in given]
    for (name, _, version), text in zip(pairs, given, strict=True):
        if not NAME.fullmatch(name) or not version:
            raise UsageError(f"--variant: found {text!r}, expected NAME=ALIAS or NAME=VERSION.")
    found = {name: version for name, _, version in pairs}
    if len(given) != 2 or len(found) != 2:
        raise UsageError(
            f"--variant: found {' and '.join(given)}, expected two with different names, such as A=champion "
            "and B=staging."
        )
    return found


def _experiments(model: str | None) -> Experiments:
    from gauntlet.backends.factory import open_registry
    from gauntlet.pipelines.cli.models import model_name
    from gauntlet.pipelines.experiments import Experiments

    uri = gauntlet_home().registry_uri
    store = open_registry(uri)
    return Experiments(store, uri, model_name(store, model))


def _content(model: str, looked: Looked) -> dict[str, object]:
    found = looked.experiment.as_json()
    del found["salt"]
    analysis = looked.analysis.as_json()
    return {"model": model, **found, "analysis": analysis, "is_assigning": looked.is_assigning}


def _print(model: str, looked: Looked) -> None:
    experiment, analysis = looked.experiment, looked.analysis
    table = borderless("variant", "version", "share", "requests", "units", "with outcome", "mean")
    for arm, variant in zip(analysis.arms, experiment.variants, strict=True):
        mean = "" if arm.mean is None else f"{arm.mean:.4f}"
        cells = (arm.name, arm.version, f"{variant.share} %", arm.requests, arm.units, arm.observed, mean)
        table.add_row(*map(plain, cells))
    console.print(table)
    for fault in analysis.faults:
        console.say(f"{fault.rows} outcomes do not count, {fault.why}: {', '.join(fault.examples)}")
    if analysis.without_key:
        console.say(f"{analysis.without_key} requests had no key and are not in the test")
    if analysis.waiting:
        console.say(f"{analysis.waiting} units wait for the end of their window")
    if experiment.state == "stopped":
        ended = f"ended at {_minute(experiment.ended)} UTC by {experiment.by}: {experiment.why}"
    elif looked.is_assigning:
        ended = f"is going on since {_minute(experiment.started)} UTC"
    else:
        ended = "does not assign requests any more: end it with `gauntlet ab stop`"
    console.say(f"{model}: A/B test {experiment.id} of {experiment.metric} {ended}")
    console.say(f"{analysis.decision}: {analysis.why}")


def _minute(at: str) -> str:
    return at[:16].replace("T", " ")
