"""Words in, words out: the only floor that prints."""
