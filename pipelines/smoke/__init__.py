"""`gauntlet smoke`: every system end to end in minutes, by settings that are tiny on purpose."""
