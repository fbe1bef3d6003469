"""convert-to-onnx: the trained model as ONNX graphs, each proven against PyTorch before it may ship.

`export` makes the float graphs, `quantization` the int8 one, `candidates` those that the manifest names.
`parity` compares scores and `timing` speed, `admission` decides, `bundling` writes the winner, `run` is the
step.
"""
