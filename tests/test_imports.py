"""Who may import what: the Pi side needs NumPy alone and Python 3.9, training and pruning no TensorFlow."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT, environment

PI_SIDE = ["compute_table.py", "perf_tables/merge_perf_tables.py", "model/network.py", "model/wideresnet.py",
           "model/architectures.py", "utils/cli.py", "utils/errors.py", "utils/files.py", "utils/journal.py",
           "utils/benchmark.py", "utils/calibration.py", "utils/channels.py", "utils/latency_table.py", "utils/measuring.py", "utils/outcome.py",
           "utils/sampling.py", "utils/sensors.py", "utils/session.py", "utils/tflite_files.py", "utils/progress.py",
           "utils/machine.py", "utils/model_file.py", "utils/quiet.py", "utils/whole_model.py"]
# loaded only where models are written: build and validate
WRITING = ["utils/tflite_writer.py", "utils/validation.py", "utils/plots.py", "utils/comparison.py", "perf_tables/plot_perf_table.py"]


def blocked(modules, code, cwd, flags=()):
    """Run ``code`` in a Python where these modules cannot be imported."""
    blocker = ("import sys\n" + "".join(f"sys.modules[{m!r}] = None\n" for m in modules)
               + f"sys.path.insert(0, {str(ROOT)!r})\nsys.argv = {['script', *flags]!r}\n")
    return subprocess.run([sys.executable, "-c", blocker + code], cwd=cwd, capture_output=True, text=True, timeout=300,
                          env=environment())


def script(name):
    return f"import runpy\nrunpy.run_path({str(ROOT / name)!r}, run_name='__main__')"


NOT_ON_A_PI = ["torch", "torchvision", "tensorflow", "keras", "sklearn", "scipy", "matplotlib", "tqdm", "joblib"]
NOT_FOR_TRAINING = ["tensorflow", "keras", "ai_edge_litert", "tflite_runtime", "flatbuffers"]
TINY = ["--depth=10", "--width=0.0625"]


def test_the_pi_side_measures_and_merges_without_torch_and_tensorflow(tmp_path):
    made = blocked([], script("compute_table.py"), tmp_path, [*TINY, "--mode=save", "--save_file=x"])
    assert made.returncode == 0, made.stderr
    timed = blocked(NOT_ON_A_PI, script("compute_table.py"), tmp_path, [*TINY, "--mode=load", "--save_file=x"])
    assert timed.returncode == 0, timed.stderr
    merged = blocked(NOT_ON_A_PI, script("perf_tables/merge_perf_tables.py"), tmp_path, ["both", "x", "x"])
    assert merged.returncode == 0, merged.stderr
    assert (tmp_path / "perf_tables/both.pickle").exists()


def test_the_pi_side_needs_no_runtime_and_no_flatbuffers_with_the_binary(tmp_path):
    assert blocked([], script("compute_table.py"), tmp_path, [*TINY, "--mode=save", "--save_file=x"]).returncode == 0
    tool = tmp_path / "benchmark_model"
    tool.write_text("#!/bin/sh\necho 'count=1 curr=9'\necho 'count=11 first=5 avg=5'\necho 'x in us: no stats: 5'\n")
    tool.chmod(0o755)
    timed = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING, script("compute_table.py"), tmp_path,
                    [*TINY, "--mode=load", "--save_file=x", f"--benchmark_lite_loc={tool}"])
    assert timed.returncode == 0, timed.stderr


def test_training_and_pruning_import_neither_tensorflow_nor_litert(tmp_path):
    train = blocked(NOT_FOR_TRAINING, script("train.py"), tmp_path,
                    [*TINY, "--dataset=digits", "--epochs=1", "--save_file=n"])
    assert train.returncode == 0, train.stderr
    make_arithmetic_table(tmp_path)
    prune = blocked(NOT_FOR_TRAINING, script("prune.py"), tmp_path,
                    ["--base_model=n", "--save_file=p", "--perf_table=t.pickle", "--pruning_fact=0.3",
                     "--init_red_fact=2", "--short_term_fine_tune=1"])
    assert prune.returncode == 0, prune.stderr


def make_arithmetic_table(folder):
    from model.architectures import describe
    from tests.test_latency_table import arithmetic_table
    from utils.latency_table import write_table
    write_table(folder / "t.pickle", arithmetic_table(describe("res", depth=10, width=0.0625)), {})


def test_the_pi_side_builds_and_validates_without_torch_tensorflow_and_matplotlib(tmp_path):
    built = blocked(NOT_ON_A_PI, script("compute_table.py"), tmp_path, [*TINY, "--mode=build", "--save_file=x"])
    assert built.returncode == 0, built.stderr
    judged = blocked(NOT_ON_A_PI, script("compute_table.py"), tmp_path,
                     [*TINY, "--mode=validate", "--perf_table=x", "--num_networks=3"])
    assert judged.returncode == 0, judged.stderr
    assert "validate: mean |error|" in judged.stdout and "pip install matplotlib" in judged.stderr


def test_a_32_bit_board_writes_models_with_the_package_tflite(tmp_path):
    """tflite-runtime has no schema: the same names come from another package, here a stand-in that is LiteRT's."""
    code = ("import ai_edge_litert.schema_py_generated as schema\nimport sys\nsys.modules['tflite'] = schema\n"
            "import ai_edge_litert\ndel ai_edge_litert.schema_py_generated\n"
            "sys.modules['ai_edge_litert.schema_py_generated'] = None\n"
            "from utils.tflite_writer import schema as used\nprint(used is schema)")
    found = blocked(NOT_ON_A_PI, code, tmp_path)
    assert found.stdout == "True\n", found.stderr


