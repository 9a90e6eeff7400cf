"""Programs of containers that have Python and nothing else."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path


def packed(packages: dict[str, Path]) -> bytes:
    """Packages by their names, from these folders, as a zip file that Python imports from.

    The same files give the same bytes, because there are no dates and no compression.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as file:
        for package, folder in packages.items():
            for module in sorted(folder.glob("*.py")):
                file.writestr(zipfile.ZipInfo(f"{package}/{module.name}"), module.read_bytes())
    return content.getvalue()
