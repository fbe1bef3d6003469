"""The training DAG: what runs after what, and what each step is given.

Each section of the manifest is a pipeline parameter, so the Vertex console shows and overrides what the
manifest says, and a step's cache key holds its own section only.

fingerprint-data runs every time; its output is a parameter of validate-data, which runs again when a file of
the data has changed. The content of the splits is a parameter of the steps that read them and are cached, so
those run again when the rows have changed. docs/explanation/decisions.md says why the artifacts alone are
not enough.

KFP starts a step as `sh -ec '… python3 -m kfp.dsl.executor_main …'`. In a container the shell is then process
1, which ignores signals without a handler and passes none on, so Python would be killed without notice when
its machine is preempted, its run cancelled or its deadline reached. So `exec` puts Python in the shell's
place; `gauntlet.components.step.step` installs the handler. `PYTHONSAFEPATH` keeps the working folder off the
path: a step must not import a `trainer.py` there. On this machine `gauntlet.pipelines.local.step_cache`
starts a step that may reuse the outputs of another run.
"""

import json
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # kfp reads annotations at run time, so they are not postponed in this module

from google.protobuf import json_format
from kfp import compiler, dsl
from kfp.dsl import base_component
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

from gauntlet.components.check_services.component import check_services
from gauntlet.components.container_images import COMPONENTS_IMAGE
from gauntlet.components.convert_to_onnx.component import convert_to_onnx
from gauntlet.components.deploy_model.component import deploy_model
from gauntlet.components.evaluate_model.component import evaluate_model
from gauntlet.components.fingerprint_data.component import fingerprint_data
from gauntlet.components.gate_model.component import gate_model
from gauntlet.components.register_model.component import register_model
from gauntlet.components.sections import LARGEST, is_large, keep, reference
from gauntlet.components.train_model.import_component import train_model as import_model
from gauntlet.components.validate_data.component import validate_data
from gauntlet.components.write_report.component import write_report
from gauntlet.components.write_report.page_component import write_report as write_page
from gauntlet.components.write_report.record import OPTIONAL_STEPS
from gauntlet.components.write_report.record import STEPS as REPORTED_STEPS
from gauntlet.contracts.training import Origin
from gauntlet.manifests.errors import UsageError
from gauntlet.manifests.schema import SECTIONS, Manifest, as_parameter
from gauntlet.pipelines.platforms import (
    ACCOUNT_OF_THE_STEPS,
    Platform,
    furnish,
    kept_splits,
    parameters_given_by,
    place,
    place_training,
    require_converting,
    retry,
    splits_folder,
    training_component,
    training_inputs,
    without_parameters,
)

STEPS = (*REPORTED_STEPS, *OPTIONAL_STEPS, "write-report")

KFP_STARTS = "_KFP_RUNTIME=true python3 -m "
EXECUTES = "export _KFP_RUNTIME=true PYTHONSAFEPATH=1; exec python3 -m "
EXECUTOR = "python3 -m kfp.dsl.executor_main"
CACHED = "python3 -m gauntlet.pipelines.local.step_cache cached kfp.dsl.executor_main"
JUDGED_ONLY = "python3 -m gauntlet.pipelines.local.step_cache uncached kfp.dsl.executor_main"


CPUS_OF_A_STEP = 4
"""Of each of the steps that do not train, at most. They run one after the other."""


def steps_of(manifest: Manifest) -> tuple[str, ...]:
    """The steps of a manifest's DAG: a model that a service trains is not converted, few are deployed."""
    left_out = [] if manifest.kind.is_converted else ["convert-to-onnx"]
    if not _is_deployed(manifest):
        left_out.append("deploy-model")
    return tuple(step for step in STEPS if step not in left_out)


def _is_deployed(manifest: Manifest) -> bool:
    """Whether the DAG has deploy-model: an empty step would cost a machine and minutes on Vertex AI."""
    return manifest.deployment.target != "none"


def pipeline_name(manifest: Manifest) -> str:
    """The manifest's name in the spelling that KFP and Vertex take."""
    return manifest.name.replace("_", "-")


def _sections_of(manifest: Manifest) -> dict[str, dict[str, Any]]:
    is_read = {"conversion": manifest.kind.is_converted, "deployment": _is_deployed(manifest)}
    read = [name for name in SECTIONS if is_read.get(name, True)]
    return {section: as_parameter(getattr(manifest, section)) for section in read}


