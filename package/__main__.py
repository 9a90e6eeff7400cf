"""Hosts the component for Pulumi programs in other languages; the engine starts it."""

import json
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT))

import yaml  # noqa: E402
from pulumi.provider import main  # noqa: E402
from pulumi.provider.experimental.component import ComponentProvider  # noqa: E402

from components import DockerBuilder  # noqa: E402

_NAME, _VERSION = "docker-build-machine", "0.1.0"


def provider() -> ComponentProvider:
    """The provider; its schema has the descriptions of Pulumi.yaml."""
    hosting = ComponentProvider([DockerBuilder], _NAME, version=_VERSION)
    schema = json.loads(hosting.schema or "{}")
    described = yaml.safe_load((_ROOT / "Pulumi.yaml").read_text())["config"]
    for inputs in (resource["inputProperties"] for resource in schema["resources"].values()):
        for name, about in inputs.items():
            about["description"] = described[name]["description"]
    hosting.schema = json.dumps(schema)
    return hosting


if __name__ == "__main__":
    main(provider(), sys.argv[1:])
