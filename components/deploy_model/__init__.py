"""deploy-model: the new version gets the requests step by step, unless a judge finds it worse."""
