"""The commands about images and about the data root, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

from minidock.cli.groups import app, declare, image, system

Explain = Annotated[
    bool, typer.Option("--explain", show_default=False, help="Show each real step on standard error as it happens")
]
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="TEMPLATE", help="'json', 'table TEMPLATE' or a Go template such as '{{.ID}}'"),
]
InspectFormat = Annotated[
    str | None,
    typer.Option("--format", "-f", metavar="TEMPLATE", help="'json' or a Go template such as '{{.Id}}'"),
]
Filter = Annotated[
    list[str] | None,
    typer.Option("--filter", "-f", metavar="KEY=VALUE", help="Show only what the condition holds for (repeatable)"),
]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", show_default=False, help="Do not shorten anything")]
Reproducible = Annotated[
    bool,
    typer.Option(
        "--reproducible", show_default=False, help="Take nothing from chance or the clock (as SOURCE_DATE_EPOCH does)"
    ),
]
Json = Annotated[bool, typer.Option("--json", show_default=False, help="Print the result as JSON")]


@declare("pull_tar", (app, "pull-tar"), (image, "pull-tar"))
def pull_tar(
    archive: Annotated[str, typer.Argument(metavar="ARCHIVE|-", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="REF", help="Reference for the image; needed for a plain rootfs archive"),
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="Which image of a multi-platform archive")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show no progress")] = False,
    json: Json = False,
    reproducible: Reproducible = False,
    explain: Explain = False,
) -> None:
    """Bring an image archive or a root file system into the data root."""


@declare("load", (app, "load"), (image, "load"))
def load(
    input: Annotated[
        str | None,
        typer.Option("--input", "-i", metavar="FILE", help="Archive to read instead of standard input"),
    ] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="Which image of a multi-platform archive")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show no progress")] = False,
    json: Json = False,
    reproducible: Reproducible = False,
    explain: Explain = False,
) -> None:
    """Load images from an archive that `docker save` or `podman save` made."""


@declare("save", (app, "save"), (image, "save"))
def save(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE [IMAGE...]", show_default=False)],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to a file instead of standard output")
    ] = None,
    format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="'docker' for every engine, or 'oci' for an OCI layout")
    ] = "docker",
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="What the images must be made for")
    ] = None,
    explain: Explain = False,
) -> None:
    """Write images into an archive that `load` and other engines read."""


@declare("import_", (app, "import"), (image, "import"))
def import_(
    archive: Annotated[str, typer.Argument(metavar="FILE|-", show_default=False)],
    reference: Annotated[str | None, typer.Argument(metavar="[REPOSITORY[:TAG]]", show_default=False)] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--change", "-c", metavar="INSTRUCTION", help="Apply a Dockerfile instruction (repeatable)"),
    ] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", metavar="TEXT", help="Commit message")] = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", help="What the image shall be made for")
    ] = None,
    reproducible: Reproducible = False,
    explain: Explain = False,
) -> None:
    """Make an image of a root file system's tar, such as `export` writes."""


@declare("images", (app, "images"), (image, "ls"), (image, "list"))
def images(
    reference: Annotated[str | None, typer.Argument(metavar="[REPOSITORY[:TAG]]", show_default=False)] = None,
    all: Annotated[bool, typer.Option("--all", "-a", show_default=False, help="Show intermediate images too")] = False,
    digests: Annotated[bool, typer.Option("--digests", show_default=False, help="Show digests")] = False,
    filter: Filter = None,
    format: Format = None,
    no_trunc: NoTrunc = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show IDs only")] = False,
) -> None:
    """List images."""


@declare("tag", (app, "tag"), (image, "tag"))
def tag(
    source: Annotated[str, typer.Argument(metavar="SOURCE_IMAGE[:TAG]", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TARGET_IMAGE[:TAG]", show_default=False)],
) -> None:
    """Give an image a further reference."""


@declare("rmi", (app, "rmi"), (image, "rm"), (image, "remove"))
def rmi(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE [IMAGE...]", show_default=False)],
    force: Annotated[bool, typer.Option("--force", "-f", show_default=False, help="Remove it even if in use")] = False,
    no_prune: Annotated[
        bool, typer.Option("--no-prune", show_default=False, help="Keep parents that have no tag")
    ] = False,
) -> None:
    """Remove images."""


@declare("history", (app, "history"), (image, "history"))
def history(
    image: Annotated[str, typer.Argument(metavar="IMAGE", show_default=False)],
    format: Format = None,
    human: Annotated[
        bool, typer.Option("--human", "-H", help="Sizes and dates in human form (--human=false: exact)")
    ] = True,
    no_trunc: NoTrunc = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", show_default=False, help="Show IDs only")] = False,
) -> None:
    """Show how an image came about, layer by layer."""


@declare("inspect", (app, "inspect"))
def inspect(
    names: Annotated[list[str], typer.Argument(metavar="NAME|ID [NAME|ID...]", show_default=False)],
    format: InspectFormat = None,
    size: Annotated[bool, typer.Option("--size", "-s", show_default=False, help="Add a container's sizes")] = False,
    type: Annotated[
        str | None, typer.Option("--type", metavar="TYPE", help="Look for 'image' or 'container' only")
    ] = None,
) -> None:
    """Show all that is recorded about images and containers."""


@declare("inspect", (image, "inspect"), type="image")
def image_inspect(
    names: Annotated[list[str], typer.Argument(metavar="IMAGE [IMAGE...]", show_default=False)],
    format: InspectFormat = None,
) -> None:
    """Show all that is recorded about images."""


@declare("info", (app, "info"), (system, "info"))
def info(format: InspectFormat = None) -> None:
    """Show facts about the data root and this machine."""


@declare("version", (app, "version"))
def version(format: InspectFormat = None) -> None:
    """Show the versions of minidock and of what it stands on."""
