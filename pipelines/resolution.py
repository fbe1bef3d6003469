"""What `gauntlet check` says about the margin against the champion if the number of test rows is known."""

from __future__ import annotations

from gauntlet.manifests.schema import Manifest


def margin_note(manifest: Manifest) -> str | None:
    """Whether the test split can show the manifest's margin; None if its size is not known yet."""
    rows = manifest.dataset.expected_test_rows
    if rows is None:
        return None
    gates = manifest.gates
    least, given = gates.margin_for(rows), gates.non_inferiority_margin
    about = f"{manifest.name}: a test split of about {rows:,} rows"
    if given is None:
        return f"{about}, so gates.non_inferiority_margin will be about {least:.2g}"
    if given >= least:
        return f"{about} can show the margin of {given:g} (gates.non_inferiority_margin)"
    return (
        f"warning: {about} cannot show gates.non_inferiority_margin {given:g}: most models that are as good "
        f"as the champion would be rejected. Set {least:.2g}, leave the key out, or add test rows"
    )
