"""`explain`: the walk from a name to the bytes on the disk, each step with what it was read from or hashed from."""

from __future__ import annotations

from dataclasses import dataclass, field

from minidock.constants import DRIVER
from minidock.errors import MaxDepthExceeded
from minidock.ids import ChainID
from minidock.store.catalogue import REFERENCES, Catalogue
from minidock.store.layerstack import CONTAINER, LAYER, LayerStack, StackLayer, stack_of_container, stack_of_image
from minidock.store.layerusers import LayerUsers
from minidock.store.overlay2 import OverlayMount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.evidence import Evidence


@dataclass(slots=True)
class ExplainedLayer:
    """One layer, from its diff_id to its directory.

    Shape: role "layer", "init" or "container"; number 1 for the bottom; hash_input: the very text whose sha256 is the
           chain_id, "" where the chain_id is the diff_id; record, directory: paths below the root; lowers: of `lower`;
           shared_with: other images that stand on it, by name, else by ID; is_there: whether its content is
    Units: size_bytes as layerdb has it, -1 for unknown
    """

    role: str
    label: str
    number: int
    diff_id: str
    chain_id: str
    hash_input: str
    record: str
    cache_id: str
    directory: str
    link_id: str
    link_target: str
    lowers: list[str]
    size_bytes: int
    created_by: str
    shared_with: list[str]
    is_there: bool
    is_by_lower: bool


@dataclass(slots=True)
class Explanation:
    """The whole walk.

    Shape: kind "image" or "container"; reference: the key of repositories.json that was asked for, "" for an ID;
           layers bottom first; options: of the mount, relative to overlay2/, "" where they cannot be told; faults: one
           line each
    """

    kind: str
    asked: str
    root: str
    reference: str
    image_id: str
    tags: list[str]
    config_path: str
    config_bytes: int
    container_id: str
    container_name: str
    mount_record: str
    mount_id: str
    init_id: str
    layers: list[ExplainedLayer]
    options: str
    faults: list[str] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """The same for a program to read."""
        from dataclasses import asdict

        return asdict(self)


def explain(evidence: Evidence, name: str) -> Explanation:
    """Walk from an image's or a container's name to its layers' directories and its mount.

    What is missing on the way is told in `faults`; the walk goes on with what is there.
    Raises: StoreError, NoSuchContainer when there is nothing of this name, or no config to start from
    """
    catalogue = Catalogue(evidence)
    kind, identity, reference = catalogue.find(name)
    stack = stack_of_container(catalogue, identity) if kind == "container" else stack_of_image(catalogue, identity)
    return explain_stack(stack, name, reference)


def explain_stack(stack: LayerStack, name: str, reference: str = "") -> Explanation:
    """The walk of a stack that is known already."""
    catalogue = stack.catalogue
    is_container = stack.kind == "container"
    container = catalogue.container(stack.identity) if is_container else None
    mount = catalogue.mount(stack.identity) if is_container else None
    image_id = container.image_id if container else stack.identity
    image = catalogue.image(image_id) if image_id.startswith("sha256:") and len(image_id) == 71 else None
    users = LayerUsers(catalogue)
    layers = [_layer(stack, layer, users, image_id) for layer in reversed(stack.layers)]
    previous = ""
    for layer in layers:
        if layer.role == LAYER:
            layer.hash_input = f"{previous} {layer.diff_id}" if previous and layer.diff_id else ""
            previous = layer.chain_id
    faults = [*stack.faults, *(image.faults if image and is_container else ())]
    return Explanation(
        kind=stack.kind,
        asked=name,
        root=catalogue.evidence.path,
        reference=reference,
        image_id=image_id,
        tags=catalogue.tags(image_id),
        config_path=image.path if image else "",
        config_bytes=len(image.raw or b"") if image else 0,
        container_id=stack.identity if is_container else "",
        container_name=container.name if container else "",
        mount_record=mount.path if mount else "",
        mount_id=mount.mount_id if mount else "",
        init_id=mount.init_id if mount else "",
        layers=layers,
        options=_options(stack),
        faults=list(dict.fromkeys([*faults, *catalogue.faults])),
    )


def _layer(stack: LayerStack, layer: StackLayer, users: LayerUsers, image_id: str) -> ExplainedLayer:
    catalogue = stack.catalogue
    directory = catalogue.directory(layer.cache_id) if layer.cache_id else None
    record = catalogue.record(ChainID(layer.chain_id)) if layer.chain_id else None
    step = stack.step_of(layer)
    others = [other for other in users.images_of.get(layer.chain_id, ()) if other != image_id]
    return ExplainedLayer(
        role=layer.role,
        label=layer.label,
        number=layer.number,
        diff_id=layer.diff_id,
        chain_id=layer.chain_id,
        hash_input="",
        record=record.path if record else "",
        cache_id=layer.cache_id,
        directory=directory.path if directory else "",
        link_id=directory.link_id if directory else "",
        link_target=directory.link_target if directory else "",
        lowers=directory.lowers if directory else [],
        size_bytes=record.size_bytes if record else -1,
        created_by=step.created_by if step else "",
        shared_with=[(catalogue.tags(other) or [other])[0] for other in others],
        is_there=directory is not None and directory.has_diff,
        is_by_lower=layer.is_by_lower,
    )


