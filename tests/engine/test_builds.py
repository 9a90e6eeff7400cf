"""Every form of `docker build` that a fresh Docker has works here, in each way to a builder."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import socket
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engine.buildkit_calls import OPENING, call, errors, field, step
from tests.engine.conftest import (
    BASE_IMAGE,
    REGISTRY_IMAGE,
    Builder,
    NewBuilder,
    Result,
    free_port,
    passed,
    run,
    until,
)
from tests.engine.figures import LONG
from tests.engine.laptop import Laptop
from tests.engine.test_rootless import FOREIGN, emulation, foreign_program, sole_emulation

WAYS = ("kit", "plain ssh", "build key")
REFUSED = "is not allowed: a key of role build"
SPDX = "https://spdx.dev/Document"

# Both steps have another result each time they run.
DOCKERFILE = f"""\
# Where the build begins
ARG BASE={BASE_IMAGE}
FROM ${{BASE}} AS made
COPY greeting /
RUN cat /proc/sys/kernel/random/uuid >/made

FROM ${{BASE}}
COPY --from=made /made /greeting /
RUN cat /proc/sys/kernel/random/uuid >/finished
"""
# Without a step that runs, which a host that emulates nothing cannot do for another platform.
COPIES = "FROM scratch\nCOPY greeting /\n"
# With a step that runs on each platform, one of which is foreign everywhere.
RUNS = f"""\
FROM {BASE_IMAGE} AS on-amd64
RUN echo of this platform
FROM on-amd64 AS on-arm64
FROM scratch AS on-{FOREIGN}
COPY program /
RUN ["/program"]
FROM on-${{TARGETARCH}}
"""
# A scanner that follows BuildKit's protocol.
SCAN = f"""\
#!/bin/sh
set -eu
name=$(cat "$BUILDKIT_SCAN_SOURCE/greeting")
printf '{{"_type": "https://in-toto.io/Statement/v0.1", "predicateType": "{SPDX}",
 "predicate": {{"spdxVersion": "SPDX-2.3", "name": "%s"}}}}' "$name" \\
	>"$BUILDKIT_SCAN_DESTINATION/greeting.spdx.json"
"""
SCANNER = f'FROM {BASE_IMAGE}\nCOPY --chmod=755 scan /\nENTRYPOINT ["/scan"]\n'
# Bytes, in base64, of what a frontend hears.
LONGEST = 12_000
BAKE = """\
group "default" {
  targets = ["whole", "part"]
}
target "whole" {
  tags = ["baked:whole"]
}
target "part" {
  target = "made"
  tags = ["baked:part"]
}
"""


def write_project(folder: Path) -> Path:
    """A project with everything that the builds need."""
    for name, content in (
        ("Dockerfile", DOCKERFILE),
        ("greeting", "hello"),
        ("copies/Dockerfile", COPIES),
        ("copies/greeting", "hello"),
        ("scanner/Dockerfile", SCANNER),
        ("scanner/scan", SCAN),
        ("other/file", "from a named context"),
        ("docker-bake.hcl", BAKE),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@dataclass(frozen=True)
class Client:
    """One way to the builder, in a folder with the project."""

    laptop: Laptop
    way: str
    folder: str

    def try_sh(self, script: str, **options: Any) -> Result:
        """Run a shell script in the folder."""
        plain = f"export DOCKER_HOST=ssh://{self.laptop.alias};" if self.way == "plain ssh" else ""
        return self.laptop.sh(f"{plain} set -eu; cd {self.folder}\n{script}", **options)

    def sh(self, script: str, **options: Any) -> str:
        """Run a shell script that must succeed in the folder; return its output."""
        return passed(self.try_sh(script, **options))

    def archive(self, script: str) -> tarfile.TarFile:
        """The archive that the script prints."""
        content = base64.b64decode(self.sh(f"{{ {script}\n}} | base64"))
        return tarfile.open(fileobj=io.BytesIO(content))

    def build_id(self, *options: str) -> str:
        """Build the project; return the name of the build in BuildKit's history."""
        self.sh(f"docker build --quiet --metadata-file built {' '.join(options)} .")
        return str(json.loads(self.sh("cat built"))["buildx.build.ref"]).rpartition("/")[2]


