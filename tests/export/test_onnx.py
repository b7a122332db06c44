import pytest
import torch
from exported import IMAGES, TOKENS, mlp, transformer

from sparse_lightning import to_csr, to_dense_small, to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("model", "inputs"),
    [(mlp(), IMAGES), (to_csr(mlp()), IMAGES), (to_dense_small(mlp()), IMAGES), (transformer(), TOKENS)],
    ids=["mlp", "csr", "small", "transformer"],
)
def test_another_runtime_gives_the_same_outputs_for_any_batch(model, inputs, tmp_path):
    to_onnx(model, tmp_path / "model.onnx", inputs[:2])
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7):
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs[:batch].numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(inputs[:batch]), atol=1e-4, rtol=1e-4)
