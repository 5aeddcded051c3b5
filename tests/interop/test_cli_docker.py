"""minidock's words beside docker's: the same archive in both, the same commands to both, the same answers."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.conftest import Engine

PROJECT = str(Path(__file__).resolve().parents[2])
ENTRY = f"import sys; sys.path.insert(0, {PROJECT!r}); from minidock.__main__ import main; main()"
IMAGES = ("cli-one:test", "cli-two:a", "quay.io/cli/three:b")


class Both:
    """docker and minidock, each with the same images."""

    def __init__(self, engine: Engine, root: Path) -> None:
        self.engine = engine
        self.root = root

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One docker command."""
        return self.engine.docker(*words, check=False, stdin=subprocess.DEVNULL)

    def minidock(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same to minidock."""
        return subprocess.run(
            [sys.executable, "-c", ENTRY, "--root", str(self.root), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def same(self, *words: str) -> str:
        """Assert that both end alike and print the same on standard output; return it."""
        theirs, ours = self.docker(*words), self.minidock(*words)
        assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode), (ours.stderr, theirs.stderr)
        return ours.stdout


@pytest.fixture(scope="module")
def both(dockerd: Engine, session_scratch: Path, busybox_layer: bytes) -> Iterator[Both]:
    top = builders.layer_tar(builders.directory(b"etc"), builders.tar_member(b"etc/cli", b"x" * 123456))
    # docker lists images of one age, and one image's names, in no fixed order
    layers = {IMAGES[0]: [busybox_layer, top], IMAGES[1]: [busybox_layer], IMAGES[2]: [top]}
    images = [
        builders.ImageSpec(
            stack, tags=[name], config=builders.image_config(stack, created=f"202{year}-02-28T23:59:59.999999999Z")
        )
        for year, (name, stack) in enumerate(layers.items(), 3)
    ]
    archive = builders.docker_archive(session_scratch / "cli.tar", *images)
    pair = Both(dockerd, session_scratch / "cli-root")
    for load in (pair.docker, pair.minidock):
        done = load("load", "-i", str(archive))
        assert done.returncode == 0, done.stderr
    yield pair
    pair.docker("rmi", "-f", *IMAGES)


@pytest.mark.parametrize(
    "words",
    [
        ["images"],
        ["images", "--digests"],
        ["images", "--no-trunc"],
        ["images", "-q"],
        ["images", "-aq", "--no-trunc"],
        ["images", "cli-one"],
        ["images", "quay.io/cli/three:b"],
        ["images", "cli-*"],
        ["images", "nope"],
        ["images", "--filter", "reference=cli-t*"],
        ["images", "--filter", "dangling=true"],
        ["image", "ls"],
        ["images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}} {{.VirtualSize}} {{.CreatedAt}} {{.Digest}}"],
        ["images", "--format", "{{json .}}"],
        ["images", "--format", r"table {{.ID}}\t{{.Repository}}\t{{.CreatedSince}}"],
        ["images", "--format", r"table {{upper .Repository}}\t{{len .Tag}}"],
        ["images", "--format", '{{range $i, $x := split .Repository "-"}}{{$i}}={{$x}} {{end}}'],
        ["history", "cli-one:test"],
        ["history", "-q", "cli-one:test"],
        ["history", "--no-trunc", "cli-one:test"],
        ["history", "--human=false", "cli-one:test"],
        ["history", "-H=false", "--no-trunc", "cli-one:test"],
        ["history", "--format", "{{json .}}", "cli-one:test"],
        ["history", "--format", r"table {{.ID}}\t{{.Comment}}\t{{.CreatedAt}}", "cli-one:test"],
    ],
)
def test_listings_of_images(both: Both, words: list[str]) -> None:
    assert both.same(*words) or "nope" in words or "dangling=true" in words


@pytest.mark.parametrize(
    "template",
    [
        "{{.Id}} {{.Os}}/{{.Architecture}} {{.Created}}",
        "{{.RepoTags}}",
        "{{.Config.Env}} {{.Config.Cmd}}",
        "{{json .RootFS}}",
        "{{len .RootFS.Layers}} {{index .RootFS.Layers 1}}",
        "{{.Config.Tty}} {{.Size}} {{.VirtualSize}}",
        '{{title "abc"}} {{pad "x" 1 2}}|{{truncate .Id 12}}',
        "{{range .RootFS.Layers}}{{println .}}{{end}}",
        "{{range $i, $l := .RootFS.Layers}}{{if $i}}, {{end}}{{$l}}{{end}}",
        "{{with .Config}}{{.WorkingDir}}|{{.User}}{{end}}",
        "{{if .Parent}}child{{else if eq .Os `linux`}}linux{{else}}none{{end}}",
        '{{printf "%s %q %d" .Os .Os 7}} {{print 1 2 "x" "y" 3}}',
        "{{if and .Os (not .Parent)}}a{{end}}{{if or .Parent .Os}}b{{end}}{{if gt .Size 5}}c{{end}}",
        "{{.Os | upper | printf `%s!`}}  {{- .Os -}}  x",
        "{{(index .RepoTags 0)}} {{$x := .Os}}{{$x}} {{$.Os}}",
        "{{/* nothing */}}{{.Author}}|",
        '{{index .Config.Labels "nope"}}|',
    ],
)
def test_templates_of_inspect(both: Both, template: str) -> None:
    assert both.same("inspect", "--type", "image", "-f", template, "cli-one:test")


MORE_TEMPLATES = r"""
{{range $i, $e := .RootFS.Layers}}{{$i}}{{end}}{{$i}}
{{with .Nope}}x{{else}}y{{end}}
{{with .Config.Labels}}x{{else}}y{{end}} {{.Config.Labels}} {{.Config.Labels.x}} {{.Config.Entrypoint}}
{{json .Config.Entrypoint}} {{json .Config.Labels}}
{{printf "%v|%v|%v" .Size .Config.Tty .RepoTags}}
{{printf "%10s|%-10s|%.3s|%05d|%x|%X|%o|%c|%U" "abc" "abc" "abcdef" 42 255 255 8 65 65}}
{{printf "%d" "x"}} {{printf "%s" 5}} {{printf "%t" true}}
{{printf "%q" "a\"b"}} {{printf "%%"}} {{printf "%s"}} {{printf "x" 1}}
{{len .Id}} {{slice .Id 7 19}} {{slice .Id 7}} {{slice .RepoTags 0 1}}
{{html "<a>"}} {{urlquery "a b&c"}} {{title "hello world-foo bar"}}
{{eq .Os "linux"}} {{ne .Os "linux"}} {{lt 1 2}} {{ge 2 2}} {{eq 1 1 2}}
{{eq 1 "1"}}
{{not true}} {{and 1 0}} {{or 0 "x"}} {{and true .Os}}
{{"quoted"}} {{`raw\n`}} {{'a'}} {{1.5}} {{true}} {{1e3}} {{0x10}} {{-5}} {{1_000}}
{{nil}}
{{print nil}} {{print 1 2 "a" 3 4}} {{println "a" 1}}
{{index .Config "Tty"}} {{index .Config "tty"}}
{{index .RootFS.Layers "x"}}
{{index .RootFS.Layers 5}}
{{join .RepoTags ","}} {{split "a,b" ","}} {{lower "ABC"}} {{pad "" 2 2}}|{{pad "a" 2 2}}|
{{$x := 5}}{{if true}}{{$x = 6}}{{end}}{{$x}} {{if true}}{{$x := 7}}{{end}}{{$x}}
{{range .Size}}x{{end}}
{{range .Config.Env}}{{.}}{{break}}{{end}} {{range .RootFS.Layers}}{{continue}}x{{end}}
{{.Config.Healthcheck}} {{.Config.ExposedPorts}}
{{.Os}}{{"\n"}}{{"\t"}}x
{{end}}
{{else}}
{{if}}x{{end}}
{{if .Os}}
{{.Os | | upper}}
{{.Os upper}}
{{upper}}
{{upper 5}}
{{upper .Os .Os}}
{{foo}}
{{.}
{{ "abc }}
{{.A.}}
{{$y}}
{{(}}
{{if .Os}}a{{else if}}b{{end}}
{{len 5}}
{{index nil 1}}
{{.Size.X}}
"""


def test_more_templates(both: Both) -> None:
    templates = MORE_TEMPLATES.strip().split("\n")
    for template in templates:
        theirs, ours = (run("inspect", "-f", template, "cli-one:test") for run in (both.docker, both.minidock))
        assert (ours.stdout.strip(), ours.returncode) == (theirs.stdout.strip(), theirs.returncode), template


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "nope"],
        ["image", "inspect", "nope"],
        ["container", "inspect", "nope"],
        ["inspect", "-f", "{{.Nope}}", "cli-one:test"],
        ["inspect", "-f", "{{.Id", "cli-one:test"],
        ["images", "--format", "{{.Nope}}"],
        ["images", "--filter", "bad=1"],
        ["ps", "--filter", "bad=1"],
        ["ps", "--format", "{{.ID"],
        ["history", "nope"],
        ["tag", "nope", "x"],
        ["tag", "cli-one:test", "UP/er"],
        ["rmi", "nope", "nope2"],
        ["rmi", "-f", "nope"],
        ["rm", "nope", "nope2"],
        ["rm", "-f", "nope"],
        ["start", "nope", "nope2"],
        ["start", "-a", "nope"],
        ["stop", "nope"],
        ["kill", "nope"],
        ["wait", "nope"],
        ["logs", "nope"],
        ["exec", "nope", "true"],
        ["diff", "nope"],
        ["commit", "nope"],
        ["commit", "nope", "UPPER"],
        ["load", "-i", "/nope"],
        ["create", "--name", "-bad-", "cli-one:test"],
        ["run", "--name", "-bad-", "cli-one:test"],
        ["run", "-v", "/a:/b:bad:worse", "cli-one:test"],
    ],
)
def test_failures_end_alike(both: Both, words: list[str]) -> None:
    theirs, ours = both.docker(*words), both.minidock(*words)
    # where a template fails on a value, docker ends the empty line
    assert (ours.stdout.strip(), ours.returncode) == (theirs.stdout.strip(), theirs.returncode), theirs.stderr
    assert ours.stderr.startswith("minidock: ")


@pytest.mark.parametrize(
    "words",
    [
        ["images", "--bad"],
        ["images", "-x"],
        ["images", "--no-trunc=maybe"],
        ["images", "a", "b"],
        ["run"],
        ["run", "-e"],
        ["run", "--env"],
        ["run", "-itz", "x"],
        ["run", "--rm=maybe", "x"],
        ["exec", "x"],
        ["tag", "x"],
        ["rm"],
        ["version", "--bad"],
        ["nope"],
    ],
)
def test_usage_errors_are_dockers(both: Both, words: list[str]) -> None:
    theirs, ours = both.docker(*words), both.minidock(*words)
    assert ours.returncode == theirs.returncode
    expected = theirs.stderr.splitlines()[0].replace("docker", "minidock")
    # Go names its function here: strconv.ParseBool: parsing "maybe": invalid syntax
    assert ours.stderr.splitlines()[0].split(" flag: ")[0] == expected.split(" flag: ")[0]


@pytest.fixture
def containers(both: Both) -> Iterator[Both]:
    for make in (both.docker, both.minidock):
        for words in (
            ["--name", "cli-a", "--label", "a.b=2", "cli-one:test", "echo", "it's", "a b"],
            ["--name", "cli-b", "-v", "/usr/share/dict/words/far:/x", "cli-two:a", "/bin/sh", "-c", 'echo "\t"'],
            # one label each: docker prints several in the random order of a Go map
            ["--name", "cli-c", "--label", "x=1", "cli-one:test", "true"],
        ):
            done = make("create", "--network", "none", *words)
            assert done.returncode == 0, done.stderr
    yield both
    for remove in (both.docker, both.minidock):
        remove("rm", "-f", "cli-a", "cli-b", "cli-c")


def test_listings_of_containers(containers: Both) -> None:
    for template in (
        "{{.Names}} {{.Image}} {{.Command}} {{.Ports}} {{.Status}} {{.State}} {{.Networks}}",
        '{{.Names}} {{.Labels}} {{.Label "a.b"}} {{.Label "none"}}',
        "{{.Mounts}} {{.LocalVolumes}} {{.Size}}",
        r"table {{.Names}}\t{{.Command}}\t{{.Label " + '"a.b"' + r"}}\t{{.Mounts}}\t{{.State}}",
        r"table {{.Image}}\t{{.Size}}\t{{.Names}}",
    ):
        containers.same("ps", "-a", "--format", template)
        containers.same("ps", "-a", "--no-trunc", "--format", template)
    for words in (
        ["-n", "2"],
        ["-l"],
        ["--filter", "name=cli-[ab]"],
        ["--filter", "label=x=1"],
        ["-a", "--filter", "status=created", "--filter", "name=b"],
        ["-a", "--filter", "ancestor=cli-one:test"],
        ["-a", "--filter", "before=cli-c"],
    ):
        containers.same("ps", *words, "--format", "{{.Names}}")


def cells(line: str) -> list[str]:
    """A table's line cut where columns are at least three blanks apart."""
    return re.split(r" {3,}", line.strip())


@pytest.mark.parametrize("words", [["ps", "-a"], ["ps", "-as"], ["ps"], ["container", "ls", "-a", "--no-trunc"]])
def test_heads_of_container_tables(containers: Both, words: list[str]) -> None:
    theirs, ours = (run(*words).stdout.splitlines() for run in (containers.docker, containers.minidock))
    assert cells(ours[0]) == cells(theirs[0])
    assert len(ours) == len(theirs)
    hidden = re.compile(r"[0-9a-f]{12,64}|(Less than a|\d+) seconds? ago")
    for our, their in zip(ours[1:], theirs[1:], strict=True):
        assert cells(hidden.sub("X", our)) == cells(hidden.sub("X", their))


def test_fields_of_json_rows(containers: Both) -> None:
    import json

    def rows(run: Any) -> list[dict[str, str]]:
        found = [json.loads(line) for line in run("ps", "-a", "--format", "{{json .}}").stdout.splitlines()]
        for row in found:
            for key in ("ID", "CreatedAt", "RunningFor"):
                row[key] = "X" if row[key] else ""
        return found

    assert rows(containers.minidock) == rows(containers.docker)


def test_tagging_and_removing_say_the_same(both: Both) -> None:
    both.same("tag", "cli-one:test", "cli-new:x")
    both.same("rmi", "cli-new:x")
    both.same("tag", "cli-two:a", "localhost:5000/cli/far:y")
    both.same("images", "localhost:5000/cli/far", "-q")
    both.same("rmi", "localhost:5000/cli/far:y")


def test_removing_containers_says_the_same(containers: Both) -> None:
    assert containers.same("rm", "cli-a", "cli-nope", "cli-b") == "cli-a\ncli-b\n"
    theirs, ours = (run("rmi", "cli-one:test", "cli-two:a") for run in (containers.docker, containers.minidock))
    assert ours.returncode == theirs.returncode


RUNS = [
    ["true"],
    ["false"],
    ["sh", "-c", "echo out; echo err >&2; exit 7"],
    ["sh", "-c", "kill -9 $$"],
    ["/nope"],
    ["nope"],
    ["/etc"],
]


@pytest.mark.parametrize("words", RUNS)
def test_runs_end_alike(both: Both, words: list[str]) -> None:
    line = ["run", "--rm", "--network", "none", "cli-one:test", *words]
    theirs, ours = both.docker(*line), both.minidock(*line)
    assert (ours.stdout, ours.returncode) == (theirs.stdout, theirs.returncode), (ours.stderr, theirs.stderr)
    if theirs.returncode < 125 or theirs.returncode > 127:
        assert ours.stderr == theirs.stderr


FACTS = (
    "{{.Name}} {{.Path}} {{.Args}} {{.State.Status}} {{.State.Running}} {{.State.ExitCode}} {{.State.Paused}}",
    "{{.Config.Cmd}} {{.Config.Env}} {{.Config.Image}} {{.Config.Tty}} {{.Config.OpenStdin}} {{.Config.WorkingDir}}",
    "{{.Config.AttachStdin}} {{.Config.AttachStdout}} {{.Config.AttachStderr}} {{.Config.StdinOnce}}",
    "{{json .Config.Labels}} {{json .Config.Entrypoint}} {{json .Config.Volumes}} {{.Config.User}}",
    "{{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Privileged}} {{.HostConfig.ShmSize}}",
    "{{json .HostConfig.CapAdd}} {{json .HostConfig.Binds}} {{.HostConfig.AutoRemove}} {{.HostConfig.LogConfig.Type}}",
    "{{.Driver}} {{.Platform}} {{.RestartCount}} {{len .Mounts}} {{.HostConfig.RestartPolicy.Name}}",
)


def test_a_life_is_told_alike(both: Both) -> None:
    """One container from create to rm; each word of docker's has its like."""
    words = ["--network", "none", "--label", "l=1", "-e", "A=b", "--name", "cli-life"]
    script = "trap 'exit 9' TERM; echo started; sleep 0.2; echo bad >&2; while true; do sleep 0.1; done"
    try:
        for run in (both.docker, both.minidock):
            done = run("create", *words, "cli-one:test", "sh", "-c", script)
            assert re.fullmatch("[0-9a-f]{64}\n", done.stdout), done.stderr
        told_alike(both)
        assert both.same("start", "cli-life") == "cli-life\n"
        told_alike(both)
        both.same("exec", "cli-life", "sh", "-c", "echo in; exit 6")
        both.same("exec", "cli-life", "cat", "/etc/cli")
        both.same("rm", "cli-life")
        both.same("stop", "-t", "20", "cli-life")
        both.same("stop", "cli-life")
        both.same("wait", "cli-life")
        told_alike(both)
        both.same("logs", "cli-life")
        both.same("logs", "--tail", "1", "cli-life")
        both.same("logs", "--since", "2020-01-01", "--until", "2020-01-02", "cli-life")
        assert both.docker("logs", "cli-life").stderr == both.minidock("logs", "cli-life").stderr == "bad\n"
        both.same("kill", "cli-life")
        both.same("exec", "cli-life", "true")
        both.same("diff", "cli-life")
    finally:
        both.same("rm", "-f", "cli-life")


def told_alike(both: Both) -> None:
    """inspect and ps say the same of cli-life in both."""
    for template in FACTS:
        both.same("inspect", "-f", template, "cli-life")
    both.same("ps", "-a", "--filter", "name=cli-life", "--format", "{{.Names}} {{.State}} {{.Command}} {{.Labels}}")
    exited = both.same("ps", "-q", "--filter", "status=exited", "--filter", "name=cli-life", "--format", "{{.Names}}")
    statuses = [
        run("ps", "-a", "--filter", "name=cli-life", "--format", "{{.Status}}").stdout
        for run in (both.docker, both.minidock)
    ]
    assert len({re.sub(r"Less than a second|[0-9]+ seconds?", "X", status) for status in statuses}) == 1
    assert ("Exited" in statuses[0]) == bool(exited)
