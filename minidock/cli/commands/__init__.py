"""One handler a command: options in, verbs called, words out, exit code back."""
