"""The step train-model: the trainer behind a KFP face."""
