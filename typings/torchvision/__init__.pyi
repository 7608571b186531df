"""The part of torchvision that fieldrepair uses."""
