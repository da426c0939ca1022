"""Single records and truth tables in a store, removed when the store has the pack of their patch.

Nothing is renamed: the pack is a new object, written as the tables are; afterwards what it holds is removed. A run that
is killed in between leaves some images twice, with the same content, and the next one removes what is left.
"""

from __future__ import annotations

from skygraft.records.files import Layout
from skygraft.records.packs import REOPENED_SUFFIX, read_index, single_names

__all__ = ["remove_packed"]


def remove_packed(layout: Layout) -> int:
    """Remove the records and truth tables from the store that are in its packs, and say how many there were.

    One that was written again after it had been packed stays, as does one that has a file of its own here.

    Raises
    ------
    PlaceError
        If the store cannot be listed, or they cannot be removed.
    """
    outputs = layout.outputs
    if outputs is None:
        return 0
    gone = []
    for pack, there in outputs.packed_in_store().items():
        packed, here = read_index(pack).files, single_names(pack.parent)
        for name, identity in there.items():
            same = name in packed and tuple(packed[name][:2]) == identity.size_and_time
            if name not in here and (same or name.endswith(REOPENED_SUFFIX)):
                gone.append(pack.with_name(name))
    outputs.remove_all(gone)
    return len(gone)
