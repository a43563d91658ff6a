"""What is made of a plan, and what is said of it: the words of a sheet, whichever way it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...methods import Edit
from ...methods.call import Call
from ...pictures.picture import psnr
from .making import Cell
from .plan import Axis, Plan, shown


@dataclass(frozen=True, eq=False)
class Made:
    """The cells of a plan, of which those that are not made yet are None."""

    plan: Plan
    cells: tuple[Cell | None, ...]      # row by row

    @property
    def across(self) -> Axis:
        """The option of the columns and its values; of a comparison, the methods."""
        return self.plan.across

    @property
    def down(self) -> Axis | None:
        """The option of the rows."""
        return self.plan.down

    @property
    def edits(self) -> list[Edit]:
        """The edits of the cells that could be made."""
        return [cell.edit for cell in self.cells if cell is not None and cell.edit is not None]

    @property
    def rows_for(self) -> Counter[str]:
        """The rows through the U-Net of all cells, by what they were for. A shared encoding or map is counted once."""
        made = [cell.edit for place in self.plan.order if (cell := self.cells[place]) is not None]
        return sum((Counter(edit.rows_for) for edit in made if edit is not None), Counter())

    @property
    def rows(self) -> int:
        """The rows through the U-Net of all cells together."""
        return self.rows_for.total()

    @property
    def seconds(self) -> float:
        """What the cells took together, each when it was made."""
        return sum(cell.seconds for cell in self.cells if cell is not None)

    # ---- words

    @property
    def title(self) -> str:
        """What was asked for: the words if all cells have the same, else what the axes say."""
        told, axes = self.plan.told, " and ".join(axis.name for axis in (self.across, self.down) if axis is not None)
        query = "" if "query" in axes else told.get("query", "")
        return query or f"{axes}, compared"

    @property
    def about(self) -> str:
        """The method, the model, and the words and settings that are the same in all cells."""
        told, first = self.plan.told, self.plan.cells[0]
        names = {cell.model.name: None for cell in self.plan.cells}
        words = {name: told.get(name, default) for name, default in (("reference", ""), ("seed", 0), ("size", None))
                 if name not in self.varied}
        same = {name: value for name, value in words.items() if value not in ("", None)}
        model = f"{'model' if len(names) == 1 else 'models'} {' and '.join(names)}"
        if not self.plan.shares:
            said = [cell.job.asked.query for cell in self.plan.cells if cell.job.asked.method.needs_instruction]
            same.update(zip(["instruction"], said, strict=False))
            set_ = [*pairs(told.get("options") or {}), *(told.get("option") or ())]
            rest = f"each method with its own settings of the preset {told.get('preset') or Call().preset}"
            return "; ".join([model, *pairs(same), *set_, f"otherwise {rest}" if set_ else rest])
        return "; ".join([f"{first.job.asked.method.dashed}, {model}", *pairs({**same, **self.fixed})])

    @property
    def varied(self) -> set[str]:
        """What differs between the cells."""
        return {axis.name for axis in (self.across, self.down) if axis is not None}

    @property
    def fixed(self) -> dict[str, Any]:
        """The options that are the same in all cells of a grid, but for those without any effect."""
        method, cell = self.plan.cells[0].job.asked.method, self.plan.cells[0]
        settings = cell.job.asked.settings(cell.model)
        return {name: shown(getattr(settings, name)) for name, option in method.known.items()
                if name not in self.varied and getattr(settings, name) not in ("", None, {}, ())
                and all(getattr(settings, other) == value for other, value in option.needs.items())}

    @property
    def shows_masks(self) -> bool:
        """Whether the masks are shown beside the results: those of a grid with an option of step 1."""
        known = self.plan.cells[0].job.asked.method.known
        of_mask = {name for name in self.varied & known.keys() if known[name].stage in ("map", "mask")}
        return self.plan.shares and bool(of_mask | self.varied & {"mask_grow"})

    @property
    def cost(self) -> str:
        """What it cost, in words."""
        made, parts = len(self.edits), " + ".join(f"{rows} {label}" for label, rows in self.rows_for.items())
        back = sum(edit.backward_rows for edit in self.edits)
        told = f"{made} edit{'s' * (made != 1)}, {self.rows:,} rows through the U-Net"
        told += f" ({parts})" * (len(self.rows_for) > 1) + f" and {back:,} back" * (back > 0)
        shared = "; what cells share was made once" if self.plan.shares and made > 1 else ""
        answer = " dB: PSNR against the true answer." if self.plan.truth is not None else ""
        return f"{told} in {self.seconds:.1f} s{shared}.{answer}"

    @property
    def left_out(self) -> str:
        """The methods that don't run, and why."""
        told = ", ".join(f"{name} ({why})" for name, why in self.plan.left_out.items())
        return told and f"Left out: {told}."

    def cost_of(self, cell: Cell) -> str:
        """What a cell cost, in words."""
        back = cell.edit.backward_rows
        return f"{cell.edit.rows:,} rows" + f" + {back:,} back" * (back > 0) + f", {cell.seconds:.1f} s"

    def figures(self, cell: Cell) -> list[str]:
        """What is said below a cell."""
        edit = cell.edit
        if edit is None:
            return []
        lines = [] if self.plan.shares else [self.cost_of(cell)]
        if edit.empty_mask:
            lines.append("nothing to change was found")
        elif self.plan.truth is not None and self.plan.truth.size == edit.image.size:
            lines.append(f"{psnr(edit.image, self.plan.truth):.1f} dB to the answer")
        return lines


def pairs(values: Mapping[str, Any]) -> list[str]:
    """name value, with quotes where there are words."""
    return [f"{name} " + (f'"{value}"' if " " in str(value) else str(value)) for name, value in values.items()]
