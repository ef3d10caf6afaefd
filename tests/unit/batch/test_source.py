"""Requests from lists, texts and files on any storage; what is wrong is named by its place, and nothing is
billed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pytest_mock import MockerFixture

from airflow_provider_evoimage.batch import source
from airflow_provider_evoimage.batch.items import ITEM_FIELDS, build_items
from airflow_provider_evoimage.batch.source import read_requests
from airflow_provider_evoimage.exceptions import EvoImageError, InvalidRequestError

FOX, MUG = {"prompt": "a red fox"}, {"prompt": "an enamel mug", "name": "mug"}

Write = Callable[[str, str | bytes], str]


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """A storage that is no folder of this machine, as ``memory://``."""
    filesystem = MemoryFileSystem()
    attach("memory", fs=filesystem)
    yield filesystem
    filesystem.store.clear()


@pytest.fixture(params=["path", "file", "memory"])
def write(request: pytest.FixtureRequest, tmp_path: Path, memory: MemoryFileSystem) -> Write:
    """Write a file; return what a DAG author gives for it."""

    def write(name: str, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        if request.param == "memory":
            memory.pipe_file(f"/lists/{name}", data)
            return f"memory:///lists/{name}"
        file = tmp_path / name
        file.write_bytes(data)
        return str(file) if request.param == "path" else f"file://{file}"

    return write


def read(requests: object) -> list[dict[str, Any]]:
    """Return the fields of each item."""
    return [dict(each.fields) for each in read_requests(requests)]


def refused(requests: object) -> str:
    """Return what is said about requests that can never be read."""
    with pytest.raises(InvalidRequestError) as caught:
        read_requests(requests)
    assert caught.value.billed is False
    assert not caught.value.retryable
    assert "Billed: no." in str(caught.value)
    return caught.value.message


def unreadable(requests: object) -> str:
    """Return what is said about a file that another try may read."""
    with pytest.raises(EvoImageError) as caught:
        read_requests(requests)
    assert caught.value.billed is False
    assert caught.value.retryable
    assert str(caught.value).endswith("Nothing was submitted by this try; a retry reads them again.")
    return caught.value.message


# Lists


@pytest.mark.parametrize(
    "requests",
    [
        pytest.param(["a red fox", MUG], id="list"),
        pytest.param(("a red fox", MUG), id="tuple"),
        pytest.param(iter([FOX, MUG]), id="iterator"),
        pytest.param(json.dumps(["a red fox", MUG]), id="json-text"),
        pytest.param(f"\n {json.dumps([FOX, MUG])} ", id="json-text-in-blanks"),
        pytest.param(str(["a red fox", MUG]), id="python-text"),
    ],
)
def test_list_gives_one_mapping_for_each_item_in_order(requests: object):
    assert read(requests) == [FOX, MUG]


@pytest.mark.parametrize("requests", [None, 7, b"[]", bytearray(b"[]"), {"prompt": "a fox"}], ids=repr)
def test_what_is_neither_list_nor_path_is_shown(requests: object):
    message = refused(requests)
    assert message.startswith("requests must be a list or the path of a .json")
    assert repr(requests) in message


@pytest.mark.parametrize("requests", [[], (), "[]", iter([])], ids=lambda value: type(value).__name__)
def test_empty_list_is_refused(requests: object):
    assert refused(requests) == "requests is empty: there is nothing to submit."


@pytest.mark.parametrize("wrong", [None, 3, ["a fox"], 1.5, True], ids=repr)
def test_item_that_is_no_request_is_named_by_its_number(wrong: object):
    expected = f"Item 1 of requests must be a prompt or a mapping of request fields, not {wrong!r}."
    assert refused(["a red fox", wrong]) == expected
    assert refused(json.dumps(["a red fox", wrong])) == expected


@pytest.mark.parametrize(
    "text", ["[", "[1,", '["a" "b"', "[a red fox]", "[" * 100_000], ids=lambda text: text[:9]
)
def test_text_that_is_no_list_says_so(text: str):
    assert refused(text).startswith("requests is not valid JSON: ")


def test_long_values_are_not_repeated_in_errors():
    assert len(refused(["a fox", ["x" * 10_000]])) < 300
    assert len(refused("x" * 10_000)) < 400


# Files

FILES = {
    "list.json": json.dumps(["a red fox", MUG]),
    "list.JSON": json.dumps([FOX, MUG], indent=2),
    "list.jsonl": f'"a red fox"\n\n{json.dumps(MUG)}\n',
    "list.ndjson": f"{json.dumps(FOX)}\n{json.dumps(MUG)}",
    "list.csv": "prompt,name\na red fox,\nan enamel mug,mug\n",
    "list.tsv": "prompt\tname\na red fox\t\nan enamel mug\tmug\n",
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_reads_the_same_from_any_storage(name: str, mark: bytes, line_end: str, write: Write):
    content = mark + FILES[name].replace("\n", line_end).encode()
    assert read(write(name, content)) == [FOX, MUG]


def test_path_objects_are_paths(tmp_path: Path):
    file = tmp_path / "list.csv"
    file.write_text(FILES["list.csv"])
    assert read(file) == [FOX, MUG]
    assert read(ObjectStoragePath(file.as_uri())) == [FOX, MUG]


@pytest.mark.parametrize("name", ["list #1 [new].csv", "référence 画.csv", "a?b.csv"])
def test_unusual_names_are_read(name: str, write: Write):
    assert read(write(name, FILES["list.csv"])) == [FOX, MUG]


@pytest.mark.parametrize("name", sorted({name.rpartition(".")[2].lower() for name in FILES}))
@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"], ids=["nothing", "blanks", "BOM"])
def test_empty_file_is_named(name: str, content: str, write: Write):
    path = write(f"list.{name}", content)
    assert refused(path) == f"{path} is empty: there is nothing to submit."


def test_table_of_a_heading_alone_is_empty(write: Write):
    path = write("list.csv", "prompt,size\n")
    assert refused(path) == f"{path} is empty: there is nothing to submit."


@pytest.mark.parametrize("name", sorted({name.rpartition(".")[2].lower() for name in FILES}))
def test_text_in_another_encoding_is_named_by_its_line(name: str, write: Write):
    path = write(f"list.{name}", b"prompt\nfox\n" + "Käse\n".encode("latin-1"))
    assert refused(path).startswith(f"Line 3 of {path} is not UTF-8 text: ")


def test_utf_16_is_not_guessed(write: Write):
    path = write("list.csv", FILES["list.csv"].encode("utf-16"))
    assert refused(path).startswith(f"Line 1 of {path} is not UTF-8 text: ")


def test_too_large_a_file_is_another_file(write: Write, monkeypatch: pytest.MonkeyPatch):
    content = FILES["list.csv"]
    path = write("list.csv", content)
    monkeypatch.setattr(source, "MAX_FILE_BYTES", len(content))
    assert read(path) == [FOX, MUG]
    monkeypatch.setattr(source, "MAX_FILE_BYTES", len(content) - 1)
    assert refused(path) == f"{path} is larger than the {len(content) - 1:,} bytes that are allowed."


def test_largest_batch_of_the_longest_prompts_is_not_too_large():
    assert source.MAX_FILE_BYTES > 2_000 * 32_000


@pytest.mark.parametrize(
    "path", ["list.txt", "/data/list", "s3://bucket/list.parquet", "a red fox", "", " ", "{}"]
)
def test_other_text_is_neither_list_nor_path(path: str):
    assert refused(path).startswith(f"requests {path.strip()!r} is neither a list nor the path of a .json")


@pytest.mark.parametrize("path", ["list.csv", "./list.json", "data/list.jsonl", "~/list.tsv"])
def test_relative_path_is_refused_whatever_the_worker_has_there(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text(FILES["list.csv"])
    assert refused(path).startswith(f"requests {path!r} is a relative path")


def test_missing_file_is_named(tmp_path: Path, memory: MemoryFileSystem):
    for path in (f"{tmp_path}/list.csv", f"file://{tmp_path}/list.csv", "memory:///lists/none.json"):
        assert unreadable(path) == f"The requests in {path} cannot be read: there is no such file."


def test_folder_is_named(tmp_path: Path):
    (tmp_path / "list.csv").mkdir()
    path = f"file://{tmp_path}/list.csv"
    assert unreadable(path) == f"The requests in {path} cannot be read: it is a folder."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Forbidden"), "Forbidden"),
        (ConnectionError("the server hung up."), "the server hung up"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("403 Client Error"), "403 Client Error"),
    ],
    ids=repr,
)
def test_storage_that_fails_is_asked_again_by_a_retry(
    error: Exception, words: str, memory: MemoryFileSystem, mocker: MockerFixture
):
    mocker.patch.object(type(memory), "open", side_effect=error)
    path = "memory:///lists/list.csv"
    assert unreadable(path) == f"The requests in {path} cannot be read: {words}."


@pytest.mark.parametrize("path", ["nowhere://bucket/list.csv", "s3://[bucket/list.csv"])
def test_unknown_storage_is_named(path: str):
    assert unreadable(path).startswith(f"The requests in {path} cannot be read: ")


# JSON


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a fox"}', "must hold a JSON list of requests, not a dict."),
        ("null", "must hold a JSON list of requests, not a NoneType."),
        ('["a fox",]', "is not valid JSON: "),
        ("['a fox']", "is not valid JSON: "),
        ("[" * 100_000, "is not valid JSON: "),
        ("[" + "9" * 5_000 + "]", "is not valid JSON: "),
    ],
    ids=lambda value: value[:20],
)
def test_json_file_that_holds_no_list_is_named(content: str, words: str, write: Write):
    path = write("list.json", content)
    assert refused(path).startswith(f"{path} {words}")


