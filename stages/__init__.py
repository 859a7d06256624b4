"""One thin script a stage of `dvc.yaml`: parameters and paths in, one call, files out."""
