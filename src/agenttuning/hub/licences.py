"""Which licences let a dataset be passed on, as the Hub names them."""

from __future__ import annotations

# Hub ids (hf.co/docs/hub/repositories-licenses) of licences that allow redistribution to everyone, for any use; what
# they ask in return (name the source, keep the licence) the card does. Not here, so that you have to say so yourself:
# -nc- (not for everyone), -nd- (a mixture is a derivative), and licences of single models.
REDISTRIBUTABLE = frozenset(
    {
        "afl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc-by-2.0",
        "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0",
        "cdla-permissive-2.0", "cdla-sharing-1.0", "ecl-2.0", "etalab-2.0", "gfdl", "isc", "mit",
        "mit-0", "ms-pl", "odbl", "odc-by", "pddl", "unlicense", "wtfpl",
        "zlib",
    }
)  # fmt: skip


def hub_id(licence: str | None) -> str | None:
    """The Hub's id if the whole text names one licence that allows redistribution ("Apache-2.0"), else None. Prose
    around a name ("not stated; converters say Apache-2.0") is no statement.
    """
    name = (licence or "").strip().lower().replace(" ", "-")
    return name if name in REDISTRIBUTABLE else None
