from __future__ import annotations

import pytest

from mmerank.yaml_files import yaml_value


def test_what_a_command_line_would_read_otherwise_stays_as_it_is_written() -> None:
    content = b"""
as_yaml_has_them: [16, -1, 0.5, 1e-3, true, no, null, text, "0123"]
as_written: [12:00:00, 0123456, 1.10, 1_000, 0x10, .5, 2024-01-01, 1.0e-05]
"""
    assert yaml_value(content, words=True) == {
        "as_yaml_has_them": [16, -1, 0.5, "1e-3", True, False, None, "text", "0123"],
        "as_written": ["12:00:00", "0123456", "1.10", "1_000", "0x10", ".5", "2024-01-01", "1.0e-05"],
    }
    assert yaml_value(b"[1.10, 0x10]") == [1.1, 16]


def test_a_key_that_stands_there_twice_is_refused_but_not_one_that_takes_over_from_an_anchor() -> None:
    anchored = b"\xef\xbb\xbfa: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: *a, z: 4}\n"
    assert yaml_value(anchored) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2, "z": 4}}
    for content in (b"x: 1\ny:\n  z: 2\n  z: 3\n", b"x: 1\ny: 2\n'y': 2\n"):
        with pytest.raises(ValueError, match=r"line [34]: '[yz]' stands there twice"):
            yaml_value(content)


def test_what_is_no_yaml_says_the_line() -> None:
    with pytest.raises(ValueError, match="line 2: "):
        yaml_value(b"a: 1\n  b: [\n")
