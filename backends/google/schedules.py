"""Schedules of pipeline jobs on Vertex AI, through the generated client.

The service gives a schedule its id, so a schedule is known by its display name, and making one is not tried
again before it has been looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gauntlet.backends.google.calls import SECONDS_TO_ANSWER, ask, explained
from gauntlet.backends.google.location import VertexLocation
from gauntlet.manifests.errors import GauntletError, UsageError


class PipelineSchedules:
    """The schedules of a project in a region.

    Raises:
        UsageError: Nobody is logged in, or the account may not do this.
        GauntletError: The service cannot be reached, or refuses.
    """

    def __init__(self, place: VertexLocation) -> None:
        self._place = place
        with explained(place.host):
            from google.cloud import aiplatform_v1

            options = {"api_endpoint": place.host}
            self._service: Any = aiplatform_v1.ScheduleServiceClient(client_options=options)

    def all(self) -> list[Any]:
        """Every schedule there."""
        with explained(self._place.host):
            return list(ask(self._service.list_schedules, parent=self._place.parent))

    def named(self, name: str) -> Any | None:
        """The schedule of that display name, if there is one.

        Raises:
            UsageError: There are several, so that none can be meant.
        """
        found = [schedule for schedule in self.all() if schedule.display_name == name]
        if len(found) > 1:
            several = ", ".join(schedule.name for schedule in found)
            raise UsageError(
                f"schedule {name}: there are several of that name: {several}. Delete all but one."
            )
        return found[0] if found else None

    def create(self, schedule: Mapping[str, Any]) -> Any:
        """Make a schedule, once: when the answer gets lost it is looked for."""
        from google.api_core.exceptions import DeadlineExceeded, ServiceUnavailable

        with explained(self._place.host):
            try:
                return self._service.create_schedule(
                    parent=self._place.parent, schedule=schedule, retry=None, timeout=SECONDS_TO_ANSWER
                )
            except (DeadlineExceeded, ServiceUnavailable) as error:
                found = self.named(str(schedule["display_name"]))
                if found is None:
                    raise GauntletError(
                        f"{self._place.host}: {error.message}; no schedule was made. Apply it again."
                    ) from error
                return found

    def update(self, name: str, schedule: Mapping[str, Any], fields: Sequence[str]) -> Any:
        """Change these fields of it and no others."""
        with explained(self._place.host):
            return ask(
                self._service.update_schedule,
                schedule={**schedule, "name": name},
                update_mask={"paths": list(fields)},
            )

    def pause(self, name: str) -> None:
        """No runs until it is resumed."""
        self._move("PAUSED", self._service.pause_schedule, name=name)

    def resume(self, name: str) -> None:
        """Runs again, and none for those that were missed."""
        self._move("ACTIVE", self._service.resume_schedule, name=name, catch_up=False)

    def _move(self, state: str, method: Callable[..., Any], name: str, **request: object) -> None:
        """Bring it into a state; one that is there already is refused, as a repeated request finds it."""
        from google.api_core.exceptions import FailedPrecondition

        with explained(self._place.host):
            try:
                ask(method, name=name, **request)
            except FailedPrecondition:
                if ask(self._service.get_schedule, name=name).state.name != state:
                    raise
