"""The stack configuration that `make up` writes for this machine."""

from machine.stack_config import merged

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


def test_what_was_set_on_this_machine_stays() -> None:
    local = {"config": {"docker-build-machine:keys": [{"name": "eve", "publicKey": "k"}]}}
    settings = merged({"config": {}}, local, "ada", "ssh-ed25519 AAAA", IMAGES)
    assert settings["config"]["docker-build-machine:keys"] == [{"name": "eve", "publicKey": "k"}]
    assert merged({"config": {}}, settings, "ada", "x", IMAGES) == settings
