"""convert-to-onnx: the trained model as ONNX graphs, each proven against PyTorch before it may ship.

`export` makes one graph from another, `candidates` makes those that the manifest names, `parity` compares
scores, `timing` compares speed, `admission` decides, `bundling` writes the winner, `run` is the step.
"""
