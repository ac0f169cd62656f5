from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmerank import align, diff, perturb
from mmerank.analysis.estimates import estimates
from mmerank.analysis.finished import read_runs
from mmerank.convention import Convention
from mmerank.eranks import ERANKS
from mmerank.errors import RunFolderError
from mmerank.runs.columns import DamagedPart
from mmerank.runs.parts import part_files, read_part, read_records, write_part
from mmerank.runs.record import SCHEMA, Record, records_of
from mmerank.runs.rules import Rules
from mmerank.runs.settings import read_settings, record_fingerprint
from tests.adapters.cases import LLAVA, examples
from tests.adapters.text_cases import OPT
from tests.damage import fields, flipped
from tests.kill_loop import same
from tests.test_diff_erank import texts

CONVENTION = Convention().to_dict()
SETTINGS: dict[str, Any] = {"job": "align", "data": {"name": "d"}, "convention": CONVENTION, "models": {"m": {}}}
SPECTRUM = np.array([0.75, 0.25], dtype=np.float32)


def measured(example: str = "a", model: str = "m", source: dict[str, Any] | None = None) -> list[Record]:
    """What `align` makes of an example: the spectrum (3/4, 1/4) everywhere, of 9 tokens of width 4."""
    numbers: dict[str, Any] = {
        "n": 9,
        "d": 4,
        "entropy": math.log(4) - 0.75 * math.log(3),
        "participation_ratio": 16 / 10,
        "top_share": 0.75,
        "text_cut": 0,
        "spectrum": SPECTRUM,
        "fingerprint": record_fingerprint(source or {}, CONVENTION),
    }
    return [Record(model, example, point, kind, "none", **numbers) for point, kind in ERANKS.values()]


def run_folder(where: Path, *records: Record, **settings: Any) -> Path:
    """A run folder with one part; the name of the part."""
    (where / "records").mkdir(parents=True)
    (where / "run.json").write_text(json.dumps({**SETTINGS, **settings}))
    return write_part(where / "records" / "000000.parquet", records)


def rules(folder: Path) -> Rules:
    return Rules(folder, read_settings(folder))


def older(part: Path) -> Path:
    """The same under a name of an earlier version, which has no digest."""
    return part.rename(part.with_name(f"{part.stem.partition('-')[0]}.parquet"))


def test_round_trip(tmp_path: Path) -> None:
    written = [*measured("ünïcödé \x00\n"), *measured("b")]
    part = run_folder(tmp_path, *written)
    assert re.fullmatch(r"000000-[0-9a-f]{16}\.parquet", part.name)
    read = read_records(tmp_path)
    assert list(map(fields, read)) == list(map(fields, written))
    assert read[0].spectrum.tolist() == [0.75, 0.25] and read[0].spectrum.dtype == np.float32
    assert read_records(tmp_path, model="other") == [] and len(read_records(tmp_path, model="m")) == 10


def test_a_part_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        write_part(tmp_path / "0.parquet", [replace(measured()[0], n="many")])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_no_parts(tmp_path: Path) -> None:
    assert read_records(tmp_path) == []


@pytest.mark.parametrize("columns", [13, 15])
def test_a_part_of_an_earlier_version_can_be_read(columns: int, tmp_path: Path) -> None:
    part = older(run_folder(tmp_path, *measured()))
    table = pq.ParquetFile(part).read()
    pq.write_table(table.select(SCHEMA.names[:columns]), part)
    assert list(map(fields, read_records(tmp_path))) == list(map(fields, measured()))


def test_what_a_later_part_repeats_counts_once(tmp_path: Path) -> None:
    run_folder(tmp_path, *measured("a"))
    write_part(tmp_path / "records" / "000001.parquet", [*measured("b"), *measured("a")])
    assert [r.example for r in read_records(tmp_path)] == ["a"] * 5 + ["b"] * 5


def other_spectrum(record: Record) -> Record:
    return replace(record, spectrum=np.array([0.75, 0.25000012 + 1e-4], dtype=np.float32))


