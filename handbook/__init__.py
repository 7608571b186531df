"""The documentation site: what `make docs` needs beside mkdocs, and the pages that are generated."""
