"""Really runs a pipeline job that the fake was sent, and puts what its steps leave into the bucket.

As a program, `python -m tests.fakes.execution RUN_FOLDER JOB_ID [CACHE]`, it is the process that runs the
steps.

The cache is kfp.local's own. Its key is what Vertex documents for its cache: the component's image, command
and environment, the values of parameters, and which artifacts come in, where the same content in another
run's folder is another artifact. A step that is compiled with caching off never uses it.
https://cloud.google.com/vertex-ai/docs/pipelines/configure-caching
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import yaml
from google.cloud import aiplatform_v1 as vertex
from google.protobuf import json_format
from google_cloud_pipeline_components.v1.custom_job import CustomTrainingJobOp
from kfp import local
from kfp.local import cache as local_cache
from kfp.local import executor_input_utils

from gauntlet.pipelines.home import ARGUMENTS_FILE, PIPELINE_FILE
from gauntlet.pipelines.local.execute import execute
from gauntlet.pipelines.vertex.lint import LAUNCHER_IMAGE
from tests.fakes.bucket import Bucket

PROJECT_NUMBER = 827804637


class Execution:
    """A job that runs on kfp.local in a process of its own, custom jobs unwrapped as Vertex unwraps them.

    `cache` is a folder that the jobs of one pipeline share; without one nothing is cached.
    """

    def __init__(self, folder: Path, bucket: Bucket, cache: Path | None = None) -> None:
        self.folder = folder
        self._cache = cache
        self.job_id = ""
        self._bucket = bucket
        self._thread = threading.Thread(target=lambda: None)

    def start(self, job: vertex.PipelineJob) -> None:
        self.job_id = job.name.rpartition("/")[2]
        content = _whole(json_format.MessageToDict(vertex.PipelineJob.pb(job)))
        self.folder.mkdir()
        spec = yaml.safe_dump(unwrapped(content["pipelineSpec"]))
        # kfp.local resolves the root of all jobs to a folder of this one.
        spec = spec.replace("{{$.pipeline_root}}/splits", str(self.folder.parent / "splits"))
        (self.folder / PIPELINE_FILE).write_text(spec)
        (self.folder / ARGUMENTS_FILE).write_text(json.dumps(content["runtimeConfig"]["parameterValues"]))
        root = f"{job.runtime_config.gcs_output_directory}/{PROJECT_NUMBER}/{self.job_id}"
        self._thread = threading.Thread(target=self._run, args=(root,))
        self._thread.start()

    def wait(self) -> None:
        self._thread.join()

    @property
    def ran(self) -> set[str]:
        """The steps that ran, and were not taken from the cache."""
        return {path.parent.name for path in (self.folder / "steps").glob("*/*/executor_output.json")}

    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def _run(self, root: str) -> None:
        command = [sys.executable, "-m", "tests.fakes.execution", str(self.folder), self.job_id]
        command += [] if self._cache is None else [str(self._cache)]
        with (self.folder / "log").open("w") as log:
            subprocess.run(command, env=os.environ, stdout=log, stderr=subprocess.STDOUT, check=False)
        for number, step in enumerate(sorted((self.folder / "steps").glob("*/*")), start=1):
            for file in step.rglob("*"):
                if file.is_file():
                    name = f"{root}/{step.name}_{number}/{file.relative_to(step)}"
                    self._bucket.objects[name] = file.read_bytes()


def unwrapped(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the container of each custom job in place of its launcher."""
    own_inputs = set(CustomTrainingJobOp.component_spec.inputs)
    for component in spec["components"].values():
        executor = spec["deploymentSpec"]["executors"].get(component.get("executorLabel"))
        container = (executor or {}).get("container", {})  # an importer has none
        if not container.get("image", "").startswith(LAUNCHER_IMAGE):
            continue
        inputs = component["inputDefinitions"]["parameters"]
        [pool] = inputs["worker_pool_specs"]["defaultValue"]
        inner = pool["container_spec"]
        escaped, whole = "{{$.json_escape[1]}}", "{{$}}"
        executor["container"] = {
            "image": inner["image_uri"],
            "command": inner["command"],
            "env": inner["env"],
            "args": [whole if part == escaped else part for part in inner["args"]],
        }
        component["inputDefinitions"]["parameters"] = {
            name: one for name, one in inputs.items() if name not in own_inputs
        }
        del component["outputDefinitions"]["parameters"]
    for component in spec["components"].values():
        for task in component.get("dag", {}).get("tasks", {}).values():
            if task["componentRef"]["name"] == "comp-train-model":
                for name in own_inputs & set(task["inputs"]["parameters"]):
                    del task["inputs"]["parameters"][name]
    return spec


def _whole(content: Any) -> Any:
    """Whole numbers as such: in a Struct all are of floating point."""
    if isinstance(content, dict):
        return {key: _whole(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_whole(value) for value in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content


if __name__ == "__main__":
    run_folder, job_id, *cache = sys.argv[1:]
    executor_input_utils.get_local_pipeline_resource_name = lambda _: job_id  # the job's name, as on Vertex
    if cache:
        local_cache._is_remote_uri = lambda _: True  # nor does Vertex look whether a metrics' file exists
        local.init = functools.partial(local.init, enable_caching=True, cache_root=cache[0])
    execute(Path(run_folder))
