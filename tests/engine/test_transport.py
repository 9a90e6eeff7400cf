"""The transport `tls`: mutual TLS on the private network, end to end."""

from __future__ import annotations

from tests.engine.conftest import Builder, NewBuilder, passed, run
from tests.engine.laptop import Laptop


def test_tls_builds_and_lets_nobody_in_without_a_certificate(new_builder: NewBuilder) -> None:
    builder: Builder = new_builder(transport="tls")
    builder.up()
    builder.load_base()
    assert "CACHED" not in builder.build()
    assert builder.build().count("CACHED") == 3
    assert "unchanged" in builder.up("--expect-no-changes")

    with Laptop.with_kit(builder) as laptop:
        opened = laptop.builder("on")
        assert opened.returncode == 0
        assert "the socket cannot be forwarded (transport tls" in opened.stderr
        assert "Server" in passed(laptop.sh("docker version"))
        assert passed(laptop.builder("list")) == f"{builder.stack}-builder\tplain ssh\n"

    gateway = builder.container("gateway")

    def ask(url: str, *options: str) -> str:
        dial = ["docker", "exec", gateway, "/tls/docker", *options, "--host", url, "version"]
        result = run(*dial)
        return result.stdout + result.stderr

    verified = ("--tlsverify", "--tlscacert", "/tls/ca.pem")
    own = ("--tlscert", "/tls/cert.pem", "--tlskey", "/tls/key.pem")
    assert "Server:" in ask("tcp://docker:2376", *verified, *own)
    assert "certificate required" in ask("tcp://docker:2376", *verified)
    assert "Server:" not in ask("tcp://docker:2376")
    assert "Server:" not in ask("tcp://docker:2375")
    assert run("docker", "exec", gateway, "test", "-e", "/tls/ca-key.pem").returncode == 1

    builder.settings["keepCache"] = False
    builder.up()
    builder.ssh_end()
    passed(builder.pulumi("destroy"))
    assert run("docker", "volume", "inspect", builder.container("cache")).returncode != 0
