"""One folder per task kind; what several kinds share lies in folders of families."""
