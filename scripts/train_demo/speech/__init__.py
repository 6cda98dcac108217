"""Spoken sentences that nobody recorded, with the time of every phoneme, and the mouth that goes with them."""
