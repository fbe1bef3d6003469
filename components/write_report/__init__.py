"""write-report: the whole run in one self-contained page, whatever happened to it."""
