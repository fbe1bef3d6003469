"""Images in idx files and the indices of their labels."""
