"""Descriptions of groups and arrays that carry a checksum of themselves.

Zarr checksums chunks, not the ``zarr.json`` beside them, where attributes, shapes and types stand: a flipped
bit there reads as another setting. So what kdviz writes there has one more attribute, the SHA-256 of all the
rest, which is checked and taken out again whenever kdviz reads it. Other readers see it as an attribute; what
an older kdviz wrote has none.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import LocalStore

from kdviz.errors import StoreError

NODE = "zarr.json"
_NAME, _MARK = "kdviz_checksum", "kdviz-sha256:"  # so told by both that one flipped bit does not hide it


class SealedStore(LocalStore):
    """A folder of zarr's whose descriptions are sealed when written, and checked when read."""

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read a file; a description without its checksum."""
        found = await super().get(key, prototype, byte_range)
        if found is None or Path(key).name != NODE:
            return found
        plain = json.dumps(read_sealed(found.to_bytes(), self.root / key)).encode()
        return (prototype or default_buffer_prototype()).buffer.from_bytes(plain)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        if Path(key).name == NODE:
            value = type(value).from_bytes(_seal(json.loads(value.to_bytes())))
        await super()._set(key, value, exclusive)


def read_sealed(content: bytes, path: Path) -> dict[str, Any]:
    """Parse the description at `path`, and take its checksum out.

    Raises
    ------
    StoreError
        If it is not what was written.
    """
    try:
        node = json.loads(content)
        attributes = node.get("attributes", {})
        marks = [name for name, value in attributes.items() if _is_mark(name, value)]
        sums = [attributes.pop(name) for name in marks]
    except (ValueError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    if marks and (marks != [_NAME] or sums != [_checksum(node)]):
        raise StoreError(f"{path} is damaged: it is not what was written")
    return node


def _is_mark(name: str, value: object) -> bool:
    return name == _NAME or (isinstance(value, str) and value.startswith(_MARK))


def _seal(node: dict[str, Any]) -> bytes:
    if marks := [name for name, value in node.setdefault("attributes", {}).items() if _is_mark(name, value)]:
        raise ValueError(f"attribute {marks[0]!r} is kept for the checksum of kdviz; name it otherwise")
    node["attributes"][_NAME] = _checksum(node)
    return json.dumps(node, indent=2).encode()


def _checksum(node: dict[str, Any]) -> str:
    return _MARK + hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()
