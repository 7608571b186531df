"""Stands in for a container engine: carries out a Dockerfile's steps in clean directory trees.

It is no engine. What is the same: the order of the steps, their environment, user and working directory, absolute paths
(each step runs in a `chroot` of its stage), what COPY takes through .dockerignore, read-only root and volumes at run
time. What is not: the base image. In its place stands a tree with this machine's Debian, read-only, and this machine's
Python of the wanted minor version at /usr/local, where the official image has it. Needs root and Linux.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from dockerfile_parse import DockerfileParser

OF_THE_BUILDER = (
    "PIP_CERT",
    "PIP_INDEX",
    "PIP_DEFAULT_TIMEOUT",
    "UV_",
    "SSL_CERT",
    "REQUESTS_CA",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
"""Where packages come from, and by which certificates, is the builder's own business."""
_SHARED = ("usr", "bin", "sbin", "lib", "lib64", "dev", "proc", "sys")
_ETC = ("passwd", "group", "shadow", "gshadow", "login.defs", "hosts", "resolv.conf", "nsswitch.conf", "ssl")
_ETC_MORE = ("ca-certificates", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "pip.conf", "alternatives", "default")


@dataclass
class Stage:
    """A stage while it is built, and what an image says about itself."""

    root: Path
    env: dict[str, str] = field(default_factory=dict[str, str])
    arguments: dict[str, str] = field(default_factory=dict[str, str])
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    healthcheck: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])

    def scope(self) -> dict[str, str]:
        """What ``${...}`` stands for."""
        return {**self.arguments, **self.env}


