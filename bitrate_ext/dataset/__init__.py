"""Many pictures: each exactly once, on one machine or several, as rows in Parquet."""

from .codec import About, Codec, Read, Unreadable
from .items import DatasetError, Item, Listing, find_items
from .part import measure
from .run import Progress, Report, run

__all__ = [
    "About",
    "Codec",
    "DatasetError",
    "Item",
    "Listing",
    "Progress",
    "Read",
    "Report",
    "Unreadable",
    "find_items",
]
__all__ += ["measure", "run"]
