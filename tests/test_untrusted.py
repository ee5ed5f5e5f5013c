"""Claims are compared with what is stored, and JSON has an end."""

import json

import pytest

from sdejax.untrusted import (
    FREE,
    JSON_BYTES,
    JSON_DEPTH,
    parse_json,
    read_json,
    refuse_links,
    require_claim,
)


def test_a_claim_may_be_free_or_in_proportion():
    for claimed, stored in ((FREE, 1), (0, 0), (200 * FREE, FREE)):
        require_claim("a", claimed, stored)
    for claimed, stored in ((FREE + 1, 1), (-1, 10), (200 * FREE + 1, FREE)):
        with pytest.raises(ValueError, match=f"a: claims {claimed} bytes in {stored} bytes"):
            require_claim("a", claimed, stored)


def test_json_is_read_as_it_is(tmp_path):
    value = {"a": [1, 2.5, None, True, "ü"], "b": {"c": {}}}
    (tmp_path / "a.json").write_text(json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value
    deep = json.loads("[" * JSON_DEPTH + "]" * JSON_DEPTH)
    assert parse_json(json.dumps(deep), "a") == deep


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "cannot be read as JSON"),
        (b"!!python/object/apply:os.system ['true']", "cannot be read as JSON"),
        (b"{'a': 1}", "cannot be read as JSON"),
        (b"\xff\xfe\xfd{}", "cannot be read as JSON"),
        (b"9" * 5000, "cannot be read as JSON"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested deeper than 64"),
        (b"[" * 10**6, "cannot be read as JSON"),
        (b'{"a":' * 10**6, "cannot be read as JSON"),
        (b" " * (JSON_BYTES + 1), "more than 16777216 bytes of JSON"),
    ],
)
def test_json_that_is_none_or_has_no_end(tmp_path, raw, message):
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(error.value)
    assert len(str(error.value)) < 1000


def test_what_is_to_be_written_is_no_link(tmp_path):
    (tmp_path / "file").write_text("a")
    refuse_links(tmp_path, ("file", "new"))
    (tmp_path / "new").symlink_to(tmp_path.parent / "outside")
    with pytest.raises(ValueError, match=r"new: a link to .*outside"):
        refuse_links(tmp_path, ("file", "new"))
