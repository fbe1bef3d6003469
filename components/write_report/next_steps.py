"""What to do next, for every way a run can end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from gauntlet.backends.registry import CHAMPION, STAGING
from gauntlet.components.gate_model.rules import advice_of
from gauntlet.components.write_report.record import CollectedRun, Outcome
from gauntlet.contracts.data import CheckResult, Checks
from gauntlet.pages.formatting import words

CHECK_ADVICE = {
    "rows_per_class": "Collect more rows of the small classes; "
    "`dataset.checks.rows_per_class.min_rows` is the floor.",
    "class_balance": "Collect more rows of the small classes; "
    "`dataset.checks.class_balance.max_ratio` is the ceiling.",
    "unknown_labels": "Add the missing labels to `dataset.labels`, correct the misspelt ones, or leave these "
    "rows out if you can do without them.",
}
ROW_ADVICE = "Correct the rows, or leave them out if you can do without them."
REJECTED = "rejected/rejected.csv"
"""The output of validate-data that lists every faulty row."""

BUDGET_KEYS = {"max_hours reached": "max_hours", "max_cost reached": "max_cost_usd"}
RUN_AGAIN = "gauntlet run MANIFEST"  # for a run that was not started on this machine
VALIDATE_DATA = "validate-data"


@dataclass(frozen=True)
class NextStep:
    """A sentence, with backquotes for code, its command, and the rule or check that it is about."""

    text: str
    command: str | None = None
    about: str = ""


def next_steps(record: CollectedRun, ended: Outcome) -> tuple[NextStep, ...]:
    """What the reader would do now, the most useful first."""
    match ended.kind:
        case "unchanged":
            return _after_no_change(record)
        case "promoted" | "registered":
            return _after_registration(record, ended)
        case "rejected":
            return _after_rejection(record)
        case "data refused":
            checks = record.checks or Checks(passed=False)
            return refusal_advice(checks, run_again(record), rejected_file(record))
        case "failed" | "cancelled":
            return _after_failure(record)


def _promotion(record: CollectedRun, name: str) -> NextStep:
    if record.version is not None and STAGING in record.version.aliases:
        command = f"gauntlet promote {name} --to production --approver NAME"
        return NextStep(
            f"When it has been tried (`gauntlet predict --model {name} --alias staging`), let somebody who "
            "answers for it make it the champion.",
            command,
        )
    if record.verdict is not None and record.verdict.stages:
        return NextStep("Let people try it when you are ready.", f"gauntlet promote {name} --to staging")
    return NextStep("Make it the champion when you are ready.", f"gauntlet promote {name}".rstrip())


def _after_registration(record: CollectedRun, ended: Outcome) -> tuple[NextStep, ...]:
    name = record.version.name if record.version else ""
    model = f"--model {name}" if name else ""
    listing = NextStep("See every version and its aliases.", f"gauntlet registry {model}")
    if ended.kind == "registered":
        return (_promotion(record, name), listing)
    text, given = record.ask_kind("report", "TRY_IT", ("Try the new champion.", "…"))
    scoring = NextStep(text, f"gauntlet predict {model} {given}")
    if record.champion_version is None:
        return (scoring, listing)
    undo = f"Go back to version {record.champion_version} if production disagrees with the test rows."
    undoing = NextStep(undo, f"gauntlet rollback {name}".rstrip())
    return (scoring, listing, undoing)


def _after_no_change(record: CollectedRun) -> tuple[NextStep, ...]:
    name = record.version.name if record.version else ""
    listing = NextStep("See every version and its aliases.", f"gauntlet registry --model {name}")
    if record.version is None or CHAMPION in record.version.aliases:
        return (listing,)
    back = f"gauntlet promote {name} --version {record.version.version}"
    return (NextStep("Make it the champion again if that is what you want.", back), listing)


def _after_rejection(record: CollectedRun) -> tuple[NextStep, ...]:
    failing = record.verdict.failed if record.verdict else ()
    known = advice_of(record.ask_kind("gates", "RULES", ()))
    advice = [NextStep(known[rule], about=words(rule)) for rule in failing if known.get(rule)]
    again = NextStep(
        "Then run it again; a manifest key can be set there too.", f"{run_again(record)} --set KEY=VALUE"
    )
    return (*advice, *_budget_advice(record), *_judging_again(record), again)


def _judging_again(record: CollectedRun) -> tuple[NextStep, ...]:
    run = record.local_run
    if run is None:
        return ()
    return (
        NextStep(
            "Judge the same model with other bounds, without training it again.",
            f"gauntlet gate {run} --set gates.KEY=VALUE",
        ),
        NextStep(
            "Or promote it under your own name, which is recorded.",
            f"gauntlet promote --run {run} --by NAME --reason TEXT",
        ),
    )


def _budget_advice(record: CollectedRun) -> tuple[NextStep, ...]:
    stopped = record.history.stopped if record.history else None
    if stopped not in BUDGET_KEYS:
        return ()
    key = f"training.resources.{BUDGET_KEYS[stopped]}"
    return (NextStep(f"Training ended before all its epochs; `{key}` is the limit.", about=stopped),)


def rejected_file(record: CollectedRun) -> str | None:
    """The path of the file that lists the faulty rows, if there are any."""
    folder = record.step(VALIDATE_DATA).folder
    return f"{folder}/{REJECTED}" if folder and record.checks and record.checks.rejected else None


def refusal_advice(checks: Checks, command: str, rejected: str | None) -> tuple[NextStep, ...]:
    """What to do about checks that failed. `command` reads the data again; one command with settings answers
    all.

    `rejected` is where the rejected rows are listed, if there are any.
    """
    failing = [check for check in checks.checks if check.verdict == "fail"]
    advice = [NextStep(_advice(check), about=words(check.check)) for check in failing]
    if rejected:
        advice.append(NextStep(f"Every faulty row that a check found is listed in `{rejected}`."))
    advice.append(NextStep("Correct the data where it comes from, then try again.", command))
    settings = {key: value for check in checks.checks for key, value in check.settings.items()}
    if settings:
        options = " ".join(shlex.join(["--set", f"{key}={value}"]) for key, value in settings.items())
        text = "Or leave out the rows that can be left out, and set the other bounds to what was found."
        advice.append(NextStep(text, f"{command} {options}"))
    return tuple(advice)


def run_again(record: CollectedRun) -> str:
    """The command that started the run, as far as that is known."""
    return record.run_command or RUN_AGAIN


def _advice(check: CheckResult) -> str:
    balancing = [f"`{key}`" for key in check.settings if key.startswith("training.")]
    if check.check in CHECK_ADVICE:
        other = f" {' or '.join(balancing)} corrects for their size in training." if balancing else ""
        return CHECK_ADVICE[check.check] + other
    if check.severity == "drop":
        key = f"dataset.checks.{check.check}.max_fraction"
        return f"More rows than `{key}` would have to be dropped. {ROW_ADVICE}"
    return ROW_ADVICE


def _after_failure(record: CollectedRun) -> tuple[NextStep, ...]:
    failed = record.failed_step
    if failed is not None and failed.name == "deploy-model" and record.version is not None:
        name, version = record.version.name, record.version.version
        return (
            NextStep("See which version is champion now.", f"gauntlet registry {name}"),
            NextStep(
                f"Version {version} stays registered. Remove the cause, then deploy it, with `--again` if it "
                "was rolled back.",
                f"gauntlet deploy {name} --version {version}",
            ),
        )
    if failed is not None and failed.name == "register-model":
        return (
            NextStep("See whether the version is there, and which aliases it has.", "gauntlet registry"),
            NextStep("Remove the cause, then run it again.", run_again(record)),
        )
    nothing = "Nothing was registered, so there is nothing to undo."
    if record.local_run is None:
        return (NextStep(f"Remove the cause, then run it again. {nothing}", run_again(record)),)
    return (
        NextStep(
            f"Remove the cause, then resume the run with the manifest that it had. {nothing}",
            f"gauntlet run --resume {record.local_run}",
        ),
        NextStep(
            "Or start it again if you change the manifest or a model's files: the other steps are reused.",
            run_again(record),
        ),
    )
