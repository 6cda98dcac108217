"""Procedural talking head: shaded renders of random people whose mouths follow viseme curves."""
