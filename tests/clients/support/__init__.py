"""Support code of the Python tests."""

# Limit of every wait in seconds. A job of the small model takes a few, on a busy machine more.
TIMEOUT = 120
