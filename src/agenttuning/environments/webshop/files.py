"""WebShop's own files: the catalogue, its attributes and the human instructions, checked against known sha256.

items_shuffle_1000.json, items_ins_v2_1000.json    the small catalogue (1k)
items_shuffle.json, items_ins_v2.json              the full one (1.18 million products, 5.5 GB)
items_human_ins.json                               12,087 instructions that people wrote, for either
"""

from __future__ import annotations

import codecs
import hashlib
import json
import logging
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agenttuning.environments.webshop.catalogue import Catalogue, Product, product_of
from agenttuning.environments.webshop.goals import human_goals
from agenttuning.errors import UserError

log = logging.getLogger(__name__)

HUMAN = "items_human_ins.json"
NAMES = {
    "full": ("items_shuffle.json", "items_ins_v2.json"),
    "1k": ("items_shuffle_1000.json", "items_ins_v2_1000.json"),
}
# The three small ones: the Hub card of Ricardo-H/webshop-data and the manifest of elizaOS's WebShop loader agree.
# The two of the full catalogue: that manifest alone.
PINS = {
    "items_shuffle_1000.json": "30a4765c3a327af72d9a9a95a6b2486d516f0fa1d3ecd83681901ce82a21b269",
    "items_ins_v2_1000.json": "f88a36314a397b53b3d9c3fa5878e5f7b26d35019a51ec83fbedeca61a948f6f",
    "items_shuffle.json": "2ef591d65df3af89e972ab72468eb82cbf124d876552d9f3678667edd620a6c8",
    "items_ins_v2.json": "1d36af476bdb8f82a5da62bd8acdabe54cd8de2fa84010d37da5c4890feb447e",
    HUMAN: "cf78667548a71786e1d9049c24b802e48e1084ad4bb021cae56ce1f6d96954a3",
}
SEED = 233  # web_agent_text_env.py shuffles the goals with it; here prices and price caps are drawn from it as well
CHUNK = 8 << 20  # bytes read at a time
MOST_CHARS = 32 << 20  # of one product; more is not a product but a file that is not what it says
_SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Shop:
    """What the files of one catalogue hold. `goals` in the order of the original; `changed`: files that differ from
    their pin.
    """

    name: str
    catalogue: Catalogue
    goals: list[dict]
    changed: tuple[str, ...]


def paths(path: str | Path, backend: str | None = None) -> tuple[str, Path]:
    """The catalogue's name ("full" or "1k") and folder, of a folder with its files or of its items_shuffle file.

    Raises UserError when the folder has both or neither and `backend` does not say which is meant.
    """
    path = Path(path)
    found = [name for name, files in NAMES.items() if path.name == files[0]]
    folder = path.parent if found else path
    found = found or [name for name, files in NAMES.items() if (folder / files[0]).exists()]
    if backend is not None:
        return backend, folder
    if len(found) != 1:
        seen = "both catalogues" if found else "no WebShop catalogue"
        raise UserError(
            f"{path} has {seen}; the goals of one are not those of the other; give the path of "
            f"{' or '.join(files[0] for files in NAMES.values())}"
        )
    return found[0], folder


def needed(name: str, folder: Path) -> list[Path]:
    """The three files of a catalogue."""
    return [folder / file for file in (*NAMES[name], HUMAN)]


def open_shop(name: str, folder: Path) -> Shop:
    """The shop of a catalogue's files; read once, and kept as long as the files stay as they are.

    Raises UserError for a file that is missing or not of the schema. A file that differs from its pin is used and
    named in `changed`: what is played with it is not comparable.
    """
    files = needed(name, Path(folder).resolve())
    for file in files:
        if not file.is_file():
            raise UserError(
                f"{file} is not there; WebShop's {name} catalogue could not be opened; docs/environments/webshop.md "
                "says where its three files are found"
            )
    stamps = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return _open(name, tuple(files), stamps)


