"""The processor that figures were taken on, in words."""

from __future__ import annotations

import platform
import tempfile
from pathlib import Path

import onnx
from onnx import helper

from manifests.errors import UsageError
from serving.session import Device, NoGpuError, open_session

CPU_FILE = Path("/proc/cpuinfo")
# What makes int8 fast. Without one of them int8 products are slower, and their sums may saturate.
INT8_INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp")


def describe_processor(cpu_file: Path = CPU_FILE) -> str:
    """The model's name and its int8 instructions; the bare architecture where the system tells no more."""
    fields = _fields(cpu_file)
    if not fields:
        return platform.machine()
    name = fields.get("model name", platform.machine())
    return f"{name} ({', '.join(int8_instructions(cpu_file)) or 'no int8 instructions'})"


def describe_device(device: Device) -> str:
    """The GPU's name, or what `describe_processor` says."""
    if device == "cpu":
        return describe_processor()
    import torch

    return torch.cuda.get_device_name()


def require_device(device: Device) -> None:
    """Open a graph of one node on the GPU that graphs and PyTorch are to run on, before anything is made.

    Raises:
        UsageError: PyTorch or ONNX Runtime has none.
    """
    if device == "cpu":
        return
    from trainer.gpus import gpu_fault

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


def saturates_in_int8(target: str) -> bool:
    """Whether sums of int8 products overflow on a `conversion.target`, so that weights get 7 bits."""
    return target == "cpu_without_int8" or not int8_instructions()


def int8_instructions(cpu_file: Path = CPU_FILE) -> tuple[str, ...]:
    """Which of `INT8_INSTRUCTIONS` the processor has; none where the system does not tell."""
    fields = _fields(cpu_file)
    flags = fields.get("flags", fields.get("Features", "")).split()
    return tuple(instruction for instruction in INT8_INSTRUCTIONS if instruction in flags)


def _fields(cpu_file: Path) -> dict[str, str]:
    try:
        lines = cpu_file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    return fields
