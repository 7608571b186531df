"""The part of scikit-learn that fieldrepair uses."""
