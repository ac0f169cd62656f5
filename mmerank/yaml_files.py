"""YAML that people write, read so that nothing in it is lost or turned into something else unsaid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmerank.files import regular_bytes

_TAG = "tag:yaml.org,2002:"


def yaml_file(path: str | Path, *, words: bool = False) -> Any:
    """The value in a regular file of YAML.

    Args:
        path: The file; links are followed.
        words: As for `yaml_value`.

    Returns:
        The value.

    Raises:
        OSError: As of `mmerank.files.opened`.
        ValueError: It is not YAML, or names a key twice, of which YAML would take the last; so do other errors, what
            int(), float() and RecursionError raise among them.
    """
    return yaml_value(regular_bytes(path), words=words)


def yaml_value(content: bytes, *, words: bool = False) -> Any:
    """The value that a YAML document stands for.

    Args:
        content: In UTF-8.
        words: Whether dates and what a number would not be written as stay text, since values go where a command
            line has words: `12:00:00` (for YAML 43200), `0123456` (42798), `1.10` (1.1), `2024-01-01`.

    Returns:
        Dictionaries, lists, text, numbers, truths and None.

    Raises:
        ValueError: As of `yaml_file`.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            seen = set()
            for key, _ in node.value:
                known = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
                if known in seen and key.tag != f"{_TAG}merge":
                    raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} stands there twice")
                seen.add(known)
            return node

    def as_written(loader: Any, node: Any) -> Any:
        make = loader.construct_yaml_int if node.tag == f"{_TAG}int" else loader.construct_yaml_float
        value = make(node)
        return value if str(value) == node.value else node.value

    if words:
        for kind in ("int", "float"):
            Loader.add_constructor(f"{_TAG}{kind}", as_written)
        Loader.add_constructor(f"{_TAG}timestamp", lambda loader, node: node.value)
    try:
        return Loader(content.decode("utf-8-sig")).get_single_data()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from error
