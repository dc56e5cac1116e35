"""What the board's requirement files install on every system of the table in docs/latency-tables.md.

pip evaluates markers for the Python that runs it, also with --platform. So the markers of the requirement files are
evaluated here, by ``packaging``, for the system of a row. What they leave is given to ``pip download --platform``, in
the slow part. The markers of the packages that those need are still evaluated for the Python that runs this.
"""

import re
import subprocess
import sys
import zipfile
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from tests.helpers import ROOT

TABLE = (ROOT / "docs/latency-tables.md").read_text()
RUNTIMES = ("ai-edge-litert", "tflite-runtime")
GLIBC = {"Bullseye": 31, "Bookworm": 36, "Trixie": 41}  # 2.31 and so on: the newest manylinux of the system


class Row(NamedTuple):
    """One processor of one row of the table."""

    system: str
    python: str
    bits: int
    machine: str
    file: str
    runtime: str
    numpy: str


def rows():
    """The table's rows, one for each processor."""
    head = "| Raspberry Pi OS | Python | bits | processor | requirement file | runtime | NumPy |\n"
    lines = TABLE.split(head)[1].split("\n\n")[0].splitlines()[1:]
    cells = [[cell.strip() for cell in line.replace("`", "").split("|")[1:-1]] for line in lines]
    return [Row(system, python, int(bits), machine, *others) for system, python, bits, machines, *others in cells
            for machine in machines.split(", ")]


def lines_of(file):
    """The lines of a requirement file without comments: (options, requirements)."""
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return ([line for line in lines if line.startswith("-")],
            [Requirement(line) for line in lines if line and not line.startswith("-")])


def chosen(row, file=None):
    """{package: its specifier} of the requirements whose markers hold on the system of a row."""
    system = {"python_version": row.python, "python_full_version": f"{row.python}.2", "platform_machine": row.machine,
              "sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython"}
    found = [r for r in lines_of(file or row.file)[1] if r.marker is None or r.marker.evaluate(system)]
    assert len({r.name for r in found}) == len(found), f"{row}: a package twice"
    return {r.name: r.specifier for r in found}


def named(row):
    return f"{row.system}-{row.bits}-{row.machine}"


ROWS = pytest.mark.parametrize("row", rows(), ids=named)
WITHOUT = pytest.mark.parametrize("row", [row for row in rows() if row.runtime == "none"], ids=named)


def test_the_table_has_every_system():
    sixty_four, thirty_two = (64, "aarch64"), ((32, "armv7l"), (32, "armv8l"), (32, "aarch64"), (32, "armv6l"))
    assert sorted((row.system, row.python, row.bits, row.machine) for row in rows()) == sorted(
        (system, python, *kind) for system, python in (("Bullseye", "3.9"), ("Bookworm", "3.11"), ("Trixie", "3.13"))
        for kind in (sixty_four, *thirty_two))


@ROWS
def test_the_file_asks_for_the_runtime_of_the_table(row):
    found = chosen(row)
    asked = [f"{name} {str(found[name]).removeprefix('~=').removesuffix('.0')}" for name in RUNTIMES if name in found]
    assert asked == ([] if row.runtime == "none" else [row.runtime])


@ROWS
def test_numpy_is_below_2_where_tflite_runtime_needs_it(row):
    assert chosen(row)["numpy"].contains("1.26.4")
    assert chosen(row)["numpy"].contains("2.0.0") == (row.bits == 64 or row.python == "3.13")


@ROWS
def test_the_numpy_of_the_system_will_do(row):
    version, where = row.numpy.split(" from ") if row.bits == 32 else ("", row.numpy.removeprefix("from "))
    assert where == ("apt" if row.bits == 32 else "pip")
    assert chosen(row)["numpy"].contains(version or "2.0.0")


@ROWS
def test_models_can_be_written_without_a_runtime(row):
    """--mode=save, and the correction of a table that the binary measures."""
    assert {"flatbuffers", "joblib"} <= set(chosen(row))
    assert ("tflite" in chosen(row)) == (row.bits == 32)  # ai-edge-litert brings the schema