def keep_large_sections(manifest: Manifest, folder: str) -> None:
    """Write the files that `parameters` names, if there are any, or raise a `GauntletError`."""
    if large := [section for section in _sections_of(manifest).values() if is_large(section)]:
        keep(large, folder)


def parameters(manifest: Manifest, folder: str | None = None, origin: Origin | None = None) -> dict[str, Any]:
    """The pipeline's parameters as the manifest sets them.

    For a large section the parameter names its file in `folder`, which `keep_large_sections` writes.
    `origin` is that of a model that was trained elsewhere and is only judged.

    Raises:
        UsageError: A section is large, and there is no such folder.
    """
    sections: dict[str, Any] = _sections_of(manifest)
    for name, section in sections.items():
        if not is_large(section):
            continue
        if folder is None:
            raise UsageError(
                f"{name}: found {len(json.dumps(section)):,} characters, but a step takes at most "
                f"{LARGEST:,} of a section as a parameter. Add --sections with a folder that the steps can "
                "read, such as gs://BUCKET/FOLDER: the section is written there."
            )
        sections[name] = reference(section, folder)
    return {
        "name": manifest.name,
        "task": manifest.task,
        "seed": manifest.seed,
        "manifest_sha256": manifest.sha256,
        **sections,
        **({"origin": origin.as_json()} if origin else {}),
    }


def training_pipeline(
    manifest: Manifest,
    image: str,
    platform: Platform = "local",
    sections: str | None = None,
    origin: Origin | None = None,
) -> base_component.BaseComponent:
    """The DAG with the manifest's settings as its parameters' defaults.

    `image` is the container image that the bundle's lineage names. `sections` is where large sections lie.
    With an `origin` the model from there takes the place of a training.
    `run_id`, `registry_uri`, `tracking_uri` and `training_account` (by default that of the other steps)
    belong to a run: the caller gives them, except those that the platform sets itself.

    Raises:
        UsageError: The platform cannot train or convert on what the manifest asks for, or a section is
            large and `sections` is None.
    """
    require_converting(platform, manifest.conversion.device)
    pipeline = _dag(manifest, image, platform, parameters(manifest, sections, origin))
    made = dsl.pipeline(name=pipeline_name(manifest), description=manifest.description)(pipeline)
    if platform == "local":  # where no step is a container's process 1
        reuse(made.pipeline_spec, judged=[STEPS[0]])
    else:
        exec_python(made.pipeline_spec)
    return made


@dataclass(frozen=True)
class _Given:
    """What more than one step is made of; the pipeline's parameters have no values yet."""

    manifest: Manifest
    platform: Platform
    run_id: Any
    registry_uri: Any
    name: Any
    task: Any
    seed: Any
    manifest_sha256: Any


