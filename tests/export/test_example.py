import runpy

import pytest
from common import ROOT
from test_examples import KEPT, form


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_example_exports_the_same_function_in_every_way(capsys):
    main = runpy.run_path(str(ROOT / "examples/export.py"))["main"]
    differences = main(hidden=60, density=0.05, batches=5)
    assert set(differences) >= {"dense", "csr", "smaller dense", "loaded from safetensors"}
    assert max(differences.values()) < 1e-4
    printed = "parameter" + capsys.readouterr().out.partition("parameter")[2]  # after the progress bar
    assert {form(line) for line in printed.splitlines() if not line.startswith("CSR is")} <= KEPT
