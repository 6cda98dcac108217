"""A procedural talking head: random people, rendered with shading, whose mouths follow viseme curves."""
