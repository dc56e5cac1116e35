"""README and docs/: every link leads somewhere, every command parses, and README stays short."""

import re
import shlex
from functools import cache
from types import ModuleType

import pytest

from model import architectures
from tests.helpers import ROOT
from utils.common import cli
from utils.common.errors import UserError
from utils.comparison.jobs import parser_of

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for where in (".", "docs", "results")
                   for path in (ROOT / where).glob("*.md"))
SCRIPTS = {p.relative_to(ROOT).as_posix() for folder in ("", "perf_tables", "benchmarks")
           for p in (ROOT / folder).glob("*.py")}


def text_of(name):
    return (ROOT / name).read_text()


def fenced(name):
    """The lines of the code blocks of a document that no language is named for, continued lines joined."""
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text_of(name), flags=re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def anchors(name):
    """What GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(name), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_documents_are_there():
    assert {"README.md", "results/README.md", *(f"docs/{name}.md" for name in (
        "import", "latency-tables", "pruning", "deploy", "compare", "files", "design", "new-architecture",
        "glossary", "reliability"))} <= set(DOCUMENTS)


def test_readme_is_read_in_minutes():
    assert len((ROOT / "README.md").read_bytes()) < 8000


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(name))
    assert links or name.startswith("docs/glossary")
    for link in links:
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = (ROOT / name).parent / path if path else ROOT / name
        assert target.exists(), f"{name}: {link}"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), f"{name}: {link}: no such heading"


@cache
def parser(script):
    return parser_of(script)


def commands(name):
    """(script, flags) of every line that runs a script, without what is set before it and where its output goes."""
    for line in fenced(name):
        found = re.match(r"(?:[A-Z_]+=\S+ )*python\S* (\S+\.py)\b([^>]*)", line)
        if found:
            yield found.group(1), shlex.split(found.group(2), comments=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_parses(name):
    for script, flags in commands(name):
        assert script in SCRIPTS, f"{name}: {script}"
        cli.parsed(parser(script), flags, f"{name}: {script} {' '.join(flags)}")


def test_commands_are_found():
    """And a wrong flag in one would be noticed."""
    assert {script for name in DOCUMENTS for script, _ in commands(name)} >= {
        "train.py", "prune.py", "compute_table.py", "export.py", "compare.py", "perf_tables/merge_perf_tables.py",
        "perf_tables/plot_perf_table.py", "benchmarks/search.py"}
    with pytest.raises(UserError, match="--no_such_flag"):
        cli.parsed(parser("train.py"), ["--save_file=x", "--no_such_flag"], "here")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_make_targets_are_there(name):
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), flags=re.MULTILINE))
    for target in re.findall(r"(?:^|`)make ([a-z-]+)", text_of(name), flags=re.MULTILINE):
        assert target in targets, f"{name}: make {target}"


def test_the_example_architecture_works_as_printed(monkeypatch, capsys):
    """Its file, its registration, and what looking at it prints."""
    module, imports, registry, look = re.findall(r"```python\n(.*?)```", text_of("docs/new-architecture.md"), re.DOTALL)
    plain = ModuleType("model.plain")
    exec(module, plain.__dict__)
    assert imports == "from model import mobilenet_v2, plain, resnet, wideresnet\n"
    names = dict(vars(architectures), plain=plain)
    exec(registry, names)
    assert set(architectures.ARCHITECTURES) < set(names["ARCHITECTURES"])
    monkeypatch.setattr(architectures, "ARCHITECTURES", names["ARCHITECTURES"])
    exec(look, {})
    printed = re.search(r"This prints:\n\n```\n(.*?)```", text_of("docs/new-architecture.md"), re.DOTALL)[1]
    assert capsys.readouterr().out == printed
