"""The pages of the documentation: links work, and commands, options and settings exist."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

import pytest
import yaml

from client.__main__ import VERBS
from components.settings import StackSettings
from tests.unit.conftest import KEY, ROOT, Run

KIT_PAGE = ROOT / "client" / "kit" / "README.template.md"
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "offline").glob("*.md"),
        *(ROOT / "examples").glob("*.md"),
        KIT_PAGE,
    ]
)
_FOLDERS = "bench client components docs examples offline package policy review scripts tests"
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.*)$", re.MULTILINE)
_PATH = re.compile(rf"(?<![\w./~-])(?:\.\./)?((?:{_FOLDERS.replace(' ', '|')})/[\w./*-]*)")
# Paths that are created later, and placeholders for versions.
_MADE = re.compile(r"/\.venv|X\.Y\.Z")
_MAKE = re.compile(r"\bmake ([a-z]+)")
_CLIENT = re.compile(r"python -m client ([a-z]+)([^\n|#>]*)")
_KIT = re.compile(r"(?:^|[/(]|sh |&& )builder ([a-z]+)", re.MULTILINE)
_CONFIG = re.compile(r"pulumi config (?:set|rm|get) (?:--path |--secret )*'?([A-Za-z.\[\]0-9]+)")
_OUTPUT = re.compile(r"pulumi stack output ([A-Za-z]+)")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*$", re.MULTILINE)
_OPTION = re.compile(r"(?<!\S)--([a-z-]+)")
# camelCase names of Pulumi, Docker, the stand-in plugins and tokens, which are not settings.
_FOREIGN = {"memorySwap", "mustRun", "pulumiConfig", "virtualenv"}
_FOREIGN |= {"branchName", "deploymentEnvironmentUuid", "repositoryUuid"}


@dataclass(frozen=True)
class Page:
    """A page and the code in it."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path, path.read_text())

    @property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        return [" ".join(span.split()) for span in _SPAN.findall(self.prose)]

    @property
    def code(self) -> str:
        """All code without its comments, one command per line."""
        blocks = [block.replace("\\\n", " ") for block in _FENCE.findall(self.text)]
        return _COMMENT.sub("", "\n".join([*blocks, *self.spans]))

    @property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub and GitLab make them."""
        plain = (
            re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", h) for h in _HEADING.findall(self.prose)
        )
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.fixture(params=PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Page:
    return Page.read(request.param)


@cache
def tracked() -> frozenset[str]:
    """The repository's files and folders."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    files = [Path(name) for name in listed if (ROOT / name).exists()]
    return frozenset(str(part) for file in files for part in (file, *file.parents))


def exists(path: Path) -> bool:
    return str(path.resolve().relative_to(ROOT)) in tracked()


def test_links_lead_to_files_and_headings(page: Page) -> None:
    dead = []
    for link in _LINK.findall(page.prose):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.path.parent / name
        there = not name or exists(target)
        if anchor and there:
            there = anchor in (Page.read(target) if name else page).anchors
        if not there:
            dead.append(link)
    assert not dead


def test_paths_exist(page: Page) -> None:
    def is_there(path: str) -> bool:
        pattern = path.rstrip("./") if not path.endswith("*") else path
        places = [(ROOT, pattern), (page.path.parent, pattern)]
        return any(exists(found) for place, name in places for found in place.glob(name))

    named = [path for path in _PATH.findall(page.code) if not _MADE.search(path)]
    assert not [path for path in named if not is_there(path)]


@cache
def make_words() -> frozenset[str]:
    makefile = (ROOT / "Makefile").read_text()
    return frozenset(re.findall(r"^([a-z]+): ##", makefile, re.MULTILINE))


def test_make_words_exist(page: Page) -> None:
    removed = {"who"} if page.path.name == "CHANGELOG.md" else set()
    assert set(_MAKE.findall(page.code)) <= make_words() | removed


def test_client_verbs_and_their_options_exist(page: Page) -> None:
    for verb, rest in _CLIENT.findall(page.code):
        assert verb in VERBS
        parser = argparse.ArgumentParser()
        VERBS[verb].add_arguments(parser)
        known = {"--stack", "--config-file", *parser._option_string_actions}
        assert {f"--{option}" for option in _OPTION.findall(rest)} <= known


