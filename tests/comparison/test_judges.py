"""What cheap judges of networks are worth, from rows made by hand."""

from utils.comparison import judges
from utils.comparison.judges import WAYS, Net, Row


def net(number, first, last, removed=0.4):
    """A network of error 10 + number, with these losses after one epoch and after three."""
    row = Row(f"n{number}", [1], "scratch_3", 100, 50.0, 1.0, None, [first, 9.0, last], 1.0, "a machine")
    assert WAYS["scratch_3"].epochs == 3
    return Net(removed, 1000, 1000, 1e-3, {"scratch_3": row}, [10.0 + number])


def test_what_a_first_glance_loses():
    """Seven networks, and so seven choices of six. The best after three epochs is next to last after one, so only the
    choice without it ends as it would without a glance. The others end with n1, or without n1 with n2."""
    nets = [net(i, first, float(i)) for i, first in enumerate([5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0])]
    found = judges.glance([*nets, net(9, 0.0, 0.0, removed=0.6)], 0.4)
    assert "leaves 2. Of 7 choices, 14.3% end with the same network as without." in found
    assert "worse than the best by 1.000 points (mean), without a glance by 0.000" in found
    assert judges.glance(nets, 0.6).endswith("there are 0 networks")
