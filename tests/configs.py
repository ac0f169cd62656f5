"""Checkpoints of which one field is another: they load, or are refused by name, and take no memory for what it says.

python -m tests.configs            # every field of five tiny checkpoints, each with the values below
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmerank.errors import ModelError, UsageError

GOLDEN = Path(__file__).parent / "golden"
VALUES: list[Any] = [10**12, 10**9, -1, 0, 2.5, "x", True, None, [], {}, [10**9], {"a": 1}]
SECONDS = 60


def checkpoints(folder: Path) -> dict[str, Path]:
    """What is damaged: copies of tiny checkpoints, by kind."""
    from tests.adapters.text_cases import BERT, LLAMA, OPT

    found = {"opt": OPT.folder, "llama": LLAMA.folder, "bert": BERT.folder, "llava": GOLDEN / "llava_tiny/hf_model"}
    for name, original in found.items():
        shutil.copytree(original, folder / name)
    return {name: folder / name for name in found}


def fields(content: Any, front: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields of a JSON object."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield (*front, name)
        yield from fields(value, (*front, name))


def changed(content: Any, path: tuple[str, ...], value: Any) -> Any:
    """The object with another value in one field."""
    name, *rest = path
    return {**content, name: changed(content[name], tuple(rest), value) if rest else value}


def load(checkpoint: Path) -> str:
    """Load a checkpoint as a command would; what came of it."""
    from mmerank.models.adapter import load as load_pairs
    from mmerank.models.loading import load_text

    try:
        (load_pairs if checkpoint.name == "llava" else load_text)(checkpoint, device="cpu")
    except (ModelError, UsageError) as error:
        assert str(checkpoint) in str(error), error
        return f"refused: {error}"
    return "loaded"


def attempt(checkpoint: Path, file: str, path: tuple[str, ...], value: Any) -> str:
    """One field changed, the checkpoint loaded, and the file put back."""
    target = checkpoint / file
    before = target.read_text()
    try:
        target.write_text(json.dumps(changed(json.loads(before), path, value)))
        signal.alarm(SECONDS)
        return load(checkpoint)
    except TimeoutError:
        return "OVER TIME"
    except Exception as error:
        return f"OTHER {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        target.write_text(before)


def _late(number: int, frame: Any) -> None:
    raise TimeoutError


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--memory", type=int, default=12, help="GB of address space")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _late)
    answers: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        found = checkpoints(Path(scratch))
        resource.setrlimit(resource.RLIMIT_AS, (given.memory * 10**9, -1))
        for name, checkpoint in found.items():
            if given.only and name not in given.only:
                continue
            assert load(checkpoint) == "loaded"
            for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
                if not (checkpoint / file).is_file():
                    continue
                for path in list(fields(json.loads((checkpoint / file).read_text()))):
                    for value in VALUES:
                        answer = attempt(checkpoint, file, path, value)
                        kind = answer.split(":")[0].split()[0]
                        answers[f"{name} {file}", kind] += 1
                        if kind.isupper():
                            sys.stdout.write(f"{name} {file} {'.'.join(path)} = {value!r}: {answer[:300]}\n")
    for (name, kind), count in sorted(answers.items()):
        sys.stdout.write(f"{name:34} {kind:10} {count}\n")
    sys.stdout.write(f"{sum(answers.values())} files\n")
