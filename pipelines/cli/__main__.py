"""`python -m gauntlet.pipelines.cli` is the command `gauntlet`."""

from gauntlet.pipelines.cli import main

main()
