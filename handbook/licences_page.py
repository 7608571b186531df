"""The page of licences, made from what is installed: ``python -m handbook`` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("sidecar", "service", "monitoring", "plugin", "tracing", "umap")
"""Extras that people install to use the product; those for working on it are not listed."""


def dependencies() -> dict[str, Package]:
    """Every package that the extras bring, by its canonical name; what is not installed here is left out."""
    found: dict[str, Package] = {}
    for extra in EXTRAS:
        _collect("fieldrepair", {extra}, extra, found, set(), direct=True)
    found.pop("fieldrepair", None)
    return found


def licences_page() -> str:
    """The whole page, Markdown."""
    found = dependencies()
    return _INTRODUCTION + "\n".join(found[name].line() for name in sorted(found)) + "\n"


_ENVIRONMENT: dict[str, str] = {name: str(value) for name, value in default_environment().items()}
BUSINESS_SOURCE = "Business Source License 1.1"
NVIDIA = "NVIDIA's own terms"
SPDX = frozenset(
    (
        *("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CNRI-Python", "HPND", "ISC", "LGPL-3.0-only"),
        *("LLVM-exception", "MIT", "MIT-0", "MPL-2.0", "PSF-2.0", "Zlib"),
    )
)
"""Licences that somebody has looked at. One that is not here is an error until somebody has."""
OTHER_WORDS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD",
    "BSD License": "BSD",
    "Business Source License 1.1": BUSINESS_SOURCE,
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "LicenseRef-NVIDIA-Proprietary": NVIDIA,
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "NVIDIA Proprietary Software": NVIDIA,
    "Python Software Foundation License": "PSF-2.0",
}
"""What metadata says where it does not say SPDX."""
BY_HAND = {
    "cuda-toolkit": NVIDIA,  # a package without content, whose licence is that of what it brings
    "huey": "MIT",  # by its file LICENSE
    "skops": "MIT",  # by its file LICENSE
    "uvloop": "MIT OR Apache-2.0",  # by its files; two classifiers do not say how they belong together
}
"""Packages whose metadata says nothing, or too little."""

_INTRODUCTION = f"""\
# Licences

fieldrepair itself is licensed under the Apache License 2.0. This page lists what its extras bring along, from the
metadata of the packages as they are installed. It is made by `python -m handbook`; a test fails when a dependency comes
with a licence that nobody has looked at. It is no legal advice.

## What to know before production

**alibi-detect, in plain words.** The default drift detector comes from alibi-detect. Its releases from 0.11.5 on are
under the {BUSINESS_SOURCE}, which is not an open source licence. You may read, change and redistribute it,
and use it for anything that is not production. Production use is allowed to non-profit educational institutions only,
until four years after a release, when that release turns into Apache-2.0. Everybody else needs a licence from its
maker, Seldon, or does without it:

```sh
export FIELDREPAIR_DETECTORS=frouros_mmd,frouros_ks
```

chooses [tests from frouros](monitoring.md#licence-of-the-detector) (BSD-3-Clause). alibi-detect then stays installed,
but is not imported; a test holds that. A sidecar alone (extra `sidecar`) does not bring it at all.

**LGPL.** psycopg, the driver for PostgreSQL, is under LGPL-3.0: using it as the separate package that it is puts no
terms on your own code. Whoever passes on a changed psycopg must pass on the change.

**NVIDIA.** The packages `nvidia-*` and `cuda-toolkit` come with the default build of PyTorch for Linux. Their terms are
NVIDIA's own and no open source licence. A build of PyTorch for CPUs brings none of them.

**MPL.** certifi, orjson and tqdm are in part under the Mozilla Public License 2.0: changes to their own files stay
under it; your code does not.

## All packages

In bold: what fieldrepair itself depends on; the others come with those. "BSD" is where the metadata does not say which
one. To the right is the extra that brings a package; `service` brings all of `sidecar`, `monitoring` all of both, and
`plugin` all of the three. What is not installed where this page was made is missing: packages for other platforms, and
the extra `umap`.

| package | licence | extras |
|---|---|---|
"""


@dataclass
class Package:
    """An installed package."""

    name: str
    licence: str
    """An SPDX expression where the metadata says enough for one."""
    direct: bool = False
    """Whether fieldrepair itself names it as a dependency."""
    extras: list[str] = field(default_factory=list[str])

    def line(self) -> str:
        """Its row in the table."""
        name = f"**{self.name}**" if self.direct else self.name
        nested = ("sidecar", "service", "monitoring", "plugin")  # each brings those before it
        smallest = next((each for each in nested if each in self.extras), None)
        shown = [each for each in self.extras if each not in nested or each == smallest]
        return f"| {name} | {self.licence} | {', '.join(shown) if len(self.extras) < len(EXTRAS) else 'all'} |"


def licence_of(package: Distribution) -> str:
    """The licence of a package, as an SPDX expression where the metadata says enough.

    Raises:
        UnknownLicenceError: its metadata says what nobody has looked at yet.
    """
    if package.name in BY_HAND:
        return BY_HAND[package.name]
    told = list(_told(package))
    for text in told:
        if text in OTHER_WORDS:
            return OTHER_WORDS[text]
        if all(word in SPDX for word in re.split(r" AND | OR | WITH |[()]", text) if word.strip()):
            return text
    raise UnknownLicenceError(f"{package.name} {package.version}: its metadata says {told or 'nothing'}")


class UnknownLicenceError(Exception):
    """A package whose licence nobody has looked at yet."""


def _told(package: Distribution) -> Iterable[str]:
    """What the metadata says, the most exact first."""
    metadata = package.metadata
    yield from metadata.get_all("License-Expression") or ()
    for classifier in metadata.get_all("Classifier") or ():
        if classifier.startswith("License :: ") and classifier != "License :: OSI Approved":
            yield classifier.rpartition(" :: ")[2]
    yield from (text.strip() for text in metadata.get_all("License") or () if text.strip() and "\n" not in text)


def _collect(
    name: str, extras: set[str], brought_by: str, found: dict[str, Package], seen: set[str], *, direct: bool
) -> None:
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return  # the other platform's, or one that is not installed here
    key = canonicalize_name(name)
    if key != "fieldrepair":
        if key not in found:
            found[key] = Package(package.name, licence_of(package))
        found[key].direct |= direct
        if brought_by not in found[key].extras:
            found[key].extras.append(brought_by)
    mark = f"{key}{sorted(extras)}"
    if mark in seen:
        return
    seen.add(mark)
    for text in package.requires or ():
        requirement = Requirement(text)
        environments = [{**_ENVIRONMENT, "extra": extra} for extra in (extras or {""})]
        if requirement.marker is not None and not any(requirement.marker.evaluate(each) for each in environments):
            continue
        own = key == "fieldrepair" and canonicalize_name(requirement.name) != "fieldrepair"
        _collect(requirement.name, set(requirement.extras), brought_by, found, seen, direct=own)
