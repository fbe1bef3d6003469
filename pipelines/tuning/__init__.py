"""`gauntlet tune`: a study on this machine from data to a tuned manifest, or its spec for Vertex AI."""
