import pytest

from runtime.errors import DataError
from train.data.truth import Segment, read_truth, write_truth

HEAD = "path,start_s,end_s,label"


def written(tmp_path, *lines, head=HEAD):
    path = tmp_path / "truth.csv"
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def test_segments_come_back_as_they_were_written(tmp_path):
    rows = [Segment("a, b.mp4", 0.5, 2.25, "pick up"), Segment("c.mp4", 0.0, 1.0, 'say "hi"')]
    path = tmp_path / "deep" / "truth.csv"
    write_truth(path, rows)
    assert read_truth(path, ["pick up", 'say "hi"']) == rows


def test_columns_may_come_in_any_order_with_others_and_empty_lines(tmp_path):
    path = written(
        tmp_path, "wave,7, a.mp4 ,2,1", "", "wave,8,a.mp4,3,2", head="label,note,path,end_s,start_s"
    )
    assert read_truth(path, ["wave"]) == [
        Segment("a.mp4", 1, 2, "wave"),
        Segment("a.mp4", 2, 3, "wave"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.mp4,0,1,wawe", "line 3: unknown label 'wawe'; did you mean wave"),
        ("a.mp4,0,1,jump", "line 3: unknown label 'jump'; known are rest, wave"),
        ("a.mp4,0,1,", "line 3: the label is empty"),
        (",0,1,wave", "line 3: the path is empty"),
        ("a.mp4,one,1,wave", "line 3: start_s must be a number, got 'one'"),
        ("a.mp4,0,,wave", "line 3: end_s must be a number, got ''"),
        ("a.mp4,0,inf,wave", "line 3: end_s must be finite"),
        ("a.mp4,-1,1,wave", r"line 3: start_s must be >= 0, got -1\.0"),
        ("a.mp4,2,2,wave", r"line 3: end_s must be after start_s 2\.0"),
        ("a.mp4,0,1", "line 3 has 3 fields, the header has 4"),
        ("a, b.mp4,0,1,wave", "line 3 has 5 fields, the header has 4; put quotes"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    path = written(tmp_path, "a.mp4,0,1,wave", line)
    with pytest.raises(DataError, match=message):
        read_truth(path, ["wave", "rest"])


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"truth\.csv cannot be read"):
        read_truth(tmp_path / "truth.csv", ["wave"])
    with pytest.raises(DataError, match=r"truth\.csv lists no action"):
        read_truth(written(tmp_path), ["wave"])
    with pytest.raises(DataError, match="line 1 lacks the column 'start_s'; it needs path,start_s"):
        read_truth(written(tmp_path, head="path,end_s,label"), ["wave"])
    with pytest.raises(DataError, match="lacks the column 'path'.* by commas, not by ';'"):
        read_truth(written(tmp_path, "a.mp4;0;1;wave", head=HEAD.replace(",", ";")), ["wave"])
    (tmp_path / "truth.csv").write_bytes(b"path,\xff\xfe")
    with pytest.raises(DataError, match=r"truth\.csv cannot be read"):
        read_truth(tmp_path / "truth.csv", ["wave"])