def test_wrong_item_of_a_json_file_is_named(write: Write):
    path = write("list.json", '["a fox", 7]')
    assert refused(path).startswith(f"Item 1 of {path} must be a prompt or a mapping")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "is not valid JSON: "),
        ("7", "must be a prompt or a mapping"),
        ("[]", "must be a prompt or a mapping"),
    ],
)
def test_wrong_line_is_named_by_its_number_in_the_file(line: str, words: str, write: Write):
    path = write("list.jsonl", f'"a fox"\n\n{line}\n')
    assert refused(path).startswith(f"Line 3 of {path} {words}")


def test_line_separators_within_a_prompt_end_no_line(write: Write):
    prompt = "one\u2028two\u2029three\x85four\x0bfive\x0csix"
    text = json.dumps({"prompt": prompt}, ensure_ascii=False)
    assert read(write("list.jsonl", f"{text}\n{text}\n")) == [{"prompt": prompt}] * 2


# Tables


def test_quoted_cells_hold_commas_quotes_and_line_breaks(write: Write):
    path = write("list.csv", 'prompt,name\r\n"A ""big"" fox,\r\non two lines",fox\r\n')
    assert read(path) == [{"prompt": 'A "big" fox,\r\non two lines', "name": "fox"}]


def test_empty_cells_rows_and_unnamed_columns_are_left_out(write: Write):
    path = write("list.csv", "\n,prompt, size ,\n\n0,a fox,,\n1,  ,   ,\n,,,\n2,a mug,1:1,remark\n")
    assert read(path) == [{"prompt": "a fox"}, {"prompt": "a mug", "size": "1:1"}]


