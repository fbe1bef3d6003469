"""Runs a pipeline job as Vertex AI does: the compiled spec, each container on a machine of its own.

No project was at hand, so this is Vertex AI as it is documented, as far as a pipeline can see it:

- The job is what `CreatePipelineJob` was sent. Numbers in it are floating-point ones, as all are in
  `google.protobuf.Struct`, and steps get whole ones as integers: the launcher's client makes no disk of
  `100.0` GB.
- Placeholders are resolved in arguments, constants and defaults (`placeholders`).
- A task is run when those before it have succeeded, if its condition holds; one with the policy
  ALL_UPSTREAM_TASKS_COMPLETED, an exit handler, when they have ended, however that was. It gets the final
  status.
- A container gets its artifacts by `gs://` URIs and finds them under `/gcs` (`gcs_mount`), as user 10001 and
  PID 1 on a machine that reaches nothing but the fakes (`machine`).
- A custom job is made by Google's own launcher code (`custom_jobs`). When its machine is taken away it is
  started again on another, if it is to be; when its timeout is over it is ended.
- A task whose containers failed is run again as often as its retry policy says.

Not modelled: the cache, concurrent tasks, custom jobs of several machines, accelerators, limits of CPU and
memory, accounts and permissions, waiting (for machines, between retries, for a deadline). That Vertex AI does
what is documented only a run there can show.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NoReturn

from google.cloud import aiplatform_v1 as vertex
from google.protobuf import json_format

from tests.fakes.bucket import Bucket
from tests.fakes.vertex_jobs import JobService
from tests.vertex_like import custom_jobs
from tests.vertex_like.machine import Ended, Machine
from tests.vertex_like.placeholders import argument, resolved

PROJECT_NUMBER = "827804637"
DEFAULT_ACCOUNT = f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com"
DEADLINE_EXCEEDED = 4
FAILED_PRECONDITION = 9
CONDITION = re.compile(r"inputs\.parameter_values\['([^']+)'\]\s*==\s*'([^']*)'")
ALL_UPSTREAM_COMPLETED = "ALL_UPSTREAM_TASKS_COMPLETED"

State = Literal["SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED", "NOT_TRIGGERED"]
Values = Mapping[str, Any]
Kind = Literal["preemption", "cancellation", "deadline"]


@dataclass(frozen=True)
class Interruption:
    """What befalls a step from outside.

    Attributes:
        kind: Its machine is taken away; somebody cancels the pipeline; or the custom job's timeout is over.
        when: By the lines that the step has printed; asked again and again while it runs.
    """

    step: str
    kind: Kind
    when: Callable[[Sequence[str]], bool]


@dataclass(frozen=True)
class Attempt:
    """One run of a step's container. `folder` is the `gs://` folder of its outputs."""

    step: str
    folder: str
    ended: Ended


