"""A language model, the one it began from and the champion: what they answer, and how good that is."""
