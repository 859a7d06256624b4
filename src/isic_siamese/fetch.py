"""One file over HTTP into `<name>.part`, continued wherever it stopped, until it is whole."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Annotated, Any

import httpx
from pydantic import Field
from tqdm import tqdm

from isic_siamese.files import read_json, write_json

TRANSIENT = (408, 425, 429)  # client errors of HTTP that pass; those from 500 on do too
PLAIN = r"^[ -~]*$"  # printable ASCII: a request takes no other text
WEB_PAGE = "a web page instead of the file (the sign-in page of a network?)"


class RefusedError(Exception):
    """This server will not give the file, however often it is asked."""


class CutError(Exception):
    """The answer broke off or was not the file; asking again may help."""


class GivenUpError(Exception):
    """It was asked for again and again, and no more came."""


@dataclass(frozen=True)
class Origin:
    """What a server said of a whole file when its first byte came; `url` is without the password."""

    url: str
    n_bytes: int | None
    validator: Annotated[str, Field(pattern=PLAIN)]  # its strong ETag, else its date, else ""


class Part:
    """`<name>.part`, the first bytes of a file, and beside it `<name>.part.json`, their `Origin`."""

    def __init__(self, path: Path) -> None:
        """Describe the part of the file `path`, which may not exist yet."""
        self.whole = path
        self.path = path.with_name(f"{path.name}.part")
        self._facts = path.with_name(f"{path.name}.part.json")

    def origin(self) -> Origin | None:
        """Return where the bytes came from; without that, nothing can be added to them."""
        try:
            return read_json(self._facts, Origin)
        except (FileNotFoundError, ValueError):
            return None

    def n_bytes(self) -> int:
        """Return how many bytes there are."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, origin: Origin) -> None:
        """Drop what is there and start over. A kill between any two lines leaves nothing mixed."""
        self.path.unlink(missing_ok=True)
        write_json(self._facts, asdict(origin))

    def require_length(self, n_bytes: int | None) -> None:
        """Raise `CutError` if the part is not `n_bytes` long; one that is too long goes."""
        if n_bytes is not None and self.n_bytes() < n_bytes:
            raise CutError(f"short answer, {self.n_bytes():,} of {n_bytes:,} bytes")
        if n_bytes is not None and self.n_bytes() > n_bytes:
            self.path.unlink()
            raise CutError(f"more than the {n_bytes:,} bytes of the file")

    def finish(self) -> None:
        """Give the whole file its name."""
        self.path.replace(self.whole)
        self._facts.unlink(missing_ok=True)


@dataclass(frozen=True)
class Fetcher:
    """Fetches files, several at once if called from several threads.

    `pauses` are the seconds before each new try that follows one without progress; setting `stop` ends all fetching.
    """

    client: httpx.Client
    pauses: Sequence[float]
    stop: Event

    def fetch(self, url: str, path: Path, bar: "tqdm[Any]") -> None:
        """Fetch `url` into `path`, continuing what is there of it, and show it on `bar`.

        Raises:
            RefusedError: the server does not give it.
            GivenUpError: the last try failed too, or `stop` was set.
            OSError: the disk does not take it.
        """
        part = Part(path)
        most, left = part.n_bytes(), list(self.pauses)
        while True:
            try:
                self._try(url, part, bar)
                return part.finish()
            except CutError as error:
                # Beyond the most ever held, so that starting over and over does not count as progress.
                if part.n_bytes() > most:
                    most, left = part.n_bytes(), list(self.pauses)
                if not left or self.stop.is_set():
                    raise GivenUpError(f"{url}: {error}; {part.n_bytes():,} bytes so far") from None
                bar.set_postfix_str(f"{error}; again in {left[0]:g} s")
                self.stop.wait(left.pop(0))
                bar.set_postfix_str("")

    def _try(self, url: str, part: Part, bar: "tqdm[Any]") -> None:
        """Ask once for what `part` lacks, and return when it is whole."""
        origin, offset = part.origin(), part.n_bytes()
        if origin and offset == origin.n_bytes:
            return
        headers = {"Accept-Encoding": "identity"}
        if origin and offset:
            headers["Range"] = f"bytes={offset}-"
            if origin.url == without_password(url) and origin.validator:
                headers["If-Range"] = origin.validator
        try:
            with self.client.stream("GET", url, headers=headers) as response:
                _require_file(response)
                self._receive(response, url, part, bar)
        except (httpx.TooManyRedirects, httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError) as error:
            raise RefusedError(f"{url}: {error}") from None
        except httpx.TransportError as error:
            raise CutError(str(error) or type(error).__name__) from None

    def _receive(self, response: httpx.Response, url: str, part: Part, bar: "tqdm[Any]") -> None:
        """Write an answer behind the bytes at hand, or in place of them where it does not continue them."""
        now = _origin(response, url)
        chunks = response.iter_raw()
        chunk = next(chunks, b"")
        if response.status_code != 416 and not chunk:
            raise CutError("empty answer")
        if response.status_code == 200:
            _require_content(part.whole, chunk)
            part.begin(now)
        else:
            _require_continuation(response, now, part)
        origin = part.origin() or now
        n_bytes = now.n_bytes or origin.n_bytes
        bar.reset(n_bytes)
        bar.initial = bar.n = part.n_bytes()  # the rate is of the bytes that come now
        with part.path.open("ab") as file:
            while chunk:
                file.write(chunk)
                bar.update(len(chunk))
                if self.stop.is_set():
                    raise CutError("stopped")
                chunk = next(chunks, b"")
        part.require_length(n_bytes)


