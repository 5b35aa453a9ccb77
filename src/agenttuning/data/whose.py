"""Which conversations a row was packed from, found by their tokens. Rows keep no ids: they would cost a training run
memory and time at every step, and are asked for only when it fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy


def conversations(prepared: Path, wanted: Sequence[numpy.ndarray]) -> list[list[str]]:
    """The conversations of the prepared mixture, as "source: id", with exactly the tokens of each entry of `wanted`:
    several where the sources hold the same conversation under several ids, none where nothing fits.

    Reads the tokens of the draws that are as long as one of those asked for, from the memory-mapped files.
    """
    from datasets import load_from_disk

    draws = load_from_disk(str(prepared))
    asked = [numpy.asarray(ids, dtype="int32").tobytes() for ids in wanted]
    lengths, places = [len(ids) for ids in wanted], {key: [] for key in asked}
    first = 0
    for part in draws.data.column("input_ids").chunks:
        values, starts = part.values.to_numpy(), part.offsets.to_numpy()
        for draw in numpy.flatnonzero(numpy.isin(numpy.diff(starts), lengths)):
            same = places.get(values[starts[draw] : starts[draw + 1]].astype("int32", copy=False).tobytes())
            if same is not None:
                same.append(first + int(draw))
        first += len(part)
    names = {key: [f"{row['source']}: {row['id']}" for row in map(draws.__getitem__, same)]
             for key, same in places.items()}  # fmt: skip
    return [list(dict.fromkeys(names[key])) for key in asked]
