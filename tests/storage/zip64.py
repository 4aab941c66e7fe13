"""Zip files with the longer end that large ones have."""

import struct

RECORD, LOCATOR, END = "<4sQ2H2L4Q", "<4sLQL", "<4s4H2LH"


def with_zip64(content: bytes, *, only_there: bool = True, **changed: object) -> bytes:
    """Give a zip file the longer end; the shorter one says the same, or that it is only there."""
    _, *disks, count, _, size, offset, _ = struct.unpack(END, content[-22:])
    there = {
        "signature": b"PK\x06\x06",
        "record_bytes": 44,
        "made": 45,
        "needed": 45,
        "disk": 0,
        "disk_of_table": 0,
        "here": count,
        "count": count,
        "size": size,
        "offset": offset,
        "found": b"PK\x06\x07",
        "found_on": 0,
        "place": len(content) - 22,
        "num_disks": 1,
        "between": b"",
        "short": (0xFFFF, 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF),
    } | changed
    short = there["short"] if only_there else (count, count, size, offset)
    values = list(there.values())
    end = struct.pack(END, b"PK\x05\x06", *disks[:2], *short, 0)
    longer = struct.pack(RECORD, *values[:10]) + there["between"]
    return content[:-22] + longer + struct.pack(LOCATOR, *values[10:14]) + end
