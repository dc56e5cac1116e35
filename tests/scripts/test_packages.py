"""Who may import what: the Pi side needs NumPy alone and Python 3.9, training and pruning no TensorFlow."""

import pytest

from tests.helpers import NOT_FOR_TRAINING, NOT_ON_A_PI, as_code, blocked

pytestmark = pytest.mark.slow  # Pythons in which packages cannot be imported

TINY = ["--depth=10", "--width=0.0625"]


def test_the_pi_side_measures_and_merges_without_torch_and_tensorflow(tmp_path):
    made = blocked([], as_code("compute_table.py"), tmp_path, [*TINY, "--mode=save", "--save_file=x"])
    assert made.returncode == 0, made.stderr
    timed = blocked(NOT_ON_A_PI, as_code("compute_table.py"), tmp_path, [*TINY, "--mode=load", "--save_file=x"])
    assert timed.returncode == 0, timed.stderr
    merged = blocked(NOT_ON_A_PI, as_code("perf_tables/merge_perf_tables.py"), tmp_path, ["both", "x", "x"])
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "perf_tables/both.pickle").exists()


def test_the_pi_side_needs_no_runtime_and_no_flatbuffers_with_the_binary(tmp_path):
    assert blocked([], as_code("compute_table.py"), tmp_path, [*TINY, "--mode=save", "--save_file=x"]).returncode == 0
    tool = tmp_path / "benchmark_model"
    tool.write_text("#!/bin/sh\necho 'count=1 curr=9'\necho 'count=11 first=5 avg=5'\necho 'x in us: no stats: 5'\n")
    tool.chmod(0o755)
    timed = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING, as_code("compute_table.py"), tmp_path,
                    [*TINY, "--mode=load", "--save_file=x", f"--benchmark_lite_loc={tool}"])
    assert timed.returncode == 0, timed.stderr


def test_training_and_pruning_import_neither_tensorflow_nor_litert(tmp_path):
    train = blocked(NOT_FOR_TRAINING, as_code("train.py"), tmp_path,
                    [*TINY, "--dataset=digits", "--epochs=1", "--save_file=n"])
    assert train.returncode == 0, train.stderr
    make_arithmetic_table(tmp_path)
    prune = blocked(NOT_FOR_TRAINING, as_code("prune.py"), tmp_path,
                    ["--base_model=n", "--save_file=p", "--perf_table=t.pickle", "--pruning_fact=0.3",
                     "--init_red_fact=2", "--short_term_fine_tune=1"])
    assert prune.returncode == 0, prune.stderr


def make_arithmetic_table(folder):
    from model.architectures import describe
    from tests.helpers import arithmetic_table
    from utils.latency.table_files import write_pair
    write_pair(folder / "t.pickle", arithmetic_table(describe("res", depth=10, width=0.0625)), {})


def test_the_pi_side_builds_and_validates_without_torch_tensorflow_and_matplotlib(tmp_path):
    built = blocked(NOT_ON_A_PI, as_code("compute_table.py"), tmp_path, [*TINY, "--mode=build", "--save_file=x"])
    assert built.returncode == 0, built.stderr
    judged = blocked(NOT_ON_A_PI, as_code("compute_table.py"), tmp_path,
                     [*TINY, "--mode=validate", "--perf_table=x", "--num_networks=3"])
    assert judged.returncode == 0, judged.stderr
    assert "validate: mean |error|" in judged.stdout and "pip install matplotlib" in judged.stderr


def test_a_32_bit_board_writes_models_with_the_package_tflite(tmp_path):
    """tflite-runtime has no schema: the same names come from another package, here a stand-in that is LiteRT's."""
    code = ("import ai_edge_litert.schema_py_generated as schema\nimport sys\nsys.modules['tflite'] = schema\n"
            "import ai_edge_litert\ndel ai_edge_litert.schema_py_generated\n"
            "sys.modules['ai_edge_litert.schema_py_generated'] = None\n"
            "from model.tflite_net import schema as used\nprint(used is schema)")
    found = blocked(NOT_ON_A_PI, code, tmp_path)
    assert found.stdout == "True\n", found.stderr


def test_a_missing_runtime_says_what_to_install_on_which_board(tmp_path):
    for mode, more in (("build", ["--save_file=x"]), ("load", ["--save_file=x"])):
        if mode == "load":
            assert blocked([], as_code("compute_table.py"), tmp_path,
                           [*TINY, "--mode=save", "--save_file=x"]).returncode == 0
        found = blocked(NOT_ON_A_PI + ["ai_edge_litert", "tflite_runtime"], as_code("compute_table.py"), tmp_path,
                        [*TINY, f"--mode={mode}", *more])
        assert found.returncode == 2 and found.stderr.count("\n") <= 2, found.stderr
        assert "requirements-pi.txt, or requirements-pi32.txt with 32-bit Python" in found.stderr
    assert not list((tmp_path / "perf_tables").glob("*.pickle")) if (tmp_path / "perf_tables").exists() else True
