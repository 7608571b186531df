"""What was fetched from the registry once, kept so that a registry that is down stops nothing that was running.

The registry is asked each time, and believed. Only when it does not answer is what it said last taken instead.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from fieldrepair_monitoring.errors import ModelVersionMissingError, RegistryError
from fieldrepair_monitoring.registry import download, model_version, module_uri

_MODULE = "-module-"
KEPT = 5
"""Models of one name that are kept, those used last: the served one, the one before it, a candidate, and two more."""


def remember(cache_dir: Path, name: str, version: str, said: str) -> None:
    """Keep what the registry said about a version."""
    path = _note(cache_dir, name, version)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(json.dumps(said), encoding="utf-8")
    draft.replace(path)


def recall(cache_dir: Path, name: str, version: str) -> str | None:
    """What the registry said about a version the last time; None if nothing is known."""
    try:
        said: object = json.loads(_note(cache_dir, name, version).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, str) else None


def cached_model(name: str, version: str, cache_dir: Path) -> Path:
    """The folder of a version's model on this machine, fetched at first use. Blocks.

    Several processes may share a cache. A model that was deleted and made anew under the same name has folders of its
    own, so that its version 1 is never mistaken for the old one.

    Args:
        name: registered model.
        version: its version.
        cache_dir: where models are kept.

    Raises:
        ModelVersionMissingError: the registry answers that there is no such version.
        RegistryError: it does not answer, and the version is not in the cache; or the model cannot be fetched.
    """
    home = cache_dir / quote(name, safe="")
    try:
        made_ms = model_version(name, version).creation_timestamp
    except ModelVersionMissingError:
        raise
    except RegistryError:
        known = sorted((path for path in home.glob(f"{version}-*") if _MODULE not in path.name), key=_last_used)
        if not known:
            raise
        return used(known[-1])
    folder = home / f"{version}-{made_ms}"
    if folder.exists():
        return used(folder)
    return _fetched(f"models:/{name}/{version}", folder)


def cached_module(name: str, version: str, cache_dir: Path) -> Path:
    """Like :func:`cached_model`; of a version that is served as pt2 the trainable module that was attached to it."""
    home = cache_dir / quote(name, safe="")
    try:
        source = module_uri(name, version)
    except ModelVersionMissingError:
        raise
    except RegistryError:
        known = sorted(home.glob(f"{version}{_MODULE}*"), key=_last_used)
        return used(known[-1]) if known else cached_model(name, version, cache_dir)
    if source == f"models:/{name}/{version}":
        return cached_model(name, version, cache_dir)
    folder = home / f"{version}{_MODULE}{source.rsplit('-', 1)[-1]}"
    return used(folder) if folder.exists() else _fetched(source, folder)


def _fetched(source: str, folder: Path) -> Path:
    """Fetch a model into its folder, which appears whole."""
    home = folder.parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=home) as scratch:
        fetched = download(source, Path(scratch))
        if not fetched.is_relative_to(scratch):  # a local store gives its own folder, which may go with the version
            fetched = Path(shutil.copytree(fetched, Path(scratch) / "copy"))
        try:
            fetched.rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was first
                raise
    _prune(home)
    return used(folder)


def used(folder: Path) -> Path:
    """Note that a model is in use; the ones used longest ago are deleted first."""
    os.utime(folder)
    return folder


def _prune(home: Path) -> None:
    kept = [path for path in home.iterdir() if not path.name.startswith(".")]
    for path in sorted(kept, key=_last_used)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except FileNotFoundError:  # pruned by another process just now
        return 0.0


def _note(cache_dir: Path, name: str, version: str) -> Path:
    return cache_dir / "said" / f"{quote(name, safe='')}-{version}.json"
