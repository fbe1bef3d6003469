"""The training DAG: what runs after what, and what each step is given.

Each section of the manifest is a pipeline parameter, so the Vertex console shows and overrides what the
manifest says, and a step's cache key holds its own section only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any  # kfp reads annotations at run time, so they are not postponed in this module

from kfp import dsl
from kfp.dsl import base_component

from components.convert_to_onnx.component import convert_to_onnx
from components.evaluate_model.component import evaluate_model
from components.gate_model.component import gate_model
from components.register_model.component import register_model
from components.validate_data.component import validate_data
from components.write_report.component import write_report
from manifests.managed import is_managed
from manifests.schema import SECTIONS, Manifest, as_parameter
from pipelines.platforms import (
    ACCOUNT_OF_THE_STEPS,
    Platform,
    parameters_given_by,
    place,
    place_training,
    require_converting,
    retry,
    training_component,
    training_inputs,
    without_parameters,
)
from pipelines.process_one import exec_python

STEPS = (
    "validate-data",
    "train-model",
    "convert-to-onnx",
    "evaluate-model",
    "gate-model",
    "register-model",
    "write-report",
)


def steps_of(manifest: Manifest) -> tuple[str, ...]:
    """The steps of a manifest's DAG: of a managed model nothing is converted."""
    return tuple(step for step in STEPS if step != "convert-to-onnx" or not is_managed(manifest.training))


def pipeline_name(manifest: Manifest) -> str:
    """The manifest's name in the spelling that KFP and Vertex take."""
    return manifest.name.replace("_", "-")


def parameters(manifest: Manifest) -> dict[str, Any]:
    """The pipeline's parameters as the manifest sets them."""
    read = [name for name in SECTIONS if name != "conversion" or not is_managed(manifest.training)]
    sections = {section: as_parameter(getattr(manifest, section)) for section in read}
    return {
        "name": manifest.name,
        "task": manifest.task,
        "seed": manifest.seed,
        "manifest_sha256": manifest.sha256,
        **sections,
    }


def training_pipeline(
    manifest: Manifest, image: str, platform: Platform = "local"
) -> base_component.BaseComponent:
    """The DAG with the manifest's settings as its parameters' defaults.

    `image` is what a bundle's lineage says that it was made in.
    `run_id`, `registry_uri`, `tracking_uri` and `training_account` belong to a run and not to a manifest: the
    caller gives them, but for those that the platform gives itself. No `training_account`: that of the other
    steps.

    Raises:
        UsageError: The platform cannot train or convert on what the manifest asks for.
    """
    require_converting(platform, manifest.conversion.device)
    build = _managed_dag if is_managed(manifest.training) else _dag
    pipeline = without_parameters(build(manifest, image, platform), parameters_given_by(platform))
    made = dsl.pipeline(name=pipeline_name(manifest), description=manifest.description)(pipeline)
    if platform != "local":  # here no step is a container's process 1
        exec_python(made.pipeline_spec)
    return made


@dataclass(frozen=True)
class _Given:
    """The pipeline's parameters that more than one step takes, as they are known when the DAG is made."""

    run_id: Any
    registry_uri: Any
    name: Any
    task: Any
    seed: Any
    manifest_sha256: Any


def _dag(manifest: Manifest, image: str, platform: Platform) -> Callable[..., None]:
    """The whole line of steps."""
    default = parameters(manifest)
    train_model = training_component(platform, manifest)

    def pipeline(
        run_id: str,
        registry_uri: str,
        tracking_uri: str,
        name: str = default["name"],
        task: str = default["task"],
        seed: int = default["seed"],
        manifest_sha256: str = default["manifest_sha256"],
        dataset: dict = default["dataset"],
        training: dict = default["training"],
        conversion: dict = default["conversion"],
        evaluation: dict = default["evaluation"],
        gates: dict = default["gates"],
        registration: dict = default["registration"],
        training_account: str = ACCOUNT_OF_THE_STEPS,
    ) -> None:
        given = _Given(run_id, registry_uri, name, task, seed, manifest_sha256)
        with _reported(given, platform):
            data = validate_data(dataset=dataset, task=task, seed=seed)
            trained = train_model(
                training=training,
                name=name,
                task=task,
                seed=seed,
                tracking_uri=tracking_uri,
                splits=data.outputs["splits"],
                **training_inputs(platform, training_account),
            )
            place_training(trained, platform, manifest.training.resources)
            converted = convert_to_onnx(
                conversion=conversion,
                name=name,
                seed=seed,
                manifest_sha256=manifest_sha256,
                checkpoint=trained.outputs["checkpoint"],
                splits=data.outputs["splits"],
            ).set_env_variable("GAUNTLET_IMAGE", image)
            _decide(given, platform, evaluation, gates, registration, data, trained, converted)
        for heavy in (data, converted):
            place(heavy, platform, cpus=4, memory_gb=16)
            retry(heavy, platform)

    return pipeline


