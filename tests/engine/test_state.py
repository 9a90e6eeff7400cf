"""A state of an earlier version of this program is updated in place without a loss."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import yaml

from review.effects import effects_of
from review.plan import Plan
from scripts.release import version_of
from tests.engine.conftest import PROJECT, ROOT, Builder, passed, run

# One file per release: the `settings` of a stack and the `state` after `pulumi up`.
FOLDER = Path(__file__).parent / "states"
STATES = sorted(FOLDER.glob("*.json.gz"))
PASSPHRASE = "only for tests"
RECORD = os.environ.get("RECORD_STATE") == "yes"


def plan_upon(file: Path, folder: Path) -> Plan:
    """The changes that this version would make to the state."""
    kept = json.loads(gzip.decompress(file.read_bytes()))
    deployment = kept["state"]["deployment"]
    stack = deployment["resources"][0]["urn"].split("::")[0].removeprefix("urn:pulumi:")
    env = {"PULUMI_BACKEND_URL": f"file://{folder}", "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE}
    config, state = folder / "config.yaml", folder / "state.json"
    config.write_text(
        yaml.safe_dump(
            {
                "encryptionsalt": deployment["secrets_providers"]["state"]["salt"],
                "config": {f"{PROJECT}:{name}": value for name, value in kept["settings"].items()},
            }
        )
    )
    state.write_text(json.dumps(kept["state"]))
    project = folder / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text(f"name: {PROJECT}\nruntime: python\n")

    def pulumi(*words: str, cwd: Path = ROOT) -> str:
        return passed(run("pulumi", "--non-interactive", *words, cwd=cwd, env=env))

    pulumi("stack", "init", stack, "--no-select", cwd=project)
    pulumi("stack", "import", "--stack", stack, "--file", str(state), cwd=project)
    shown = pulumi(
        "preview", "--json", "--show-sames", "--stack", stack, "--config-file", str(config)
    )
    return Plan.of(json.loads(shown))


def test_an_update_keeps_cache_and_host_key_of_every_earlier_state(tmp_path: Path) -> None:
    assert STATES
    for file in STATES:
        folder = tmp_path / file.name
        folder.mkdir()
        plan = plan_upon(file, folder)
        (builder,) = plan.builders
        assert not plan.errors
        assert (builder.op("cache"), builder.op("host-key-1")) == ("same", "same"), file
        for role in ("cache", "host-key-1"):
            step = builder.steps[role]
            assert step.old["urn"].endswith(f"::builder-{role}")
            assert step.new["protect"]
        effects = effects_of(builder)
        assert not effects.deletes_cache
        # The provider, which earlier was next to the builder, is the same one.
        assert builder.op("host") in ("same", "update")
        assert plan.counts.get("delete", 0) == 0


def test_the_state_of_this_version_is_previewed_without_a_change(
    builder: Builder, tmp_path: Path
) -> None:
    """With RECORD_STATE=yes the state is kept in states/, for the tests of later versions."""
    exported = passed(builder._pulumi("stack", "export", "--stack", builder.stack))
    kept = {"settings": builder.settings, "state": json.loads(exported)}
    folder = FOLDER if RECORD else tmp_path
    file = folder / f"{version_of(ROOT)}.json.gz"
    # Without the time in its header, the same state gives the same file.
    file.write_bytes(gzip.compress(json.dumps(kept).encode(), mtime=0))
    plan = plan_upon(file, tmp_path)
    assert not plan.errors
    assert set(plan.counts) == {"same"}