FIRST: dict[str, Callable[[Record], Record]] = {
    "n of example 'a' cannot be 1": lambda r: replace(r, n=1),
    "d of example 'a' cannot be 0": lambda r: replace(r, d=0),
    "text_cut of example 'a' cannot be -1": lambda r: replace(r, text_cut=-1),
    "entropy of example 'a' cannot be -5.0": lambda r: replace(r, entropy=-5.0),
    "entropy of example 'a' cannot be nan": lambda r: replace(r, entropy=math.nan),
    "entropy of example 'a' cannot be inf": lambda r: replace(r, entropy=math.inf),
    "entropy of example 'a' cannot be 1.4": lambda r: replace(r, entropy=1.4),  # above log 4
    "entropy of example 'a' cannot be 0.56234": lambda r: replace(r, entropy=0.56234),  # 0.56233
    "participation_ratio of example 'a' cannot be 1.7": lambda r: replace(r, participation_ratio=1.7),
    "participation_ratio of example 'a' cannot be nan": lambda r: replace(r, participation_ratio=math.nan),
    "top_share of example 'a' cannot be 0.7": lambda r: replace(r, top_share=0.7),
    "spectrum of example 'a' cannot be 2 numbers": other_spectrum,
    "spectrum of example 'a' cannot be 0 numbers": lambda r: replace(r, spectrum=SPECTRUM[:0]),
    "spectrum of example 'a' cannot be 3 numbers": lambda r: replace(
        r, spectrum=np.array([1.0, 0.25, -0.25], np.float32)
    ),
    "spectrum of example 'a' cannot be 5 numbers": lambda r: replace(
        r, spectrum=np.array([0.75, 0.25, 0, 0, 0], np.float32)
    ),
    "loss of example 'a' cannot be 1.0": lambda r: replace(r, loss=1.0, predicted=8),
    "matched of example 'a' cannot be 1 numbers": lambda r: replace(r, matched=np.zeros(1)),
    "entropy_pictures of example 'a' cannot be 1 numbers": lambda r: replace(r, entropy_pictures=np.zeros(1)),
    "entropy_pictures of example 'a' cannot be 2 numbers": lambda r: replace(r, entropy_pictures=np.full(2, 99.0)),
    "mean_state of example 'a' cannot be 4 numbers": lambda r: replace(r, mean_state=np.zeros(4, np.float32)),
    "entropy_text of example 'a' cannot be 1.0": lambda r: replace(r, entropy_text=1.0),
    "strongest_row of example 'a' cannot be 2": lambda r: replace(r, strongest_row=2),
    "records of 'x', which is no model of this run": lambda r: replace(r, model="x"),
    "of 'm' under another convention, or of other weights (0123)": lambda r: replace(r, fingerprint="0123"),
    "a measurement that this run does not make (rotate:90, vision, image)": lambda r: replace(
        r, transform="rotate:90"
    ),
    "other layers than this run measures (layer 1)": lambda r: replace(r, point="layer 1", input="pair"),
    "other layers than this run measures (vision layer 1)": lambda r: replace(
        r, point="vision layer 1", input="image"
    ),
    "no measurement none, vision, image of any example": lambda r: replace(r, point="llm"),
}


@pytest.mark.parametrize("wrong", FIRST, ids=lambda wrong: wrong.replace("example 'a' ", ""))
def test_what_no_run_writes(wrong: str, tmp_path: Path) -> None:
    """Under a right digest, so that nothing but the content tells."""
    first, *others = measured()
    others += measured("b") if "measurement that" in wrong or "other layers" in wrong else []
    part = run_folder(tmp_path, FIRST[wrong](first), *others)
    with pytest.raises(RunFolderError, match=re.escape(wrong)) as raised:
        read_records(tmp_path)
    assert str(raised.value).startswith(f"{part}: a damaged part (")
    assert "the command that wrote it sets it aside and measures it again" in str(raised.value)


