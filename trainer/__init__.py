"""PyTorch: the training loop and one module per task kind in `tasks/`."""
