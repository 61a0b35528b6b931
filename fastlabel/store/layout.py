"""The Zarr nodes of a store as docs/format.md lays them out: what they are called, made of, and how they grow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastlabel.digests import canonical_digest
from fastlabel.errors import StoreError
from fastlabel.labels.basis import DTYPE as BASIS_DTYPE
from fastlabel.labels.codec import TopKCodec
from fastlabel.labels.transform_codec import TransformCodec
from fastlabel.store.manifest import Manifest
from fastlabel.store.shard import BY_COLUMN, HARD
from fastlabel.system.atomic_files import write_file
from fastlabel.system.regular_files import read_regular
from fastlabel.views import BOX_COLUMNS, MIX_COLUMNS, STORED

Node = dict[str, Any]  # the content of a zarr.json
ATTRIBUTE, CLASS_NAMES, SAMPLES, UNITS = "fastlabel", "class_names", "samples", "units"
BASIS = "basis"
CROPS, CROPS_DTYPE = "crops", np.dtype("<i4")
TEACHER_NUMBER = "teacher_number"  # binds a teacher's group to its folder; stores of before lack it
AXES = {"tail": "summary", "coefficients": "component"}  # the last one of an array; of the others "kept"
NODE, NODE_DIGEST = "zarr.json", "node_digest"
# Names of 100,000 classes take 5 MB; what is larger or deeper was not written by a fastlabel.
MAX_NODE_BYTES, MAX_DEPTH = 64 << 20, 32
CRC = {"name": "crc32c"}


def columns(codec: TopKCodec) -> dict[str, tuple[int, np.dtype[Any]]]:
    """Width and dtype of the last axis of each of a teacher's arrays, in the order of the format."""
    found: dict[str, tuple[int, np.dtype[Any]]] = {
        "classes": (codec.k, codec.classes_dtype),
        "codes": (codec.k, np.dtype(np.uint8)),
        "tail": (2, np.dtype("<u2")),
    }
    if isinstance(codec, TransformCodec):
        found["coefficients"] = (codec.components, np.dtype(np.uint8))
    return found


def node_file(folder: str) -> str:
    """Path within its store of a node's metadata, for the folder that is the node."""
    return f"{folder}/{NODE}" if folder else NODE


def is_manifest(file: str) -> bool:
    """Whether a path within a store is that of the manifest of the store, or of one of its teachers."""
    return file == NODE or (file.endswith(f"/{NODE}") and file.removesuffix(f"/{NODE}").isdecimal())


def segment_file(number: int) -> str:
    """Path within its store of the ids of a segment of samples."""
    return f"{SAMPLES}/{number}/c/0"


def basis_file(teacher: int) -> str:
    """Path within its store of the basis of a teacher's labels."""
    return f"{teacher}/{BASIS}/c/0/0"


def is_basis(file: str) -> bool:
    """Whether a path within a store is that of a basis: like a manifest it says what the labels are."""
    return file.endswith(f"/{BASIS}/c/0/0")


def basis_shape(codec: TransformCodec) -> tuple[int, int]:
    """The mean, then the components; by class."""
    return codec.components + 1, codec.num_classes


def crops_file(view: int) -> str:
    """Path within its store of a view's table of stored crops."""
    return f"{CROPS}/c/{view}/0/0"


def crops_shape(manifest: Manifest) -> tuple[int, int]:
    """Samples of the file, columns: of one view's table."""
    return manifest.dataset.num_samples, BOX_COLUMNS + (MIX_COLUMNS if manifest.views.mixed else 0)


