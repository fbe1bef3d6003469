"""Texts in files: tables, records and encodings, near-duplicates, vocabularies. For kinds that read texts."""
