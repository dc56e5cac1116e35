"""The house: which room may import which, which packages may be named where, and what else keeps the arrows one-way.

Read from the imports of all files; nothing is run but for one look at what the board's scripts load.
"""

import ast
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from tests.helpers import NOT_FOR_TRAINING, NOT_ON_A_PI, ROOT, as_code, blocked

# Every room, and the rooms that it may import; a floor is what stands on those before it.
ROOMS = {
    "model": (),
    "utils.common": ("model",),
    "utils.latency": ("model", "utils.common"),
    "utils.learning": ("model", "utils.common"),
    "utils.search": ("model", "utils.common"),
    "utils.pruning": ("model", "utils.common", "utils.learning", "utils.search"),
    "utils.deploy": ("model", "utils.common", "utils.latency", "utils.learning"),
    "utils.comparison": ("model", "utils.common", "utils.latency", "utils.learning", "utils.search"),
    "utils.importing": ("model", "utils.common", "utils.learning"),
}
FLOORS = (("model",), ("utils.common",), ("utils.latency", "utils.learning", "utils.search"),
          ("utils.pruning", "utils.deploy", "utils.comparison", "utils.importing"))
SCRIPTS = ("train.py", "prune.py", "compute_table.py", "export.py", "compare.py", "import_network.py",
           "perf_tables/merge_perf_tables.py",
           "perf_tables/plot_perf_table.py")
BENCHMARKS = ("benchmarks/search.py", "benchmarks/search_quality.py", "benchmarks/table.py", "benchmarks/writer.py",
              "benchmarks/imported.py", "benchmarks/import_time.py", "benchmarks/pricing.py", "benchmarks/judge.py")

# Packages that a room's files may name beside the standard library, and the files that may name more.
PACKAGES = {
    "model": (), "utils.common": ("numpy",), "utils.latency": ("numpy",), "utils.learning": ("numpy", "torch"),
    "utils.search": ("numpy",), "utils.pruning": ("numpy", "torch"), "utils.deploy": ("numpy", "torch"),
    "utils.comparison": (), "utils.importing": ("torch",),
}
MORE_PACKAGES = {
    "model/torch_net.py": ("torch",), "model/surgery.py": ("torch",), "model/keras_net.py": ("numpy", "tensorflow"),
    "model/zeroing.py": ("torch",), "model/pixels.py": ("torch",), "model/tracing.py": ("torch",),
    "model/tracer.py": ("torch",), "model/counterparts.py": ("torch",),
    "model/grouping.py": ("numpy",), "model/traced.py": ("numpy",), "model/onnx_net.py": ("onnx", "torch"),
    "model/tflite_file.py": ("numpy", "flatbuffers", "ai_edge_litert", "tflite"), "model/tflite_net.py": ("numpy",),
    "model/windows.py": ("numpy",), "model/int8_ranges.py": ("numpy",),
    "utils/common/workers.py": ("joblib", "ray"), "utils/common/progress.py": ("tqdm",),
    "utils/common/figure.py": ("matplotlib",),
    "utils/latency/runners.py": ("numpy", "ai_edge_litert", "tflite_runtime", "onnxruntime"),
    "utils/latency/variants.py": ("ai_edge_litert",), "utils/latency/merging.py": ("numpy", "scipy"),
    "utils/learning/data.py": ("numpy", "torch", "torchvision", "sklearn", "PIL"), "utils/learning/settings.py": (),
    "utils/pruning/settings.py": (), "utils/deploy/metadata.py": (), "utils/deploy/on_device.py": (),
    "utils/comparison/assembly.py": ("joblib",), "utils/comparison/ranks.py": ("numpy", "scipy"),
    "utils/importing/settings.py": (),
    "utils/importing/modules.py": ("torch", "torchvision"), "utils/importing/weights.py": ("torch", "safetensors"),
}
HEAVY = ("torch", "torchvision", "tensorflow", "keras", "sklearn", "scipy", "matplotlib", "tqdm", "joblib", "ray",
         "onnx",
         "onnxruntime")  # that the board's side goes without


def files(*folders):
    return [str(p.relative_to(ROOT)) for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]


PRODUCT = [*files("model", "utils"), *SCRIPTS, *BENCHMARKS]