def _managed_dag(manifest: Manifest, image: str, platform: Platform) -> Callable[..., None]:
    """The line of a managed model: what train-model hands on is an endpoint, and nothing is converted."""
    default = parameters(manifest)
    train_model = training_component(platform, manifest, {"GAUNTLET_IMAGE": image})

    def pipeline(
        run_id: str,
        registry_uri: str,
        tracking_uri: str,
        name: str = default["name"],
        task: str = default["task"],
        seed: int = default["seed"],
        manifest_sha256: str = default["manifest_sha256"],
        dataset: dict = default["dataset"],
        training: dict = default["training"],
        evaluation: dict = default["evaluation"],
        gates: dict = default["gates"],
        registration: dict = default["registration"],
        training_account: str = ACCOUNT_OF_THE_STEPS,
    ) -> None:
        given = _Given(run_id, registry_uri, name, task, seed, manifest_sha256)
        with _reported(given, platform):
            data = validate_data(dataset=dataset, task=task, seed=seed)
            trained = train_model(
                training=training,
                name=name,
                manifest_sha256=manifest_sha256,
                tracking_uri=tracking_uri,
                splits=data.outputs["splits"],
                **training_inputs(platform, training_account),
            )
            place_training(trained, platform, manifest.training.resources)
            _decide(given, platform, evaluation, gates, registration, data, trained, trained)
        place(data, platform, cpus=4, memory_gb=16)
        retry(data, platform)

    return pipeline


def _reported(given: _Given, platform: Platform) -> dsl.ExitHandler:
    """What is within ends with the run's report, whatever happens."""
    report = write_report(
        name=given.name,
        manifest_sha256=given.manifest_sha256,
        run_id=given.run_id,
        pipeline_root=dsl.PIPELINE_ROOT_PLACEHOLDER,
        job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    )
    place(report, platform, cpus=1, memory_gb=4)
    return dsl.ExitHandler(report, name="gauntlet")


def _decide(
    given: _Given,
    platform: Platform,
    evaluation: Any,
    gates: Any,
    registration: Any,
    data: dsl.PipelineTask,
    trained: dsl.PipelineTask,
    bundled: dsl.PipelineTask,
) -> None:
    """Evaluate what `bundled` hands on, judge it, and register it if the gate says so."""
    evaluated = evaluate_model(
        evaluation=evaluation,
        name=given.name,
        task=given.task,
        seed=given.seed,
        registry_uri=given.registry_uri,
        bundle=bundled.outputs["bundle"],
        splits=data.outputs["splits"],
    ).set_caching_options(False)  # the champion it is compared with changes
    gate = gate_model(
        gates=gates,
        task=given.task,
        scores=evaluated.outputs["scores"],
        candidates=bundled.outputs["candidates"],
        history=trained.outputs["history"],
        bundle=bundled.outputs["bundle"],
    ).set_caching_options(False)
    # The only other word is `reject`, and rejecting is doing nothing: the report says why.
    with dsl.If(gate.outputs["Output"] == "promote", name="promote"):
        registered = register_model(
            registration=registration,
            name=given.name,
            registry_uri=given.registry_uri,
            manifest_sha256=given.manifest_sha256,
            run_id=given.run_id,
            bundle=bundled.outputs["bundle"],
            scores=evaluated.outputs["scores"],
            verdict=gate.outputs["verdict"],
        ).set_caching_options(False)
    place(evaluated, platform, cpus=4, memory_gb=16)
    for light in (gate, registered):
        place(light, platform, cpus=1, memory_gb=4)
        retry(light, platform)
    if trained is not bundled:  # each answer of a managed model is paid for
        retry(evaluated, platform)
