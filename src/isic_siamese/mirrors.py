"""Where the official release is fetched from."""

from pathlib import Path

from isic_siamese.errors import DataError


def fetch_release(store: Path) -> None:
    """Fetch what `store` lacks of the official release."""
    raise DataError(f"{store}: not fetched yet")
