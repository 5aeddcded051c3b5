"""Go templates: what docker's --format takes, and the words for what it cannot take."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.cli.format import write_listing
from minidock.cli.gotemplate import Fields, Template
from minidock.cli.output import quote
from minidock.errors import UsageError

DOCUMENT: dict[str, Any] = {
    "Id": "sha256:abc",
    "RepoTags": ["a:1", "b:2"],
    "Size": 2002732,
    "Config": {
        "Cmd": ["sh", "-c", "x"],
        "Labels": {"b": "2", "a.b": "1"},
        "Tty": False,
        "Entrypoint": None,
        "Image": "i",
    },
    "Empty": [],
    "Ratio": 1.5,
}


# tests/interop/test_cli_docker.py runs templates of these kinds through docker itself.
@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{.Id}}", "sha256:abc"),
        ("{{ .Config.Tty }}", "false"),
        ("{{.RepoTags}}", "[a:1 b:2]"),
        ("{{.Config.Labels}}", "map[a.b:1 b:2]"),
        ("{{.Size}}", "2002732"),
        ("{{.Ratio}}", "1.5"),
        ("{{.Config.Labels.nope}}", "<no value>"),
        ('{{index .Config.Labels "a.b"}}', "1"),
        ('{{index .Config.Labels "nope"}}', ""),
        ("{{index .RepoTags 1}}", "b:2"),
        ("{{len .RepoTags}}", "2"),
        ("{{json .Config.Cmd}}", '["sh","-c","x"]'),
        ("{{.Config.Cmd | json}}", '["sh","-c","x"]'),
        ('{{json "<&>"}}', '"\\u003c\\u0026\\u003e"'),
        ("{{json .Config.Entrypoint}}", "null"),
        ('{{join .Config.Cmd " "}}', "sh -c x"),
        ("{{upper .Id}} {{lower `ABC`}} {{title `ab cd`}}", "SHA256:ABC abc Ab Cd"),
        ('{{index (split .Id ":") 1}}', "abc"),
        ("{{truncate .Id 6}}", "sha256"),
        ("{{pad .Id 1 2}}|", " sha256:abc  |"),
        ('{{println "x" 1}}', "x 1\n"),
        ('{{print "x" 1 2}}', "x1 2"),
        ('{{printf "%-5s|%q|%d%%" "ab" "c" 7}}', 'ab   |"c"|7%'),
        ("{{if .Config.Tty}}yes{{else}}no{{end}}", "no"),
        ("{{if .Empty}}a{{else if .RepoTags}}b{{else}}c{{end}}", "b"),
        ("{{if and .Id (not .Config.Tty)}}y{{end}}", "y"),
        ("{{if or .Empty .Config.Entrypoint}}y{{else}}n{{end}}", "n"),
        ('{{if eq .Id "x" "sha256:abc"}}y{{end}}', "y"),
        ("{{if gt .Size 1000}}big{{end}}", "big"),
        ("{{range .RepoTags}}<{{.}}>{{end}}", "<a:1><b:2>"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a.b=1;b=2;"),
        ("{{range $i, $t := .RepoTags}}{{$i}}{{$t}} {{end}}", "0a:1 1b:2 "),
        ("{{range .RepoTags}}{{$.Id}} {{end}}", "sha256:abc sha256:abc "),
        ("{{with .Config}}{{.Tty}}{{end}}", "false"),
        ("{{with $c := .Config}}{{$c.Tty}}{{end}}", "false"),
        ("{{$x := .Id}}{{$x}}", "sha256:abc"),
        ("{{(index .RepoTags 0)}}", "a:1"),
        ("{{(.Config).Tty}}", "false"),
        ("a {{- .Size -}} b", "a2002732b"),
        ("a{{/* a remark */}}b", "ab"),
        ("{{`}}`}}", "}}"),
        ('{{"a\\tb"}}', "a\tb"),
        ("{{if .Config.Healthcheck}}y{{else}}n{{end}}", "n"),
        ("{{.Config.Healthcheck}} {{.Config.ExposedPorts}} {{.Config.Entrypoint}}", "<nil> map[] []"),
        ("{{json .Config.Healthcheck}} {{json .Config.ExposedPorts}}", "null null"),
        ("{{$x := 5}}{{if .Id}}{{$x = 6}}{{end}}{{$x}}", "6"),
        ("{{$x := 5}}{{if .Id}}{{$x := 6}}{{end}}{{$x}}", "5"),
        ("{{range .RepoTags}}{{.}}{{break}}{{end}}", "a:1"),
        ('{{range .RepoTags}}{{if eq . "a:1"}}{{continue}}{{end}}{{.}}{{end}}', "b:2"),
        ("{{'a'}} {{1e3}} {{0x10}} {{-5}}", "97 1000 16 -5"),
        ('{{html "<a>"}} {{urlquery "a b&c"}} {{title "x y-z"}}', "&lt;a&gt; a+b%26c X Y-Z"),
        ('{{printf "%d" "x"}} {{printf "%s" 5}} {{printf "%c%U" 65 65}}', "%!d(string=x) %!s(int=5) AU+0041"),
    ],
)
def test_templates(template: str, expected: str) -> None:
    assert Template(template).render(DOCUMENT) == expected


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{.Id", "unclosed action"),
        ("{{if .Id}}", "unexpected EOF"),
        ("{{end}}", "unexpected"),
        ("{{nope .Id}}", 'function "nope" not defined'),
        ("{{.Nope}}", 'map has no entry for key "Nope"'),
        ("{{.Id.Deeper}}", "can't evaluate field Deeper"),
        ("{{}}", "missing value"),
        ("{{.Id | }}", "missing value"),
        ("{{(.Id}}", "unclosed left paren"),
        ("{{$x}}", "undefined variable"),
        ("{{.Id .Size}}", "arguments"),
        ("{{index .RepoTags 9}}", "index out of range"),
        ("{{len .Size}}", "error calling len"),
        ("{{range .Size}}{{end}}", "can't iterate"),
        ('{{template "x"}}', "not supported"),
        ("{{'}}", "unclosed action"),
        ("{{'ab'}}", "malformed character constant"),
        ("{{1x}}", "bad number syntax"),
        ("{{nil}}", "nil is not a command"),
        ("{{$y = 1}}", "undefined variable"),
        ("{{=0}}", "unexpected"),
        ("{{:=0}}", "unexpected"),
        ("{{if $y := .Id}}{{end}}{{$y}}", "undefined variable"),
        ("{{break}}", "outside"),
        ('{{eq 1 "1"}}', "incompatible types"),
        ("{{" + "(" * 5000 + "}}", "nested too deeply"),
    ],
)
def test_errors_are_one_line(template: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        Template(template).render(DOCUMENT)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@given(st.text(alphabet='{}.|()" -$:=`/*abIdlenifrangeendelse01,\\', max_size=40))
def test_any_text_renders_or_is_refused(text: str) -> None:
    try:
        Template("{{" + text + "}}").render(DOCUMENT)
    except UsageError:
        pass


def test_fields_of_a_row_are_checked() -> None:
    with pytest.raises(UsageError, match="can't evaluate field Bad"):
        Template("{{.Bad}}").render(Fields({"ID": "1"}))


COLUMNS = (("IMAGE ID", "ID"), ("NAME", "Name"))


def listing(template: str | None, capfd: pytest.CaptureFixture[str]) -> str:
    rows = [{"ID": "1", "Name": "first \x1b[31m"}, {"ID": "22", "Name": "second"}]
    labels = {"1": {"x": "y"}, "22": {}}
    methods = {"Label": lambda row, name: labels[row("ID")].get(name, "")}
    write_listing([row.__getitem__ for row in rows], COLUMNS, template, fields=COLUMNS, methods=methods)
    return capfd.readouterr().out


@pytest.mark.parametrize("template", [None, "table", ""])
def test_plain_table(template: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    assert listing(template, capfd) == "IMAGE ID   NAME\n1          first \\x1b[31m\n22         second\n"


def test_table_with_a_template(capfd: pytest.CaptureFixture[str]) -> None:
    out = listing(r'table {{.Name}}\t{{.Label "com.a.my-x"}}\t{{upper .ID}}', capfd)
    assert out == "NAME             my x      IMAGE ID\nfirst \\x1b[31m             1\nsecond                     22\n"


def test_lines_with_a_template(capfd: pytest.CaptureFixture[str]) -> None:
    assert listing(r'{{.ID}}\t{{.Label "x"}}', capfd) == "1\ty\n22\t\n"


@pytest.mark.parametrize("template", ["{{.Label}}", "{{.Label 1}}", '{{.Label "a" "b"}}', '{{.ID "x"}}'])
def test_wrong_arguments(template: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError):
        listing(template, capfd)


def test_json_lines(capfd: pytest.CaptureFixture[str]) -> None:
    assert listing("json", capfd).splitlines()[1] == '{"ID":"22","Name":"second"}'
    assert listing("{{json .}}", capfd).splitlines()[1] == '{"ID":"22","Name":"second"}'


def test_quote_as_go_does() -> None:
    assert quote('a "b" \\ \x1b \t é \x80 \U000e0001') == r'"a \"b\" \\ \x1b \t é \u0080 \U000e0001"'
