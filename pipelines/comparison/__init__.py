"""`gauntlet compare`: two runs side by side, from what they left on this machine."""
