"""One thin script a stage of `dvc.yaml`: parameters and paths in, one call, files out."""

import sys

from isic_siamese.errors import end_quietly

if sys.argv[0] == "-m":  # as `python -m stages.train`; who imports a stage handles Ctrl-C as they like
    end_quietly()