@cache
def tree_of(name):
    return ast.parse((ROOT / name).read_text())


def module_of(name):
    return name[:-len(".py")].replace("/", ".").removesuffix(".__init__")


def file_of(module):
    """The project's file of a module, None where there is none."""
    path = Path(*module.split("."))
    return next((str(p) for p in (path.with_suffix(".py"), path / "__init__.py") if (ROOT / p).is_file()), None)


def imported(name, *, at_once=False):
    """(line, module) of everything that a file imports; at_once: when it is itself imported."""
    found = []
    for node in _nodes(tree_of(name), at_once):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}:{node.lineno}: a relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}" if file_of(f"{node.module}.{alias.name}")
                       else node.module)
                      for alias in node.names]
    return found


def _nodes(tree, at_once):
    """All nodes; at_once: without what stands in functions, or is only for those who check types."""
    todo = [tree]
    while todo:
        node = todo.pop()
        yield node
        later = isinstance(node, (ast.FunctionDef, ast.Lambda)) or (
            isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        if not (at_once and later):
            todo += ast.iter_child_nodes(node)


def room_of(module):
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def test_every_module_stands_in_a_room_and_every_room_says_what_it_is_for():
    assert {room_of(module_of(name)) for name in files("model", "utils") if name != "utils/__init__.py"} == set(ROOMS)
    for name in ("utils/__init__.py", *(f"{room.replace('.', '/')}/__init__.py" for room in ROOMS)):
        body = tree_of(name).body
        assert len(body) == 1 and len(ast.get_docstring(tree_of(name)) or "") > 100, name


def test_floors_are_lower_than_what_stands_on_them():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    assert set(floor) == set(ROOMS)
    assert all(floor[below] < floor[room] for room, rooms in ROOMS.items() for below in rooms)


@pytest.mark.parametrize("name", files("model", "utils"))
def test_a_room_imports_lower_floors_only(name):
    room = room_of(module_of(name))
    for line, module in imported(name):
        if file_of(module) and room_of(module) != room:
            assert room_of(module) in ROOMS.get(room, ()), f"{name}:{line}: imports {module}"


def test_no_file_is_tied_to_itself_by_imports():
    edges = {name: {file_of(module) for _, module in imported(name) if file_of(module)} - {name} for name in PRODUCT}
    order = {}

    def walk(name, way):
        assert name not in way, f"a circle: {' -> '.join([*way, name])}"
        if name not in order:
            for other in sorted(edges.get(name, ())):
                walk(other, [*way, name])
            order[name] = len(order)

    for name in edges:
        walk(name, [])
    assert len(order) >= len(PRODUCT)


@pytest.mark.parametrize("name", files("model", "utils"))
def test_packages_are_named_where_they_may_be(name):
    room = room_of(module_of(name))
    allowed = MORE_PACKAGES.get(name, PACKAGES.get(room, ()))
    for line, module in imported(name):
        package = module.split(".")[0]
        if not file_of(module) and package not in sys.stdlib_module_names:
            assert package in allowed, f"{name}:{line}: imports {module}"


def test_the_lists_name_files_that_are_there_and_what_they_name():
    for name, packages in MORE_PACKAGES.items():
        assert {module.split(".")[0] for _, module in imported(name)} >= set(packages), name


def reach(names):
    """{file: packages} of the files that are loaded when these are."""
    found, todo = {}, list(names)
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found[name] = set()
        for _, module in imported(name, at_once=True):
            parts = module.split(".")
            inits = (file_of(".".join(parts[:i])) for i in range(1, len(parts)))
            todo += [f for f in (file_of(module), *inits) if f]
            if not file_of(module) and parts[0] not in sys.stdlib_module_names:
                found[name].add(parts[0])
    return found


BOARD = ("compute_table.py", "perf_tables/merge_perf_tables.py", "perf_tables/plot_perf_table.py",
         "model/tflite_net.py")


def test_the_boards_side_loads_numpy_and_no_framework():
    packages = set().union(*reach(BOARD).values())
    assert packages == {"numpy", "flatbuffers", "ai_edge_litert", "tflite"}, packages


@pytest.mark.parametrize("name", ["train.py", "prune.py", "compare.py", "import_network.py"])
def test_training_and_pruning_load_no_other_framework(name):
    """Also not later: whatever they import in functions, too."""
    assemblies = {file_of(module) for _, module in imported(name) if file_of(module)}
    packages = set().union(*reach([name, *assemblies]).values())
    assert not packages & {"tensorflow", "keras", "ai_edge_litert", "tflite_runtime", "flatbuffers", "onnx"}, packages


@pytest.mark.parametrize("name", [n for n in SCRIPTS if n != "compute_table.py"] + ["compute_table.py"])
def test_help_and_wrong_flags_need_no_framework(name):
    packages = set().union(*reach([name]).values())
    assert not packages & set(HEAVY), packages


@pytest.mark.parametrize("name", sorted(reach(BOARD)))
def test_the_boards_side_is_python_3_9(name):
    tree = ast.parse((ROOT / name).read_text(), feature_version=(3, 9))
    newer = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
             and any(isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right))]
    assert not newer, f"'X | None' in an annotation needs Python 3.10: lines {newer}"


