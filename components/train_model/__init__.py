"""The step train-model: the trainer behind a KFP face, and its curves as a picture."""