def test_a_missing_runtime_says_what_to_install_on_which_board(tmp_path):
    for mode, more in (("build", ["--save_file=x"]), ("load", ["--save_file=x"])):
        if mode == "load":
            assert blocked([], script("compute_table.py"), tmp_path, [*TINY, "--mode=save", "--save_file=x"]).returncode == 0
        found = blocked(NOT_ON_A_PI + ["ai_edge_litert", "tflite_runtime"], script("compute_table.py"), tmp_path,
                        [*TINY, f"--mode={mode}", *more])
        assert found.returncode == 2 and found.stderr.count("\n") <= 2, found.stderr
        assert "pip install ai-edge-litert on a 64-bit system, pip install tflite-runtime on a 32-bit one" in found.stderr
    assert not list((tmp_path / "perf_tables").glob("*.pickle")) if (tmp_path / "perf_tables").exists() else True


@pytest.mark.parametrize("name", PI_SIDE + WRITING)
def test_the_pi_side_is_python_3_9(name):
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 9))
    newer = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
             and any(isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right))]
    assert not newer, f"'X | None' in an annotation needs Python 3.10: lines {newer}"


def test_the_list_of_the_pi_side_is_complete(tmp_path):
    code = script("compute_table.py").replace("__main__", "compute_table") + (
        f"\nimport perf_tables.merge_perf_tables, sys\nroot = {str(ROOT) + '/'!r}\n"
        "print(*sorted(m.__file__[len(root):] for m in sys.modules.values()\n"
        "              if str(getattr(m, '__file__', None)).startswith(root) and '.venv' not in m.__file__))")
    found = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING, code, tmp_path)
    assert found.returncode == 0, found.stderr
    loaded = {name for name in found.stdout.split() if not name.endswith("__init__.py")}
    assert loaded == set(PI_SIDE) - {"compute_table.py"}


@pytest.mark.parametrize("folder, forbidden", [("model", ("utils", "train", "prune", "compute_table", "export")),
                                               ("utils", ("train", "prune", "compute_table", "export", "perf_tables"))])
def test_the_arrows_point_one_way(folder, forbidden):
    files = sorted((ROOT / folder).glob("*.py"))
    assert len(files) > 4
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in forbidden], f"{file}:{node.lineno}"


def test_no_layer_name_is_parsed_outside_its_architecture():
    for file in [*(ROOT / "utils").glob("*.py"), *ROOT.glob("*.py"), *(ROOT / "model").glob("*.py")]:
        if file.name in ("wideresnet.py", "network.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            docstring = isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not docstring:
                assert not node.value.startswith(("Conv_", "Skip_", "Stride_", "No_Stride_")), f"{file}:{node.lineno}"