def _dag(
    manifest: Manifest, image: str, platform: Platform, default: Mapping[str, Any]
) -> Callable[..., None]:
    """The steps in their order. Where nothing is converted, train-model itself hands the bundle on."""
    converted, is_imported = manifest.kind.is_converted, "origin" in default
    environment = {} if converted else {"GAUNTLET_IMAGE": image}
    train_model = training_component(platform, manifest, environment)
    conversion_default: dict = default.get("conversion", {})
    deployment_default: dict = default.get("deployment", {})
    origin_default: dict = default.get("origin", {})

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
        conversion: dict = conversion_default,
        evaluation: dict = default["evaluation"],
        gates: dict = default["gates"],
        registration: dict = default["registration"],
        deployment: dict = deployment_default,
        training_account: str = ACCOUNT_OF_THE_STEPS,
        origin: dict = origin_default,
    ) -> None:
        given = _Given(manifest, platform, run_id, registry_uri, name, task, seed, manifest_sha256)
        with _reported(given):
            fingerprinted = fingerprint_data(dataset=dataset, task=task).set_caching_options(False)
            fingerprint = fingerprinted.outputs["Output"]
            data = validate_data(
                dataset=dataset,
                task=task,
                data_fingerprint=fingerprint,
                splits_folder=splits_folder(platform, manifest),
            )
            splits = kept_splits(platform, data)
            content = {"splits": splits, "splits_sha256": data.outputs["splits_sha256"]}
            read = {"training": training, "task": task, **content}
            if is_imported:
                trained = import_model(seed=seed, origin=origin, **read)
            else:
                trained = train_model(
                    name=name,
                    tracking_uri=tracking_uri,
                    **read,
                    **({"seed": seed} if converted else {"manifest_sha256": manifest_sha256}),
                    **training_inputs(platform, training_account),
                )
                place_training(trained, platform, manifest)
            checked = _checked(given, tracking_uri, trained)
            bundled = trained
            if converted:
                bundled = convert_to_onnx(
                    conversion=conversion,
                    name=name,
                    seed=seed,
                    manifest_sha256=manifest_sha256,
                    checkpoint=trained.outputs["checkpoint"],
                    **content,
                ).set_env_variable("GAUNTLET_IMAGE", image)
            light, heavy = _decide(
                given,
                evaluation,
                gates,
                registration,
                deployment,
                fingerprinted,
                data,
                splits,
                trained,
                bundled,
            )
        own = [bundled] if converted else []
        _place(
            given,
            light=[fingerprinted, *checked, *light],
            heavy=[data, *([trained] if is_imported else []), *own, *heavy],
            placed=[] if is_imported else [trained],
            paid=[] if converted else heavy,
        )

    given: dict[str, Any] = parameters_given_by(platform)
    if not is_imported:
        given["origin"] = None
    if not _is_deployed(manifest):
        given["deployment"] = None
    return without_parameters(pipeline, given if converted else {**given, "conversion": None})


def _reported(given: _Given) -> AbstractContextManager[object]:
    """What is within ends with the run's report, whatever happens; on Kubeflow `_decide` adds it."""
    if given.platform == "kubeflow":
        return nullcontext()
    report = write_report(
        name=given.name,
        task=given.task,
        manifest_sha256=given.manifest_sha256,
        run_id=given.run_id,
        pipeline_root=dsl.PIPELINE_ROOT_PLACEHOLDER,
        job=dsl.PIPELINE_JOB_NAME_PLACEHOLDER,
    ).set_caching_options(False)
    place(report, given.platform, cpus=1, memory_gb=4)
    handler: AbstractContextManager[object] = dsl.ExitHandler(report, name="gauntlet")
    return handler


def _checked(given: _Given, tracking_uri: Any, trained: dsl.PipelineTask) -> list[dsl.PipelineTask]:
    """On Kubeflow, where `gauntlet submit` checks nothing, a step that checks services before training."""
    if given.platform != "kubeflow":
        return []
    checked = check_services(name=given.name, registry_uri=given.registry_uri, tracking_uri=tracking_uri)
    trained.after(checked)
    return [checked.set_caching_options(False)]


def _decide(
    given: _Given,
    evaluation: Any,
    gates: Any,
    registration: Any,
    deployment: Any,
    fingerprinted: dsl.PipelineTask,
    data: dsl.PipelineTask,
    splits: Any,
    trained: dsl.PipelineTask,
    bundled: dsl.PipelineTask,
) -> tuple[list[dsl.PipelineTask], list[dsl.PipelineTask]]:
    """Evaluate what `bundled` hands on, judge it, and register and deploy it if the gate says so.

    Returns:
        The steps that need little, and those that need more.
    """
    evaluated = evaluate_model(
        evaluation=evaluation,
        name=given.name,
        task=given.task,
        seed=given.seed,
        registry_uri=given.registry_uri,
        bundle=bundled.outputs["bundle"],
        splits=splits,
    ).set_caching_options(False)  # the champion it is compared with changes
    gate = gate_model(
        gates=gates,
        task=given.task,
        scores=evaluated.outputs["scores"],
        candidates=bundled.outputs["candidates"],
        history=trained.outputs["history"],
        bundle=bundled.outputs["bundle"],
    ).set_caching_options(False)

    def page(**outputs: Any) -> list[dsl.PipelineTask]:
        if given.platform != "kubeflow":
            return []
        written = write_page(
            name=given.name,
            task=given.task,
            manifest_sha256=given.manifest_sha256,
            run_id=given.run_id,
            sources=fingerprinted.outputs["sources"],
            checks=data.outputs["checks"],
            splits=data.outputs["splits"],
            history=trained.outputs["history"],
            candidates=bundled.outputs["candidates"],
            bundle=bundled.outputs["bundle"],
            scores=evaluated.outputs["scores"],
            verdict=gate.outputs["verdict"],
            **outputs,
        )
        return [written.set_caching_options(False)]

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
        pages = page(version=registered.outputs["version"])
        deployed = []
        if _is_deployed(given.manifest):
            deployed = [
                deploy_model(
                    deployment=deployment,
                    name=given.name,
                    registry_uri=given.registry_uri,
                    version=registered.outputs["version"],
                ).set_caching_options(False)  # what is served changes
            ]
    if given.platform == "kubeflow":
        with dsl.If(gate.outputs["Output"] == "reject", name="reject"):
            pages += page()
    return [gate, registered, *deployed, *pages], [evaluated]


