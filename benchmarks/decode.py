"""Decoding a JPEG to 128x128 beside the other ways to do it: images a second, and fidelity, in one table.

Run `python -m benchmarks.decode`. It reads the camera originals of ../shared/fullsize-cc0 where that folder is there,
and draws images of the official sizes where it is not. The rivals come with `uv pip install --group benchmarks`;
one that is not installed is left out.
"""

import argparse
import io
import os
import platform
import statistics
import sys
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from importlib.metadata import distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from isic_siamese.errors import run_command
from isic_siamese.images import choose_scale, choose_window, decode_image
from isic_siamese.shard_writer import ImageSet, write_shards
from isic_siamese.shards_params import ShardsParams

PX = 128
ORIGINALS = Path(__file__).parents[2] / "shared/fullsize-cc0/ISIC_2020_Training_JPEG.zip"
# Half of the official images are of the first size; the rest stand for the many other cameras.
OFFICIAL_SIZES = [(6000, 4000)] * 6 + [(5184, 3456), (3264, 2448), (2592, 1944), (1920, 1080), (1872, 1053), (640, 480)]
PACKAGES = ("Pillow", "simplejpeg", "torch", "torchvision", "opencv-python-headless", "pyvips-binary")

REPEATS = 4  # of the images on their way from the zip to the shards, so that starting takes no share of the time
SHARDS = 8  # of them all: few, as in `params.yaml`, where a shard is 1,024 images, and enough for two workers to share

BARE, STAGE = "bare scaled decode", "ours, zip to shards"

Pixels = npt.NDArray[np.uint8]
Decoder = Callable[[bytes], Pixels]
Speeds = dict[str, list[float]]


def ours(jpeg: bytes) -> Pixels:
    """What the pipeline does."""
    return decode_image(jpeg, PX)


