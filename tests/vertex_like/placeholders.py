"""Placeholders of KFP's pipeline specs, resolved as Vertex AI resolves them.

`dsl.PIPELINE_JOB_NAME_PLACEHOLDER` and its siblings name those of a pipeline; those of Google Cloud are used
by its own components (google_cloud_pipeline_components: `project` and `location` of every operation).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['(\w+)'\]\}\}")
OUTPUT_FILE = re.compile(r"\{\{\$\.outputs\.parameters\['(\w+)'\]\.output_file\}\}")
EXECUTOR_INPUT = re.compile(r"\{\{\$(?:\.json_escape\[1\])?\}\}")
OF_THE_PIPELINE = re.compile(r"\{\{\$\.(pipeline_\w+)\}\}")


def resolved(value: Any, pipeline: Mapping[str, str]) -> Any:
    """A constant or a default with the pipeline's own placeholders, such as `pipeline_job_name`, resolved."""
    if isinstance(value, dict):
        return {key: resolved(one, pipeline) for key, one in value.items()}
    if isinstance(value, list):
        return [resolved(one, pipeline) for one in value]
    return OF_THE_PIPELINE.sub(lambda found: pipeline[found[1]], value) if isinstance(value, str) else value


def with_inputs(text: str, inputs: Mapping[str, Any]) -> str:
    """An argument with its inputs: strings as they are, all else as JSON; one that was not given is null."""

    def as_text(found: re.Match[str]) -> str:
        value = inputs.get(found[1])
        return value if isinstance(value, str) else json.dumps(value)

    return INPUT.sub(as_text, text)


def argument(text: str, executor_input: Mapping[str, Any]) -> str:
    """An argument with its inputs, its outputs' files and the executor input.

    Inputs are first: the payload of a custom job is an input that holds placeholders of its own.

    Raises:
        ValueError: A placeholder is left that this does not know.
    """
    text = with_inputs(text, executor_input["inputs"]["parameterValues"])
    unknown = re.search(r"\{\{\$[^}]*\}\}", EXECUTOR_INPUT.sub("", OUTPUT_FILE.sub("", text)))
    if unknown:
        raise ValueError(f"{unknown[0]}: Vertex AI may know this placeholder, the runner does not")
    files = executor_input["outputs"]["parameters"]
    text = OUTPUT_FILE.sub(lambda found: str(files[found[1]]["outputFile"]), text)
    whole = json.dumps(executor_input)
    escaped = json.dumps(whole)[1:-1]
    return EXECUTOR_INPUT.sub(lambda found: escaped if "escape" in found[0] else whole, text)
