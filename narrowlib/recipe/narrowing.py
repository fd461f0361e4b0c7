"""Narrow a general model in one call: initial checks, and the folder in which the steps are kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import Timeout
from safetensors import SafetensorError

from narrowlib.llm.models import check_model
from narrowlib.llm.units import n_parameters_of
from narrowlib.recipe import cut
from narrowlib.recipe.estimate import disk_needed
from narrowlib.recipe.intake import check_sources, texts_of
from narrowlib.recipe.report import Report
from narrowlib.recipe.settings import RecipeConfig
from narrowlib.recipe.steps import SHARED, Narrowing
from narrowlib.store.digests import digest_of
from narrowlib.store.downloads import UnavailableError, cache_folder
from narrowlib.store.files import at_home, lock_of, sha256_of, visible_files
from narrowlib.store.kept import Kept

_FREE = "it must be a new or empty folder"
_FILES_OF_MODELS = {".safetensors", ".json", ".jinja", ".model", ".txt"}


def narrow(
    model: str, keep: str, lose: str | None = None, *, out: str | Path, progress: bool = True, **settings: Any
) -> Report:
    """Make a smaller model that stays good at some texts, and a report of its cost.

    The steps: losses before; fine-tuning and group lasso where they are asked for; rounds of scoring, cutting and
    recovery training, each ending with the parameters whose loss on documents for choices was lowest; the checkpoint.
    Every finished step is kept in a hidden folder beside ``out`` until all is done, and trainings save checkpoints
    there: after a kill, the same call continues, to the same result.  Losses before and the first cut are kept in the
    cache: a call with another ``learning_rate`` takes them from there, and the report says so.

    Parameters
    ----------
    model, keep, lose
        See `narrowlib.recipe.settings.RecipeConfig`.
    out : path
        New or empty folder for the checkpoint, ``report.html`` and ``report.json``.  If the result of the same call
        lies there already, it is returned as it is.
    progress : bool
        Show progress bars.
    **settings
        The other fields of `narrowlib.recipe.settings.RecipeConfig`, such as ``sparsity=0.5``.

    Raises
    ------
    ValueError
        For illegal settings, texts that cannot be read, or a folder that holds something else.
    UnavailableError
        When the model cannot be loaded, or the disk cannot be written.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    return run(RecipeConfig(**given, model=model, keep=keep, lose=lose or ""), out, progress=progress)


def run(config: RecipeConfig, out: str | Path, *, progress: bool = True) -> Report:
    """`narrow` with its settings as one value."""
    out = at_home(out).resolve()  # a link would stand in the way of the result
    found = _result_in(out)
    check_sources(config)
    check_model(config.model, block_length=config.block_length)
    texts = texts_of(config)
    about = {"settings": config.lasting, "texts": {name: each.key for name, each in texts.items()}}
    about |= _files_of(config.model)
    if found is not None:
        if found.numbers["made from"] == about:
            return found
        other = ", ".join(_differences(found.numbers["made from"], about))
        raise ValueError(f"out is {str(out)!r}, which holds the result of a call with other {other}; {_FREE}")
    language_model, shares = cut.load_model(config)
    with _workplace(out) as folder:
        n_small = cut.n_parameters_at(language_model.model, shares, config.multiple_of)
        needed = disk_needed(config, n_parameters_of(language_model.model), n_small)
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise UnavailableError(
                f"out is {str(out)!r}, where {free / 1e9:.1f} GB are free; the steps need {needed / 1e9:.1f} GB"
            )
        model = [about["texts"], about.get("model"), digest_of(language_model.model)]
        stores = {
            step: Kept(
                cache_folder() / "narrow" if step in SHARED else folder,
                [config.deciding(step), *model],
                device=language_model.model.device,
            )
            for step in (*SHARED, "")
        }
        narrowing = Narrowing(config, language_model, texts, shares, stores, progress)
        del language_model  # every step loads the model that it works on
        report = narrowing.write(out, about)
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _files_of(model: str) -> dict[str, str]:
    """What tells a folder from what it held at another time: weights, configuration and tokenizer, by content."""
    if not at_home(model).is_dir():
        return {}
    files = [path for path in visible_files(at_home(model), "*") if path.suffix in _FILES_OF_MODELS]
    return {"model": digest_of({path.name: sha256_of(path) for path in files})}


def _result_in(out: Path) -> Report | None:
    """The report of an earlier call in a folder; a ValueError where something else is in the way."""
    try:
        is_taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise ValueError(f"out is {str(out)!r}, which cannot be read: {error.strerror}; {_FREE}") from error
    found = Report.read_if_there(out) if is_taken else None
    if is_taken and found is None:
        raise ValueError(f"out is {str(out)!r}, which already exists; {_FREE}")
    if out.is_mount():
        raise ValueError(f"out is {str(out)!r}, a mount point; it must be a folder below one")
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings in which two calls differ; where there is none, what has changed on the disk."""
    settings = [name for name, value in now["settings"].items() if before["settings"].get(name) != value]
    return settings or [name for name in ("texts", "model") if before.get(name) != now.get(name)]


@contextmanager
def _workplace(out: Path) -> Iterator[Path]:
    """The hidden folder beside ``out`` in which steps are kept, for one process at a time.

    It is removed when nothing was finished in it, and no training left off.

    Raises
    ------
    UnavailableError
        When it cannot be written, or another process has it.
    """
    folder = out.parent / f".{out.name}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = lock_of(folder.with_name(f"{folder.name}.lock"), timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UnavailableError(f"out is {str(out)!r}, which another process is writing; wait for it") from error
    except OSError as error:
        raise UnavailableError(f"out is {str(out)!r}, which cannot be written: {error.strerror or error}") from error
    try:
        yield folder
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UnavailableError(
            f"out is {str(out)!r}, which cannot be written ({reason}); free some space or choose another folder; "
            f"the same command continues from where this one stopped"
        ) from error
    finally:
        if not any(path.name == "kept.json" or path.suffix == ".safetensors" for path in folder.rglob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