def bare(jpeg: bytes) -> Pixels:
    """The same decoder at the same scale and nothing else: the limit."""
    height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
    scale = choose_scale(choose_window(width, height, PX, "stretch"))
    pixels: Pixels = simplejpeg.decode_jpeg(jpeg, min_height=-(-height // scale), min_width=-(-width // scale))
    return pixels


def pillow_full(jpeg: bytes) -> Pixels:
    """Full decode and antialiased Lanczos: what all are compared with."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB").resize((PX, PX), Image.Resampling.LANCZOS))


def pillow_draft(jpeg: bytes) -> Pixels:
    """The DCT scale that leaves at least twice the size wanted, then Lanczos."""
    image = Image.open(io.BytesIO(jpeg))
    image.draft("RGB", (2 * PX, 2 * PX))
    return np.asarray(image.convert("RGB").resize((PX, PX), Image.Resampling.LANCZOS))


def torchvision_full(jpeg: bytes) -> Pixels:
    """Full decode and antialiased bicubic, the best that its `resize` offers for tensors."""
    image = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), ImageReadMode.RGB)
    small: Pixels = resize(image, [PX, PX], InterpolationMode.BICUBIC, antialias=True).permute(1, 2, 0).numpy()
    return small


def simplejpeg_scaled(jpeg: bytes) -> Pixels:
    """Its own choice of a scale that leaves at least twice the size wanted, then Pillow's Lanczos."""
    image = Image.fromarray(simplejpeg.decode_jpeg(jpeg, min_height=2 * PX, min_width=2 * PX))
    return np.asarray(image.resize((PX, PX), Image.Resampling.LANCZOS))


def opencv_decoders() -> dict[str, Decoder]:
    """OpenCV at full size and at a reduced one, each with INTER_AREA, its only antialiased filter."""
    cv2 = import_module("cv2")
    cv2.setNumThreads(1)
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

    def decode(jpeg: bytes, flag: int) -> Pixels:
        image = cv2.resize(cv2.imdecode(np.frombuffer(jpeg, np.uint8), flag), (PX, PX), interpolation=cv2.INTER_AREA)
        rgb: Pixels = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return rgb

    def reduced(jpeg: bytes) -> Pixels:
        height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
        return decode(jpeg, flags.get(choose_scale(choose_window(width, height, PX, "stretch")), cv2.IMREAD_COLOR))

    return {"OpenCV full": lambda jpeg: decode(jpeg, cv2.IMREAD_COLOR), "OpenCV reduced": reduced}


def pyvips_decoders() -> dict[str, Decoder]:
    """The thumbnailer of libvips, on one thread and without its cache of results."""
    os.environ["VIPS_CONCURRENCY"] = "1"
    pyvips = import_module("pyvips")
    pyvips.cache_set_max(0)

    def thumbnail(jpeg: bytes) -> Pixels:
        pixels: Pixels = pyvips.Image.thumbnail_buffer(jpeg, PX, height=PX, size="force").numpy()
        return pixels

    return {"pyvips thumbnail_buffer": thumbnail}


def find_decoders() -> dict[str, Decoder]:
    """Return the decoders at hand by their names in the table."""
    decoders: dict[str, Decoder] = {
        BARE: bare,  # beside ours, as what is measured near in time is compared best
        "ours": ours,
        "Pillow full": pillow_full,
        "Pillow draft": pillow_draft,
        "torchvision full": torchvision_full,
        "simplejpeg scaled": simplejpeg_scaled,
    }
    for find in (opencv_decoders, pyvips_decoders):
        try:
            decoders |= find()
        except ImportError as error:
            sys.stderr.write(f"left out: {error}\n")
    return decoders


def draw_official_mix(n_images: int = 24) -> list[bytes]:
    """Draw smooth JPEGs with a little grain, in the mix of sizes of the official release."""
    jpegs = []
    for number in range(n_images):
        rng = np.random.default_rng(number)
        size = OFFICIAL_SIZES[number % len(OFFICIAL_SIZES)]
        coarse = Image.fromarray(rng.integers(60, 220, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = rng.integers(0, 256, (size[1] // 3, size[0] // 3, 3), np.uint8)
        image = Image.blend(coarse, Image.fromarray(grain).resize(size, Image.Resampling.BILINEAR), 0.08)
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        jpegs.append(buffer.getvalue())
    return jpegs


def psnr(image: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio, dB; 99 for equal images."""
    error = float(np.mean((image.astype(float) - other) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def write_zip(path: Path, jpegs: Sequence[bytes]) -> list[str]:
    """Write a zip of `jpegs`, and return its members."""
    members = [f"{number}.jpg" for number in range(len(jpegs))]
    with zipfile.ZipFile(path, "w") as archive:
        for member, jpeg in zip(members, jpegs, strict=True):
            archive.writestr(member, jpeg)
    return members


def apply(mapper: Callable[..., Iterable[Pixels]], decode: Decoder, jpegs: Sequence[bytes]) -> None:
    """Decode all, and keep none."""
    for _ in mapper(decode, jpegs):
        pass


def measure(decoders: dict[str, Decoder], jpegs: Sequence[bytes], rounds: int) -> tuple[Speeds, Speeds, Speeds]:
    """Return images a second, an entry a round: on one core by CPU time, on one by the clock, and on all by the clock.

    The decoders, and `STAGE`, take turns within a round, so that whatever else the machine does meets all of them.
    """
    speeds: tuple[Speeds, Speeds, Speeds] = (defaultdict(list), defaultdict(list), defaultdict(list))
    n_per_shard = max(1, REPEATS * len(jpegs) // SHARDS)
    params = ShardsParams(image_px=PX, fit="stretch", images_per_shard=n_per_shard, exclude=[])

    def take_turn(name: str, n_images: int, on_one: Callable[[], object], on_all: Callable[[], object]) -> None:
        start, cpu_start = time.perf_counter(), time.process_time()
        on_one()
        speeds[0][name].append(n_images / (time.process_time() - cpu_start))
        speeds[1][name].append(n_images / (time.perf_counter() - start))
        start = time.perf_counter()
        on_all()
        speeds[2][name].append(n_images / (time.perf_counter() - start))

    with ThreadPoolExecutor(os.cpu_count()) as pool, TemporaryDirectory() as name:
        source, folder, work = Path(name) / "images.zip", Path(name) / "shards", Path(name) / "work"
        sets = [ImageSet(source, write_zip(source, jpegs) * REPEATS, folder)]
        write = partial(write_shards, sets, work, params)
        for _ in range(rounds):
            for decoder, decode in decoders.items():
                take_turn(decoder, len(jpegs), *(partial(apply, mapper, decode, jpegs) for mapper in (map, pool.map)))
                if decode is ours:
                    take_turn(STAGE, REPEATS * len(jpegs), partial(write, workers=1), write)
    return speeds


def report(jpegs: Sequence[bytes], rounds: int) -> str:
    """Measure, and return the table as Markdown."""
    decoders = find_decoders()
    wanted = [pillow_full(jpeg) for jpeg in jpegs]
    fidelity = {
        name: [psnr(decode(jpeg), image) for jpeg, image in zip(jpegs, wanted, strict=True)]
        for name, decode in decoders.items()
        if name != BARE
    }
    one, one_by_clock, everywhere = measure(decoders, jpegs, rounds)
    lines = [
        f"| | images/s, 1 core | Pillow full | bare decode | images/s, {os.cpu_count()} cores | PSNR, worst | mean |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(one, key=lambda name: -statistics.median(one[name])):
        ratios = [
            statistics.median(a / b for a, b in zip(one[name], one[other], strict=True))
            for other in ("Pillow full", BARE)
        ]
        quality = [f"{f(fidelity[name]):.1f} dB" for f in (min, statistics.mean)] if name in fidelity else ["", ""]
        speeds = [f"{statistics.median(found[name]):.1f}" for found in (one, everywhere)]
        cells = [name, speeds[0], f"{ratios[0]:.2f}x", f"{ratios[1]:.0%}", speeds[1], *quality]
        lines.append(f"| {' | '.join(cells)} |")
    gain = statistics.median(b / a for a, b in zip(one_by_clock[STAGE], everywhere[STAGE], strict=True))
    return "\n".join([*lines, "", f"{STAGE}: {os.cpu_count()} workers are {gain:.2f} times as fast as one."])


def main() -> None:
    """Print what was measured, on what, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drawn", action="store_true", help="draw the images even where the originals are there")
    parser.add_argument("--rounds", type=int, default=5, help="times that every decoder takes its turn")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.drawn or not ORIGINALS.exists():
        jpegs, source = draw_official_mix(), "drawn images of the official size mix"
    else:
        with zipfile.ZipFile(ORIGINALS) as archive:
            jpegs = [archive.read(name) for name in archive.namelist() if name.endswith(".jpg")]
        source = "camera originals of 4 to 10 megapixels"
    table = report(jpegs, options.rounds)
    sys.stdout.write(f"{len(jpegs)} {source}, {options.rounds} rounds, to {PX}x{PX}; {describe_machine()}\n\n{table}\n")


def describe_machine() -> str:
    """Name the processor and the versions of the libraries."""
    installed = {distribution.name.lower() for distribution in distributions()}
    versions = [f"{package} {version(package)}" for package in PACKAGES if package.lower() in installed]
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {model}; Python {platform.python_version()}, {', '.join(versions)}"


if __name__ == "__main__":
    run_command(main)
