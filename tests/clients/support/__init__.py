"""What the tests in Python stand on."""

# Seconds. A job of the small model takes a few; a busy machine takes more of them.
PATIENCE = 120