def test_examples_are_whole(tmp_path: Path) -> None:
    run_folder(tmp_path, *measured("a"), *measured("b")[:4])
    with pytest.raises(RunFolderError, match="no measurement none, llm, pair of example 'b'"):
        read_records(tmp_path)
    shutil.rmtree(tmp_path / "records")
    run_folder(tmp_path, *measured("a"), *measured("b"), measured("b")[2])
    with pytest.raises(RunFolderError, match="2 measurements none, llm, image of example 'b'"):
        read_records(tmp_path)
    shutil.rmtree(tmp_path / "records")
    run_folder(tmp_path, *measured("a")[:4])
    with pytest.raises(RunFolderError, match="no measurement none, llm, pair of any example"):
        read_records(tmp_path)


def test_other_columns(tmp_path: Path) -> None:
    part = older(run_folder(tmp_path, *measured()))
    table = pq.ParquetFile(part).read()
    n = SCHEMA.get_field_index("n")
    for other in (
        table.drop_columns(["loss"]),  # of which nobody would hear
        table.drop_columns(["text_cut"]),
        table.append_column("x", table["n"]),
        table.set_column(n, "n", table["n"].cast(pa.int64())),
        table.rename_columns(["m", *table.column_names[1:]]),
        table.set_column(n, "n", pa.nulls(5, pa.int32())),
        table.slice(0, 0),
    ):
        pq.write_table(other, part)
        with pytest.raises(DamagedPart, match="other columns than those|no n in 5 records|no records"):
            read_part(part, rules(tmp_path))


@pytest.mark.parametrize("name", ["²²", "copy", "000000-x", "0", "\u0660" * 6, "000000-0-x", ".000000"])
def test_names_that_no_part_has(name: str, tmp_path: Path) -> None:
    part = run_folder(tmp_path, *measured())
    strange = part.with_name(f"{name}.parquet")
    strange.write_bytes(part.read_bytes())
    with pytest.raises(RunFolderError, match="not the name of a part") as raised:
        read_records(tmp_path)
    assert str(strange) in str(raised.value)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    part = run_folder(tmp_path, *measured())
    others = [part.with_name(f"00000{i}.parquet") for i in range(1, 4)]
    others[0].mkdir()
    os.mkfifo(others[1])
    others[2].symlink_to("nowhere")
    for other, reason in zip(others, ("Is a directory", "is a pipe", "a link to nothing"), strict=True):
        with pytest.raises(DamagedPart, match=reason):
            read_part(other, rules(tmp_path))


@pytest.mark.parametrize("place", ["entropy=2.0", "model=x", "spectrum=1", "file:", "s3:", "%20 a#b?c"])
def test_nothing_in_a_path_is_taken_for_a_value(place: str, tmp_path: Path) -> None:
    whole = align(LLAVA.adapter, examples())
    out = tmp_path / place / "n=7"
    for _ in range(2):
        assert same(align(LLAVA.adapter, examples(), out=out), whole)
    found = estimates(out).set_index("quantity")["value"]
    for name in ("erank1", "erank5", "image_text_alignment"):
        assert found[name] == pytest.approx(getattr(whole, name), rel=1e-12)


def test_more_draws_than_there_can_be_are_not_listed(tmp_path: Path) -> None:
    run_folder(tmp_path, *measured(), job="perturb", controls=["mismatch"], control_draws=10**9)
    with pytest.raises(RunFolderError, match="fewer records than the run has draws of controls"):
        read_records(tmp_path)


# Of real runs


