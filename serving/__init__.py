"""The bundle format and what scores it: onnxruntime, tokenizers and numpy, never torch."""
