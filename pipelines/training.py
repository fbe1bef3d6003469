"""The training DAG: what runs after what, and what each step is given.

Each section of the manifest is a pipeline parameter, so the Vertex console shows and overrides what the
manifest says, and a step's cache key holds its own section only.
"""

import functools
from typing import Any  # kfp reads annotations at run time, so they are not postponed in this module

from kfp import dsl
from kfp.dsl import base_component

from components.convert_to_onnx.component import convert_to_onnx
from components.evaluate_model.component import evaluate_model
from components.gate_model.component import gate_model
from components.register_model.component import register_model
from components.validate_data.component import validate_data
from components.write_report.component import write_report
from manifests.schema import SECTIONS, Manifest, as_parameter
from pipelines.platforms import Platform, place, place_training, run_id, training_component

STEPS = (
    "validate-data",
    "train-model",
    "convert-to-onnx",
    "evaluate-model",
    "gate-model",
    "register-model",
    "write-report",
)


def pipeline_name(manifest: Manifest) -> str:
    """The manifest's name in the spelling that KFP and Vertex take."""
    return manifest.name.replace("_", "-")


def parameters(manifest: Manifest) -> dict[str, Any]:
    """The pipeline's parameters as the manifest sets them."""
    sections = {section: as_parameter(getattr(manifest, section)) for section in SECTIONS}
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
    `run_id`, `registry_uri` and `tracking_uri` belong to a run and not to a manifest: the caller gives them,
    but for a `run_id` that the platform gives itself.

    Raises:
        UsageError: The platform cannot train on what the manifest asks for.
    """
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
    ) -> None:
        report = write_report(
            name=name,
            manifest_sha256=manifest_sha256,
            run_id=run_id,
            pipeline_root=dsl.PIPELINE_ROOT_PLACEHOLDER,
            job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
        )
        with dsl.ExitHandler(report, name="gauntlet"):
            data = validate_data(dataset=dataset, task=task, seed=seed)
            trained = train_model(
                training=training,
                name=name,
                task=task,
                seed=seed,
                tracking_uri=tracking_uri,
                splits=data.outputs["splits"],
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
            evaluated = evaluate_model(
                evaluation=evaluation,
                name=name,
                task=task,
                seed=seed,
                registry_uri=registry_uri,
                bundle=converted.outputs["bundle"],
                splits=data.outputs["splits"],
            ).set_caching_options(False)  # the champion it is compared with changes
            gate = gate_model(
                gates=gates,
                task=task,
                scores=evaluated.outputs["scores"],
                candidates=converted.outputs["candidates"],
                history=trained.outputs["history"],
                bundle=converted.outputs["bundle"],
            ).set_caching_options(False)
            # The only other word is `reject`, and rejecting is doing nothing: the report says why.
            with dsl.If(gate.outputs["Output"] == "promote", name="promote"):
                registered = register_model(
                    registration=registration,
                    name=name,
                    registry_uri=registry_uri,
                    manifest_sha256=manifest_sha256,
                    run_id=run_id,
                    bundle=converted.outputs["bundle"],
                    scores=evaluated.outputs["scores"],
                    verdict=gate.outputs["verdict"],
                ).set_caching_options(False)
        for heavy in (data, converted, evaluated):
            place(heavy, platform, cpus=4, memory_gb=16)
        for light in (gate, registered, report):
            place(light, platform, cpus=1, memory_gb=4)

    decorate = dsl.pipeline(name=pipeline_name(manifest), description=manifest.description)
    named_run = run_id(platform)
    if named_run is None:
        return decorate(pipeline)
    bound = functools.partial(pipeline, named_run)  # which takes it out of the pipeline's parameters
    bound.__name__ = pipeline.__name__  # type: ignore[attr-defined]
    return decorate(bound)
