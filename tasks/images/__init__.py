"""Pixels: reading, statistics, augmentation, networks. For kinds that read images."""
