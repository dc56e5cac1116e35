"""plot_perf_table.py on tables of many operators, and on networks (--of), as a user meets it."""

import pytest

from model.description import as_dict, from_dict
from model.torch_net import TorchNet
from tests.helpers import NORMAL, ROOT, as_code, blocked, contents, every_operator, proportional_table, refused
from utils.common.channels import write_channels
from utils.latency.table_files import write_pair
from utils.latency.tables import latency_s
from utils.learning import checkpoint

PLOT = "perf_tables/plot_perf_table.py"
NETWORK = from_dict(as_dict(every_operator(), "mine"))  # 34 operators
PRUNED = dict(NETWORK.full_widths, A=3, U=0, H=2)  # U: nine layers go
NARROW = dict(NETWORK.full_widths, A=3, H=2)
TABLE = proportional_table(NETWORK)


@pytest.fixture
def here(tmp_path):
    """A folder with a table of the network, and the network unpruned and pruned."""
    for folder in ("perf_tables", "checkpoints", "nbr_channels"):
        (tmp_path / folder).mkdir()
    write_pair(tmp_path / "perf_tables/mine.pickle", TABLE, {"network": NETWORK.arguments})
    for name, widths in (("full", NETWORK.full_widths), ("pruned", PRUNED)):
        checkpoint.save(tmp_path / f"checkpoints/{name}.t7", TorchNet(NETWORK, widths), NORMAL, epoch=1,
                        error_history=[1.0], flags={}, holdout_prop=0.1)
    write_channels(tmp_path / "nbr_channels/narrow.pickle", NETWORK, NARROW)
    return tmp_path


def test_of_many_operators_those_are_drawn_that_cost_most(here, script):
    lines = script(PLOT, "mine", check=True).stdout.splitlines()
    assert lines[0].startswith("perf_tables/mine.png: 12 of 34 kinds of layers, ") and len(lines) == 14
    assert lines[0].endswith("% of the unpruned network's latency")
    assert lines[-1].startswith("22 are left out; --operator=PATTERN chooses them")
    shares = [float(line.split("%")[0]) for line in lines[1:-1]]
    assert shares == sorted(shares, reverse=True) and shares[0] > 2 * shares[-1] > 0
    assert {line.split()[-1] for line in lines[1:-1]} < set(TABLE)
    assert (here / "perf_tables/mine.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_note_those_with_the_largest_entries(here, script):
    (here / "perf_tables/mine.json").unlink()
    lines = script(PLOT, "mine", check=True).stdout.splitlines()
    assert lines[0] == "perf_tables/mine.png: 12 of 34 kinds of layers"
    largest = max(TABLE, key=lambda key: TABLE[key].max())
    assert lines[1].split() == ["up", "to", f"{TABLE[largest].max() * 1e3:.4g}", "ms", largest]


def test_operators_are_chosen(here, script):
    lines = script(PLOT, "mine", "--operator", "linear_at*", "add_2_at_4x2", "--output=few.png",
                   check=True).stdout.splitlines()
    assert lines[0].startswith("few.png: 3 of 34 kinds of layers, ")
    assert [line.split()[-1] for line in lines[1:-1]] == ["linear_at_1x1_sigmoid", "add_2_at_4x2", "linear_at_4x2_gelu"]
    before = contents(here)
    refused(script(PLOT, "mine", "--operator", "linear*", "conv_9*"),
            "--operator=conv_9*: matches no operator of the table; it has conv_3x3_same_from3_at_12x10_relu, ",
            "and 29 more")
    assert contents(here) == before


def pruned_words(widths):
    before_s, after_s = (latency_s(NETWORK, w, TABLE) for w in (NETWORK.full_widths, widths))
    return (f"{before_s * 1e3:.4g} ms per inference unpruned, {after_s * 1e3:.4g} ms pruned "
            f"({after_s / before_s - 1:+.1%}); 39 layers")


def test_the_layers_of_a_network_before_and_after_pruning(here, script):
    assert script(PLOT, "mine", "--of=pruned", check=True).stdout == \
        f"perf_tables/mine-of-pruned.png: {pruned_words(PRUNED)}, 9 of them removed\n"
    assert (here / "perf_tables/mine-of-pruned.png").read_bytes().startswith(b"\x89PNG")
    unpruned_s = latency_s(NETWORK, NETWORK.full_widths, TABLE)
    assert script(PLOT, "mine", "--of=checkpoints/full.t7", "--output=b.png", check=True).stdout == (
        f"b.png: {unpruned_s * 1e3:.4g} ms per inference, unpruned; 39 layers\n")


def test_channels_are_drawn_without_torch(here):
    found = blocked(["torch"], as_code(PLOT), here, ["mine", "--of=nbr_channels/narrow.pickle"])
    assert found.stdout == f"perf_tables/mine-of-narrow.png: {pruned_words(NARROW)}\n", found.stderr
    refused(blocked(["torch"], as_code(PLOT), here, ["mine", "--of=pruned"]), "torch")


def test_what_of_refuses(here, script):
    before = contents(here)
    refused(script(PLOT, "mine", "mine", "--of=pruned"), "expected one NAME and no --operator")
    refused(script(PLOT, "mine", "--of=pruned", "--operator=a"), "expected one NAME and no --operator")
    refused(script(PLOT, "mine", "--of=absent"), "checkpoints/absent.t7: no such checkpoint")
    refused(script(PLOT, "absent", "--of=pruned"), "perf_tables/absent.pickle: no such file")
    refused(script(PLOT, str(ROOT / "perf_tables/res-40-2"), "--of=pruned", "--output=x.png"), "res-40-2: no such file")
    refused(script(PLOT, str(ROOT / "perf_tables/res-40-2.pickle"), "--of=pruned", "--output=x.png"),
            "res-40-2.pickle: not a table of net mine")
    assert contents(here) == before
    write_pair(here / "perf_tables/mine.pickle", TABLE, {})
    refused(script(PLOT, "mine", "--of=nbr_channels/narrow.pickle"), "perf_tables/mine.json: does not tell the table's "
            "network, which nbr_channels/narrow.pickle needs")
