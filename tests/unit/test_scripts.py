"""The stack configuration that `make up` writes for this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.stack_config import merged
from scripts.team import listening, main
from tests.unit.conftest import KEY, OTHER_KEY, ROOT

IMAGES = {"daemonImage": "d:1", "gatewayImage": "g:1"}


def test_a_first_key_is_added_and_the_salt_kept() -> None:
    committed = {"config": {"docker-build-machine:host": "unix:///x.sock"}}
    settings = merged(committed, {"encryptionsalt": "v1"}, "ada", "ssh-ed25519 AAAA", IMAGES)
    assert settings == {
        "encryptionsalt": "v1",
        "config": {
            "docker-build-machine:host": "unix:///x.sock",
            "docker-build-machine:keys": [{"name": "ada", "publicKey": "ssh-ed25519 AAAA"}],
            "docker-build-machine:daemonImage": "d:1",
            "docker-build-machine:gatewayImage": "g:1",
        },
    }


def test_local_settings_are_kept() -> None:
    local = {"config": {"docker-build-machine:keys": [{"name": "eve", "publicKey": "k"}]}}
    settings = merged({"config": {}}, local, "ada", "ssh-ed25519 AAAA", IMAGES)
    assert settings["config"]["docker-build-machine:keys"] == [{"name": "eve", "publicKey": "k"}]
    assert merged({"config": {}}, settings, "ada", "x", IMAGES) == settings


PROC_NET_TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:08AE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 0100007F:08B0 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0
0.0.0.0:2224->2222/tcp, :::2224->2222/tcp
"""


def test_ports_in_use_are_found() -> None:
    assert listening(PROC_NET_TCP) == {2222, 2224}


def test_a_team_file_has_only_differences_and_its_own_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "Pulumi.yaml", tmp_path)
    (tmp_path / "key.pub").write_text(f"{KEY} ada@laptop\n")
    (tmp_path / "other.pub").write_text(f"{OTHER_KEY} ada@laptop\n")
    output = subprocess.CompletedProcess([], 0, stdout=PROC_NET_TCP)
    monkeypatch.setattr("scripts.team.subprocess.run", lambda *_, **__: output)
    keys = [str(tmp_path / "key.pub"), str(tmp_path / "other.pub")]
    for name, host in (("web", ""), ("api", ""), ("far", "ssh://ops@build.example")):
        main(str(tmp_path), str(tmp_path), name, host, KEY if host else "", *keys)
    written = {
        name: yaml.safe_load((tmp_path / f"Pulumi.{name}.yaml").read_text())["config"]
        for name in ("web", "api", "far")
    }
    project = "docker-build-machine"
    assert written["web"] == {
        f"{project}:sshPort": 2223,
        f"{project}:keys": [
            {"name": "ada@laptop", "publicKey": KEY},
            {"name": "ada@laptop-2", "publicKey": OTHER_KEY},
        ],
    }
    assert written["api"][f"{project}:sshPort"] == 2225
    assert written["far"][f"{project}:host"] == "ssh://ops@build.example"
    assert written["far"][f"{project}:sshPort"] == 2223
    with pytest.raises(SystemExit, match="must be 1 to 40 lowercase letters"):
        main(str(tmp_path), str(tmp_path), "A b", "", "", *keys)
    with pytest.raises(SystemExit, match="needs HOST_KEY"):
        main(str(tmp_path), str(tmp_path), "x", "ssh://a@b", "", *keys)