def without_password(text: str) -> str:
    """Hide who signs in and how in each URL of `text`: in `http://user:password@host`, all before the @."""
    return re.sub(r"(?<=//)[^\s/]*(:\S*)?@", "***@", text)


def _require_file(response: httpx.Response) -> None:
    """Let pass only an answer that can be the file, or a range of it."""
    status = response.status_code
    if status in TRANSIENT or status >= 500:
        raise CutError(f"HTTP {status}")
    if status == 416:
        return  # told in whatever words, it means that the file is no longer than the part
    if status not in (200, 206):
        raise RefusedError(f"{response.url}: HTTP {status}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise CutError(WEB_PAGE)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"{response.url}: sent compressed, though not asked for")
    if not {"Content-Length", "Transfer-Encoding"} & {name.title() for name in response.headers}:
        raise RefusedError(f"{response.url}: sent without a length, so a cut would look like the end")


def _require_content(path: Path, chunk: bytes) -> None:
    """Let pass only what the file `path` may begin with, so that no message of a server takes the place of a part."""
    if chunk.lstrip()[:1] == b"<":
        raise CutError(WEB_PAGE)
    if path.suffix == ".zip" and not b"PK".startswith(chunk[:2]):
        raise CutError(f"no zip: it begins with {chunk[:20]!r}")


def _require_continuation(response: httpx.Response, now: Origin, part: Part) -> None:
    """Check that a partial answer (206, or 416 for none) belongs behind the bytes of `part`; drop those if not."""
    origin, span = part.origin(), _span(response)
    if "Range" not in response.request.headers:
        raise CutError(f"HTTP {response.status_code}, as for a part, though the whole file was asked for")
    if response.status_code == 206 and (not span or int(span[1]) != part.n_bytes()):
        raise CutError(f"wanted the bytes from {part.n_bytes():,}, got {response.headers.get('Content-Range')!r}")
    is_same = origin is not None and (now.n_bytes is None or origin.n_bytes in (None, now.n_bytes))
    if origin and origin.url == now.url and origin.validator and now.validator:
        is_same = is_same and origin.validator == now.validator
    if response.status_code == 416 or not is_same:
        part.path.unlink(missing_ok=True)
        raise CutError("the file has changed on the server, so it starts over")


def _origin(response: httpx.Response, url: str) -> Origin:
    if response.status_code == 200:
        length = response.headers.get("Content-Length")
    else:
        span = _span(response)
        length = span[2] if span and span[2] != "*" else None
    # A weak ETag does not promise equal bytes.
    etag = response.headers.get("ETag", "")
    validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
    return Origin(
        without_password(url), int(length) if length else None, validator if re.fullmatch(PLAIN, validator) else ""
    )


def _span(response: httpx.Response) -> re.Match[str] | None:
    return re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
