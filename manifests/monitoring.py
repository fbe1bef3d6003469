"""The section of the monitoring DAG: which rows are looked at, how sure it must be, what it may do."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gauntlet.manifests.section import Section

Place = r"^\S(.*\S)?$"


class Monitoring(Section):
    """Section of the monitoring DAG. Without `log` the model is not monitored.

    It changes no model, so it is in neither the manifest's hash nor the training's parameters.

    Attributes:
        log: The folder of the request log, a path or a URI: what `gauntlet serve --request-log` names.
        labels: The folder of the table of labels, which `gauntlet label import` writes.
        reference: Rows that the same bundle answered when all was well: a folder of a request log, for a
            bundle without a baseline of its own.
        window_hours: The hours of a window. Windows begin at multiples of it since 1970, in UTC.
        min_rows: The answered rows that a window needs.
        tolerance: The smallest difference of a column that counts as a change.
        alpha: At most this share of clean windows has a change.
        run_length: The labelled rows that are expected up to a false alarm of harm, at least.
        min_new_rows, min_class_rows: The labelled rows that a retraining needs, in all and of each class.
        label_rows: How many rows to label are drawn when labels are needed, half of them uniformly.
        probation_hours: How long after its promotion a harmful version may be rolled back.
        cool_down_hours: Between two attempts of one episode. It doubles with each that was rejected.
        attempts: The most retrainings of one episode; people decide after the last one.
        retrain_on: What may ask for a retraining: harm that labels prove, an estimate too, or nothing.
        roll_back: Whether the previous version is made champion again, or only the command is printed.
        value_per_error_usd: What an error costs. A retraining waits until the errors above the promised
            ones have cost as much as it may cost itself.
        receiver: The URL of the receiver that takes the request for a training; docs/triggers.md.
    """

    log: str | None = Field(None, pattern=Place)
    labels: str | None = Field(None, pattern=Place)
    reference: str | None = Field(None, pattern=Place)
    window_hours: int = Field(24, ge=1, le=24 * 31)
    min_rows: int = Field(200, ge=1)
    tolerance: float = Field(0.05, ge=0, le=1)
    alpha: float = Field(0.001, gt=0, le=0.5)
    run_length: float = Field(1e6, ge=100)
    min_new_rows: int = Field(500, ge=1)
    min_class_rows: int = Field(20, ge=0)
    label_rows: int = Field(400, ge=2)
    probation_hours: float = Field(48.0, ge=0)
    cool_down_hours: float = Field(6.0, ge=0)
    attempts: int = Field(2, ge=1, le=10)
    retrain_on: Literal["harm", "estimate", "never"] = "harm"
    roll_back: Literal["ask", "automatic"] = "ask"
    value_per_error_usd: float | None = Field(None, gt=0)
    receiver: str | None = Field(None, pattern=r"^https?://\S+$")

    @model_validator(mode="after")
    def _has_a_log(self) -> Self:
        if self.log is None and self.model_fields_set - {"log"}:
            raise ValueError("log is missing: name the folder of the request log, or leave monitoring out")
        return self