def kit_words() -> set[str]:
    """The verbs in the usage of the kit's command."""
    (usage,) = (
        text[text.index("Usage: builder VERB") :]
        for path in (ROOT / "client").rglob("*")
        if path.is_file() and "Usage: builder VERB" in (text := path.read_text(errors="replace"))
    )
    return set(re.findall(r"^  ([a-z]+)  +", usage.partition("\nTEXT")[0], re.MULTILINE))


def test_words_of_the_kit_exist(page: Page) -> None:
    words = kit_words()
    assert {"on", "off", "doctor", "install"} <= words
    assert set(_KIT.findall(page.code)) <= words


@cache
def settings() -> dict[str, str]:
    """The description of each setting."""
    config = yaml.safe_load((ROOT / "Pulumi.yaml").read_text())["config"]
    return {name: about["description"] for name, about in config.items()}


@cache
def parts() -> set[str]:
    """The names inside settings that are maps or lists; their descriptions must mention all."""
    return set(re.findall(r"[A-Za-z]+", " ".join(settings().values())))


_exports: set[str] = set()


@pytest.fixture
def exports(run_program: Callable[..., Run]) -> set[str]:
    """Everything that a stack can export; the program runs once for all pages."""
    if not _exports:
        hosts = [{"name": name, "host": f"ssh://a@{name}", "hostKey": KEY} for name in ("a", "b")]
        registry = {"host": "a", "name": "10.0.0.5"}
        _exports.update(run_program(host=None, hosts=hosts, registry=registry).exports)
    return _exports


def test_settings_and_exports_exist(page: Page, exports: set[str]) -> None:
    for path in _CONFIG.findall(page.code):
        first, *rest = re.sub(r"\[\d+\]", "", path).split(".")
        assert first in settings(), path
        assert set(rest) <= parts(), path
    assert set(_OUTPUT.findall(page.code)) <= exports
    named = {span for span in page.spans if re.fullmatch(r"[a-z]+(?:[A-Z][a-z]+)+", span)}
    assert named <= {*settings(), *parts(), *exports, *_FOREIGN}
    given = {span.partition(":")[0] for span in page.spans if re.fullmatch(r"[a-z]\w*: \S+", span)}
    yaml_of_ci = {"run", "services", "image", "oidc"}
    claims_of_tokens = {"repository", "ref", "event_name", "pipeline_source"}
    assert given <= {*settings(), *parts(), *yaml_of_ci, *claims_of_tokens}


def test_every_make_word_is_on_a_page() -> None:
    shown = {word for path in PAGES for word in _MAKE.findall(Page.read(path).code)}
    assert make_words() - shown <= {"help"}


BAD_PAGES: list[tuple[str, Callable[[Page], None]]] = [
    ("[a](nowhere.md)", test_links_lead_to_files_and_headings),
    ("# A b\n\n[a](#a-c)", test_links_lead_to_files_and_headings),
    ("`scripts/nothing`", test_paths_exist),
    ("```\nmake coffee\n```\n", test_make_words_exist),
    ("`python -m client lunch`", test_client_verbs_and_their_options_exist),
    ("`python -m client kit --keys ada`", test_client_verbs_and_their_options_exist),
    ("`builder up`", test_words_of_the_kit_exist),
]


@pytest.mark.parametrize(("text", "check"), BAD_PAGES)
def test_the_checks_find_wrong_pages(text: str, check: Callable[[Page], None]) -> None:
    with pytest.raises(AssertionError):
        check(Page(ROOT / "docs" / "page.md", text))


@pytest.mark.parametrize(
    "text", ["`pulumi config set colour red`", "`pulumi stack output colour`", "`hostColour`"]
)
def test_the_check_of_settings_finds_wrong_rows(text: str, exports: set[str]) -> None:
    with pytest.raises(AssertionError):
        test_settings_and_exports_exist(Page(ROOT / "docs" / "page.md", text), exports)


