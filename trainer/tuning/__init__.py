"""Hyperparameter tuning: a study of trials, each of them one training, shared by any number of processes."""
