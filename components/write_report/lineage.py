"""What a result was made from: every hash, commit, image and version that the run left word of."""

from __future__ import annotations

from gauntlet.components.write_report.record import RunRecord

LINEAGE_TITLES = {
    "manifest_sha256": "Manifest sha256",
    "data_sha256": "Data sha256",
    "training_sha256": "Training section sha256",
    "git_commit": "Gauntlet's commit",
    "manifest_commit": "Manifest's commit",
    "image": "Image",
    "cpu": "CPU",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
}


def lineage(record: RunRecord, manifest_sha256: str) -> tuple[tuple[str, str], ...]:
    """Names and values; what the run did not come to is left out."""
    found: dict[str, str | None] = {"Manifest sha256": manifest_sha256}
    if record.statistics is not None:
        data = record.statistics
        found["Data"] = f"{data.name} {data.version}"
        found["Data sha256"] = data.sha256
        found["Data commit"] = data.commit_hash
        found["Data created"] = data.created
    if record.sources is not None:
        found["Data fingerprint"] = record.sources.fingerprint
    if record.training is not None:
        found["Encoder"] = record.training.encoder
        found["Seed"] = None if record.training.seed is None else str(record.training.seed)
        found["Training section sha256"] = record.training.training_sha256
    if record.bundle is not None:
        for key, value in record.bundle.lineage.items():
            found.setdefault(LINEAGE_TITLES.get(key, key.replace("_", " ").capitalize()), value)
        found["Opset"] = None if record.bundle.opset is None else str(record.bundle.opset)
        found |= {f"{name} sha256": sha256 for name, sha256 in record.bundle.files.items()}
    if record.version is not None:
        found["Registered as"] = f"{record.version.name} version {record.version.version}"
        found["Bundle sha256"] = record.version.bundle_sha256
    found["Job"] = record.job
    found["Pipeline root"] = record.pipeline_root
    return tuple((name, value) for name, value in found.items() if value)
