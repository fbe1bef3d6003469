"""The session of ONNX Runtime that serving and every measurement share, on a CPU or an NVIDIA GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

GRAPH_ERRORS = (Fail, InvalidArgument, RuntimeException)
"""What ONNX Runtime raises where a graph does not take its inputs, or cannot compute them."""

Device = Literal["cpu", "gpu"]

GPU_PROVIDER = "CUDAExecutionProvider"
NO_GPU = (
    "ONNX Runtime cannot use an NVIDIA GPU. It takes the package onnxruntime-gpu in place of onnxruntime, "
    "CUDA and cuDNN of its version, and a driver for them"
)


class NoGpuError(RuntimeError):
    """A graph that was to run on a GPU, where ONNX Runtime has none."""


def open_session(path: Path, threads: int, device: Device = "cpu") -> onnxruntime.InferenceSession:
    """The graph of a file, with one set of options.

    On a GPU fp32 is computed in fp32, not in TensorFloat-32, which would break what the bundle's certificate
    says. ONNX Runtime by itself continues without a GPU and only warns; this session never does.

    Raises:
        NoGpuError: `device` is a GPU, and none can be used.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    cpu = "CPUExecutionProvider"
    if device == "cpu":
        return onnxruntime.InferenceSession(str(path), options, providers=[cpu])
    if GPU_PROVIDER not in onnxruntime.get_available_providers():
        raise NoGpuError(NO_GPU)
    onnxruntime.preload_dlls()  # CUDA as the package index has it; it need not be where the system looks
    providers = [(GPU_PROVIDER, {"use_tf32": "0"}), cpu]
    session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    if GPU_PROVIDER not in session.get_providers():
        raise NoGpuError(NO_GPU)
    session.disable_fallback()
    return session
