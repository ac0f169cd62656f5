"""Small files that unpack to much: pictures whose parts are larger than what they say first.

python -m tests.bombs            # what each of them costs, in a process of its own with 3 GB of address space
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path

from PIL import Image

# Opens one picture with little memory to spare, and says what came of it and how much was taken.
OPENER = """
import resource, sys
from pathlib import Path
from mmerank.errors import DataError
from mmerank.inputs.pictures import open_picture
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), -1))
def peak():
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
for name in sys.argv[3:]:
    before = peak()
    try:
        found = open_picture(Path(sys.argv[1]) / name)
        answer = f"picture {found.width} x {found.height}"
    except DataError as error:
        answer = f"DataError {error}"
    print(f"{(peak() - before) // 1000}\t{answer}", flush=True)
"""


def png(width: int, height: int, *, bits: int = 8, chunks: bytes = b"", rows: bytes | None = None) -> bytes:
    """A grey PNG of zeros, or with `rows` in place of them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    if rows is None:
        rows = packed((1 + width * bits // 8) * height)
    return b"\x89PNG\r\n\x1a\n" + header + chunks + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@cache
def packed(count: int) -> bytes:
    """So many zeros, by zlib."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count // len(block))]
    return b"".join([*parts, packer.compress(bytes(count % len(block))), packer.flush()])


def ico(side: int) -> bytes:
    """An icon that says 1 x 1 and holds a PNG."""
    inside = png(side, side)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 1, 1, 0, 0, 1, 32, len(inside), 22) + inside


def gif(screen: tuple[int, int], frame: tuple[int, int], disposal: int = 0, at: tuple[int, int] = (0, 0)) -> bytes:
    """A GIF whose frame has a size of its own, and is taken away after it was shown."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    control = b"!\xf9\x04" + bytes([disposal << 2, 0, 0, 0, 0])
    image = b"," + struct.pack("<HHHHB", *at, *frame, 0) + b"\x02\x02\x44\x01\x00"
    return head + control + image + b";"


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas is larger than the picture on it."""
    content = io.BytesIO()
    Image.new("RGB", (2, 2)).save(content, "WEBP", lossless=True)
    inside = content.getvalue()[12:]
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes([0x10, 0, 0, 0])
    canvas += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(canvas + inside)) + b"WEBP" + canvas + inside


def tiff(size: tuple[int, int], data: bytes, *more: tuple[int, int, int], compression: int = 8) -> bytes:
    """A grey TIFF of 8 bits with these tags (number, type, value), its data in one strip or tile."""
    tags = {256: (4, size[0]), 257: (4, size[1]), 258: (3, 8), 259: (3, compression), 262: (3, 1), 277: (3, 1)}
    tags |= {number: (kind, value) for number, kind, value in more}
    tiled = 322 in tags
    at = 8 + 2 + 12 * (len(tags) + 2) + 4
    tags |= {324 if tiled else 273: (4, at), 325 if tiled else 279: (4, len(data))}
    directory = b"".join(struct.pack("<HHII", n, kind, 1, value) for n, (kind, value) in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4) + data


def bmp(width: int, height: int, compression: int, data: bytes = b"\0\x01") -> bytes:
    """A BMP of 8 bits, run-length coded with compression 1."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0) + bytes(1024)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(data), 0, 0, 14 + len(head)) + head + data


def bombs() -> dict[str, bytes]:
    """Pictures by name; each has less than 5 MB, and would take gigabytes if it were believed."""
    tile = packed(12_000 * 12_000)
    text = b"Comment\0\0" + packed(200_000_000)
    return {
        "icon.ico": ico(32_000),
        "fits.fits": b"".join(
            line.ljust(80).encode()
            for line in ("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 60000", "NAXIS2  = 60000", "END")
        ).ljust(2880),
        "header.png": png(60_000, 60_000, rows=packed(1000)),
        "text.png": png(2, 2, chunks=chunk(b"zTXt", text)),
        "profile.png": png(2, 2, chunks=chunk(b"iCCP", b"x\0\0" + text[9:])),
        "utf8.png": png(2, 2, chunks=chunk(b"iTXt", b"x\0\1\0\0\0" + text[9:])),
        "texts.png": png(2, 2, chunks=chunk(b"zTXt", b"x\0\0" + packed(1_000_000)) * 3000),
        "rows.png": png(2, 2, rows=packed(200_000_000)),
        "screen.gif": gif((65_535, 65_535), (1, 1)),
        "frame.gif": gif((1, 1), (65_535, 65_535)),
        "shifted.gif": gif((1, 1), (1, 1), at=(65_000, 65_000)),
        "disposed.gif": gif((1, 1), (65_535, 65_535), 2),
        "restored.gif": gif((65_535, 65_535), (65_535, 65_535), 3),
        "canvas.webp": webp(16_383, 16_383),
        "wide.webp": webp(1 << 24, 255),
        "tile.tiff": tiff((2, 2), tile, (322, 4, 12_000), (323, 4, 12_000)),
        "tile-lzw.tiff": tiff((2, 2), b"\x80\x01\x02" * 9, (322, 4, 60_000), (323, 4, 60_000), compression=5),
        "tile-raw.tiff": tiff((2, 2), bytes(99), (322, 4, 60_000), (323, 4, 60_000), compression=1),
        "flat-tile.tiff": tiff((2, 2), tile, (322, 4, 400_000_000), (323, 4, 16)),
        "strip.tiff": tiff((2, 2), tile, (278, 4, 2**31 - 1)),
        "wide-strip.tiff": tiff((90_000_000, 1), packed(90_000_000), (278, 4, 2**31 - 1)),
        "header.tiff": tiff((60_000, 60_000), tile),
        "samples.tiff": tiff((2, 2), tile, (277, 3, 65_535)),
        "header.bmp": bmp(60_000, 60_000, 0),
        "runs.bmp": bmp(60_000, -60_000, 1),
        "jump.bmp": bmp(9_000, 9_000, 1, b"\0\2\xff\xff" * 100_000),
        "header.ppm": b"P6 60000 60000 255\n" + bytes(100),
        "digits.ppm": b"P2 9999999999 9999999999 255\n1 1 1",
    }  # fmt: skip


def opened_apart(folder: Path, names: list[str], memory: int) -> dict[str, tuple[int, str]]:
    """What a process with so much address space says of pictures: MB above the peak so far, and the answer."""
    done = subprocess.run(
        [sys.executable, "-c", OPENER, str(folder), str(memory), *names],
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [line.split("\t", 1) for line in done.stdout.splitlines()]
    found = {name: (int(taken), answer) for name, (taken, answer) in zip(names, lines, strict=False)}
    if done.returncode:
        died = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        found[names[len(found)]] = (-1, f"died: {died}")
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in bombs().items():
            (Path(scratch) / name).write_bytes(content)
            taken, answer = opened_apart(Path(scratch), [name], 4_000_000_000)[name]
            sys.stdout.write(f"{name:16} {len(content) / 1000:8.0f} kB {taken:6} MB  {answer}\n")