def _options(stack: LayerStack) -> str:
    """The option string that this stack is mounted with, from the topmost directory's own `link` and `lower`."""
    if not stack.layers or not stack.layers[0].cache_id:
        return ""
    top = stack.layers[0]
    directory = stack.catalogue.directory(top.cache_id)
    is_container = top.role == CONTAINER
    lowers = directory.lowers if is_container else [f"l/{directory.link_id}", *directory.lowers]
    if not (directory.exists and (is_container or directory.link_id) and lowers):
        return ""
    path = f"{stack.catalogue.evidence.path}/{DRIVER}"
    try:
        mount = OverlayMount(path, lowers, top.cache_id if is_container else "", "merged")
    except MaxDepthExceeded:
        return ""
    return mount.data.decode("utf-8", "surrogateescape")


def shell_lines(told: Explanation) -> list[str]:
    """The same walk for a POSIX shell with jq, sha256sum, cat, readlink and mount, each value found anew.

    Returns: lines for `sh -eu`; the last ones mount the layers read-only below a directory made for it, and unmount
    """
    from minidock.linux.mount import shell_word

    lines = [f"cd {shell_word(told.root)}"]
    if told.container_id:
        lines += [
            "# the container's record of its layers",
            f"mount_id=$(cat {told.mount_record}/mount-id); echo mount-id $mount_id",
        ]
        if told.init_id:
            lines.append(f"init_id=$(cat {told.mount_record}/init-id); echo init-id $init_id")
        lines.append(f"image=$(jq -r .Image containers/{told.container_id}/config.v2.json); echo image $image")
    elif told.reference:
        lines += [
            "# the name leads to the image ID",
            f"image=$(jq -r --arg name {shell_word(told.reference)} '[.Repositories[][$name] // empty][0]' "
            f"{REFERENCES}); echo image $image",
        ]
    else:
        lines.append(f"image={told.image_id}; echo image $image")
    if not told.config_path:
        return [*lines, "# nothing tells the image's config, and thus its layers"]
    lines += [
        "# the image ID is the sha256 of the config, byte for byte",
        f"config={told.config_path.rpartition('/')[0]}/${{image#sha256:}}",
        'echo config sha256:$(sha256sum <"$config" | cut -c-64)',
    ]
    read_only = [layer for layer in told.layers if layer.role == LAYER]
    for place, layer in enumerate(read_only):
        lines += _layer_lines(layer, place)
    if told.options or len(read_only) == 1:
        lines += _mount_lines(told, read_only)
    return lines


def _layer_lines(layer: ExplainedLayer, place: int) -> list[str]:
    number = layer.number
    lines = [
        f"# layer {number}: from its diff_id to its directory",
        f"diff_id=$(jq -r '.rootfs.diff_ids[{place}]' \"$config\"); echo diff-id {number} $diff_id",
    ]
    if place:
        lines.append('chain_id=sha256:$(printf %s "$chain_id $diff_id" | sha256sum | cut -c-64)')
    else:
        lines.append("chain_id=$diff_id")
    record = f"image/{DRIVER}/layerdb/sha256/${{chain_id#sha256:}}"
    lines += [
        f"echo chain-id {number} $chain_id",
        f"cache_id=$(cat {record}/cache-id); echo cache-id {number} $cache_id",
        f"link_id=$(cat {DRIVER}/$cache_id/link); echo link {number} $link_id $(readlink {DRIVER}/l/$link_id)",
    ]
    if place:
        lines.append(f"lower=$(cat {DRIVER}/$cache_id/lower); echo lower {number} $lower")
    else:
        lines.append("lower=")
    return lines


def _mount_lines(told: Explanation, read_only: list[ExplainedLayer]) -> list[str]:
    lines = ["# what the mount shows, read-only", f"cd {DRIVER}", "merged=$(mktemp -d)"]
    if told.container_id:
        lines = [
            f"# as it is mounted to run: mount -t overlay -o {told.options} overlay merged",
            *lines,
            "lowers=$mount_id/diff:$(cat $mount_id/lower)",
        ]
    elif len(read_only) == 1:
        lines += ['mount --bind -o ro $cache_id/diff "$merged"', 'ls -a "$merged"', 'umount "$merged"']
        return [*lines, 'rmdir "$merged"']
    else:
        lines.append("lowers=l/$link_id:$lower")
    return [
        *lines,
        "echo lowerdir $lowers",
        'mount -t overlay -o ro,lowerdir=$lowers overlay "$merged"',
        'ls -a "$merged"',
        'umount "$merged"',
        'rmdir "$merged"',
    ]
