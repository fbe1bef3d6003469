"""The `gauntlet` command.

Exit codes: 0 done (of a run: promoted), 1 failure, 2 bad usage, 3 rejected by a gate, 4 bad data,
130 interrupted.

The commands are thin. Each imports what it needs inside its function, so that `gauntlet --help` and the
commands that only read files import no library that takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gauntlet import __version__
from gauntlet.manifests.errors import GauntletError, ManifestError
from gauntlet.pipelines.cli import deployment, experiment, label, manifest, models, monitor, run, vertex
from gauntlet.pipelines.home import gauntlet_home
from gauntlet.pipelines.terminal import console, errors, print_any_text, styled

app = typer.Typer(
    help="Retrain a model; ship it only after it has run the gauntlet.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Environment: GAUNTLET_HOME, where runs and models are kept (default `.gauntlet` in the working "
    "folder); GAUNTLET_REGISTRY, a registry to use instead of the one in it; GAUNTLET_PRICES, a file of "
    "prices. "
    "Exit codes: 0 done, 1 failure, 2 bad usage, 3 rejected by a gate, 4 bad data, 130 interrupted.",
)
for module in (manifest, run, models, deployment, experiment, monitor, label, vertex):
    app.add_typer(module.app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code; a user's mistake never shows a traceback."""
    print_any_text()
    try:
        app(args=list(arguments) if arguments is not None else None)
    except ManifestError as error:
        for fault in error.faults:
            errors.say(styled("[red]{}: [bold]{}[/][/]", fault.file, fault.key))
            for name, text in (("found", fault.found), ("expected", fault.expected), ("do", fault.action)):
                errors.say(f"  {name:8} {text}")
        sys.exit(error.exit_code)
    except GauntletError as error:
        _fail(error, error.exit_code)
    except OSError as error:
        _fail(f"{error.filename or gauntlet_home().folder}: {error.strerror or error}")
    except Exception as error:
        from gauntlet.serving.bundle import BundleError  # not at the top: it imports onnxruntime

        if not isinstance(error, BundleError):
            raise
        _fail(error)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"gauntlet {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Retrain a model; ship it only after it has run the gauntlet."""


def _fail(error: object, exit_code: int = 1) -> NoReturn:
    errors.say(styled("[red]error:[/] {}", error))
    sys.exit(exit_code)
