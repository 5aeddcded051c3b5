"""Docker's data root: the only floor that knows its paths, its locks and its transactions."""
