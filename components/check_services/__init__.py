"""check-services: the registry and the tracking server are there before training is paid for."""
