"""Write files whole or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it becomes `path` when the block ends well, and goes when it does not.

    Never writes into an existing file: DVC may have hard-linked it from its cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Ends as `path` does, because writers choose a format by the suffix.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # where a disk is read-only, this fails as well
    except OSError as error:
        if str(error.filename or temporary) == str(temporary):  # a full disk does not say which file
            error.filename = str(path)
        raise


def forget_temporaries(folder: Path, name: str = "*") -> None:
    """Delete what a `replacing` that was killed has left in `folder`, of all files or of `name` alone.

    DVC would take it for an output.
    """
    for temporary in folder.glob(f".[0-9]*.{name}"):
        temporary.unlink()


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index, with line feeds and six decimals: the same bytes on every system."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6f")


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write `array`, which is in C order, as `np.save` would; but that does not say that a disk is full."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def write_json(path: Path, content: Mapping[str, object], rounded: bool = True) -> None:
    """Write `content` as JSON in its own order; `rounded`, its floats have six places, so that diffs stay readable.

    Raises:
        ValueError: a float is not finite.
    """
    with replacing(path) as temporary:
        text = json.dumps(_rounded(content) if rounded else content, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read what `write_json` wrote, as a `kind`: every field is there, of its type and within its range.

    Raises:
        FileNotFoundError: the file is absent.
        ValueError: it is something else; the message names the first field that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{where}: {first['msg']}") from None


def _rounded(value: object) -> object:
    if isinstance(value, float):
        return round(float(value), 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return value