@dataclass(frozen=True)
class Outputs:
    """What a task hands on."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class StepFailed(Exception):
    """A step ended without success; `state` is what becomes of it."""

    def __init__(self, message: str, state: State, code: int = FAILED_PRECONDITION) -> None:
        super().__init__(message)
        self.state = state
        self.code = code


class PipelineRun:
    """One run of a pipeline job.

    Attributes:
        states: How each task ended.
        attempts: The containers that were run, in their order.
    """

    def __init__(
        self,
        job: vertex.PipelineJob,
        machine: Machine,
        bucket: Bucket,
        jobs: JobService,
        interruptions: Sequence[Interruption] = (),
    ) -> None:
        content = _whole(json_format.MessageToDict(vertex.PipelineJob.pb(job)))
        self._spec = content["pipelineSpec"]
        self._given = content["runtimeConfig"].get("parameterValues", {})
        self._machine, self._bucket, self._jobs = machine, bucket, jobs
        self._interruptions = list(interruptions)
        self._numbers = count(1)
        project, location, self.job_id = job.name.split("/")[1::2]
        self._resource_name = f"projects/{PROJECT_NUMBER}/locations/{location}/pipelineJobs/{self.job_id}"
        self._root = job.runtime_config.gcs_output_directory.rstrip("/")
        self._pipeline = {
            "pipeline_job_name": self.job_id,
            "pipeline_job_uuid": "4242",
            "pipeline_job_resource_name": self._resource_name,
            "pipeline_root": self._root,
            "pipeline_google_cloud_project_id": project,
            "pipeline_google_cloud_location": location,
            "pipeline_service_account": job.service_account or DEFAULT_ACCOUNT,
            "pipeline_persistent_resource_id": "",
        }
        self.states: dict[str, State] = {}
        self.attempts: list[Attempt] = []

    def execute(self) -> State:
        """Run it all, and return how the pipeline ended."""
        root = self._spec["root"]
        return self._run_dag(root["dag"], self._complete(root, self._given), {}).state

    def __str__(self) -> str:
        """How tasks ended, and what containers printed last that failed."""
        failed = (one for one in self.attempts if one.ended.exit_code)
        ends = (f"{one.step}: {one.ended.exit_code}\n" + "\n".join(one.ended.lines[-30:]) for one in failed)
        return "\n".join((str(self.states), *ends))

    def attempts_of(self, step: str) -> list[Attempt]:
        return [one for one in self.attempts if one.step == step]

    def _run_dag(self, dag: Any, parameters: Mapping[str, Any], artifacts: Mapping[str, Any]) -> _Dag:
        done = _Dag(parameters, artifacts)
        for name, task in _in_order(dag["tasks"]):
            policy = task.get("triggerPolicy", {})
            if done.failure and policy.get("strategy") != ALL_UPSTREAM_COMPLETED:
                self.states[name] = "NOT_TRIGGERED"
                continue
            if any(self.states[before] == "SKIPPED" for before in task.get("dependentTasks", ())):
                self.states[name] = "SKIPPED"
                continue
            component = self._spec["components"][task["componentRef"]["name"]]
            inputs = self._inputs(task, done)
            if not _holds(policy.get("condition", ""), inputs.parameters):
                self.states[name] = "SKIPPED"
                continue
            complete = self._complete(component, inputs.parameters)
            try:
                done.outputs[name] = self._run_task(name, task, component, complete, inputs.artifacts)
                self.states[name] = "SUCCEEDED"
            except StepFailed as failure:
                self.states[name] = failure.state
                done.failure = done.failure or failure
        return done

    def _run_task(
        self,
        name: str,
        task: Any,
        component: Any,
        parameters: Mapping[str, Any],
        artifacts: Mapping[str, Any],
    ) -> Outputs:
        if "dag" in component:
            inner = self._run_dag(component["dag"], parameters, artifacts)
            if inner.failure:
                raise inner.failure
            return Outputs()
        executor = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]
        if "importer" in executor:
            return self._imported(executor["importer"], parameters["uri"])
        retries = int(task.get("retryPolicy", {}).get("maxRetryCount", 0))
        while True:
            try:
                return self._run_container(name, component, parameters, artifacts)
            except StepFailed as failure:
                if failure.state != "FAILED" or not retries:
                    raise
                retries -= 1

    def _imported(self, importer: Any, uri: str) -> Outputs:
        """The artifact at a URI: the same one each time, unless it is to be imported again."""
        assert not importer.get("reimport"), "an artifact that is imported again is another one"
        store = f"projects/{PROJECT_NUMBER}/locations/here/metadataStores/default/artifacts"
        kind = {"schemaTitle": importer["typeSchema"]["schemaTitle"]}
        name = f"{store}/{hashlib.sha256(uri.encode()).hexdigest()[:16]}"
        return Outputs(artifacts={"artifact": {"name": name, "type": kind, "uri": uri, "metadata": {}}})

    def _run_container(self, name: str, component: Any, parameters: Values, artifacts: Values) -> Outputs:
        executor = self._spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        folder = f"{self._root}/{PROJECT_NUMBER}/{self.job_id}/{name}_-{next(self._numbers)}"
        executor_input = _executor_input(folder, component, parameters, artifacts)
        arguments = [argument(one, executor_input) for one in executor.get("args", ())]
        made: dict[str, Any] = {}
        if custom_jobs.is_launcher(executor["command"]):
            file = self._machine.folder / f"{name}-{next(self._numbers)}-gcp_resources"
            job, made["gcp_resources"] = custom_jobs.make_custom_job(arguments, self._jobs, file)
            self._run_custom_job(name, folder, job)
        else:
            command = [argument(one, executor_input) for one in executor["command"]] + arguments
            variables = {one["name"]: one["value"] for one in executor.get("env", ())}
            ended, interruption = self._run_on_machine(name, folder, command, variables)
            _require_success(name, ended, interruption)
        return self._handed_on(folder, executor_input, made)

    def _run_custom_job(self, name: str, folder: str, job: vertex.CustomJob) -> None:
        command, variables = custom_jobs.worker_command(job), custom_jobs.worker_variables(job)
        while True:
            ended, interruption = self._run_on_machine(name, folder, command, variables)
            if interruption is None or interruption.kind != "preemption":
                break
            if not custom_jobs.starts_again(job):
                raise StepFailed(f"{name}: its machine was taken away", "FAILED")
        if interruption is not None and interruption.kind == "deadline":
            assert job.job_spec.scheduling.timeout, "without a timeout there is no deadline"
        _require_success(name, ended, interruption)

    def _run_on_machine(
        self, name: str, folder: str, command: Sequence[str], variables: Mapping[str, str]
    ) -> tuple[Ended, Interruption | None]:
        """Run a container, and say what ended it, if anything did."""
        interruption = next((one for one in self._interruptions if one.step == name), None)
        label = f"{self.job_id}-{name}-{next(self._numbers)}"
        if interruption is None:
            ended = self._machine.run(label, command, variables)
        else:
            ended = self._machine.run(label, command, variables, interruption.when)
        self.attempts.append(Attempt(name, folder, ended))
        if interruption is None or not ended.told:
            return ended, None
        self._interruptions.remove(interruption)
        return ended, interruption

    def _handed_on(self, folder: str, executor_input: Mapping[str, Any], made: Mapping[str, Any]) -> Outputs:
        """What a container that has succeeded left, as `executor_output.json` says."""
        content = self._bucket.objects.get(f"{folder}/executor_output.json", b"{}")
        left = json.loads(content, parse_constant=_refuse_constant)
        artifacts = {}
        for name, declared in executor_input["outputs"]["artifacts"].items():
            [changed] = left.get("artifacts", {}).get(name, {}).get("artifacts", [{}])
            artifacts[name] = declared["artifacts"][0] | changed
        return Outputs({**left.get("parameterValues", {}), **made}, artifacts)

    def _inputs(self, task: Any, done: _Dag) -> Outputs:
        """What a task is given. `done` is the DAG that it is in."""
        parameters, artifacts = {}, {}
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            [(kind, what)] = source.items()
            if kind == "componentInputParameter":
                if what in done.parameters:
                    parameters[name] = done.parameters[what]
            elif kind == "runtimeValue":
                parameters[name] = resolved(what["constant"], self._pipeline)
            elif kind == "taskOutputParameter":
                producer = done.outputs[what["producerTask"]]
                parameters[name] = producer.parameters[what["outputParameterKey"]]
            elif kind == "taskFinalStatus":
                parameters[name] = self._final_status(what["producerTask"], done.failure)
            else:
                raise ValueError(f"{name}: a source of the kind {kind} is not in this runner")
        for name, source in task.get("inputs", {}).get("artifacts", {}).items():
            if "componentInputArtifact" in source:
                artifacts[name] = done.artifacts[source["componentInputArtifact"]]
            else:
                what = source["taskOutputArtifact"]
                artifacts[name] = done.outputs[what["producerTask"]].artifacts[what["outputArtifactKey"]]
        return Outputs(parameters, artifacts)

    def _complete(self, component: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """A component's parameters: those that are given, and defaults for the others."""
        complete = {}
        for name, one in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if name in given or "defaultValue" in one:
                default = resolved(one.get("defaultValue"), self._pipeline)
                complete[name] = given.get(name, default)
            elif not one.get("isOptional"):
                raise ValueError(f"parameter {name} is required")
        return complete

    def _final_status(self, task: str, failure: StepFailed | None) -> dict[str, Any]:
        """`PipelineTaskFinalStatus` in JSON."""
        error = {"code": failure.code, "message": str(failure)} if failure else {}
        return {
            "state": failure.state if failure else "SUCCEEDED",
            "error": error,
            "pipelineJobResourceName": self._resource_name,
            "pipelineTaskName": task,
        }


