"""How many hours of an H100 `studies/mllms.yaml` takes, by rule: the table of docs/mllms.md.

    python -m scripts.mllm_hours    # writes the table into the page; seconds, no model is loaded

Nothing here is measured. Parameters are those of the model cards; rows are what each processor makes of a picture of
640 x 480, the size of most of COCO's, by its own rule of tiles and patches, written down by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

STUDY, PAGE = Path("studies/mllms.yaml"), Path("docs/mllms.md")
BEGIN, END = "<!-- hours -->\n", "<!-- end of hours -->\n"
PEAK = 989e12  # FLOP/s of an H100 SXM, bfloat16, dense
UTILISATION = 0.25
CORES = 16
# Eigenvalues of one matrix, seconds of a core for each row (or column) cubed: 75 ms for the five of LLaVA-1.5
# (docs/speed.md).
EIGENVALUES = 8e-11
READ = 1e9  # bytes a second, from the disk to the GPU
OTHERS = 4  # pictures of others that match_margin puts beside each text
TEXT = {"llava:detail_23k.json?images=train2017": 150, "minigpt:cc_sbu_align": 80}
PAIRS = QUESTIONS = 1000
PROMPT = 80  # tokens of a question of multiple choice, with its choices


@dataclass(frozen=True)
class Size:
    """Of a model: parameters in billions, widths of the two, rows of a picture of 640 x 480."""

    llm: float
    vision: float
    width: int
    vision_width: int
    rows: int
    vision_rows: int


SIZES = {
    "llava-hf/llava-1.5-7b-hf": Size(6.7, 0.3, 4096, 1024, 576, 577),
    "llava-hf/llava-1.5-13b-hf": Size(13.0, 0.3, 5120, 1024, 576, 577),
    "minigpt_v2.yaml": Size(6.7, 1.0, 4096, 1408, 256, 1025),
    "llava-hf/llava-v1.6-mistral-7b-hf": Size(7.2, 0.3, 4096, 1024, 2340, 5 * 577),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": Size(0.5, 0.4, 896, 1152, 2929, 5 * 729),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": Size(7.6, 0.4, 3584, 1152, 2929, 5 * 729),
    "Qwen/Qwen2.5-VL-3B-Instruct": Size(3.1, 0.7, 2048, 1280, 391, 1564),
    "Qwen/Qwen2.5-VL-7B-Instruct": Size(7.6, 0.7, 3584, 1280, 391, 1564),
    "Qwen/Qwen3-VL-4B-Instruct": Size(4.0, 0.4, 2560, 1024, 300, 1200),
    "Qwen/Qwen3-VL-8B-Instruct": Size(8.2, 0.6, 4096, 1152, 300, 1200),
    "OpenGVLab/InternVL3-2B-hf": Size(1.5, 0.3, 1536, 1024, 13 * 256, 13 * 1025),
    "OpenGVLab/InternVL3-8B-hf": Size(7.6, 0.3, 3584, 1024, 13 * 256, 13 * 1025),
    "google/gemma-3-4b-it": Size(3.9, 0.4, 2560, 1152, 256, 4096),
    "google/gemma-3-12b-it": Size(11.8, 0.4, 3840, 1152, 256, 4096),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": Size(1.8, 0.4, 2048, 1152, 13 * 81, 13 * 729),
    "HuggingFaceM4/Idefics3-8B-Llama3": Size(8.0, 0.4, 4096, 1152, 13 * 169, 13 * 676),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": Size(23.6, 0.4, 5120, 1024, 414, 1656),
    "zai-org/GLM-4.1V-9B-Thinking": Size(9.4, 0.9, 4096, 1536, 391, 1564),
    "allenai/Molmo2-4B": Size(4.0, 0.4, 2560, 1152, 1200, 9 * 729),
    "allenai/Molmo2-8B": Size(8.2, 0.4, 4096, 1152, 1200, 9 * 729),
    "CohereLabs/aya-vision-8b": Size(8.0, 0.4, 4096, 1152, 13 * 169, 13 * 676),
}


@dataclass(frozen=True)
class Hours:
    """Of a model, all of its cells together: on the GPU, on the cores beside it, reading weights, and in all."""

    gpu: float
    cores: float
    reading: float

    @property
    def all(self) -> float:
        """The GPU and the cores work at the same time."""
        return max(self.gpu, self.cores) + self.reading


def hours(size: Size, sets: list[int], benchmarks: int) -> Hours:
    """The rule.

    Args:
        size: Of the model.
        sets: Tokens of a text, for each data set.
        benchmarks: How many.

    Returns:
        Hours of one GPU with `CORES` cores.
    """
    flop = cores = 0.0
    for text in sets:
        pair = size.rows + text
        # A pair, its text alone, and the text beside other pictures; the image input is read from the pair's prefix.
        positions = pair + text + OTHERS * pair
        flop += PAIRS * (2e9 * size.llm * positions + 2e9 * size.vision * size.vision_rows * (1 + OTHERS))
        clouds = [
            (size.vision_rows, size.vision_width),
            *((n, size.width) for n in (size.rows, size.rows, text, pair)),
        ]
        cores += PAIRS * sum(EIGENVALUES * min(cloud) ** 3 for cloud in clouds)
    asked = 2e9 * size.llm * (size.rows + PROMPT) + 2e9 * size.vision * size.vision_rows
    flop += benchmarks * QUESTIONS * asked
    cells = len(sets) + benchmarks
    reading = cells * 2e9 * (size.llm + size.vision) / READ
    return Hours(flop / (PEAK * UTILISATION) / 3600, cores / CORES / 3600, reading / 3600)


def table() -> str:
    """Rows in the order of the study, and their sum."""
    stated = yaml.safe_load(STUDY.read_text())
    benchmarks = next(len(job["score"]["data"]) for job in stated["jobs"] if "score" in job)
    found = {
        model: hours(SIZES[model], [TEXT[data] for data in stated["data"]], benchmarks) for model in stated["models"]
    }
    lines = [
        "| MODEL | billions | rows of a picture | GPU | cores | reading | hours |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for model, of in found.items():
        size = SIZES[model]
        numbers = f"{size.llm + size.vision:.1f} | {size.rows:,} | {of.gpu:.2f} | {of.cores:.2f} | {of.reading:.2f}"
        lines.append(f"| `{model}` | {numbers} | {of.all:.2f} |")
    total = [sum(getattr(of, name) for of in found.values()) for name in ("gpu", "cores", "reading", "all")]
    lines.append(f"| all {len(found)} | | | {' | '.join(f'{of:.1f}' for of in total)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
