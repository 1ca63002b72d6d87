"""Answers as columns: PostgreSQL's arrays as numpy arrays, one message a column and no object a row.

Owns the binary form of a one-dimensional array without nulls (`array_send` in PostgreSQL's ``arrayfuncs.c``):

    int32 dimensions │ int32 flags │ uint32 element type │ int32 length │ int32 lower bound │ int32 size, element │ ...

``SELECT array_agg(timestamp), array_agg(value)`` with a binary cursor comes as two arrays from a connection that was
passed to `take_columns`. Starts nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import Format
from psycopg.types.numeric import Int8BinaryLoader

from scada_trio.storage.connect import Connection

POSTGRES_EPOCH_US: Final = 946_684_800_000_000  # 2000-01-01 UTC
_HEADER_BYTES: Final = 20


class _ColumnLoader(Loader):
    format = Format.BINARY
    wire: ClassVar[str]
    native: ClassVar[Any]

    def load(self, data: Buffer) -> NDArray[Any]:
        element = np.dtype([("size", ">i4"), ("element", self.wire)])
        if len(data) < _HEADER_BYTES:  # no dimension: no elements
            return np.empty(0, self.native)
        return np.frombuffer(data, element, offset=_HEADER_BYTES)["element"].astype(self.native)


class _Time(_ColumnLoader):
    """µs since 2000, UTC."""

    wire, native = ">i8", np.int64


class _Float(_ColumnLoader):
    wire, native = ">f8", np.float64


class _Int4(_ColumnLoader):
    wire, native = ">i4", np.int32


def take_columns(connection: Connection) -> None:
    """Read arrays as columns, and single times as they come, µs since 2000, instead of a datetime each."""
    adapters = connection.adapters
    for name, loader in (("timestamptz", _Time), ("float8", _Float), ("int4", _Int4)):
        info = adapters.types[name]
        adapters.register_loader(info.array_oid, loader)
    adapters.register_loader("timestamptz", Int8BinaryLoader)
