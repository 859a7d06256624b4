"""A Siamese network classifier for skin lesion images (ISIC 2020), as a reproducible DVC pipeline."""
