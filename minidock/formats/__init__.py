"""Bytes to values and back: pure, without root rights, disk layout or clock."""
