"""convert-to-onnx: the trained model as ONNX graphs, each proven against PyTorch before it may ship.

`subject` says what is asked of a task kind. `export` makes the float graphs, `quantization` the smaller ones,
`candidates` those that the manifest names. `scoring` compares scores and `timing` speed, `admission` decides,
`bundling` writes the winner, `run` is the step.
"""

import gauntlet.serving  # noqa: F401 (it sets what ONNX Runtime reads from the environment when it is imported)
