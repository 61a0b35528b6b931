"""The Zarr nodes of a store as docs/format.md lays them out: what they are called, made of, and how they grow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlabel.digests import canonical_digest
from fastlabel.errors import StoreError
from fastlabel.labels.codec import TopKCodec
from fastlabel.store.manifest import Manifest
from fastlabel.system.atomic_files import write_file

Node = dict[str, Any]  # the content of a zarr.json
ATTRIBUTE, CLASS_NAMES, SAMPLES, UNITS = "fastlabel", "class_names", "samples", "units"
NODE, NODE_DIGEST = "zarr.json", "node_digest"
# Bitshuffle makes 10-bit class ids in 16 bits cost 10 bits; the checksum finds a damaged chunk when it is read.
COMPRESSORS = (
    {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "bitshuffle"}},
    {"name": "crc32c"},
)


def columns(codec: TopKCodec) -> dict[str, tuple[int, np.dtype[Any]]]:
    """Width and dtype of the last axis of each of a teacher's arrays."""
    return {
        "classes": (codec.k, codec.classes_dtype),
        "codes": (codec.k, np.dtype(np.uint8)),
        "tail": (2, np.dtype("<u2")),
    }


def root_attributes(manifest: Manifest, class_names: Sequence[str] | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {ATTRIBUTE: manifest.root_dict()}
    if class_names:
        attributes[CLASS_NAMES] = list(class_names)
    return attributes


def create_segment(samples: Any, name: str, ids: NDArray[np.int64]) -> None:
    """Make the array of a segment's ids below the Zarr group ``samples``."""
    array = samples.create_array(name, shape=ids.shape, dtype="int64", chunks=ids.shape, compressors=COMPRESSORS)
    array[:] = ids


def create_teacher(root: Any, name: str, teacher: int, manifest: Manifest) -> None:
    """Make a teacher's group and its empty arrays below the Zarr group ``root``."""
    info, unit = manifest.teachers[teacher], manifest.unit
    group = root.create_group(name, attributes={ATTRIBUTE: info.to_dict()})
    group.create_group(UNITS)
    for array, (width, dtype) in columns(info.codec).items():
        group.create_array(
            array,
            shape=(manifest.num_views, manifest.num_rows, width),
            dtype=dtype,
            shards=(unit.views, unit.samples, width),
            chunks=(1, unit.samples, width),
            compressors=COMPRESSORS,
            dimension_names=("view", "sample", "kept" if array != "tail" else "summary"),
        )


def lengthen_array(array: Path, manifest: Manifest) -> None:
    """Make an array as long as the manifest needs, if it is not yet; its chunks stay as they are."""
    node = read_node(array)
    views, rows, width = node["shape"]
    shape = [max(views, manifest.num_views), max(rows, manifest.num_rows), width]
    if shape != node["shape"]:
        write_file(array / NODE, node_text(node | {"shape": shape}))


def replace_manifest(root: Path, manifest: Manifest) -> None:
    """Give a store its new extent, at once and durably."""
    node = read_node(root)
    node["attributes"][ATTRIBUTE] = manifest.root_dict()
    write_file(root / NODE, node_text(node))


def bare_node(node: Node) -> Node:
    """A node without its own digest."""
    attributes = {key: value for key, value in node.get("attributes", {}).items() if key != NODE_DIGEST}
    return node | {"attributes": attributes}


def sealed_node(node: Node) -> Node:
    """A node with its own digest as the last attribute: what no other digest covers would change unseen."""
    bare = bare_node(node)
    return bare | {"attributes": bare["attributes"] | {NODE_DIGEST: canonical_digest(bare)}}


def node_text(node: Node) -> str:
    """The text of a node's file, sealed: the same for equal nodes whose keys have the same order."""
    return json.dumps(sealed_node(node), indent=2) + "\n"


def seal(folder: Path) -> None:
    """Seal all nodes that zarr made below a folder, which nobody reads yet."""
    for path in folder.rglob(NODE):
        path.write_text(node_text(json.loads(path.read_text())))


def read_node(folder: Path) -> Node:
    """The node that a folder is. OSError where there is none; StoreError where it is not as it was written."""
    path = folder / NODE
    try:
        node = json.loads(path.read_bytes())
        found, wanted = node["attributes"][NODE_DIGEST], sealed_node(node)["attributes"][NODE_DIGEST]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: it is not the JSON of a node with its digest ({error})") from error
    if found != wanted:
        raise StoreError(f"{path} is damaged: its content does not have the digest that it gives")
    return dict(node)
