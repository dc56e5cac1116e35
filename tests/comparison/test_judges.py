"""What cheap judges of networks are worth, from rows made by hand."""

from utils.comparison import judges
from utils.comparison.judges import WAYS, Net, Row


def net(number, first, last, removed=0.4):
    """A network of error 10 + number, with these losses on a third of the images and after three epochs."""
    rows = {way: Row(f"n{number}", [1], way, 100, 50.0, 1.0, None, losses, 1.0, "a machine")
            for way, losses in (("third", [first]), ("scratch_3", [8.0, 9.0, last]))}
    assert WAYS["scratch_3"].epochs == 3 and WAYS["third"].epochs == 1
    return Net(removed, 1000, 1000, 1e-3, rows, [10.0 + number])


def test_what_a_first_glance_loses():
    """Seven networks, and so seven choices of six. The best after three epochs is next to last at a glance, so only the
    choice without it ends as it would without a glance. The others end with n1, or without n1 with n2."""
    nets = [net(i, first, float(i)) for i, first in enumerate([5.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0])]
    found = judges.glance([*nets, net(9, 0.0, 0.0, removed=0.6)], 0.4)
    assert "leaves 1. Of 7 choices, 14.3% end with the same network as without." in found
    assert "worse than the best by 1.000 points (mean), without a glance by 0.000" in found
    assert judges.glance(nets, 0.6).endswith("there are 0 networks")
