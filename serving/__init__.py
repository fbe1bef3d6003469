"""The bundle format and what scores it: onnxruntime, numpy and tokenizers or pillow, never torch."""

import os

# ONNX Runtime reports its use to its makers unless this is set when it is imported; who wants that sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
