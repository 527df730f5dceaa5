import cv2
import numpy as np
import pytest

from train.confusion import confusion_matrix, draw_confusion


def draw(tmp_path, num_classes, titles=("a",), name="c.png"):
    counts = np.eye(num_classes, dtype=np.int64)
    counts[1] = 0  # a class without clips
    labels = [f"Pretending to put something {i} next to something" for i in range(num_classes)]
    draw_confusion(dict.fromkeys(titles, counts), labels, tmp_path / name)
    picture = cv2.imread(str(tmp_path / name))
    assert picture is not None
    return picture


def test_confusion_counts_rows_of_truth_and_columns_of_answers():
    matrix = confusion_matrix([0, 0, 2, 2, 2], [0, 1, 2, 2, 0], 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 2]]


def test_matrices_stand_side_by_side(tmp_path):
    one, two = draw(tmp_path, 31), draw(tmp_path, 31, ("a", "b"))
    assert two.shape[1] > 1.5 * one.shape[1]
    assert two.shape[0] == one.shape[0]


@pytest.mark.parametrize("num_classes", [2, 5, 60, 61, 174, 400])
def test_pictures_are_readable_at_any_number_of_classes(tmp_path, num_classes):
    picture = draw(tmp_path, num_classes)
    assert min(picture.shape[:2]) > 300
    assert max(picture.shape[:2]) < 3000
    assert picture.std() > 10


def test_many_classes_still_show_each_class(tmp_path):
    picture = draw(tmp_path, 174)
    blue = (picture[:, :, 0].astype(int) - picture[:, :, 2]) > 60  # BGR
    columns = np.flatnonzero(blue.any(0))
    left_of_the_scale = columns[columns < 0.85 * picture.shape[1]]
    assert len(left_of_the_scale) >= 3 * 173, "every class is some pixels wide"
