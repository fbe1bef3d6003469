"""convert-to-onnx: the trained model as ONNX graphs, each proven against PyTorch before it may ship.

`export` makes the float graphs, `quantization` and `pruning` the smaller ones, `candidates` those that the
manifest names, from the `rows` of a task. `scoring` and `parity` compare scores and `timing` speed,
`admission` decides, `bundling` writes the winner, `run` is the step. The `decoder_*` modules convert causal
language models, with their cache of keys and values.
"""

import gauntlet.serving  # noqa: F401 (it sets what ONNX Runtime must find in the environment when it is imported)
