"""Whatever bytes a file holds and whatever tokens a query has: a result, or one line."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from case_lightning.data import read_edits
from case_lightning.errors import DataError
from case_lightning.subspace import UNEDITED, Router, TokenSpace
from case_lightning.subspace.keys import RouterKeys

VOCAB = 24
SPACE = TokenSpace(torch.randn(VOCAB, 8, generator=torch.Generator().manual_seed(0)), torch.arange(VOCAB))
ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", "")
PIECES = (
    b"prompt",
    b"target",
    b"id",
    b",",
    b"\t",
    b"\n",
    b"\r",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"a",
    b"\0",
    b"\xff",
)
contents = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)
tables = st.lists(st.lists(st.text(max_size=4), min_size=2, max_size=2), max_size=4)
tokens = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=7)
keys = st.lists(st.tuples(tokens, st.integers(0, 127), st.integers(0, 5)), max_size=5)


@settings(database=None, deadline=None)
@given(content=contents, ending=st.sampled_from(ENDINGS))
def test_any_bytes_are_edits_or_one_line(content: bytes, ending: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{ending}"
    path.write_bytes(content)
    try:
        line = f"{path}: {len(read_edits(path))} edits"
    except DataError as error:
        line = str(error)
    assert line.startswith(str(path))
    assert "\n" not in line
    assert not line.endswith(": 0 edits")


@settings(database=None, deadline=None)
@given(rows=tables)
def test_any_table_keeps_its_texts(rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row] for row in rows]
    path.write_bytes("\n".join(["prompt,target", *map(",".join, quoted)]).encode("utf-8", "replace"))
    whole = all(cell.strip() for row in rows for cell in row)
    try:
        edits = read_edits(path)
    except DataError:
        assert not rows or not whole
    else:
        assert [[edit.prompt, edit.target] for edit in edits] == rows


@settings(database=None, deadline=None)
@given(stored=keys, query=tokens, other=tokens)
def test_any_query_has_one_route_whatever_stands_beside_it(
    stored: list[tuple[list[int], int, int]], query: list[int], other: list[int]
) -> None:
    room = RouterKeys()
    for key, marks, subspace in stored:
        room.add(torch.tensor(key), torch.tensor([bool(marks >> place & 1) for place in range(len(key))]), subspace)
    router = Router(SPACE, room, 0.8, 0.07)
    alone = router.route(torch.tensor([query])).item()
    assert alone in {UNEDITED, *(subspace for _, _, subspace in stored)}
    width = max(len(query), len(other)) + 1
    batch = torch.tensor([row + [0] * (width - len(row)) for row in (other, query)])
    mask = torch.tensor([[place < len(row) for place in range(width)] for row in (other, query)])
    assert router.route(batch, mask)[1].item() == alone
