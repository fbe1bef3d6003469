"""The DAGs, and how they are compiled and run; the `gauntlet` command."""
