"""``python -m fieldrepair_plugin.deployments HOME NAME``: keep the deployment NAME in the folder HOME running."""

import asyncio
import logging
import sys
from pathlib import Path

from fieldrepair_plugin.deployments.keeper import Keeper
from fieldrepair_plugin.deployments.records import DeploymentFolder


def main(home: str, name: str) -> int:
    """Be the keeper until told to stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    folder = DeploymentFolder(Path(home), name)
    with folder.kept():
        asyncio.run(Keeper(folder).run())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
