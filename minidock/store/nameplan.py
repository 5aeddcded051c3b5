"""Steps for the names of images, and for the few words in records that name what is not there."""

from __future__ import annotations

import re

from minidock.errors import FormatError, InvalidReference
from minidock.formats.gojson import encode_json, parse_json
from minidock.formats.reference import parse_reference
from minidock.store.catalogue import REFERENCES
from minidock.store.references import COPY
from minidock.store.steps import MoveAway, PutText

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.repairplan import Planner

_PAIR = re.compile(rb'"([^"\\\x00-\x1f]+)"\s*:\s*"(sha256:[0-9a-f]{64})"')


def plan_names(planner: Planner) -> None:
    """Add steps for repositories.json, imagedb's metadata and containers marked as running."""
    kinds = {fault.kind for fault in planner.found.faults}
    if "references" in kinds:
        _lost_names(planner)
    elif "tag" in kinds and "folder" not in kinds:
        _names_of_nothing(planner)
    made = {step.path for step in planner.plan.steps}
    for fault in planner.found.faults:
        if fault.kind == "folder":
            if not any(path.startswith(f"{fault.path}/") for path in made):
                planner.remark(fault.path, "what was in it is told nowhere else, so nothing that lacks it is touched")
        elif fault.kind == "metadata-parent" and "folder" not in kinds:
            planner.add(MoveAway(fault.path, "names an image that is not there", "imagedb has no such image"))
        elif fault.kind == "running":
            _not_running(planner, fault.path)
        elif fault.kind == "container":
            planner.remark(
                fault.path, "nothing tells what the container was; minidock adopt makes a new one of its files"
            )
        elif fault.kind == "volume":
            planner.remark(fault.path, "what a volume held is told nowhere else")


def _encode(names: dict[str, str]) -> str:
    repositories: dict[str, dict[str, str]] = {}
    for name, image_id in sorted(names.items()):
        repositories.setdefault(parse_reference(name).repository_key, {})[name] = image_id
    document = {key: repositories[key] for key in sorted(repositories)}
    return encode_json({"Repositories": document}).decode("utf-8")


def _lost_names(planner: Planner) -> None:
    """Names out of the last good copy, what the file still says, and what containers were made from."""
    images = set(planner.found.catalogue.image_ids())
    names: dict[str, str] = {}
    sources = []
    for image_id, reference in _names_of_containers(planner):
        if image_id in images and reference:
            names.setdefault(reference, image_id)
            sources.append("containers' records")
    for path, source in ((COPY, "minidock's copy"), (REFERENCES, "what the file still says")):
        found = {name: image_id for name, image_id in _pairs(planner, path) if image_id in images}
        if found:
            names.update(found)
            sources.append(source)
    if not names:
        reason = "no copy is left and no container tells a name; move it away, and name the images by minidock tag"
        planner.remark(REFERENCES, reason)
        return
    proof = f"{', '.join(dict.fromkeys(reversed(sources)))}; each of these images is there"
    planner.add(PutText(REFERENCES, "no map of names to image IDs", proof, {"Text": _encode(names), "Mode": 0o600}))
    nameless = sorted(images - set(names.values()))
    for image_id in nameless:
        planner.remark(REFERENCES, f"image {image_id} had perhaps a name, which is told nowhere")


def _pairs(planner: Planner, path: str) -> list[tuple[str, str]]:
    """Whole pairs of name and image ID in a file that may be cut."""
    try:
        raw = planner.evidence.read(path)
    except OSError:
        return []
    found = []
    for match in _PAIR.finditer(raw):
        name = match[1].decode("utf-8", "replace")
        if _is_reference(name):
            found.append((name, match[2].decode("ascii")))
    return found


def _names_of_containers(planner: Planner) -> list[tuple[str, str]]:
    """Image ID and name that containers were made from; a name that was given to two images proves nothing."""
    found: dict[str, set[str]] = {}
    for container_id in planner.found.catalogue.container_ids():
        container = planner.found.catalogue.container(container_id)
        if container.image and _is_reference(container.image):
            found.setdefault(parse_reference(container.image).store_key, set()).add(container.image_id)
    return [(next(iter(image_ids)), name) for name, image_ids in found.items() if len(image_ids) == 1]


def _is_reference(name: str) -> bool:
    try:
        # A name that is but digits may be the beginning of an ID.
        if name.startswith("sha256:"):
            return False
        return parse_reference(name).store_key == name or not set(name) <= set("0123456789abcdef")
    except InvalidReference:
        return False


def _names_of_nothing(planner: Planner) -> None:
    images = set(planner.found.catalogue.image_ids())
    names = planner.found.catalogue.references()
    kept = {name: image_id for name, image_id in names.items() if image_id in images}
    lost = ", ".join(sorted(set(names) - set(kept)))
    values = {"Text": _encode(kept), "Mode": 0o600}
    planner.add(PutText(REFERENCES, f"{lost} lead to nothing", "imagedb has no such image", values))


def _not_running(planner: Planner, path: str) -> None:
    """A container marked as running whose process is gone, as an engine's next start would find and note it."""
    from minidock.formats.containerconfig import encode_record

    document = parse_json(planner.evidence.read(path), what=path, limit_bytes=16 << 20)
    state = document.get("State")
    if not isinstance(state, dict):
        raise FormatError(f"{path}: no State")
    state.update({"Running": False, "Paused": False, "Restarting": False, "Pid": 0})
    container_id = path.split("/")[1]
    text = encode_record(document).decode("utf-8", "surrogateescape")
    proof = f"no process with the recorded pid belongs to container {container_id[:12]}"
    planner.add(PutText(path, "marked as running", proof, {"Text": text, "Mode": 0o600}))
