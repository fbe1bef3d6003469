"""What to run: the manifest schema, how a manifest is loaded, and one YAML file per system."""
