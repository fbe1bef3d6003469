"""What kinds that read texts share: tables, encodings, near-duplicates, vocabularies."""
