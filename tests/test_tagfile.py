"""Tags from a user's file."""

import json
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from scada_trio.errors import InvalidField
from scada_trio.sampling import UNSET, Sampling
from scada_trio.tagfile import read_tags

CONNECTION = UUID("11111111-1111-1111-1111-111111111111")
WELL = "22222222-2222-2222-2222-222222222222"
HEADER = "well_id,node_id,tag_name,data_type,unit,scaling_factor,deadband\n"


def write(tmp_path: Path, name: str, text: str) -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_csv_file_gives_its_tags(tmp_path: Path) -> None:
    """Columns may be empty; a byte order mark does not matter."""
    path = write(
        tmp_path, "tags.csv", "\ufeff" + HEADER + f"{WELL},ns=2;s=P,Pressure,Double,psi,0.1,0.5\n{WELL},ns=2;i=7,,,,,\n"
    )
    pressure, bare = read_tags(path, CONNECTION)
    assert (pressure.well_id, pressure.node_id, pressure.name) == (UUID(WELL), "ns=2;s=P", "Pressure")
    assert (pressure.data_type, pressure.unit, pressure.scaling_factor, pressure.deadband) == (
        "Double",
        "psi",
        0.1,
        0.5,
    )
    assert (bare.scaling_factor, bare.deadband, bare.unit, bare.sampling) == (None, None, None, UNSET)


def test_a_csv_file_gives_parameters(tmp_path: Path) -> None:
    """Each column of a tag's sampling and filter, each of them optional."""
    header = "well_id,node_id,deadband_percent,sampling_interval_ms,queue_size,discard_oldest\n"
    rows = f"{WELL},ns=2;s=P,1.5,250,20,false\n{WELL},ns=2;s=Q,,0,,\n"
    first, second = read_tags(write(tmp_path, "tags.csv", header + rows), CONNECTION)
    assert (first.deadband_percent, first.sampling) == (1.5, Sampling(250.0, 20, discard_oldest=False))
    assert (second.deadband_percent, second.sampling) == (None, Sampling(0.0))


def test_the_same_file_gives_the_same_tag_ids(tmp_path: Path) -> None:
    """A file that is loaded again changes nothing; another connection has tags of its own."""
    path = write(tmp_path, "tags.csv", f"well_id,node_id\n{WELL},ns=2;s=P\n")
    assert read_tags(path, CONNECTION) == read_tags(path, CONNECTION)
    assert read_tags(path, CONNECTION)[0].tag_id != read_tags(path, uuid4())[0].tag_id


def test_a_json_file_gives_its_tags(tmp_path: Path) -> None:
    """Numbers may be numbers."""
    tag_id = str(uuid4())
    rows = [{"well_id": WELL, "node_id": "ns=2;s=P", "tag_id": tag_id, "scaling_factor": 2, "deadband": 0.5}]
    [tag] = read_tags(write(tmp_path, "tags.json", json.dumps(rows)), CONNECTION)
    assert (str(tag.tag_id), tag.scaling_factor, tag.deadband) == (tag_id, 2.0, 0.5)


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("t.csv", "", "no column well_id"),
        ("t.csv", "well_id\n", "no column node_id"),
        ("t.csv", HEADER, "no tags"),
        ("t.csv", f"well_id,node_id\n{WELL},ns=2;s=P\nx,ns=2;s=Q\n", "line 3 well_id"),
        ("t.csv", f"well_id,node_id\n{WELL},nonsense\n", "line 2 node_id"),
        ("t.csv", f"well_id,node_id,deadband\n{WELL},ns=2;s=P,much\n", "line 2 deadband: 'much' is not a number"),
        ("t.csv", f"well_id,node_id,queue_size\n{WELL},ns=2;s=P,0\n", "line 2 queue_size: 0 is not between 1 and"),
        ("t.csv", f"well_id,node_id,queue_size\n{WELL},ns=2;s=P,2.5\n", "line 2 queue_size: 2.5 is not a whole"),
        ("t.csv", f"well_id,node_id,discard_oldest\n{WELL},ns=2;s=P,perhaps\n", "discard_oldest: 'perhaps' is neither"),
        ("t.csv", f"well_id,node_id,sampling_interval_ms\n{WELL},i=1,-1\n", "sampling_interval_ms: -1 is not between"),
        ("t.csv", f"well_id,node_id,deadband,deadband_percent\n{WELL},i=1,1,1\n", "cannot be given beside deadband"),
        ("t.json", f'[{{"well_id": "{WELL}", "node_id": "i=1", "deadband_percent": 101}}]', "101 is not between 0 and"),
        (
            "t.csv",
            f"well_id,node_id\n{WELL},ns=2;s=P\n{WELL},ns=2;s=P\n",
            "line 3 node_id: ns=2;s=P of this well stands at",
        ),
        ("t.csv", f'well_id,node_id\n{WELL},"ns=2;s=P\n', "line 2"),
        ("t.json", "{", "is not JSON"),
        ("t.json", "{}", "must be a list"),
        ("t.json", "[3]", "entry 1: must be an object"),
        ("t.json", "[]", "no tags"),
        ("t.json", '[{"node_id": "i=1"}]', "entry 1 well_id"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, name: str, text: str, named: str) -> None:
    """A user finds the line without opening the documentation."""
    with pytest.raises(InvalidField) as caught:
        read_tags(write(tmp_path, name, text), CONNECTION)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A missing file, a directory and bytes that are not text."""
    (tmp_path / "latin.csv").write_bytes(b"well_id,node_id\n\xff\xfe")
    (tmp_path / "folder.csv").mkdir()
    for name in ("missing.csv", "folder.csv", "latin.csv"):
        with pytest.raises(InvalidField, match=name):
            read_tags(tmp_path / name, CONNECTION)
