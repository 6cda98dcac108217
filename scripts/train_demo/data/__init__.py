"""What is trained on: rendered clips, cut out as the engine cuts faces out."""