WRONG: dict[str, str] = {
    "buildkitImage": "buildkit:",
    "cacheSize": "plenty",
    "cpus": "many",
    "daemonImage": "docker:",
    "drainTime": "soon",
    "gatewayImage": "Gateway",
    "guardImage": "python:",
    "historyAge": "long",
    "historyBuilds": "0",
    "host": "build.example",
    "hostKey": "SHA256:abc",
    "hostKeys": "[1, 1]",
    "hosts": '[{"name": "eu1", "host": "ssh://ops@eu1.example"}]',
    "identities": '[{"name": "a", "issuer": "http://gitlab.com"}]',
    "imageAge": "14",
    "imageStore": "vfs",
    "insecureRegistries": '["http://registry:5000"]',
    "isolation": "rootless",
    "keepCache": "maybe",
    "keepImages": '[""]',
    "keys": "[]",
    "leftoverAge": "1 day",
    "memory": "100MB",
    "metrics": "9105",
    "minFreeSpace": "200%",
    "platforms": '["amd64"]',
    "prepare": "sometimes",
    "privateNetworks": "deny",
    "privateNetworksExcept": '["registry"]',
    "processes": "100",
    "registry": '{"size": "big"}',
    "registryImage": "registry:",
    "revoked": '[{"serial": 1}]',
    "sshAddress": "everywhere",
    "sshHost": "ssh://build.example",
    "sshPort": "0",
    "traces": "collector:4318",
    "transport": "tcp",
}


def errors_on_page() -> dict[str, str]:
    """The first two columns of the tables in docs/settings.md: setting or message."""
    rows = re.findall(
        r"^\| `([^`]+)`(?: \(from ssh\))? \| `?([^`|]+)`? \|",
        (ROOT / "docs" / "settings.md").read_text(),
        re.MULTILINE,
    )
    return dict(rows)


def test_the_error_of_each_setting_leads_to_its_page() -> None:
    assert set(WRONG) == set(settings()) <= set(errors_on_page())
    good = {
        "host": "unix:///var/run/docker.sock",
        "keys": f'[{{"name": "a", "publicKey": "{KEY}"}}]',
    }
    for name, value in WRONG.items():
        with pytest.raises(ValueError, match=name) as caught:
            StackSettings.parse({**good, name: value})
        assert errors_on_page()[name] in str(caught.value)


def test_the_messages_on_the_page_are_those_of_the_program() -> None:
    of_ssh = {"Host key verification failed", "Permission denied (publickey)"}
    messages = set(errors_on_page()) - set(settings()) - of_ssh
    assert messages
    folders = ("client", "components", "scripts", "review")
    sources = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    # Python joins the parts of a long string.
    text = "".join(
        path.read_text(errors="ignore") for path in sources if "__pycache__" not in path.parts
    )
    joined = re.sub(r'"\n\s*f?"', "", text)
    assert not [message for message in messages if message not in joined]


def test_every_page_is_in_the_index() -> None:
    index = Page.read(ROOT / "docs" / "README.md")
    linked = {
        (index.path.parent / link.partition("#")[0]).resolve()
        for link in _LINK.findall(index.prose)
    }
    pages = {path.resolve() for path in PAGES if path != KIT_PAGE}
    assert pages - linked == {(ROOT / "README.md").resolve(), index.path.resolve()}


def test_pages_for_a_job_begin_with_commands() -> None:
    jobs = "access backends cache changes ci clients hosts migrating running supply-chain teams"
    for name in jobs.split():
        title, _, rest = (ROOT / "docs" / f"{name}.md").read_text().partition("\n\n")
        assert title.startswith("# ")
        assert rest.startswith("```\n"), name


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("ci", ["vendor.github-workflows", "vendor.gitlab-ci"]),
        ("running", ["vendor.github-workflows"]),
    ],
)
def test_the_files_of_a_ci_on_the_page_are_valid(
    name: str, kinds: list[str], tmp_path: Path
) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block, kind in zip(blocks, kinds, strict=True):
        file = tmp_path / f"{kind}.yml"
        file.write_text(block)
        subprocess.run(["check-jsonschema", "--builtin-schema", kind, str(file)], check=True)
