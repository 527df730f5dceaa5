import pytest

from runtime.sampling import SamplingContract
from tests.train.test_live_score import Said
from train.data.truth import Segment
from train.fold_policies import with_policies_of_others
from train.live_tape import LiveTape

LABELS = ("wave", "background")
SAMPLING = SamplingContract(num_segments=4, window_s=2.0, consensus_len=4)


def tape(true_prob, false_prob, actions=8):
    """Actions of 4 s with 4 s between; in the middle of each pause a false one of 2 s."""
    truth = [Segment("a.mp4", 8.0 * n + 4, 8.0 * n + 8, "wave") for n in range(actions)]
    said = []
    for tick in range(16 * actions):
        within_s = tick / 2 % 8
        if within_s >= 4:
            said.append(Said(tick / 2, 0, true_prob, False))
        elif 1 <= within_s < 3:
            said.append(Said(tick / 2, 0, false_prob, False))
        else:
            said.append(Said(tick / 2, 1, 0.9, False))
    return LiveTape(truth, said, min_earlier=0)


def test_a_fold_is_judged_by_what_the_other_one_needs():
    sure, unsure = tape(0.95, 0.75), tape(0.65, 0.35)
    found = with_policies_of_others([sure, unsure], [0, 1], LABELS, SAMPLING)
    # what tells true from false among the sure is higher than anything that the unsure says
    assert found[1].events == []
    # and what tells them apart among the unsure lets all of the sure through
    assert len(found[0].events or ()) == 16
    assert [len(t.truth) for t in found] == [8, 8]
    assert found[0].decisions is sure.decisions


def test_seeds_of_a_fold_share_a_policy_and_do_not_see_each_other():
    unsure, sure = tape(0.65, 0.35), tape(0.95, 0.75)
    found = with_policies_of_others([unsure, unsure, sure], [1, 1, 0], LABELS, SAMPLING)
    assert found[0].events == found[1].events == []
    assert len(found[2].events or ()) == 16


def test_one_fold_has_no_others():
    with pytest.raises(ValueError, match=r"need two folds, got \[2\]"):
        with_policies_of_others([tape(0.9, 0.5)], [2], LABELS, SAMPLING)
