"""train: a configuration, a checkpoint and data become a trained checkpoint, or an artifact too."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from converters.recipe import Recipe
from edgekit.artifact import MANIFEST_NAME, Artifact
from edgekit.files import FolderExistsError, Waiting
from edgekit.progress import NoProgress, Progress
from edgekit.task import TASK_KINDS
from edgekit.train.board import Board
from edgekit.train.configuration import Configuration
from edgekit.train.leftovers import remove_old_runs
from edgekit.train.loop import Tell
from edgekit.train.standing import Standing
from edgekit.train.team import ALONE, Team
from edgekit.workflows.conversion import Request, folder_in_store, run_request
from edgekit.workflows.language_job import LanguageJob
from edgekit.workflows.training_job import FineTuned, Job, Prepared


def job_of(
    configuration: Configuration,
    progress: Progress,
    team: Team = ALONE,
    scratch: Path | None = None,
) -> Job:
    """Return the run that `configuration` asks for. Raises InputError."""
    if configuration.data.kind in TASK_KINDS:
        from edgekit.workflows.train_heads import HeadJob

        return HeadJob(configuration, progress, team)
    return LanguageJob(configuration, progress, team, scratch)


def prepare_training(configuration: Configuration, progress: Progress) -> Prepared:
    """Check configuration, checkpoint and data, and say what a run would do. Writes nothing.

    Raises InputError for anything wrong.
    """
    with tempfile.TemporaryDirectory() as scratch:  # a new model is made, to see what it is
        return job_of(configuration, progress, scratch=Path(scratch)).prepared


def run_training(
    configuration: Configuration,
    out: Path,
    *,
    progress: Progress,
    tell: Tell = lambda _standing: None,
    announce: Callable[[Prepared], None] = lambda _prepared: None,
    replace: bool = False,
    waiting: Waiting = nullcontext,
    team: Team = ALONE,
) -> FineTuned:
    """Train as `configuration` says, and write the result into the folder `out`.

    `announce` is told what the run will do, `tell` how it stands after each step. Killed at any
    moment, the same call goes on where it was; a call that had finished is not run again. The
    processes of `team` make the same call, and all see the same folders.

    Raises InputError for bad configuration, checkpoint or data, before the first step, and where
    `out` exists, from another run, and `replace` is false; GateError where training makes nothing
    better, or the disk is full: then nothing is written, and the last state stays.
    """
    job = job_of(configuration, progress if team.is_first else NoProgress(), team)
    with job.lock(waiting):
        if team.from_first(lambda: out.exists() and not replace):
            trained = job.finished(out)
        else:
            if team.is_first:
                leftovers = remove_old_runs(job.folder.parent, beside=job.folder)
                announce(dataclasses.replace(job.prepared, leftovers=leftovers))
            with job.board(out) as board:
                trained = job.run(out, replace, _both(tell, board))
        team.wait()
        if team.is_first:
            shutil.rmtree(job.folder, ignore_errors=True)  # a kill may have come before this
    return trained


def _both(tell: Tell, board: Board | None) -> Tell:
    """Return what tells both whoever watches and TensorBoard how the run stands."""

    def both(standing: Standing) -> None:
        tell(standing)
        if board is not None:
            board.write(standing.curve)

    return both


def require_free(out: Path, recipe: Recipe) -> None:
    """Raise FolderExistsError if what is trained into `out` could not be converted afterwards."""
    artifact = folder_in_store(out, recipe)
    if artifact.exists() and not out.exists():
        raise FolderExistsError(
            f"{artifact} exists already, and what is trained could not be converted into it",
            hint="choose another -o, or --replace",
        )


def convert_training(
    trained: FineTuned, recipe: Recipe, progress: Progress, *, replace: bool = False
) -> Artifact:
    """Convert what was trained into the store; an artifact of the same weights is not made again.

    Raises InputError where one of other weights is in its place and `replace` is false.
    """
    request = Request(trained.checkpoint, recipe)
    out = request.default_folder
    if (out / MANIFEST_NAME).is_file():
        found = Artifact.open(out)
        source = found.manifest.source
        if (source.checkpoint_digest, source.recipe) == (
            trained.checkpoint.digest(), recipe.to_dict(),
        ):  # fmt: skip
            return found
    return run_request(request, out, progress=progress, replace=replace)
