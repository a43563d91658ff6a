"""Many jobs with one model: what is done already, batches, and failures that stop nothing.

A run can be stopped or killed at any moment and started again. What counts as done is a file that holds the very
settings that the job would write into it. Batches are of all jobs, done or not, and one in which anything is missing is
made again whole: so the same files come out to the last bit, wherever a run was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...core.task import Step
from ...methods import Edit
from ...methods.cost import Cost, Progress, cost_of
from ...networks.stable_diffusion import StableDiffusion
from ...pictures.masks import open_white
from ...pictures.metadata import read, texts
from ...pictures.picture_files import FORMATS, save
from ...pictures.writing import NotWritten, Version, clear_leftovers, identity, version_of
from .editing import Opened, edit_jobs, open_job, settings_of
from .job import Job


def check(jobs: Sequence[Job], folder: Path, like: str | None = None) -> None:
    """Refuse, before any work, masks without white, and jobs that would overwrite each other or what they read.

    folder: for the results. like: the earlier result that is repeated.
    """
    if folder.is_file() or (folder.suffix.lower() in FORMATS and not folder.exists()):
        raise ValueError(f"--out {str(folder)!r} is one file, but several are to be written: give a folder")
    read_by = {} if like is None else {identity(like): "--like"}
    read_by.update({identity(file): named(job) for job in jobs for file in (job.image, job.mask) if file is not None})
    written_by: dict[tuple, Job] = {}
    for job in jobs:
        target = identity(job.out)
        other = written_by.setdefault(target, job)
        if other is not job:
            raise ValueError(f"the results of {named(other)} and {named(job)} would both be {str(job.out)!r}: "
                             "rename one, or give each an `out` in a table, --jobs")
        if target in read_by:
            raise ValueError(f"the result of {named(job)} would replace {str(job.out)!r}, "
                             f"which {read_by[target]} reads: give another --out")
    for mask in {job.mask for job in jobs if job.mask is not None}:
        open_white(mask)
    for group in groups(jobs):
        group[0].asked.method.made(group[0].asked.options).check_count(len(group))


def named(job: Job) -> str:
    return repr(job.image) if job.line is None else f"line {job.line}"


def done_before(jobs: Sequence[Job], model: StableDiffusion, source: Mapping[str, Any], overwrite: bool) -> set[Job]:
    """The jobs whose results are there. Raises ValueError for other files in their places, unless they may go."""
    done = set()
    for job in jobs:
        if not job.out.exists():
            continue
        try:
            opened = open_job(job)
        except ValueError:
            continue        # `run` will say why
        difference = difference_of(job.out, settings_of(opened, model, source))
        if difference is None:
            done.add(job)
        elif not overwrite:
            raise ValueError(f"{str(job.out)!r} is there already, and {difference}: give another --out, or --overwrite")
    return done


def difference_of(path: Path, settings: Mapping[str, Any]) -> str | None:
    """What tells the file from the one that these settings would make; None if nothing does."""
    try:
        there = read(path)
    except ValueError:
        return "holds no settings"
    wanted = json.loads(json.dumps(settings))
    for name in (*wanted, *there):
        if name != "preset" and there.get(name) != wanted.get(name):    # what a preset sets stands there one by one
            return f"its {name} is {str(there.get(name))[:40]!r}, not {str(wanted.get(name))[:40]!r}"
    return None


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs by their kind, which the method can take together."""
    found: dict[tuple, list[Job]] = {}
    for job in jobs:
        found.setdefault(job.kind, []).append(job)
    return list(found.values())


def batches(jobs: Sequence[Job], done: set[Job], batch: int) -> list[list[Job]]:
    """The batches in which anything is not done yet."""
    every = [group[start : start + batch] for group in groups(jobs) for start in range(0, len(group), batch)]
    return [together for together in every if not all(job in done for job in together)]


MOST_KINDS = 20     # of jobs, whose costs are looked up: that takes some hundredths of a second each


class Rows:
    """The rows through the U-Net that batches of jobs will take, and how many are through. 0: they can't be known."""

    def __init__(self, todo: Sequence[Sequence[Job]], model: StableDiffusion):
        few = len({each[0].kind for each in todo}) <= MOST_KINDS
        costs = [cost_of(each[0].asked, model, each[0].gives_mask, each[0].image is not None) if few else None
                 for each in todo]
        self.todo, self.costs = todo, costs
        self.total = sum(len(each) * cost.rows for each, cost in zip(todo, costs, strict=True)) if all(costs) else 0
        self.begun, self.progress = -1, Progress(Cost({}, 0, ()))

    def after(self, step: Step, together: Sequence[Job]) -> int:
        """How many rows are through after this step of a batch."""
        begun = self.todo.index(together) if together in self.todo else self.begun      # a failed one's jobs alone
        if begun != self.begun:
            self.begun, self.progress = begun, Progress(self.costs[begun] or Cost({}, 0, ()))
        self.progress.moved(step)
        before = zip(self.todo[: self.begun], self.costs, strict=False)
        return sum(len(each) * cost.rows for each, cost in before if cost) + len(together) * self.progress.rows


OnStep = Callable[[Step, Sequence[Job]], None]      # is told of each step of a batch, and the batch


def run(
    jobs: Sequence[Job], model: StableDiffusion, source: Mapping[str, Any], done: set[Job], batch: int,
    on_step: OnStep = lambda step, together: None,
) -> Iterator[tuple[Job, Edit | Exception]]:
    """Make what is not done, and write it: of each job its edit, which is on disk by then, or why there is none.

    Raises NotWritten where a result can't be written, or where another run has written meanwhile: the next ones would
    fail too.
    """
    clear_leftovers(job.out for job in jobs)
    before = {job: version_of(job.out) for job in jobs}
    for together in batches(jobs, done, batch):
        for job, made in make(together, model, source, on_step):
            if job not in done:
                yield job, made if isinstance(made, Exception) else written(job, *made, before[job])


def make(
    jobs: Sequence[Job], model: StableDiffusion, source: Mapping[str, Any], on_step: OnStep
) -> Iterator[tuple[Job, tuple[Edit, Image.Image] | Exception]]:
    """A batch's edits and pictures; if it can't be done as a batch, each job's alone."""
    opened: list[Opened] = []
    for job in jobs:
        try:
            opened.append(open_job(job))
        except Exception as error:      # of any kind: the others go on
            yield job, error
    try:
        made = edit_jobs(model, source, opened, on_step=lambda step: on_step(step, jobs)) if opened else []
        yield from zip([o.job for o in opened], made, strict=True)
    except Exception as error:
        if len(jobs) == 1:
            yield jobs[0], error
        else:
            for each in opened:
                yield from make([each.job], model, source, on_step)


def written(job: Job, edit: Edit, image: Image.Image, before: Version) -> Edit | Exception:
    """The edit, with its picture on disk; or why it can't be a picture of that format."""
    try:
        save(image, job.out, texts(edit.settings, image.size), over=before)
    except NotWritten:
        if version_of(job.out) == before or difference_of(job.out, edit.settings) is not None:
            raise
    except Exception as error:
        return error
    return edit     # if not written here, then by another run that was told the same
