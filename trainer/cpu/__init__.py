"""Kernels and thread settings that make training on a CPU faster. Nothing here is imported on a GPU.

`Replica` calls `use_cpu_kernels`, and `Watch` uses `Contention`, when they train on a CPU.
"""
