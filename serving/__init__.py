"""The bundle format and what scores it: onnxruntime, numpy and tokenizers or pillow, never torch."""
