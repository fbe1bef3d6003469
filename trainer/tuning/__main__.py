"""`python -m gauntlet.trainer.tuning`: a worker of `gauntlet tune` that runs trials until the study is done.

The first line of standard input is a `TuningJob`. When standard input ends, the command that started this
process has ended, so this process ends at once. The next command repeats its trial.
"""

from __future__ import annotations

import os
import sys
import threading

from gauntlet.manifests.errors import GauntletError
from gauntlet.trainer.process import settle_process


def main() -> int:
    """Run trials; returns the exit code."""
    settle_process()

    from gauntlet.trainer.tuning.study import TuningJob, next_trial, open_study, values_of
    from gauntlet.trainer.tuning.trial import run_trial

    job = TuningJob.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_command, daemon=True).start()
    study = open_study(job.database, job.study)
    try:
        while (trial := next_trial(study, job)) is not None:
            print(f"trial {trial.number}: {values_of(trial)}", flush=True)
            run_trial(study, trial, job)
    except GauntletError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


def _end_with_command() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
