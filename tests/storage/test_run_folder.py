from pathlib import Path

import pytest

from goodnet.storage.run_folder import PRUNING, RunFolder

RUN = RunFolder(Path("run"))


@pytest.mark.parametrize(
    ("drop", "label"),
    [(2, "02"), (2.0, "02"), (10, "10"), (2.5, "2.5"), (0.5, "0.5"), (12.25, "12.25"), (4, "04")],
)
def test_names_of_nets_have_the_drop(drop, label):
    assert RUN.b_prime(PRUNING, drop) == Path(f"run/checkpoints/b_prime_{label}.keras")
    assert RUN.goodnet(drop) == Path(f"run/goodnet_{label}.keras")


def test_two_methods_and_two_nets_never_share_a_file():
    methods = (PRUNING, "finetuning", "discriminant")
    nets = {RUN.goodnet(2), *(RUN.b_prime(method, 2) for method in methods)}
    files = {RUN.results, RUN.table, RUN.about, RUN.sweep, RUN.report}
    assert len(nets | files) == 4 + 5
    assert RUN.b_prime("finetuning", 2) == Path("run/checkpoints/finetuning_02.keras")
