"""Judges of songs."""
