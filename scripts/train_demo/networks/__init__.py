"""The networks of LatentSync in PyTorch, written for this project. Attribute names are checkpoint keys."""