@pytest.fixture(scope="module")
def builder(new_builder: NewBuilder) -> Builder:
    """With containerd's image store, which most of these need, and a key of role build."""
    ready = new_builder(imageStore="containerd")
    ready.add_key("ci", role="build")
    ready.up()
    ready.load_base()
    return ready


@pytest.fixture(scope="module")
def laptops(builder: Builder) -> Iterator[dict[str, Laptop]]:
    """A laptop for each key."""
    with Laptop.with_kit(builder) as of_admin, Laptop.with_kit(builder, "ci") as of_ci:
        for laptop in (of_admin, of_ci):
            passed(laptop.builder("on"))
        yield {"kit": of_admin, "plain ssh": of_admin, "build key": of_ci}


@pytest.fixture(scope="module", params=WAYS)
def client(
    request: pytest.FixtureRequest,
    laptops: dict[str, Laptop],
    tmp_path_factory: pytest.TempPathFactory,
) -> Client:
    """Each way to the builder."""
    way = str(request.param)
    folder = f"/home/rootless/project-{way.replace(' ', '-')}"
    laptops[way].put(write_project(tmp_path_factory.mktemp("project")), folder)
    return Client(laptops[way], way, folder)


@pytest.fixture(scope="module")
def files(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A web server on the builder's own loopback address, with the project as archive and git."""
    www = tmp_path_factory.mktemp("www")
    project = write_project(tmp_path_factory.mktemp("source") / "project")
    shutil.make_archive(str(www / "project"), "gztar", project)
    who = ("-c", "user.name=ada", "-c", "user.email=ada@example.org")
    for words in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "."),
        (*who, "commit", "--quiet", "--message=project"),
        ("clone", "--quiet", "--bare", ".", str(www / "project.git")),
        # What a server without git's own protocol needs.
        ("-C", str(www / "project.git"), "update-server-info"),
    ):
        passed(run("git", *words, cwd=project))
    serve = (BASE_IMAGE, "httpd", "-f", "-p", "8000", "-h", "/www")
    passed(builder.docker("create", "--name", "files", "--publish", "127.0.0.1:8000:8000", *serve))
    passed(builder.docker("cp", str(www), "files:/www"))
    passed(builder.docker("start", "files"))
    yield "http://localhost:8000"
    builder.docker("rm", "--force", "files")


@pytest.fixture(scope="module")
def near_registry(builder: Builder) -> Iterator[str]:
    """A registry that only clients reach."""
    name, address = f"{builder.stack}-registry", f"127.0.0.1:{free_port()}"
    publish = ("--publish", f"{address}:5000")
    passed(run("docker", "run", "--detach", "--name", name, *publish, REGISTRY_IMAGE))
    yield address.replace("127.0.0.1", "localhost")
    run("docker", "rm", "--force", "--volumes", name)


def blob(archive: tarfile.TarFile, descriptor: dict[str, Any]) -> Any:
    """The content of a descriptor of an OCI layout."""
    file = archive.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
    assert file
    return json.load(file)


def manifests(archive: tarfile.TarFile) -> list[dict[str, Any]]:
    """The descriptors of an image's manifests, in an OCI layout with one image."""
    index = archive.extractfile("index.json")
    assert index
    [image] = json.load(index)["manifests"]
    content = blob(archive, image)
    return list(content["manifests"]) if "manifests" in content else [image]


def attestations(archive: tarfile.TarFile) -> dict[str, Any]:
    """The predicates of an image's attestations, by type."""
    return {
        statement["predicateType"]: statement["predicate"]
        for descriptor in manifests(archive)
        if descriptor.get("annotations", {}).get("vnd.docker.reference.type")
        for layer in blob(archive, descriptor)["layers"]
        for statement in [blob(archive, layer)]
    }


def test_provenance_in_full_is_with_the_image(client: Client) -> None:
    client.sh("docker build --provenance=mode=max --tag proven .")
    [(kind, provenance)] = attestations(client.archive("docker save proven")).items()
    assert kind.startswith("https://slsa.dev/provenance/")
    # Only mode=max has the steps.
    assert "random/uuid >/made" in json.dumps(provenance)