def runs_of_every_job(where: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """A folder of each job, with everything asked for that makes records larger, and what continues it."""
    everything = Convention(match_tokens=4, match_repeats=3, token_curve=(3, 5), rows=True, companions=True)
    jobs: dict[str, Callable[[Path], Any]] = {
        "align": lambda out: align(LLAVA.adapter, examples(), out=out),
        "beside": lambda out: align(LLAVA.adapter, examples(), out=out, convention=everything, layers="first,0"),
        "perturb": lambda out: perturb(
            LLAVA.adapter, examples(), ["rotate:90"], controls=["mismatch", "independent"], control_draws=2, out=out
        ),
        "diff": lambda out: diff(OPT.adapter, texts(4), out=out, layers="all", cache=where / "cache"),
    }
    for name, work in jobs.items():
        work(where / name)
    return {name: (where / name, work) for name, work in jobs.items()}


@pytest.fixture(scope="module")
def every_job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    return runs_of_every_job(tmp_path_factory.mktemp("jobs"))


JOBS = ["align", "beside", "perturb", "diff"]


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("named", ["now", "before"])
def test_real_parts_are_sound(job: str, named: str, every_job: Any, tmp_path: Path) -> None:
    """Those of the twins' cache, too; and as an earlier version named them."""
    there, work = every_job[job]
    whole = work(there)
    folder = tmp_path / "run"
    shutil.copytree(there, folder)
    before = part_files(folder)
    if named == "before":
        before = [older(part) for part in before]
    assert before and work(folder).to_dict() == whole.to_dict()
    assert part_files(folder) == before and not list(folder.rglob("*.damaged"))
    if job == "diff":
        (cached,) = (there.parent / "cache").iterdir()
        assert len(read_records(cached)) == len(texts(4)) * len(whole.points)


def test_a_twin_of_an_earlier_version_is_known(every_job: Any, tmp_path: Path) -> None:
    """By what is not stated: its weights were part of it."""
    shutil.copytree(every_job["diff"][0], tmp_path / "run")
    *_, part = part_files(tmp_path / "run")
    records = [r for r in read_records(tmp_path / "run") if r.model != OPT.adapter.name]
    part.unlink()
    written = write_part(
        tmp_path / "run" / "records" / "000009.parquet", [replace(r, fingerprint="f") for r in records]
    )
    with pytest.raises(RunFolderError, match="under another convention, or of other weights"):
        read_records(tmp_path / "run")
    older(written)
    assert len(read_records(tmp_path / "run")) == 2 * len(records)


@pytest.mark.parametrize(
    ("job", "wrong"),
    [
        ("diff", lambda r: replace(r, loss=math.nan)),
        ("diff", lambda r: replace(r, loss=-1.0)),
        ("diff", lambda r: replace(r, predicted=r.predicted + 1)),
        ("diff", lambda r: replace(r, loss=math.nan, predicted=0)),
        ("diff", lambda r: replace(r, point="layer 9")),
        ("diff", lambda r: replace(r, transform="rotate:90")),
        ("beside", lambda r: replace(r, matched=None)),
        ("beside", lambda r: replace(r, matched=np.zeros(2))),
        ("beside", lambda r: replace(r, matched=np.array([0.0, 9.0, 0.0]))),
        ("beside", lambda r: replace(r, curve=np.array([0.0, -1.0]))),
        ("beside", lambda r: replace(r, mean_state=np.full(r.d, np.nan, np.float32))),
        ("beside", lambda r: replace(r, mean_state=np.zeros(3, np.float32))),
        ("beside", lambda r: replace(r, entropy_image=99.0)),
        ("beside", lambda r: replace(r, strongest_row=r.n)),
        ("beside", lambda r: replace(r, decisive_token="")),
        ("beside", lambda r: replace(r, entropy_without_decisive=math.inf)),
        ("perturb", lambda r: replace(r, transform="mismatch/2")),
        ("perturb", lambda r: replace(r, transform="independent/0")),
    ],
)
def test_what_is_impossible_in_a_run_of_its_kind(
    job: str, wrong: Callable[[Record], Record], every_job: Any, tmp_path: Path
) -> None:
    there, work = every_job[job]
    whole = work(there)
    folder = tmp_path / "run"
    shutil.copytree(there, folder)
    part = part_files(folder)[0]
    (records,) = (
        [read_records(folder)]
        if len(part_files(folder)) == 1
        else [[r for r in read_records(folder) if r.model == OPT.adapter.name]]
    )
    part.unlink()
    part = write_part(folder / "records" / "000000.parquet", [wrong(records[0]), *records[1:]])
    with pytest.raises(RunFolderError, match=re.escape(str(part))):
        read_records(folder)
    with pytest.warns(UserWarning, match=f"{part.name} is damaged .*measured again"):
        assert work(folder).to_dict() == whole.to_dict()
    assert part.with_name(f"{part.name}.damaged").exists()


def test_a_part_of_other_data_is_no_part_of_the_run(every_job: Any, tmp_path: Path) -> None:
    """The same model, convention and ids."""
    there, work = every_job["align"]
    whole = work(there)
    shutil.copytree(there, tmp_path / "run")
    swapped = [replace(one, response=one.response[::-1]) for one in examples()]
    align(LLAVA.adapter, swapped, out=tmp_path / "other")
    (part,), (foreign,) = part_files(tmp_path / "run"), part_files(tmp_path / "other")
    part.unlink()
    foreign.rename(part.with_name(foreign.name))
    with pytest.raises(RunFolderError, match="a part of another run, of other data"):
        estimates(tmp_path / "run")
    with pytest.warns(UserWarning, match="a part of another run, of other data.*measured again"):
        assert work(tmp_path / "run").to_dict() == whole.to_dict()


@pytest.mark.parametrize("job", JOBS)
def test_a_part_that_is_gone_is_missed(job: str, every_job: Any, tmp_path: Path) -> None:
    """Of a finished run: one example of any model, or all of an untrained twin."""
    there, work = every_job[job]
    whole = work(there).to_dict()
    kept = [lambda r: r.example != examples()[0].id and r.example != "1"]
    kept += [lambda r: r.model == OPT.adapter.name] if job == "diff" else []
    for number, keep in enumerate(kept):
        for part in part_files(there):
            folder = tmp_path / f"{number} {part.name}"
            found = records_of(read_part(part, rules(there)))
            left = list(filter(keep, found))
            if len(left) == len(found):
                continue
            shutil.copytree(there, folder)
            (folder / "records" / part.name).unlink()
            if left:
                write_part(folder / "records" / "000000.parquet", left)
            for read in (estimates, lambda of: read_runs([of])):
                with pytest.raises(RunFolderError, match=r"summary.json stands on \d examples of .* parts are gone"):
                    read(folder)
            assert work(folder).to_dict() == whole
            assert not estimates(folder).empty


# Damage


def test_the_header_of_a_page_cannot_take_a_number_that_hardly_counts(tmp_path: Path) -> None:
    """The last of a spectrum, without which it sums to 1 as well; no checksum is of the header."""
    spectrum = np.array([0.75, 0.25, 1e-19], np.float32)
    part = older(run_folder(tmp_path, *(replace(r, spectrum=spectrum) for r in measured())))
    content, place = part.read_bytes(), SCHEMA.names.index("spectrum")
    start = pq.ParquetFile(part).metadata.row_group(0).column(place).data_page_offset
    for bit in range(8 * start, 8 * (start + 30)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        part.write_bytes(damaged)
        try:
            assert all(r.spectrum.tolist() == spectrum.tolist() for r in read_records(tmp_path)), bit
        except RunFolderError as error:
            assert "a damaged part" in str(error)


@pytest.mark.parametrize("named", ["now", "before"])
def test_flipped_bits(named: str, tmp_path: Path) -> None:
    """`python -m tests.damage` flips every bit."""
    assert sum(flipped(tmp_path, every=397, dated=named == "before").values()) > 50


def test_where_records_are_only_read_the_damaged_part_is_named(every_job: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(every_job["align"][0], folder)
    part = part_files(folder)[0]
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    for read in (lambda: estimates(folder), lambda: read_runs([folder])):
        with pytest.raises(RunFolderError, match="the digest in its name is of something else") as raised:
            read()
        assert str(part) in str(raised.value) and "\n" not in str(raised.value)


def test_a_part_that_cannot_be_read_now_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = run_folder(tmp_path, *measured())

    def failing(*_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("mmerank.runs.parts.regular_bytes", failing)
    with pytest.raises(RunFolderError, match=re.escape(f"{part}: cannot be read (Input/output error)")):
        read_records(tmp_path)