def test_what_the_boards_scripts_load_is_what_was_read(tmp_path):
    """Python's own word on what ``reach`` reads from the files."""
    code = as_code("compute_table.py").replace("__main__", "compute_table") + (
        f"\nimport perf_tables.merge_perf_tables, perf_tables.plot_perf_table, sys\nroot = {str(ROOT) + '/'!r}\n"
        "print(*sorted(m.__file__[len(root):] for m in sys.modules.values()\n"
        "              if str(getattr(m, '__file__', None)).startswith(root) and '.venv' not in m.__file__))")
    found = blocked(NOT_ON_A_PI + NOT_FOR_TRAINING, code, tmp_path)
    assert found.returncode == 0, found.stderr
    assert set(found.stdout.split()) == set(reach(BOARD[:3])) - {"compute_table.py"}


# --- scripts ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PRODUCT)
def test_no_script_is_imported(name):
    scripts = {module_of(script) for script in (*SCRIPTS, *BENCHMARKS)}
    assert not [module for _, module in imported(name) if module in scripts]


@pytest.mark.parametrize("name", PRODUCT)
def test_args_end_in_main(name):
    """The parsed flags are handed to no function but vars() and getattr(), and stay as they are."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert "args" not in [a.arg for a in every], f"{name}:{node.lineno}: takes args"
        elif isinstance(node, ast.Call):
            given = [*node.args, *(k.value for k in node.keywords)]
            handed = any(isinstance(a, ast.Name) and a.id == "args" for a in given)
            assert not handed or getattr(node.func, "id", "") in ("vars",
                                                                  "getattr"), f"{name}:{node.lineno}: hands args on"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "args":
            assert isinstance(node.ctx, ast.Load), f"{name}:{node.lineno}: changes args"


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads_later_at_one_place_and_says_why(name):
    places = defaultdict(list)
    for function in (n for n in ast.walk(tree_of(name)) if isinstance(n, ast.FunctionDef)):
        places[function.name] += [n.lineno for n in function.body if isinstance(n, (ast.Import, ast.ImportFrom))]
        nested = [n for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom))
                  and n not in function.body]
        assert not nested, f"{name}: {function.name} imports inside a branch"
    found = {function: lines for function, lines in places.items() if lines}
    assert len(found) <= 1
    for lines in found.values():
        assert lines == list(range(lines[0], lines[0] + len(lines)))
        assert "  # " in (ROOT / name).read_text().splitlines()[lines[0] - 1], f"{name}:{lines[0]}: why later?"


# --- words -----------------------------------------------------------------------------------------------------

def test_no_layer_name_is_parsed_outside_its_architecture():
    for name in PRODUCT:
        if name in ("model/wideresnet.py", "model/network.py") or name in BENCHMARKS:
            continue
        for node in ast.walk(tree_of(name)):
            docstring = isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" in node.value
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and not docstring:
                assert not node.value.startswith(("Conv_", "Skip_", "Stride_", "No_Stride_")), f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", files("tests"))
def test_test_files_lend_each_other_nothing(name):
    lent = [module for _, module in imported(name) if module.startswith("tests.")
            and module not in ("tests.helpers", "tests.nets", "tests.forked", "tests.works", "tests.kernels")]
    assert not lent, f"{name}: imports {lent}; what several need stands in tests/helpers.py"
