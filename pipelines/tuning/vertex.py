"""The study as a Vertex AI hyperparameter tuning job.

The file is a spec of the job and nothing else, so that the command line tool accepts it
(`gcloud ai hp-tuning-jobs create --config`) and so does the service (`POST`).
Its keys:
https://cloud.google.com/vertex-ai/docs/reference/rest/v1/projects.locations.hyperparameterTuningJobs
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml

from gauntlet.components.container_images import TRAINER_IMAGE
from gauntlet.contracts.document import write_text
from gauntlet.manifests.accelerators import bought_gpus_environment
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.kinds import known_metric
from gauntlet.manifests.schema import Manifest, as_parameter
from gauntlet.manifests.search import Dimension, Search
from gauntlet.manifests.training import Resources, trained_here
from gauntlet.pipelines.platforms import SECONDS_TO_START_AND_END
from gauntlet.pipelines.vertex.submission import require_reachable_model
from gauntlet.trainer.tuning.study import is_whole

SPLITS_FOLDER = "splits"
TRIALS_FOLDER = "trials"


def compile_tuning_job(
    manifest: Manifest, search: Search, trials: int, jobs: int, staging: str, path: Path
) -> None:
    """Write the spec as YAML, atomically.

    `jobs` is the number of trials at the same time. `staging` is a folder in a bucket that contains `splits`;
    each trial's model goes to `trials` there.

    Raises:
        UsageError: `staging` is not in a bucket, or the encoder is on this machine.
    """
    if not staging.startswith("gs://"):
        raise UsageError(
            f"--staging: found {staging!r}, expected a folder in a bucket. Write --staging gs://BUCKET/FOLDER."
        )
    require_reachable_model(manifest)
    spec = tuning_job(manifest, search, trials, jobs, staging.rstrip("/"))
    write_text(path, yaml.safe_dump(spec, sort_keys=False, allow_unicode=True))


def tuning_job(manifest: Manifest, search: Search, trials: int, jobs: int, staging: str) -> dict[str, Any]:
    """A `HyperparameterTuningJob` as JSON types."""
    training = trained_here(manifest.training)
    metric = training.early_stopping.metric
    goal = "MAXIMIZE" if known_metric(metric).better == "higher" else "MINIMIZE"
    resources = training.resources
    environment = bought_gpus_environment(resources.accelerator_count)
    seconds_per_trial = resources.max_hours * 3600 + SECONDS_TO_START_AND_END
    return {
        "displayName": f"{manifest.name}-tuning",
        "maxTrialCount": trials,
        "parallelTrialCount": jobs,
        "studySpec": {
            "metrics": [{"metricId": metric, "goal": goal}],
            "parameters": [
                _parameter(key, dimension, is_whole(training, key))
                for key, dimension in search.dimensions().items()
            ],
            "medianAutomatedStoppingSpec": {"useElapsedDuration": False},
            # The checkpoint is the best epoch's, so the trial's score is too.
            "measurementSelectionType": "BEST_MEASUREMENT",
        },
        "trialJobSpec": {
            "workerPoolSpecs": [
                {
                    "machineSpec": _machine(resources),
                    "replicaCount": 1,
                    "containerSpec": {
                        "imageUri": TRAINER_IMAGE,
                        "command": ["python", "-P", "-m", "gauntlet.trainer"],
                        "env": [{"name": name, "value": value} for name, value in environment.items()],
                        "args": [
                            f"--manifest={json.dumps(as_parameter(manifest), ensure_ascii=False)}",
                            f"--splits={staging}/{SPLITS_FOLDER}",
                            "--resume-dir=",  # trial 3 of another job must not resume this job's trial 3
                        ],
                    },
                }
            ],
            # Whether it is a trial's or the job's is documented nowhere; a trial ends by max_hours anyway.
            "scheduling": {"timeout": f"{math.ceil(trials / jobs * seconds_per_trial)}s"},
            "baseOutputDirectory": {"outputUriPrefix": f"{staging}/{TRIALS_FOLDER}"},
        },
    }


def _machine(resources: Resources) -> dict[str, Any]:
    machine: dict[str, Any] = {"machineType": resources.machine_type}
    if resources.accelerator_type is not None:
        machine["acceleratorType"] = resources.accelerator_type
        machine["acceleratorCount"] = resources.accelerator_count
    return machine


def _parameter(key: str, dimension: Dimension, whole: bool) -> dict[str, Any]:
    """One key as a `ParameterSpec`. A range with a step becomes a list, since Vertex AI knows no steps."""
    if (listed := dimension.listed()) is not None:
        numbers = [float(value) for value in listed if not isinstance(value, str)]
        if len(numbers) < len(listed):
            return {"parameterId": key, "categoricalValueSpec": {"values": [str(value) for value in listed]}}
        return {"parameterId": key, "discreteValueSpec": {"values": sorted(numbers)}}
    kind, spec = (int, "integerValueSpec") if whole else (float, "doubleValueSpec")
    low, high = map(kind, dimension.ends)
    scale = "UNIT_LOG_SCALE" if dimension.log else "UNIT_LINEAR_SCALE"
    return {"parameterId": key, "scaleType": scale, spec: {"minValue": low, "maxValue": high}}
