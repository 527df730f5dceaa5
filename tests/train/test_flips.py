import pytest

from train.data.flips import flip_map, unpaired

# Names of Something-Something (V1 and V2 have the same) in the order of V1's labels.csv.
SOMETHING = (
    "Holding something",
    "Turning the camera left while filming something",
    "Turning the camera right while filming something",
    "Turning the camera downwards while filming something",
    "Pushing something from left to right",
    "Pushing something so that it slightly moves",
    "Pushing something from right to left",
    "Pulling something from right to left",
    "Laying something on the table on its side, not upright",
    "Pulling something from left to right",
    "Plugging something into something but pulling it right out as you remove your hand",
)
JESTER = (
    "Swiping Left",
    "Swiping Right",
    "Swiping Down",
    "Pushing Hand Away",
    "Sliding Two Fingers Left",
    "Sliding Two Fingers Right",
    "Rolling Hand Forward",
    "Turning Hand Clockwise",
    "Turning Hand Counterclockwise",
    "Thumb Up",
    "Doing other things",
)


def pairs(labels):
    found = flip_map(labels)
    return {(a, b) for a, b in found.items() if a < b}


def test_something_something_has_exactly_three_pairs():
    assert pairs(SOMETHING) == {(1, 2), (4, 6), (7, 9)}
    in_order = tuple(sorted(SOMETHING))
    assert len(pairs(in_order)) == 3
    # all other classes show themselves, "pulling it right out" too
    assert set(flip_map(SOMETHING)) == set(range(len(SOMETHING)))
    assert flip_map(SOMETHING)[10] == 10
    assert unpaired(SOMETHING) == ()


def test_jester_has_three_pairs_and_no_other_direction():
    assert pairs(JESTER) == {(0, 1), (4, 5), (7, 8)}
    assert unpaired(JESTER) == ()
    assert flip_map(JESTER)[6] == 6


def test_the_map_leads_back():
    for labels in (SOMETHING, JESTER):
        found = flip_map(labels)
        assert all(found[found[index]] == index for index in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("swipe_left", "swipe_right"),
        ("SwipeLeft", "SwipeRight"),
        ("leftArm", "rightArm"),
        ("SWIPE LEFT", "SWIPE RIGHT"),
        ("move leftwards", "move rightwards"),
        ("turn anti-clockwise", "turn clockwise"),
        ("spin ccw", "spin cw"),
        ("turn_counterclockwise", "turn_clockwise"),
        ("left hand to right ear", "right hand to left ear"),
    ],
)
def test_names_of_any_kind_find_their_partner(one, other):
    assert flip_map([one, "clap", other]) == {0: 2, 1: 1, 2: 0}


@pytest.mark.parametrize("name", ["bright", "upright", "copyright", "aright", "cleft", "backward"])
def test_words_that_only_contain_a_direction_are_none(name):
    assert flip_map([name, "clap"]) == {0: 0, 1: 1}


def test_a_direction_without_a_partner_is_never_mirrored_and_said():
    labels = ["turn left", "clap", "lift the right arm", "show left and right"]
    assert flip_map(labels) == {1: 1}
    assert unpaired(labels) == ("turn left", "lift the right arm", "show left and right")


def test_mirroring_swaps_both_words_at_once():
    labels = ["from left to right", "from right to left", "from left to left"]
    assert flip_map(labels) == {0: 1, 1: 0}