def _place(
    given: _Given,
    light: Sequence[dsl.PipelineTask],
    heavy: Sequence[dsl.PipelineTask],
    placed: Sequence[dsl.PipelineTask],
    paid: Sequence[dsl.PipelineTask] = (),
) -> None:
    """Give every step its CPUs and memory, except `placed`, and what the platform gives to all.

    Steps are retried, except `placed`, whose machine would be bought again, and `paid`, whose calls would be.
    """
    for task in light:
        place(task, given.platform, cpus=1, memory_gb=4)
    for task in heavy:
        place(task, given.platform, cpus=CPUS_OF_A_STEP, memory_gb=16)
    for task in (*light, *heavy):
        if task not in paid:
            retry(task, given.platform)
    for task in (*light, *heavy, *placed):
        furnish(task, given.platform, given.manifest)


def compiled_file(manifest_file: Path, platform: Platform, folder: Path = Path("compiled")) -> Path:
    """Where the committed spec of a manifest is, or its place in another folder than `compiled`."""
    return (folder if platform == "vertex" else folder / platform) / f"{manifest_file.stem}.yaml"


def compile_manifest(
    manifest: Manifest,
    path: Path,
    platform: Platform,
    image: str = COMPONENTS_IMAGE,
    sections: str | None = None,
    origin: Origin | None = None,
) -> None:
    """Write `training_pipeline` as YAML, atomically, or raise a `UsageError` that names all reasons."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        pipeline = training_pipeline(manifest, image, platform, sections, origin)
    write_spec(pipeline, path, platform)


def write_spec(pipeline: base_component.BaseComponent, path: Path, platform: Platform) -> None:
    """Write a pipeline as YAML, atomically, or raise a `UsageError` if Vertex AI would not run it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.yaml")  # the compiler requires the suffix
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if platform == "vertex":
            from gauntlet.pipelines.vertex.lint import require_acceptable

            require_acceptable(pipeline.pipeline_spec)
        compiler.Compiler().compile(pipeline, str(temporary))
    # The compiler's comment lists struct defaults in an order that differs from process to process.
    lines = temporary.read_text(encoding="utf-8").splitlines(keepends=True)
    temporary.write_text("".join(line for line in lines if not line.startswith("#")), encoding="utf-8")
    temporary.replace(path)


def exec_python(spec: PipelineSpec) -> None:
    """Make the shell of every step, also in custom jobs, replace itself by Python."""
    text = json_format.MessageToJson(spec)
    assert KFP_STARTS in text, "this version of KFP starts steps by another command"
    spec.CopyFrom(json_format.Parse(text.replace(KFP_STARTS, EXECUTES), PipelineSpec()))


def reuse(spec: PipelineSpec, judged: Collection[str]) -> None:
    """Start steps that may be cached, and the steps in `judged`, with the program that reuses outputs."""
    starts: dict[str, str] = {}
    for dag in [spec.root.dag, *(component.dag for component in spec.components.values())]:
        for name, task in dag.tasks.items():
            component = spec.components[task.component_ref.name]
            if task.caching_options.enable_cache and component.executor_label:
                starts[component.executor_label] = CACHED
            elif name in judged:
                starts[component.executor_label] = JUDGED_ONLY
    for label, start in starts.items():
        command = spec.deployment_spec["executors"][label]["container"]["command"]
        for at, text in enumerate(command):
            command[at] = text.replace(EXECUTOR, start)
        assert start in str(command), "this version of KFP starts steps by another command"
