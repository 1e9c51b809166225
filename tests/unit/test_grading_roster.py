from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.findings import Status
from harness.grading.writers import fill_roster, read_roster_map
from tests.verdicts import requirement, verdict

CANVAS = (
    "\ufeffStudent,ID,SIS Login ID,Section,ERA-S7 (4711),Other (4712),Final Score\r\n"
    "    Points Possible,,,,6.00,10,(read only)\r\n"
    '"Doe, Jane",101,jane,"Section ""A""",,7.5,80\r\n'
    "Roe Joe,102,joe,A,3,8,=SUM(A1)\r\n"
    '"Moe, Ada",103,ada,A,EX,"9",\r\n'
)
MOODLE = (
    "Identifier,Full name,Email address,Status,Grade,Maximum Grade,Last modified (grade),Feedback comments\n"
    "Participant 101,Jane Doe,jane@example.org,-,,6.00,-,\n"
    'Participant 102,"Joe Roe",joe@example.org,-,"3.00",6.00,-,"<p>old, ""kept""</p>"'
)
COMMENT = '"4 of 6 points. Not met: dropout."'


@pytest.mark.parametrize(
    "name",
    [
        *("jane", "101", "work/jane", "work/jane.zip", "JANE.tar.gz", "101.tgz", "jane.ipynb", "jane/net.py"),
        *("doejane_LATE_101_4_net.py", "doejane_101_4_net.tar.gz"),
    ],
)
def test_canvas_grade_is_the_only_change(name: str) -> None:
    """Quotes, line ends, byte order mark and the other cells stay; the row is found by an ID, a login or a file's name."""
    filled = fill_roster(CANVAS.encode(), [verdict(name)], {})

    assert CANVAS.replace('"Section ""A""",,', '"Section ""A""",4,').encode() == filled.content
    assert () == filled.unmatched


def test_moodle_gets_grade_and_comment() -> None:
    """A quoted cell stays quoted; the comment is a sentence of ours."""
    verdicts = [verdict("Jane Doe_101_assignsubmission_file"), verdict("second")]
    filled = fill_roster(MOODLE.encode(), verdicts, {"second": "joe@example.org"})

    expected = MOODLE.replace("-,,6.00,-,\n", f"-,4,6.00,-,{COMMENT}\n")
    expected = expected.replace('"3.00"', '"4"').replace('"<p>old, ""kept""</p>"', COMMENT)
    assert expected.encode() == filled.content


def test_semicolons_and_a_single_assignment_are_understood() -> None:
    """The delimiter is the header's; one assignment needs no matching title."""
    text = "Student;ID;Section;Session 7 (9)\nDoe, Jane;101;A;\n"

    assert text.replace("A;\n", "A;4\n").encode() == fill_roster(text.encode(), [verdict("101")], {}).content


def test_submissions_without_a_grade_are_named_with_the_reason() -> None:
    """What cannot be assigned to one student, or is no fault of the student, changes nothing."""
    broken = verdict("joe", requirement("parameters", Status.ERROR, points=0, max_points=6))
    verdicts = [verdict("nobody\u202e"), verdict("jane"), verdict("101"), broken, verdict("ada")]
    filled = fill_roster(CANVAS.encode(), verdicts, {})

    assert CANVAS.encode() == filled.content
    assert (
        "nobody\\u202e: matches no rows",
        "jane: another submission has the same student",
        "101: another submission has the same student",
        "joe: not graded, because of an error of the examiner",
        "ada: the student is excused",
    ) == filled.unmatched


@pytest.mark.parametrize("name", ["jane.berta", "jane.v2", "cnn_101_jane", "cnn_101_v2_net.py"])
def test_no_part_of_a_name_is_taken_for_a_student(name: str) -> None:
    """A dot in a name begins no suffix, and a number in it is no ID, unless the platform has put it there."""
    assert (f"{name}: matches no rows",) == fill_roster(CANVAS.encode(), [verdict(name)], {}).unmatched


def test_the_whole_name_goes_first() -> None:
    """Before a name without suffix, an ID in it, and the folder that it lies in; a folder has no suffix."""
    text = CANVAS.replace(",EX,", ",,")
    for name, login in (("jane.py", "joe"), ("doe_101_4_net", "joe"), ("joe/ada", "ada")):
        content = text.replace(",joe,A,3", f",{name},A,3") if login == "joe" else text
        filled = fill_roster(content.encode(), [verdict(name)], {}).content.decode().splitlines()
        assert [login == "joe", login == "ada"] == [",A,4" in line for line in filled[3:5]]
    assert ("jane.py: matches no rows",) == fill_roster(text.encode(), [verdict("jane.py")], {}, ["jane.py"]).unmatched


def test_two_rows_of_one_identity_are_not_guessed() -> None:
    """A name that stands in two rows gets no grade."""
    text = CANVAS.replace("joe", "jane")

    assert ("jane: matches 2 rows",) == fill_roster(text.encode(), [verdict("jane")], {}).unmatched


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,grade\njane,1\n", "columns Identifier and Grade"),
        (CANVAS.replace("ERA-S7", "S6").encode(), "a column 'era-s7', or exactly one assignment"),
        (CANVAS.replace("6.00", "60").encode(), r"the points of the assignment, 6, got '60'"),
        (MOODLE.replace("6.00", "100.00").encode(), "got '100.00'"),
        (b'Student,ID\n"open', "rows of cells"),
        (b"\xff\xfe", "text in UTF-8"),
        (b"", "columns Identifier and Grade"),
    ],
)
def test_a_file_that_is_no_such_export_is_refused(content: bytes, message: str) -> None:
    """The message says what was expected, and that the platform's own export is needed."""
    with pytest.raises(InputError, match=f"roster: expected .*{message}.*Export the gradebook"):
        fill_roster(content, [verdict()], {})


def test_a_roster_is_checked_before_anything_is_graded() -> None:
    """Without verdicts, the file is read and returned as it is; a wrong one is refused all the same."""
    assert CANVAS.encode() == fill_roster(CANVAS.encode(), [], {}).content
    assert MOODLE.encode() == fill_roster(MOODLE.encode(), [], {}).content
    with pytest.raises(InputError, match="roster"):
        fill_roster(b"a,b\n", [], {})


def test_a_map_says_which_submission_is_whose() -> None:
    """Student first, as in the export, quoted or not; students without a submission, and blank lines, do no harm."""
    found = read_roster_map(b'\xef\xbb\xbf"Doe, Jane",octocat\r\n\r\njoe , hub/joe-s7\r\nada,\r\neve,\r\n')

    assert {"octocat": "Doe, Jane", "hub/joe-s7": "joe"} == found
    assert '"Section ""A""",4,' in fill_roster(CANVAS.encode(), [verdict("octocat")], found).content.decode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"jane\n", "rows of two cells, got \\['jane'\\]"),
        (b"jane,octocat,5\n", "rows of two cells"),
        (b"jane,octocat\njoe,octocat\n", "each submission once, got 'octocat' twice"),
        (b'"jane,octocat\n', "CSV in UTF-8"),
        (b"\xff\xfe", "CSV in UTF-8"),
    ],
)
def test_a_map_that_is_none_is_refused(content: bytes, message: str) -> None:
    """The message says what was expected."""
    with pytest.raises(InputError, match=f"roster map: expected {message}"):
        read_roster_map(content)
