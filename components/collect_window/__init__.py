"""collect-window: the rows of the request log and the labels that one window is judged by."""
