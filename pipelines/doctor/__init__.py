"""`gauntlet doctor`: what a Google Cloud project lacks, and how to get it."""
