"""The ladder, as data: what is done to each model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Shape = Literal["llava", "minigpt-v2"]
Connector = Literal["own", "frozen", "linear", "two layers"]
Tower = Literal["frozen", "tuned", "random"]


@dataclass(frozen=True)
class Budget:
    """How much a full rung is trained.

    Attributes:
        connector: Steps with everything else frozen.
        joint: Steps of connector and LLM after that.
        batch: Scenes in a step.
        scenes: Training scenes.
        truth: Held-out scenes that the truth is asked of.
        pairs: Other held-out scenes, that metrics are taken of.
    """

    connector: int = 80
    joint: int = 120
    batch: int = 32
    scenes: int = 8192
    truth: int = 64
    pairs: int = 48


@dataclass(frozen=True)
class Rung:
    """One model of the ladder.

    Attributes:
        shape: Which demo model it starts from.
        wrong: Share of the training captions that belong to another picture.
        steps: Share of the training: up to the connector stage's share of it, that stage alone.
        connector: `own` is the shape's (two layers in LLaVA, linear in MiniGPT-v2), drawn anew; `frozen` is the same,
            left as it is drawn; the others are the other shape's kind.
        tower: `frozen` as shipped, `tuned` in the joint stage, or `random` and frozen.
        seed: Of the weights drawn, of the wrong captions and of the order of the scenes.
    """

    shape: Shape
    wrong: float = 0.0
    steps: float = 1.0
    connector: Connector = "own"
    tower: Tower = "frozen"
    seed: int = 0

    @property
    def step(self) -> str:
        """What is done, whatever the seed."""
        changed = [
            *([f"wrong {self.wrong:.0%}"] if self.wrong else []),
            *([f"steps {self.steps:.4g}"] if self.steps < 1 else []),
            *([f"connector {self.connector}"] if self.connector != "own" else []),
            *([f"tower {self.tower}"] if self.tower != "frozen" else []),
        ]
        return f"{self.shape}, {', '.join(changed) or 'full'}"

    def connector_steps(self, budget: Budget) -> int:
        """Steps of the connector alone."""
        return min(self._steps(budget), budget.connector)

    def joint_steps(self, budget: Budget) -> int:
        """Steps of connector and LLM together."""
        return self._steps(budget) - self.connector_steps(budget)

    def _steps(self, budget: Budget) -> int:
        return round(self.steps * (budget.connector + budget.joint))

    @property
    def name(self) -> str:
        """The rung's folder."""
        return f"{self.step}, seed {self.seed}".replace(", ", "_").replace(" ", "-").replace("%", "pc")


WRONG = (0.25, 0.5, 0.75, 1.0)
STEPS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4)


def ladder() -> Iterator[Rung]:
    """All rungs, in the order of training: one seed of everything, both shapes by turns, then the second seeds.

    Yields:
        Rungs.
    """
    shapes: tuple[Shape, ...] = ("llava", "minigpt-v2")
    for seed in (0, 1):
        for steps in (1.0, *STEPS):
            yield from (Rung(shape, steps=steps, seed=seed) for shape in shapes)
        for wrong in WRONG:
            yield from (Rung(shape, wrong=wrong, seed=seed) for shape in shapes)
        if seed == 0:
            for shape in shapes:
                yield Rung(shape, tower="random")
                yield Rung(shape, connector="frozen")
                yield Rung(shape, connector="linear" if shape == "llava" else "two layers")
                yield Rung(shape, tower="tuned")
