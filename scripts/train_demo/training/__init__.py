"""Stages of the demo model's training; each can resume after an interruption."""