def test_cell_of_references_holds_several_or_a_json_list(write: Write):
    path = write(
        "list.csv", 'prompt,image_urls\nfox,https://a/1.png  s3://b/2.png\nmug,"[""https://a/b c.png""]"\n'
    )
    fox, mug = read(path)
    assert fox["image_urls"] == ["https://a/1.png", "s3://b/2.png"]
    assert mug["image_urls"] == '["https://a/b c.png"]'


def test_cells_become_what_a_request_takes(write: Write):
    path = write(
        "list.csv",
        "name,prompt,model,size,quality,n,image_urls,callback_url,extra_body\n"
        'fox,A fox,gpt-image-1.5,1536x1024,low,2,https://example.com/a.png,,"{""background"": ""opaque""}"\n',
    )
    (item,) = build_items(read_requests(path), {}, lambda fields: None)
    assert (item.name, item.request.n, item.request.quality) == ("fox", 2, "low")
    assert item.request.image_urls == ("https://example.com/a.png",)
    assert item.request.extra_body == {"background": "opaque"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.csv", 'prompt,size\n"a fox\nin snow",\n\na mug,17x17\n'),
        ("list.jsonl", '{"prompt": "a fox"}\n\n\n\n{"prompt": "a mug", "size": "17x17"}\n'),
    ],
)
def test_item_that_cannot_be_sent_is_named_by_its_line(name: str, content: str, write: Write):
    entries = read_requests(write(name, content))
    with pytest.raises(InvalidRequestError, match=r"1 of 2 .* request 1 \(line 5\): .*17x17"):
        build_items(entries, {"model": "gpt-image-1"}, lambda fields: None)


