"""The stages of the demo model's training, each resumable after a stop at any moment."""
