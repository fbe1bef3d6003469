"""Check a bundle on the machine that will serve it, ask its model or serve it, with few packages.

    python -m gauntlet.serving verify FOLDER
    python -m gauntlet.serving predict FOLDER ROW...
    python -m gauntlet.serving serve FOLDER|gs://...

`verify` prints each check and ends with 1 if one failed. `predict` prints a JSON object for each row: a text,
or the path of an image file. `serve` answers over HTTP: docs/how-to/serve.md. Without a folder it serves
that of the variable AIP_STORAGE_URI, as Vertex AI sets it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.settings import Settings
from gauntlet.serving.storage import GS, download
from gauntlet.serving.supervisor import Source, serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    given = _parser().parse_args(arguments)
    if given.command == "serve":
        return _serve(given)
    # The process that starts servers needs none of this.
    from gauntlet.serving.bundle import BundleError, open_model
    from gauntlet.serving.interface import InputError, Request
    from gauntlet.serving.verification import verify

    if given.command == "verify":
        checks = verify(given.folder)
        for check in checks:
            print(f"{'FAIL' if check.fault else 'ok':4}  {check.name:12}  {check.fault or check.found}")
        return int(any(check.fault for check in checks))
    try:
        answers = open_model(given.folder).answer(Request(given.rows, given.max_new_tokens))
    except (BundleError, InputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    for number, answer in enumerate(answers, start=1):
        print(json.dumps(answer.content, ensure_ascii=False))
        if answer.note is not None:
            print(f"row {number}: {answer.note}", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    program = "python -m gauntlet.serving"
    parser = argparse.ArgumentParser(prog=program, description="Check, ask or serve a model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("verify", help="check its hashes, certificate, tensors and a prediction")
    asking = commands.add_parser("predict", help="print the answer to each row as a JSON object")
    for command in (checking, asking):
        command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the bundle")
    asking.add_argument("rows", nargs="+", metavar="ROW", help="a text, or the path of an image file")
    most = "the most tokens of an answer"
    asking.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help=most)
    serving = commands.add_parser("serve", help="answer over HTTP")
    where = "a bundle: a folder or gs://BUCKET/FOLDER. Default: $AIP_STORAGE_URI"
    serving.add_argument("place", nargs="?", metavar="PLACE", help=where)
    more = "one of several bundles, by the name that routes call it; may be repeated"
    serving.add_argument("--model", action="append", default=[], metavar="NAME=PLACE", help=more)
    for option in fields(Settings):
        serving.add_argument(f"--{option.name.replace('_', '-')}", default=option.default, **option.metadata)
    return parser


def _serve(given: argparse.Namespace) -> int:
    with ExitStack() as copies:

        def folder(place: str) -> Path:
            if not place.startswith(GS):
                return Path(place)
            copy = Path(copies.enter_context(TemporaryDirectory(prefix="gauntlet-bundle-")))
            download(place, copy)
            return copy

        try:
            place = given.place or (None if given.model else os.environ.get("AIP_STORAGE_URI"))
            if place is None and not given.model:
                raise UsageError("PLACE: found none, expected the folder of a bundle, or AIP_STORAGE_URI.")
            sources = [] if place is None else [Source(folder(place))]
            for pair in given.model:
                name, is_pair, one = pair.partition("=")
                if not is_pair:
                    raise UsageError(f"--model: found {pair!r}, expected NAME=PLACE.")
                sources.append(Source(folder(one), name))
            return serve(
                sources, Settings(**{one.name: getattr(given, one.name) for one in fields(Settings)})
            )
        except UsageError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
