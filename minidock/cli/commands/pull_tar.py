"""minidock pull-tar"""

from __future__ import annotations

from minidock.cli.output import write, write_error, write_line
from minidock.cli.session import open_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.verbs.pull_tar import LoadedImage


def handle(options: dict[str, Any]) -> int:
    """Bring an archive into the data root and name what came."""
    return load_from(options["archive"], options, name=options["name"])


def load_from(source: str | int, options: dict[str, Any], *, name: str | None = None) -> int:
    """Load a path, or a descriptor such as 0, and print the result as docker load does."""
    from minidock.verbs.pull_tar import pull_tar

    progress = None
    if not (options["quiet"] or options["json"] or options["explain"]):
        from minidock.cli.progress import progress_for

        progress = progress_for(1)
    with open_root(options, create=True) as root:
        loaded = pull_tar(root, source, name=name, platform=options["platform"], progress=progress)
    for image in loaded:
        for warning in image.warnings:
            write_error(f"minidock: warning: {warning}")
    if options["json"]:
        _write_json(loaded)
    else:
        for image in loaded:
            _write_lines(image)
    return 0


def _write_lines(image: LoadedImage) -> None:
    for name, old in image.moved_tags:
        write_line(f"The image {name} already existed, renaming the old one with ID {old} to empty string")
    for reference in image.references:
        write_line(f"Loaded image: {reference.familiar}")
    if not image.references:
        write_line(f"Loaded image ID: {image.image_id}")


def _write_json(loaded: list[LoadedImage]) -> None:
    from minidock.cli.report import to_json

    images = [
        {
            "ImageID": image.image_id,
            "References": [reference.familiar for reference in image.references],
            "NewLayers": image.new_layers,
            "KnownLayers": image.known_layers,
        }
        for image in loaded
    ]
    write(to_json(images) + "\n")
