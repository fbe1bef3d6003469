"""What kinds that read images share: statistics, augmentation, networks, conversion."""