@pytest.mark.parametrize(("row", "count"), [("a fox", 1), ("a fox,1:1,2", 3), ('"a fox,1:1"', 1)])
def test_row_of_another_length_is_named_by_its_line(row: str, count: int, write: Write):
    # Two lines of the record before it, and an empty one.
    path = write("list.csv", f'prompt,size\n"two\nlines",1:1\n\n{row}\n')
    message = refused(path)
    assert message.startswith(f"Line 5 of {path} has {count} cells, and the heading has 2: ")


@pytest.mark.parametrize(
    "row", ['"a fox" and,1:1', '"a fox,1:1', f"{'x' * 200_000},1:1"], ids=lambda row: row[:12]
)
def test_wrong_quotes_and_endless_cells_are_named_by_their_line(row: str, write: Write):
    path = write("list.csv", f"prompt,size\n{row}\n")
    assert refused(path).startswith(f"Line 2 of {path} cannot be read: ")


def test_column_named_twice_is_refused(write: Write):
    path = write("list.csv", "prompt,size, prompt\na fox,1:1,a mug\n")
    assert refused(path) == f"Line 1 of {path} names a column twice: prompt."


@pytest.mark.parametrize(("name", "separator"), [("list.csv", ";"), ("list.csv", "\t"), ("list.tsv", ",")])
def test_another_separator_is_told_from_the_heading(name: str, separator: str, write: Write):
    path = write(name, f"prompt{separator}size\na fox{separator}1:1\n")
    assert refused(path).startswith(f"Line 1 of {path} is not separated by ")


# Round trips. What blanks are, and what a file's encoding cannot hold, is another matter.

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(
    lambda text: bool(text.strip())
)
ENTRIES = st.lists(
    st.dictionaries(
        st.sampled_from([name for name in ITEM_FIELDS if name != "image_urls"]), TEXT, min_size=1
    ),
    min_size=1,
    max_size=8,
)


def read_back(name: str, content: str) -> list[Any]:
    filesystem = MemoryFileSystem()
    attach("memory", fs=filesystem)
    filesystem.pipe_file(f"/round/{name}", content.encode())
    return read(f"memory:///round/{name}")


@given(ENTRIES, st.booleans())
def test_json_round_trip(entries: list[dict[str, str]], ascii_only: bool):
    assert read(json.dumps(entries, ensure_ascii=ascii_only)) == entries
    assert read_back("list.json", json.dumps(entries, ensure_ascii=ascii_only)) == entries
    lines = "\n".join(json.dumps(each, ensure_ascii=ascii_only) for each in entries)
    assert read_back("list.jsonl", lines) == entries


@given(ENTRIES, st.sampled_from([("csv", ","), ("tsv", "\t")]), st.sampled_from(["\n", "\r\n"]))
def test_table_round_trip(entries: list[dict[str, str]], kind: tuple[str, str], line_end: str):
    file = io.StringIO(newline="")
    suffix, delimiter = kind
    writer = csv.DictWriter(
        file, ITEM_FIELDS, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL
    )
    writer.writeheader()
    writer.writerows(entries)
    assert read_back(f"list.{suffix}", file.getvalue()) == entries


def mistake(path: str) -> EvoImageError | None:
    try:
        read_requests(path)
    except EvoImageError as error:
        return error
    return None


@given(st.text())
def test_any_text_is_read_or_refused_in_words(text: str):
    error = mistake(text)
    assert error is None or error.billed is False


@given(st.sampled_from(["json", "jsonl", "csv", "tsv"]), st.binary())
def test_any_file_is_read_or_refused_by_its_name(suffix: str, content: bytes):
    filesystem = MemoryFileSystem()
    attach("memory", fs=filesystem)
    path = f"memory:///any/list.{suffix}"
    filesystem.pipe_file(f"/any/list.{suffix}", content)
    error = mistake(path)
    assert error is None or (isinstance(error, InvalidRequestError) and path in error.message)
