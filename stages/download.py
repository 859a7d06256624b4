"""Draw, fetch or find the release that `params.yaml` names, verify it, and link its five files into data/raw.

Reads: the folder that `release` names, or the network
Writes: data/raw/, metrics/download.json; and data/releases/, the store that is never emptied
"""

from pathlib import Path

from isic_siamese.demo import DemoParams, draw_demo_release
from isic_siamese.errors import run_command
from isic_siamese.files import write_json
from isic_siamese.mirrors import fetch_release, list_mirrors
from isic_siamese.params import Params
from isic_siamese.raw import find_release, link_release, only_copies
from isic_siamese.verification import verify_release

RAW = Path("data/raw")
STORE = Path("data/releases")
RECORD = STORE / "verified.json"
METRICS = Path("metrics/download.json")


def main() -> None:
    """Make data/raw hold the verified release, whichever it is."""
    params = Params()
    named = params.common.release
    only = only_copies(RAW, RECORD)
    if named == "demo":
        folder = STORE / "demo"
        draw_demo_release(folder, params.section("demo", DemoParams))
    elif named == "isic2020":
        folder = STORE / "isic2020"
        fetch_release(folder, list_mirrors())
    else:
        folder = find_release(named)
    counts = verify_release(folder, RECORD, official=named == "isic2020")
    link_release(folder, RAW, STORE, only)
    write_json(METRICS, counts)


if __name__ == "__main__":
    run_command(main)
