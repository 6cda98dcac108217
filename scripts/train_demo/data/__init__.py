"""Training data: rendered clips, aligned and cropped as in the engine."""