def test_an_sbom_by_a_scanner_of_ones_own_is_with_the_image(client: Client) -> None:
    client.sh("docker build --tag scanner scanner")
    client.sh("docker build --attest type=sbom,generator=scanner --tag listed .")
    assert attestations(client.archive("docker save listed"))[SPDX]["name"] == "hello"
    # The name that --sbom=true uses, so nothing is pulled.
    client.sh("docker tag scanner docker/buildkit-syft-scanner:stable-1")
    client.sh("docker build --sbom=true --provenance=false --tag listed .")
    assert [*attestations(client.archive("docker save listed"))] == [SPDX]


def test_an_exported_cache_fills_a_cold_builder(
    builder: Builder, client: Client, registry: str
) -> None:
    image = f"{registry}/cached"
    caches = [
        (f"type=registry,mode=max,ref={image}:cache", f"type=registry,ref={image}:cache"),
        ("type=local,mode=max,dest=cache", "type=local,src=cache"),
        (f"type=inline --push --tag {image}:inline", f"type=registry,ref={image}:inline"),
    ]
    build, results = "docker build --output results", "cat results/made results/finished"
    for to, origin in caches if LONG or client.way == "kit" else caches[:2]:
        client.sh(f"docker build --no-cache --cache-to {to} .")
        before = client.sh(f"{build} . && {results}")
        assert "Total" in passed(builder.docker("builder", "prune", "--all", "--force"))
        assert client.sh(f"{build} --cache-from {origin} . && {results}") == before


def test_one_image_is_of_two_platforms(client: Client, registry: str) -> None:
    tag = f"{registry}/two"
    platforms = "--platform linux/amd64,linux/arm64"
    client.sh(f"docker build {platforms} --push --tag {tag} copies")
    client.sh(f"docker pull --platform linux/arm64 {tag}")
    archive = client.archive(f"docker build {platforms} --output type=oci copies")
    built = [descriptor["platform"]["architecture"] for descriptor in manifests(archive)]
    assert built == ["amd64", "arm64", "unknown", "unknown"]