@lru_cache(maxsize=1)  # the full catalogue takes minutes and gigabytes: `load` and `serve` share it
def _open(name: str, files: tuple[Path, ...], _stamps: tuple) -> Shop:
    items, attributes, human = files
    digests = {file: hashlib.sha256() for file in files}
    known = _attributes(attributes, digests[attributes])
    wanted = _whole(human, digests[human])
    rng = random.Random(SEED)
    catalogue = Catalogue(_products(items, known, digests[items]), rng)
    if not catalogue:
        raise UserError(f"{items} has no product; nothing could be searched; fetch the file again")
    goals = human_goals(catalogue, wanted, str(human), rng)
    random.Random(SEED).shuffle(goals)
    changed = tuple(file.name for file in files if digests[file].hexdigest() != PINS[file.name])
    for file in files:
        if file.name in changed:
            log.warning(
                "%s has sha256 %s, WebShop's own has %s: scores on it are not comparable",
                file,
                digests[file].hexdigest(),
                PINS[file.name],
            )
    return Shop(name, catalogue, goals, changed)


def _products(path: Path, attributes: dict[str, list[str]], digest) -> Iterator[tuple[Product, list[float]]]:
    left_out = 0
    for record in records(path, digest):
        found = product_of(record, attributes)
        if found is None:
            left_out += 1
        else:
            yield found
    if left_out:
        log.info("%s: %d records without a proper asin are left out, as in the original", path.name, left_out)


def _whole(path: Path, digest) -> dict:
    raw = path.read_bytes()
    digest.update(raw)
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from None
    if not isinstance(found, dict):
        raise _broken(path, "it does not hold one object")
    return found


def _attributes(path: Path, digest) -> dict[str, list[str]]:
    known = {}
    for asin, entry in _whole(path, digest).items():
        found = entry.get("attributes") if isinstance(entry, dict) else None
        if found is None:
            continue
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise _broken(path, f"the attributes of {asin[:40]!r} are not a list of texts")
        known[asin] = found
    return known


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{path} is not WebShop's: {why}; the shop would be another one; fetch the file again")


def records(path: Path, digest) -> Iterator[dict]:
    """The objects of a file that is one JSON array, one at a time; `digest` is given every byte of the file.

    Raises UserError for anything else. At most MOST_CHARS characters and one chunk are held.
    """
    decoder = json.JSONDecoder()
    utf8 = codecs.getincrementaldecoder("utf-8")()
    text, at, ended = "", 0, False
    with path.open("rb") as file:

        def more() -> bool:
            nonlocal text, at, ended
            chunk = file.read(CHUNK)
            digest.update(chunk)
            ended = not chunk
            try:
                text, at = text[at:] + utf8.decode(chunk, final=ended), 0
            except UnicodeDecodeError as error:
                raise _broken(path, str(error)) from None
            return not ended

        def next_sign() -> str:
            nonlocal at
            while True:
                at = _SPACE.match(text, at).end()
                if at < len(text) or not more():
                    return text[at : at + 1]

        def take() -> dict:
            nonlocal at
            while True:
                try:
                    found, at = decoder.raw_decode(text, at)
                except (ValueError, RecursionError) as error:
                    if isinstance(error, RecursionError) or len(text) - at > MOST_CHARS or not more():
                        raise _broken(path, f"a product is cut off or not JSON ({str(error)[:80]})") from None
                else:
                    return found

        if next_sign() != "[":
            raise _broken(path, "it does not begin as a list")
        at += 1
        sign = next_sign()
        while sign != "]":
            if sign != "{":
                raise _broken(path, f"{sign!r} stands where a product should begin" if sign else "it is cut off")
            yield take()
            sign = next_sign()
            if sign == ",":
                at += 1
                sign = next_sign()
                if sign == "]":
                    raise _broken(path, "a comma stands before the end of the list")
            elif sign != "]":
                raise _broken(path, f"{sign!r} stands between two products" if sign else "it is cut off")
        at += 1
        if next_sign():
            raise _broken(path, "something follows the list")
