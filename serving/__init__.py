"""The bundle format and what scores it: onnxruntime, numpy and tokenizers or pillow, never torch."""

import os

# ONNX Runtime reports its use to its makers unless this is set before it is imported; who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
