"""From prepared conversations to the rows that the trainer takes, packed if the recipe says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agenttuning.errors import UserError

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

    from agenttuning.data.prepare import Prepared
    from agenttuning.recipe import Recipe


def trainable_rows(prepared: Prepared, recipe: Recipe) -> Dataset:
    """Rows of input_ids, labels and `origin`: three lists of the same length. origin holds the number of the source at
    each supervised token and -1 elsewhere; packed rows also have seq_lengths.

    Packing is TRL's own: whole conversations in best-fit bins within each 1000 rows, whose order is a seeded draw.
    Raises UserError when a row is longer than max_length, which packing would cut in silence.
    """
    from trl import pack_dataset

    limit, number = recipe.values["max_length"], {name: place for place, name in enumerate(prepared.mixture["sources"])}
    rows = prepared.load().with_format("arrow")
    columns = rows.column_names
    rows = rows.map(_with_origin, batched=True, fn_kwargs={"number": number, "limit": limit}, remove_columns=columns)
    if recipe.values.get("packing"):
        rows = pack_dataset(rows, limit, recipe.values.get("packing_strategy", "bfd"))
    return rows.with_format("numpy")


def _with_origin(table: pyarrow.Table, number: dict[str, int], limit: int) -> pyarrow.Table:
    import numpy
    import pyarrow

    labels = table["labels"].combine_chunks()
    lengths = labels.value_lengths().to_numpy()
    longest = lengths.max(initial=0)
    if longest > limit:
        raise UserError(f"a prepared row has {longest} tokens, more than max_length {limit}; prepare the data again")
    source = numpy.repeat([number[name] for name in table["source"].to_pylist()], lengths)
    supervised = labels.flatten().to_numpy() != -100
    values = {
        "input_ids": table["input_ids"].combine_chunks().flatten(),
        "labels": labels.flatten(),
        "origin": pyarrow.array(numpy.where(supervised, source, -1).astype("int8")),
    }
    starts = pyarrow.array(numpy.concatenate([[0], numpy.cumsum(lengths)]), type=pyarrow.int32())
    return pyarrow.table({name: pyarrow.ListArray.from_arrays(starts, flat) for name, flat in values.items()})
