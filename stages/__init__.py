"""One thin script a stage of `dvc.yaml`: parameters and paths in, one call, files out."""

import signal
import sys

# `python -m stages.train` imports torch before it can say anything: until then Ctrl-C ends it without a traceback.
if sys.argv[0] == "-m" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
