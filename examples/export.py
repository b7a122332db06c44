"""A sparse network, trained briefly, and what can be made of it: CSR, a smaller dense one, safetensors, ONNX.

    python examples/export.py

It prints how large each is, how long inference takes, and by how much its outputs differ.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from sparse_lightning import (
    SET,
    MNISTDataModule,
    SparseMLP,
    load_safetensors,
    save_safetensors,
    sparsity_report,
    to_csr,
    to_dense_small,
    to_onnx,
)


def milliseconds(run: Callable[[Tensor], object], images: Tensor) -> float:
    """Return the median time of a batch."""
    times = []
    for _ in range(30):
        start = time.perf_counter()
        run(images)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def main(hidden: int = 1000, density: float = 0.005, batches: int = 200) -> dict[str, float]:
    """Train, export, and return the largest difference of each export's outputs."""
    model = SparseMLP(hidden_sizes=[hidden, hidden], density=density, learning_rate=0.05)
    sparse = SET(density, prune_fraction=0.3, initialization="fan_in", seed=0)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=2, limit_train_batches=batches, limit_val_batches=1, callbacks=[sparse], **quiet)
    trainer.fit(model, data := MNISTDataModule())
    images = next(iter(data.val_dataloader()))[0][:128]
    model.eval().requires_grad_(False)
    print(sparsity_report(model, sparse.masks, example=images, latency=True), "\n")

    differences = {}
    with tempfile.TemporaryDirectory() as folder:
        small = to_dense_small(model)
        save_safetensors(model, Path(folder, "packed"), masks=sparse.masks)
        torch.save(model.state_dict(), Path(folder, "dense"))
        loaded = SparseMLP(hidden_sizes=[hidden, hidden], density=density)
        loaded.load_state_dict(load_safetensors(Path(folder, "packed")))
        units = [layer.out_features for layer in small.network if isinstance(layer, torch.nn.Linear)]
        print(f"units of the smaller dense network: {units}")
        print(f"bytes on disk: dense {Path(folder, 'dense').stat().st_size:,}, ", end="")
        print(f"packed {Path(folder, 'packed').stat().st_size:,}")
        exports: dict[str, Callable[[Tensor], Tensor]] = {"dense": model, "csr": to_csr(model), "smaller dense": small}
        exports["loaded from safetensors"] = loaded.eval().requires_grad_(False)
        try:
            import onnxruntime

            to_onnx(small, Path(folder, "onnx"), images)
            session = onnxruntime.InferenceSession(str(Path(folder, "onnx")), providers=["CPUExecutionProvider"])
            first = session.get_inputs()[0].name
            exports["smaller dense in onnxruntime"] = lambda batch: torch.from_numpy(
                session.run(None, {first: batch.numpy()})[0]
            )
        except ImportError:
            print("onnxruntime is not installed: pip install 'sparse_lightning[export]'")
        for name, run in exports.items():
            differences[name] = float((run(images) - model(images)).abs().max())
            print(f"{name}: {milliseconds(run, images):.2f} ms a batch of 128, outputs within {differences[name]:.1e}")
    return differences


if __name__ == "__main__":
    main()
