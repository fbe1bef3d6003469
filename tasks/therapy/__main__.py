"""`python -m gauntlet.tasks.therapy`: print each evaluator's accuracy as Markdown."""

from __future__ import annotations

from gauntlet.tasks.therapy.validation import validate


def table() -> list[str]:
    """The lines of the table."""
    return [
        "| evaluator | version | judgement | precision | recall | labelled yes |",
        "|---|---|---|---:|---:|---:|",
        *(
            f"| {row.evaluator} | {row.version} | {row.judgement} | {row.precision:.2f} | {row.recall:.2f} | "
            f"{row.positives} of {row.rows} |"
            for row in validate()
        ),
    ]


if __name__ == "__main__":
    print("\n".join(table()))
