"""register-model: what passed the gate becomes a version in the registry, and champion unless held back."""