@pytest.mark.parametrize("row", [r for r in rows() if r.bits == 32 and r.machine != "aarch64"], ids=named)
def test_a_32_bit_kernel_gets_the_same_from_both_files(row):
    assert chosen(row, "requirements-pi.txt") == chosen(row, "requirements-pi32.txt")


@pytest.mark.parametrize("file", ["requirements-pi.txt", "requirements-pi32.txt"])
def test_nothing_is_built_from_source(file):
    assert lines_of(file)[0] == ["--only-binary=:all:"]


@pytest.mark.parametrize("document", ["README.md", "docs/latency-tables.md"])
def test_the_documents_install_into_an_environment_that_they_make(document):
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    found = [block for block in blocks if "pip install" in block]
    assert len(found) == {"README.md": 1, "docs/latency-tables.md": 2}[document]
    for block in found:
        made = next(line for line in block.splitlines() if line.startswith("python3 -m venv "))
        file, = re.findall(r"^\.venv/bin/pip install -r (\S+)$", block, flags=re.MULTILINE)
        assert block.index(made) < block.index("pip install") and made.endswith(" .venv")
        assert ("--system-site-packages" in made) == (file == "requirements-pi32.txt")


# --- against the package index ---------------------------------------------------------------------------------

def download(folder, row, *wanted):
    """``pip download`` of wheels for the system of a row: the finished process, its wheels in ``folder``."""
    arch = "armv7l" if row.bits == 32 and row.machine != "armv6l" else row.machine
    tags = [f"manylinux_2_{n}_{arch}" for n in range(GLIBC[row.system], 16, -1)] + [f"manylinux2014_{arch}"]
    tags = [*([] if arch == "armv6l" else tags), f"linux_{arch}"]
    return subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
                           "--only-binary=:all:", "--implementation=cp", f"--python-version={row.python}",
                           *(f"--platform={tag}" for tag in tags), f"--dest={folder}", *wanted],
                          capture_output=True, text=True)


def stand_in(folder, version):
    """An empty wheel in place of the NumPy that apt installs: PyPI has none for 32-bit ARM."""
    about = f"numpy-{version}.dist-info"
    with zipfile.ZipFile(folder / f"numpy-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: numpy\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Skips where no package index answers: nothing can be resolved there."""
    row = Row("Trixie", "3.13", 64, "aarch64", "", "", "")
    found = download(tmp_path_factory.mktemp("index"), row, "--no-deps", "tflite==2.18.0")
    if found.returncode:
        pytest.skip(f"no package index answers: {found.stderr.strip().splitlines()[-1]}")


@pytest.mark.slow
@pytest.mark.usefixtures("index")
@ROWS
def test_pip_finds_wheels_for_every_system(row, tmp_path):
    wanted = [f"{name}{specifier}" for name, specifier in chosen(row).items()]
    if row.bits == 32:
        version = row.numpy.removesuffix(" from apt")
        stand_in(tmp_path, version)
        wanted += [f"--find-links={tmp_path}", f"numpy=={version}"]
    (tmp_path / "wheels").mkdir()
    found = download(tmp_path / "wheels", row, *wanted)
    assert found.returncode == 0, found.stderr
    wheels = {p.name.split("-")[0].replace("_", "-"): p.name.split("-")[1] for p in tmp_path.glob("wheels/*.whl")}
    runtimes = [f"{name} {'.'.join(wheels[name].split('.')[:2])}" for name in RUNTIMES if name in wheels]
    assert runtimes == ([] if row.runtime == "none" else [row.runtime])
    assert {"numpy", "flatbuffers", "joblib"} <= set(wheels)


@pytest.mark.slow
@pytest.mark.usefixtures("index")
@WITHOUT
def test_there_is_no_runtime_where_the_table_has_none(row, tmp_path):
    for runtime in RUNTIMES:
        found = download(tmp_path, row, "--no-deps", runtime)
        assert found.returncode == 1 and f"No matching distribution found for {runtime}" in found.stderr