@dataclass
class _Dag:
    """How far a DAG is. `failure` is the first one of its tasks."""

    parameters: Mapping[str, Any]
    artifacts: Mapping[str, Any]
    outputs: dict[str, Outputs] = field(default_factory=dict)
    failure: StepFailed | None = None

    @property
    def state(self) -> State:
        return self.failure.state if self.failure else "SUCCEEDED"


def _in_order(tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Tasks, each after those that it depends on."""
    waiting = dict(tasks)
    while waiting:
        ready = [
            name for name, task in waiting.items() if not waiting.keys() & task.get("dependentTasks", ())
        ]
        if not ready:
            raise ValueError(f"tasks wait for each other: {', '.join(waiting)}")
        yield ready[0], waiting.pop(ready[0])


def _holds(condition: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a task's condition does; of CEL, only comparing with a word."""
    if not condition:
        return True
    found = CONDITION.fullmatch(condition)
    if found is None:
        raise ValueError(f"{condition}: a condition that this runner cannot evaluate")
    return bool(parameters[found[1]] == found[2])


def _executor_input(
    folder: str, component: Any, parameters: Mapping[str, Any], artifacts: Mapping[str, Any]
) -> dict[str, Any]:
    """`ExecutorInput` in JSON: artifacts by URIs, outputs' files as paths."""
    declared = component.get("outputDefinitions", {})
    here = folder.replace("gs://", "/gcs/", 1)
    store = f"projects/{PROJECT_NUMBER}/locations/here/metadataStores/default/artifacts"
    outputs = {
        name: {
            "name": f"{store}/{folder.rpartition('_-')[2]}-{name}",
            "type": {"schemaTitle": one["artifactType"]["schemaTitle"]},
            "uri": f"{folder}/{name}",
            "metadata": {},
        }
        for name, one in declared.get("artifacts", {}).items()
    }
    return {
        "inputs": {
            "parameterValues": dict(parameters),
            "artifacts": {name: {"artifacts": [one]} for name, one in artifacts.items()},
        },
        "outputs": {
            "parameters": {name: {"outputFile": f"{here}/{name}"} for name in declared.get("parameters", {})},
            "artifacts": {name: {"artifacts": [one]} for name, one in outputs.items()},
            "outputFile": f"{here}/executor_output.json",
        },
    }


def _require_success(name: str, ended: Ended, interruption: Interruption | None) -> None:
    if interruption is not None and interruption.kind == "cancellation":
        raise StepFailed(f"{name}: cancelled", "CANCELLED", code=1)
    if interruption is not None and interruption.kind == "deadline":
        raise StepFailed(f"{name}: the custom job's timeout was reached", "FAILED", DEADLINE_EXCEEDED)
    if ended.exit_code:
        raise StepFailed(
            f"The DAG failed because some tasks failed. The failed tasks are: [{name}].", "FAILED"
        )


def _whole(content: Any) -> Any:
    """Whole numbers as integers."""
    if isinstance(content, dict):
        return {key: _whole(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_whole(value) for value in content]
    return int(content) if isinstance(content, float) and content.is_integer() else content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"executor_output.json holds {name}, which is not JSON")
