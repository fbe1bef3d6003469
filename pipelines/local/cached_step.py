"""Start a step of a local run that may reuse earlier outputs.

`python -m gauntlet.pipelines.local.cached_step` replaces `kfp.dsl.executor_main`. Its arguments are `cached`
or `uncached`, that module's name, and the arguments of `kfp.dsl.executor_main`. With `GAUNTLET_JUDGED`, a
folder of a run's outputs, it copies the step's outputs from there and never runs the step. Otherwise, if
`GAUNTLET_STEP_CACHE` is set and the step may be cached, it looks the step up in that folder, and stores the
step's outputs there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gauntlet.pipelines.local.step_cache import StepCache, StepCall, copy_of

CACHE_VARIABLE = "GAUNTLET_STEP_CACHE"
JUDGED_VARIABLE = "GAUNTLET_JUDGED"
RUN_VARIABLE = "GAUNTLET_RUN"
REUSED = "reused: "


def main() -> None:
    """Reuse outputs, or run the step and keep them."""
    _, may_be_cached, _, *arguments = sys.argv
    sys.argv[1:] = arguments
    call = StepCall.of(arguments)
    if judged := os.environ.get(JUDGED_VARIABLE):
        source = Path(judged)
        run = source.parent.parent.name  # RUN/steps/JOB
        copy_of(call, source / call.folder.name, run)
        print(f"{REUSED}{run}", flush=True)
        return
    folder = os.environ.get(CACHE_VARIABLE)
    if not folder or may_be_cached != "cached":
        execute()
        return
    cache = StepCache(Path(folder))
    if restored := cache.restore(call):
        print(f"{REUSED}{restored}", flush=True)
        return
    execute()
    try:
        cache.store(call, os.environ[RUN_VARIABLE])
    except OSError as error:  # the step itself has succeeded
        print(f"warning: {folder}: not kept for later runs: {error.strerror or error}", flush=True)


def execute() -> None:
    """Run the component's function as KFP does; a failure ends the process."""
    from kfp.dsl.executor_main import executor_main

    executor_main()


if __name__ == "__main__":
    main()
