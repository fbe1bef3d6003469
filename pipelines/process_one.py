"""How a step starts. In a container Python is its process 1, so that SIGTERM reaches it.

KFP starts a step as `sh -ec '… python3 -m kfp.dsl.executor_main …'`. Then the shell is process 1 of the
container. A process 1 ignores signals that it has no handler for, and a shell does not pass them on, so
Python would be killed without notice when its machine is preempted, its run cancelled or its deadline
reached. `exec` puts Python in the shell's place; `gauntlet.components.step.step` installs the handler.

`PYTHONSAFEPATH` keeps the working folder off the path: a step must not import a `trainer.py` that lies there.

On this machine, `gauntlet.pipelines.local.step_cache` starts a step that may reuse the outputs of another
run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec

SHELLS = ("sh", "bash", "dash")
KFP_STARTS = "_KFP_RUNTIME=true python3 -m "
EXECUTES = "export _KFP_RUNTIME=true PYTHONSAFEPATH=1; exec python3 -m "
EXECUTOR = "python3 -m kfp.dsl.executor_main"
CACHED = "python3 -m gauntlet.pipelines.local.step_cache cached kfp.dsl.executor_main"
JUDGED_ONLY = "python3 -m gauntlet.pipelines.local.step_cache uncached kfp.dsl.executor_main"


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
        for place, text in enumerate(command):
            command[place] = text.replace(EXECUTOR, start)
        assert start in str(command), "this version of KFP starts steps by another command"


def command_fault(command: Sequence[str]) -> str | None:
    """Why SIGTERM would not reach the program that a container's command starts; None if it would."""
    program, *arguments = command or [""]
    is_shell = program.rpartition("/")[2] in SHELLS
    if not is_shell or any("exec " in argument for argument in arguments[:2]):
        return None
    return (
        f"its command, {' '.join(command[:2])} …, keeps the shell as process 1, so SIGTERM never reaches the "
        "step: a preempted or cancelled step could write nothing. Start the program with exec"
    )
