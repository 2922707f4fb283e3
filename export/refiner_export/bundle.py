"""The ONNX graphs of the bundled models, so that they run where PyTorch is not installed.

Run it after a bundled checkpoint has changed: ``python -m refiner_export.bundle``. A test holds each graph to its
checkpoint by the hash in the manifest.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from refiner import bundled
from refiner.files import atomic_path
from refiner.runtime.onnx_file import HASH_KEY, add_hash
from refiner_export.build import export_artefact
from refiner_export.options import ExportOptions

# A smaller weight does not pay for the node that widens it.
LEAST_NUMBERS = 256


def bundle(checkpoint: Path, target: Path) -> int:
    """Export a checkpoint and write its graph with weights in half precision; returns the bytes of the file.

    Only weights that half precision holds exactly are stored so: the bundled checkpoints hold such weights, and the
    graph computes in float32 with the same numbers. ONNX Runtime widens them once, when it loads the graph.

    Raises:
        ParityError: the graph differs from PyTorch. ExportError, CheckpointError, MissingComponentError: as exporting.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = export_artefact(ExportOptions("onnx", Path(folder), checkpoint), use_cache=False)
        model = onnx.load(result.path)
    store_in_half(model)
    kept = [entry for entry in model.metadata_props if entry.key != HASH_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.checker.check_model(model)
    with atomic_path(target) as temporary:
        onnx.save(model, temporary)
        add_hash(temporary)
    return target.stat().st_size


def store_in_half(model: onnx.ModelProto) -> None:
    """Store each float32 weight that half precision holds exactly in half precision, with a node that widens it."""
    casts = []
    for weight in list(model.graph.initializer):
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(weight)
        if values.size < LEAST_NUMBERS or not np.array_equal(values.astype(np.float16).astype(np.float32), values):
            continue
        name = f"{weight.name}_half"
        casts.append(onnx.helper.make_node("Cast", [name], [weight.name], to=onnx.TensorProto.FLOAT))
        model.graph.initializer.remove(weight)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), name))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def main() -> int:
    """Write the graphs of all models that users load without a name."""
    for checkpoint in bundled.with_graphs():
        target = bundled.graph_of(checkpoint)
        print(f"{target.name}: {bundle(checkpoint, target):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