def test_steps_run_on_two_platforms_where_the_host_emulates_one(
    builder: Builder, laptops: dict[str, Laptop], registry: str, tmp_path: Path
) -> None:
    for name, content in (("Dockerfile", RUNS.encode()), ("program", foreign_program())):
        (tmp_path / "runs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "runs" / name).write_bytes(content)
    (tmp_path / "runs" / "program").chmod(0o755)
    laptop = laptops["build key"]
    laptop.put(tmp_path / "runs", "/home/rootless/runs")
    native = passed(builder.docker("version", "--format", "{{.Server.Arch}}")).strip()
    tag, platforms = f"{registry}/runs", f"--platform linux/{native},linux/{FOREIGN}"
    build = f"docker build --no-cache --progress=plain {platforms} --push --tag {tag} ~/runs 2>&1"
    with sole_emulation(), emulation(tmp_path):
        built = passed(laptop.sh(build))
        platform = f"--platform linux/{FOREIGN}"
        passed(laptop.sh(f"docker pull {platform} {tag}"))
        started = laptops["kit"].sh(f"docker run --rm {platform} {tag} /program")
        assert passed(started) == f"of {FOREIGN}\n"
    assert f" of {FOREIGN}\n" in built
    assert " of this platform\n" in built
    index = passed(builder.in_daemon("docker", "buildx", "imagetools", "inspect", tag))
    assert {*re.findall(r"Platform: +(\S+)", index)} == {
        f"linux/{native}",
        f"linux/{FOREIGN}",
        "unknown/unknown",
    }


def test_a_build_goes_to_files(client: Client) -> None:
    client.sh(
        "docker build --output type=local,dest=folder --output type=tar,dest=tar"
        " --output type=oci,dest=oci --output type=docker,dest=docker,name=carried ."
    )
    assert client.sh("cat folder/greeting; tar -xOf tar greeting") == "hellohello"
    assert len(manifests(client.archive("cat oci"))) == 1
    assert "Loaded image: carried:latest" in client.sh("docker load --input docker")


def test_what_was_built_is_in_files_and_annotations(client: Client) -> None:
    client.sh(
        "docker build --load --metadata-file metadata --iidfile id --tag described"
        " --annotation org.opencontainers.image.title=greeting ."
    )
    metadata = json.loads(client.sh("cat metadata"))
    digest = client.sh("cat id")
    assert metadata["containerimage.digest"] == digest
    assert metadata["image.name"] == "docker.io/library/described:latest"
    assert "buildType" in metadata["buildx.build.provenance"]
    assert client.sh("docker image inspect --format {{.Id}} described").strip() == digest
    archive = client.archive("docker save described")
    annotations = blob(archive, manifests(archive)[0])["annotations"]
    assert annotations["org.opencontainers.image.title"] == "greeting"


def test_a_dockerfile_is_checked_and_outlined(client: Client) -> None:
    assert "Check complete, no warnings found." in client.sh("docker build --check .")
    wrong = client.try_sh("docker build --check -", input="from scratch\nCOPY a a\n")
    assert "FromAsCasing" in wrong.stdout or "ConsistentInstructionCasing" in wrong.stdout
    outline = client.sh("docker build --call=outline .")
    assert f"BASE        {BASE_IMAGE}" in outline
    assert "made" in client.sh("docker build --call=targets .")


def test_contexts_have_names(client: Client) -> None:
    client.sh("docker build --tag scanner scanner")
    archive = client.archive(
        "docker build --build-context other=./other --build-context image=docker-image://scanner"
        " --file - --output - . <<end\n"
        "FROM scratch\nCOPY --from=other file /\nCOPY --from=image scan /\nend"
    )
    assert {"file", "scan"} <= set(archive.getnames())


def test_bake_builds_all_targets(client: Client) -> None:
    client.sh("docker buildx bake --set '*.labels.by=bake'")
    labels = client.sh("docker image inspect --format {{.Config.Labels.by}} baked:whole baked:part")
    assert labels == "bake\nbake\n"


def test_history_has_the_build(client: Client) -> None:
    build = client.build_id()
    history = "docker buildx history"
    assert "Build Steps:" in client.sh(f"{history} inspect {build}")
    assert "RUN cat /proc/sys/kernel/random/uuid >/made" in client.sh(
        f"{history} logs {build} 2>&1"
    )
    client.sh(f"{history} export --output exported {build}")
    assert "oci-layout" in client.archive("gunzip -c exported").getnames()
    if client.way != "build key":
        assert build in client.sh(f"{history} ls")
        assert "finished" in client.sh(f"{history} logs 2>&1")
        return
    for words in ("ls", "logs", f"rm {build}", "rm --all"):
        refused = client.try_sh(f"{history} {words}")
        assert refused.returncode != 0
        assert REFUSED in refused.stderr


def answer(path: Path, sent: bytes, last: bytes) -> str:
    """What comes from a socket for these bytes, up to the last ones or to the end."""
    heard = b""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(30)
        asking.connect(str(path))
        asking.sendall(sent)
        while last not in heard and (more := asking.recv(65536)):
            heard += more
    return heard.decode(errors="replace")


@pytest.mark.parametrize(
    ("key", "role", "finds"),
    [("ada", "docker", True), ("ci", "guard", False)],
    ids=["admin", "build"],
)
def test_only_an_admin_finds_the_build_of_an_image(
    builder: Builder,
    laptops: dict[str, Laptop],
    tmp_path: Path,
    key: str,
    role: str,
    finds: bool,
) -> None:
    """A client that finds it can read the build's log."""
    folder = f"/home/rootless/private-{role}"
    laptops["kit"].put(write_project(tmp_path / "project"), folder)
    build = Client(laptops["kit"], "kit", folder).build_id("--tag private")
    laptop = laptops["kit" if key == "ada" else "build key"]
    look = "docker image inspect --format '{{.Id}} {{json .Identity.Build}}' private"
    digest, _, inspected = passed(laptop.sh(look)).partition(" ")
    path = builder.folder / f"{role}-raw.sock"
    images = b"GET /v1.55/images/json?manifests=1&identity=1 HTTP/1.0\r\n\r\n"
    info = "/containerd.services.content.v1.Content/Info"
    with builder.connection(f"-L{path}:/run/builder/{role}.sock", key=key):
        assert until(path.exists)
        answers = [
            inspected,
            answer(path, images, last=b"no last bytes"),
            answer(path, OPENING + call(info, field(1, digest)), last=b"createdAt"),
        ]
    assert [build in text for text in answers] == [finds] * 3
    assert ('"Ref":"xxxxx' in inspected) != finds


# A frontend that sends the file of calls, waits for the ends of four answers (HEADERS that end a
# stream), and returns what it heard as an error with a fixed length.
FRONTEND = f"""\
FROM {BASE_IMAGE}
COPY calls return /
COPY --chmod=755 <<"end" /talk
#!/bin/sh
exec 3<&0
cat <&3 >/heard &
cat /calls
ended() {{ od -An -v -tx1 /heard | tr -d ' \\n' | grep -o 0105000000 | wc -l; }}
until [ "$(ended)" -ge 4 ]; do sleep 0.2; done
size=$(($(wc -c </return) + {LONGEST}))
{{ cat /return; base64 -w 0 /heard; printf '%{LONGEST}s' ''; }} | head -c "$size"
sleep 2
end
ENTRYPOINT ["/talk"]
"""


def test_a_frontend_in_a_container_gets_nothing_that_the_guard_refuses(
    laptops: dict[str, Laptop], tmp_path: Path
) -> None:
    """It talks to BuildKit itself, so the guard does not see its steps."""
    bridge = "/moby.buildkit.v1.frontend.LLBBridge/"
    look = "echo it is in $(cat /proc/self/cgroup)"
    steps = {
        1: step(BASE_IMAGE, look),
        3: step(BASE_IMAGE, look, "/x"),
        5: step(BASE_IMAGE, look, "x.slice:docker:"),
        7: step(BASE_IMAGE, look, host_network=True),
    }
    solves = b"".join(call(bridge + "Solve", steps[number], number) for number in steps)
    # ReturnRequest.error.message
    failed = call(bridge + "Return", field(2, b"\x08\x02", field(2, b" " * LONGEST)), 9)
    for name, content in (
        ("calls", OPENING + solves),
        ("return", failed[:-LONGEST]),
        ("Dockerfile", FRONTEND.encode()),
    ):
        (tmp_path / name).write_bytes(content)
    laptop = laptops["build key"]
    laptop.put(tmp_path, "/home/rootless/frontend")
    passed(laptop.sh("docker build --tag frontend ~/frontend"))
    build = laptop.sh("docker build --progress=plain -", input="# syntax=frontend\n").stderr
    groups = re.findall("it is in ([^$].*)", build)
    # Each step has a name of its own.
    assert len(groups) == 3
    assert len({re.sub("[a-z0-9]{25}", "STEP", group) for group in groups}) == 1
    [heard] = re.findall("failed to solve: ([A-Za-z0-9+/=]+)", build)
    refused = errors(base64.b64decode(heard))
    assert [*refused] == [7]
    assert "network.host is not allowed" in refused[7]


def test_imagetools_copies_and_inspects(client: Client, near_registry: str) -> None:
    client.sh(
        "rm -rf layout; docker build --platform linux/amd64,linux/arm64"
        " --output type=oci,tar=false,dest=layout copies"
    )
    [image] = json.loads(client.sh("cat layout/index.json"))["manifests"]
    tool, tag = "docker buildx imagetools", f"{near_registry}/two"
    client.sh(f"{tool} create --tag {tag}:1 oci-layout://layout@{image['digest']}")
    client.sh(f"{tool} create --tag {tag}:2 {tag}:1")
    shown = client.sh(f"{tool} inspect {tag}:2")
    assert image["digest"] in shown
    assert "linux/arm64" in shown


def test_the_same_source_date_gives_the_same_digest(client: Client, registry: str) -> None:
    # Into the builder's own store only without unpacking it there.
    outputs = [
        f"type=registry,name={registry}/same",
        "type=oci,dest=same",
        "type=image,unpack=false",
    ]
    for output in outputs if LONG or client.way == "kit" else outputs[:1]:
        digests = []
        for epoch in (1700000000, 1700000000, 1600000000):
            client.sh(
                f"SOURCE_DATE_EPOCH={epoch} docker build --no-cache --provenance=false copies"
                f" --metadata-file metadata --output {output},rewrite-timestamp=true"
            )
            digests.append(json.loads(client.sh("cat metadata"))["containerimage.digest"])
        assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    "source", ["project.tar.gz", "project.git#main", "project.git#main:copies"]
)
def test_the_context_is_elsewhere(client: Client, files: str, source: str) -> None:
    archive = client.archive(f"docker build --output - '{files}/{source}'")
    greeting = archive.extractfile("greeting")
    assert greeting
    assert greeting.read() == b"hello"
