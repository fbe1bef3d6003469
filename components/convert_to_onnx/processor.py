"""The processor that a model is measured on, in words, and whether a GPU can be used."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
from onnx import helper

from gauntlet.manifests.errors import UsageError
from gauntlet.serving.bundle import Device, NoGpuError, open_session
from gauntlet.serving.cpu import CPU_FILE, cpu_class, cpu_fields


def describe_processor(cpu_file: Path = CPU_FILE) -> str:
    """The model's name and its class; only the class if the system does not say more."""
    name = cpu_fields(cpu_file).get("model name")
    return f"{name} ({cpu_class(cpu_file)})" if name else cpu_class(cpu_file)


def describe_device(device: Device) -> str:
    """The GPU's name, or what `describe_processor` says."""
    if device == "cpu":
        return describe_processor()
    import torch

    return torch.cuda.get_device_name()


def require_device(device: Device) -> None:
    """Raise a `UsageError` if PyTorch or ONNX Runtime cannot use the device."""
    if device == "cpu":
        return
    from gauntlet.trainer.gpus import gpu_fault

    shape = ["rows"]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "neg", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    cause = gpu_fault()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "neg.onnx"
        onnx.save(model, path)
        try:
            open_session(path, 1, device)
        except NoGpuError as error:
            cause = cause or str(error)
    if cause:
        raise UsageError(
            f"conversion.target: found gpu, but {cause}. Run this on a machine with one, or set it to cpu."
        )
