"""A builder for each team of a list: python examples/teams.py teams.yaml [destroy]

The list has each team's name and its settings, which are those of Pulumi.yaml. Every team gets a
stack of its own, whose files are kept beside the list.
"""

import sys
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi import automation

sys.path.insert(0, str(Path(__file__).parents[1]))

from components import DockerBuilder


def stack_of(team: str, settings: Any, folder: Path) -> automation.Stack:
    """The team's stack, made when there is none yet."""

    def program() -> None:
        builder = DockerBuilder("builder", settings)
        pulumi.export("dockerHost", builder.docker_host)
        pulumi.export("sshConfig", builder.ssh_config)

    workspace = automation.LocalWorkspaceOptions(work_dir=str(folder))
    return automation.create_or_select_stack(
        team, project_name="teams", program=program, opts=workspace
    )


def main(file: str, verb: str = "up") -> None:
    """Bring every team's builder up, and say where it is; or take all of them away."""
    for team, settings in yaml.safe_load(Path(file).read_text()).items():
        stack = stack_of(team, settings, Path(file).resolve().parent)
        if verb == "destroy":
            stack.destroy(on_output=print)
        else:
            result = stack.up(on_output=print)
            print(f"{team}: DOCKER_HOST={result.outputs['dockerHost'].value}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