def store_nodes(manifest: Manifest, class_names: Sequence[str] | None) -> dict[str, Node]:
    """By folder, all nodes that a store of that manifest has besides records."""
    attributes: dict[str, Any] = {ATTRIBUTE: manifest.root_dict()}
    if class_names:
        attributes[CLASS_NAMES] = list(class_names)
    nodes = {"": _group(attributes), SAMPLES: _group()}
    for number, segment in enumerate(manifest.samples):
        nodes[f"{SAMPLES}/{number}"] = _array((segment.count,), np.dtype("<i8"), (segment.count,))
    if manifest.views.name == STORED:
        shape = crops_shape(manifest)
        names = ("view", "sample", "column")
        nodes[CROPS] = _array((len(manifest.views.digests), *shape), CROPS_DTYPE, (1, *shape), names=names)
    for teacher in range(len(manifest.teachers)):
        nodes |= _teacher_nodes(manifest, teacher)
    return nodes


def _teacher_nodes(manifest: Manifest, teacher: int) -> dict[str, Node]:
    info, unit = manifest.teachers[teacher], manifest.unit
    attributes = {ATTRIBUTE: info.to_dict(), TEACHER_NUMBER: teacher}
    nodes = {str(teacher): _group(attributes), f"{teacher}/{UNITS}": _group()}
    for name, (width, dtype) in columns(info.codec).items():
        nodes[f"{teacher}/{name}"] = _array(
            (manifest.num_views, manifest.num_rows, width),
            dtype,
            (1, unit.samples, width),
            shard=(unit.views, unit.samples, width),
            names=("view", "sample", AXES.get(name, "kept")),
            by_column=name in BY_COLUMN,
        )
    if isinstance(info.codec, TransformCodec):
        shape = basis_shape(info.codec)
        nodes[f"{teacher}/{BASIS}"] = _array(shape, BASIS_DTYPE, shape, names=("component", "class"))
    return nodes


def _group(attributes: dict[str, Any] | None = None) -> Node:
    return {"attributes": attributes or {}, "zarr_format": 3, "node_type": "group"}


def _array(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    chunk: tuple[int, ...],
    shard: tuple[int, ...] | None = None,
    names: tuple[str, ...] | None = None,
    by_column: bool = False,
) -> Node:
    """The node of an array, keys in the order in which zarr-python writes them."""
    little: Node = {"name": "bytes", "configuration": {"endian": "little"}}
    # Bitshuffle makes 10-bit class ids in 16 bits cost 10 bits; the checksum finds a damaged chunk when it is read.
    blosc = {"typesize": dtype.itemsize, "cname": "zstd", "clevel": 5, "shuffle": "bitshuffle", "blocksize": 0}
    if by_column:
        blosc["clevel"] = HARD
    values = {"name": "bytes"} if dtype.itemsize == 1 else little
    codecs: list[Node] = [values, {"name": "blosc", "configuration": blosc}, CRC]
    if by_column:
        codecs.insert(0, {"name": "transpose", "configuration": {"order": [0, 2, 1]}})
    if shard is not None:
        inner = {"chunk_shape": list(chunk), "codecs": codecs, "index_codecs": [little, CRC], "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    node: Node = {
        "shape": list(shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard or chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0 if dtype.kind == "f" else 0,
        "codecs": codecs,
        "attributes": {},
    }
    if names is not None:
        node["dimension_names"] = list(names)
    return node | {"zarr_format": 3, "node_type": "array", "storage_transformers": []}


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder that nobody reads yet, neither atomically nor durably."""
    for file, content in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


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


def read_node(folder: Path) -> Node:
    """The node that a folder is. OSError where there is none; StoreError where it is not as it was written."""
    path = folder / NODE
    content = read_regular(path, MAX_NODE_BYTES)
    try:
        node = json.loads(content)
        _check_depth(node)
        found, wanted = node["attributes"][NODE_DIGEST], sealed_node(node)["attributes"][NODE_DIGEST]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{path} is damaged: it is not the JSON of a node with its digest ({error})") from error
    if found != wanted:
        raise StoreError(f"{path} is damaged: its content does not have the digest that it gives")
    return dict(node)


def _check_depth(value: Any) -> None:
    """ValueError where a JSON value is nested deeper than any of a store: what walks it would run out of stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
