"""Check a bundle on the machine that will serve it, or ask its model, with the serving packages alone.

    python -m gauntlet.serving verify FOLDER
    python -m gauntlet.serving predict FOLDER ROW...

`verify` prints each check and ends with 1 if one failed. `predict` prints a JSON object for each row: a text,
or the path of an image file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from gauntlet.serving.bundle import BundleError, open_model
from gauntlet.serving.interface import InputError, Request
from gauntlet.serving.verification import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    program = "python -m gauntlet.serving"
    parser = argparse.ArgumentParser(prog=program, description="Check or ask a model bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("verify", help="check its hashes, certificate, tensors and a prediction")
    asking = commands.add_parser("predict", help="print the answer to each row as a JSON object")
    for command in (checking, asking):
        command.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the bundle")
    asking.add_argument("rows", nargs="+", metavar="ROW", help="a text, or the path of an image file")
    most = "the most tokens of an answer"
    asking.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help=most)
    given = parser.parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