class Build:
    """Builds targets of one Dockerfile.

    Args:
        context: folder with Dockerfile and .dockerignore.
        folder: where the trees are made.
        arguments: build arguments, by name.
    """

    def __init__(self, context: Path, folder: Path, arguments: dict[str, str] | None = None) -> None:
        self._context = context
        self._folder = folder
        self._given = arguments or {}
        self._ignore = _patterns(context / ".dockerignore")
        parser = DockerfileParser(path=str(context / "Dockerfile"))
        self._steps: list[tuple[str, str]] = [
            (str(step["instruction"]), str(step["value"]))
            for step in parser.structure
            if step["instruction"] != "COMMENT"
        ]
        self._done: dict[str, Stage] = {}

    def stages(self) -> list[str]:
        """Names of the stages, in order."""
        return [value.split()[2] for instruction, value in self._steps if instruction == "FROM"]

    def target(self, name: str) -> Stage:
        """Carry out every step of a stage, after those of the stages that it needs."""
        if name in self._done:
            return self._done[name]
        base, steps = self._of(name)
        root = self._folder / name
        if base in self.stages():
            before = self.target(base)
            subprocess.run(["/bin/cp", "-a", "--no-target-directory", str(before.root), str(root)], check=True)
            own = {"env": dict(before.env), "labels": dict(before.labels), "arguments": dict(before.arguments)}
            stage = replace(before, root=root, **own)
        else:
            stage = _clean_tree(root)
        for instruction, value in steps:
            getattr(self, f"_{instruction.lower()}")(stage, value)
        self._done[name] = stage
        return stage

    def _of(self, name: str) -> tuple[str, list[tuple[str, str]]]:
        at = [index for index, step in enumerate(self._steps) if step[0] == "FROM"]
        for begin, end in zip(at, [*at[1:], len(self._steps)], strict=True):
            base, _as, found = self._steps[begin][1].split()
            if found == name:
                return base, self._steps[begin + 1 : end]
        raise LookupError(f"no stage {name!r}, expected one of {self.stages()}")

    def _arg(self, stage: Stage, value: str) -> None:
        name, _, default = value.partition("=")
        stage.arguments[name] = self._given.get(name, _unquoted(default))

    def _env(self, stage: Stage, value: str) -> None:
        stage.env.update(_pairs(_expand(value, stage.scope())))

    def _label(self, stage: Stage, value: str) -> None:
        stage.labels.update(_pairs(_expand(value, stage.scope())))

    def _workdir(self, stage: Stage, value: str) -> None:
        stage.workdir = _expand(value, stage.scope())
        _inside(stage, stage.workdir).mkdir(parents=True, exist_ok=True)

    def _user(self, stage: Stage, value: str) -> None:
        stage.user = value

    def _volume(self, stage: Stage, value: str) -> None:
        stage.volumes = tuple(json.loads(value))

    def _expose(self, stage: Stage, value: str) -> None:
        """Says something to people; changes nothing."""

    def _entrypoint(self, stage: Stage, value: str) -> None:
        stage.entrypoint = tuple(json.loads(value))

    def _cmd(self, stage: Stage, value: str) -> None:
        stage.command = tuple(json.loads(value))

    def _healthcheck(self, stage: Stage, value: str) -> None:
        stage.healthcheck = tuple(json.loads(value.partition("CMD ")[2]))

    def _run(self, stage: Stage, value: str) -> None:
        environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin", "HOME": "/root"}
        environment |= {name: text for name, text in os.environ.items() if name.upper().startswith(OF_THE_BUILDER)}
        environment |= stage.scope()
        done = in_tree(stage, ["/bin/sh", "-c", value], environment)
        if done.returncode != 0:
            raise RuntimeError(
                f"RUN {value}\nended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )

    def _copy(self, stage: Stage, value: str) -> None:
        words = value.split()
        source_root = self._context
        if words[0].startswith("--from="):
            source_root = self.target(words.pop(0).removeprefix("--from=")).root
        *sources, target = words
        to = _inside(stage, target if target.startswith("/") else f"{stage.workdir}/{target}")
        for source in sources:
            self._copy_one(source_root, source, to, into=target.endswith("/") or len(sources) > 1)

    def _copy_one(self, source_root: Path, source: str, to: Path, *, into: bool) -> None:
        path = source_root / source.lstrip("/")
        from_context = source_root == self._context
        if from_context and self._ignored(source):
            raise RuntimeError(f"COPY {source}: .dockerignore leaves it out")
        if path.is_dir():
            ignore = self._leave_out if from_context else None
            shutil.copytree(path, to, symlinks=True, dirs_exist_ok=True, ignore=ignore)
        else:
            to = to / path.name if into else to
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, to)

    def _leave_out(self, folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(self._context)
        return {name for name in names if self._ignored(str(inside / name))}

    def _ignored(self, path: str) -> bool:
        ignored = False
        for negated, pattern in self._ignore:
            parts = [path, *map(str, Path(path).parents)][:-1] or [path]
            if any(fnmatch.fnmatch(part, pattern) or fnmatch.fnmatch(f"/{part}", pattern) for part in parts):
                ignored = not negated
        return ignored


def in_tree(
    stage: Stage, command: list[str], environment: dict[str, str], *, read_only: bool = False, user: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command in the stage's tree, and wait for it."""
    whole = tree_command(stage, command, environment, read_only=read_only, user=user)
    return subprocess.run(whole, capture_output=True, text=True, timeout=900)


def tree_command(
    stage: Stage,
    command: list[str],
    environment: dict[str, str],
    *,
    read_only: bool = False,
    user: str | None = None,
    volumes: dict[str, Path] | None = None,
) -> list[str]:
    """The command line that does so: mounts of its own, chroot, exactly this environment.

    Args:
        stage: whose tree.
        command: what to run there.
        environment: all of it.
        read_only: mount the tree read-only, with a folder mounted on each volume.
        user: ``uid:gid``; None is the stage's.
        volumes: path in the tree -> folder.
    """
    root = shlex.quote(str(stage.root))
    lent = [name for name in _SHARED if Path(f"/{name}").is_dir() and not Path(f"/{name}").is_symlink()]
    python = shlex.quote(sys.base_prefix)
    lines = ["set -e", f"mount --bind {root} {root}"]
    lines += [f"mount --rbind /{name} {root}/{name}" for name in lent]
    # At its own place, too: an interpreter may look for its shared library there.
    lines += [f"mount --bind {python} {root}{place}" for place in ("/usr/local", python)]
    if read_only:
        lines.append(f"mount -o remount,bind,ro {root}")
    lines += [f"mount --bind {shlex.quote(str(folder))} {root}{path}" for path, folder in (volumes or {}).items()]
    variables = " ".join(shlex.quote(f"{name}={text}") for name, text in environment.items())
    inner = shlex.quote(f"cd {shlex.quote(stage.workdir)} && exec {shlex.join(command)}")
    who = user or stage.user
    lines.append(f"exec chroot --userspec={who} {root} /usr/bin/env -i {variables} /bin/sh -c {inner}")
    return ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c", "\n".join(lines)]


def added_bytes(stage: Stage, path: str = "/opt/fieldrepair") -> int:
    """Sum of the sizes of the files that the image adds to its base, each file once."""
    seen: dict[tuple[int, int], int] = {}
    for found in (stage.root / path.lstrip("/")).rglob("*"):
        about = found.lstat()
        if not found.is_dir() or found.is_symlink():
            seen[about.st_dev, about.st_ino] = about.st_size
    return sum(seen.values())


def _clean_tree(root: Path) -> Stage:
    """A base image's place: empty folders, a small /etc, and mount points for what the machine lends."""
    for name in (*_SHARED, "etc", "opt", "root", "tmp", "var", "var/lib", "run", "home"):
        if Path(f"/{name}").is_symlink():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).symlink_to(Path(f"/{name}").readlink())
        else:
            (root / name).mkdir(parents=True, exist_ok=True)
    (root / sys.base_prefix.lstrip("/")).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in (*_ETC, *_ETC_MORE):
        if Path(f"/etc/{name}").exists():
            subprocess.run(
                ["/bin/cp", "-aL", f"/etc/{name}", str(root / "etc" / name)], check=False, capture_output=True
            )
    return Stage(root)


def _inside(stage: Stage, path: str) -> Path:
    return stage.root / path.strip("/")


def _patterns(path: Path) -> list[tuple[bool, str]]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return [(line.startswith("!"), line.lstrip("!").replace("**/", "*/")) for line in lines if line and line[0] != "#"]


def _expand(text: str, scope: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: scope.get(found[1], ""), text)


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(text))


def _unquoted(text: str) -> str:
    return shlex.split(text)[0] if text and shlex.split(text) else ""
