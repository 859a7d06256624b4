"""The command `isic-siamese`, or `python -m isic_siamese`."""

import signal


def main() -> None:
    """Run the command; Ctrl-C ends it without a traceback even while torch is imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `run_command` takes over
    from isic_siamese.cli import main as run

    run()


if __name__ == "__main__":
    main()
