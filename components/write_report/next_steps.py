"""What to do next, for every way a run can end."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from gauntlet.backends.registry import CHAMPION, STAGING
from gauntlet.components.write_report.outcome import Outcome
from gauntlet.components.write_report.record import STEPS, RunRecord
from gauntlet.contracts.data import CheckResult, Checks
from gauntlet.pages.formatting import words
from gauntlet.tasks.therapy.stages import RULES as STAGE_RULES

RULE_ADVICE = {
    "macro_f1": "More rows, cleaner labels or longer training raise it; `gates.min_macro_f1` is the floor.",
    "qwk": "More cards or longer training raise it; `gates.min_qwk` is the floor.",
    "mae": "More cards or longer training lower it; `gates.max_mae` is the most.",
    "accuracy": "More rows, cleaner labels or longer training raise it; `gates.min_accuracy` is the floor.",
    "perplexity": "More rows or longer training lower it; `gates.max_perplexity` is the ceiling.",
    "rouge_l": "More rows or longer training raise it; `gates.min_rouge_l` is the floor.",
    "perplexity_gain": "Training has not surely helped: the answers in `predictions.json` show where. "
    "More steps, a higher learning rate, or more `evaluation.prompts`, which narrow the doubt.",
    "rouge_l_gain": "Answers are not surely closer to the references than before training: more steps, or "
    "more `evaluation.prompts`, which narrow the doubt.",
    "validation_gap": "Are the test split's rows prepared, or distributed, otherwise than validation's? "
    "The report has both under Data; `gates.max_validation_gap` is the ceiling.",
    "speedup": "Allow a faster candidate in `conversion.candidates`; `gates.min_speedup` is the floor.",
    "certificate": "The bundle holds another model than the one that was proven: run convert-to-onnx again.",
    "parity": "The report says under Conversion how far it differs; the bounds are keys of `conversion`.",
    "bundle": "On this machine the bundle does not serve as it was proven; the rule's note says why. Run "
    "convert-to-onnx again.",
    "neighbours": "The other rows of a batch change a row's answer. With `int8_per_token` and the float "
    "candidates of `conversion.candidates` they do not; `conversion.max_neighbour_difference` is the bound.",
    "metric_drop": "Converting may have cost more than `conversion.max_metric_drop`. "
    "More validation rows narrow the doubt; a float candidate loses nothing.",
    "model_size": "Allow `int8_per_token` in `conversion.candidates`; `gates.max_model_mb` is the ceiling.",
    "cost": "Train fewer epochs or on a cheaper machine; `gates.max_cost_usd` is the ceiling.",
    "training_overlap": "Rows of the test split, or near-duplicates of them, are in train too: set "
    "`dataset.checks.leakage.severity` to drop or fail.",
    "clean_test_rows": "The champion was trained on many of these test rows, because its splits were "
    "drawn differently. Give the dataset more rows, or a test file that was never trained on; "
    "`gates.min_clean_rows` is the floor.",
    "comparable_champion": "Restore the champion's bundle, or make a version that works the champion with "
    "`gauntlet promote --version`.",
    "non_inferiority": "The rule says whether the model is worse than the champion or the test rows "
    "are too few to tell. More test rows narrow the doubt; `gates.non_inferiority_margin` is the bound.",
    "class_f1_drop": "A class got worse: the report shows it under Classes and among the mistakes; "
    "`gates.max_class_f1_drop` is the most allowed.",
}
RULE_ADVICE |= {
    rule: f"Evaluate-model's scores name the answers (`flagged`); the bound is `gates.stages.staging.{key}`."
    for rule, key, *_ in STAGE_RULES
    if rule not in RULE_ADVICE
}
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
    """A sentence, in which backquotes mark code, and the command that does it, if there is one.

    `about` names the rule or the check that the advice is for.
    """

    text: str
    command: str | None = None
    about: str = ""


def next_steps(record: RunRecord, ended: Outcome) -> tuple[NextStep, ...]:
    """What the reader would do now, the most useful first."""
    match ended.kind:
        case "unchanged":
            return _after_no_change(record)
        case "promoted" | "registered":
            return _after_registration(record, ended)
        case "rejected":
            return _after_rejection(record)
        case "data refused":
            return _after_refusal(record)
        case "failed" | "cancelled":
            return _after_failure(record)


def _promotion(record: RunRecord, name: str) -> NextStep:
    """The next move of the version that was registered."""
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


def _after_registration(record: RunRecord, ended: Outcome) -> tuple[NextStep, ...]:
    name = record.version.name if record.version else ""
    model = f"--model {name}" if name else ""
    listing = NextStep("See every version and its aliases.", f"gauntlet registry {model}")
    if ended.kind == "registered":
        return (_promotion(record, name), listing)
    scoring = _scoring(record, model)
    if record.champion_version is None:
        return (scoring, listing)
    undo = f"Go back to version {record.champion_version} if production disagrees with the test rows."
    undoing = NextStep(undo, f"gauntlet rollback {name}".rstrip())
    return (scoring, listing, undoing)


def _after_no_change(record: RunRecord) -> tuple[NextStep, ...]:
    name = record.version.name if record.version else ""
    listing = NextStep("See every version and its aliases.", f"gauntlet registry --model {name}")
    if record.version is None or CHAMPION in record.version.aliases:
        return (listing,)
    back = f"gauntlet promote {name} --version {record.version.version}"
    return (NextStep("Make it the champion again if that is what you want.", back), listing)


def _scoring(record: RunRecord, model: str) -> NextStep:
    text, given = record.kind.function("report", "TRY_IT") if record.kind else ("Try the new champion.", "…")
    return NextStep(text, f"gauntlet predict {model} {given}")


def _after_rejection(record: RunRecord) -> tuple[NextStep, ...]:
    failing = [rule.rule for rule in record.verdict.rules if rule.verdict == "fail"] if record.verdict else []
    advice = [NextStep(RULE_ADVICE[rule], about=words(rule)) for rule in failing if rule in RULE_ADVICE]
    again = NextStep(
        "Then run it again; a manifest key can be set there too.", f"{run_again(record)} --set KEY=VALUE"
    )
    return (*advice, *_budget_advice(record), *_judging_again(record), again)


def _judging_again(record: RunRecord) -> tuple[NextStep, ...]:
    """The commands for a rejected model of a run on this machine that do not train it again."""
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


def _budget_advice(record: RunRecord) -> tuple[NextStep, ...]:
    """What to do about a training that ended because its budget was used."""
    stopped = record.history.stopped if record.history else None
    if stopped not in BUDGET_KEYS:
        return ()
    key = f"training.resources.{BUDGET_KEYS[stopped]}"
    return (NextStep(f"Training ended before all its epochs; `{key}` is the limit.", about=stopped),)


def _after_refusal(record: RunRecord) -> tuple[NextStep, ...]:
    checks = record.checks or Checks(passed=False)
    return refusal_advice(checks, run_again(record), rejected_file(record))


def rejected_file(record: RunRecord) -> str | None:
    """The path of the file that lists the faulty rows, if there are any."""
    folder = record.step(VALIDATE_DATA).folder
    return f"{folder}/{REJECTED}" if folder and record.checks and record.checks.rejected else None


def refusal_advice(checks: Checks, command: str, rejected: str | None) -> tuple[NextStep, ...]:
    """What to do about checks that failed, with one command that answers all of them.

    Args:
        checks: All checks of the data.
        command: What reads the data again; settings are added to it.
        rejected: Where the rejected rows are listed, if there are any.
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


def run_again(record: RunRecord) -> str:
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


def _after_failure(record: RunRecord) -> tuple[NextStep, ...]:
    failed = record.failed_step
    if failed is not None and failed.name == STEPS[-1]:
        return (
            NextStep("See whether the version is there, and which aliases it has.", "gauntlet registry"),
            NextStep("Remove the cause, then run it again.", run_again(record)),
        )
    return (
        NextStep(
            "Remove the cause, then run it again. Nothing was registered, so there is nothing to undo.",
            f"gauntlet run --resume {record.local_run}" if record.local_run else run_again(record),
        ),
    )
