"""Synthetic speech with the time of every phoneme, and the mouth movements that belong to it."""
