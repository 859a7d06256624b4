"""The command `isic-siamese`, or `python -m isic_siamese`."""

from isic_siamese.errors import end_quietly


def main() -> None:
    """Run the command."""
    end_quietly()
    from isic_siamese.cli import main as run

    run()


if __name__ == "__main__":
    main()
