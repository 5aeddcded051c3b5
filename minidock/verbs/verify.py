"""Every image, every layer and every file held against the digests and headers that it was stored with.

An image's config must hash to its ID, its diff_ids must fold to chain IDs that layerdb has, and each layer's directory
must give back the very tar that came in: see store/verification.py. Nothing is changed, and a running dockerd is not
disturbed.
"""

from __future__ import annotations

from minidock.constants import DRIVER
from minidock.errors import FormatError, MinidockError, NoSuchImage, NoSuchLayer, StoreCorrupt
from minidock.formats.imageconfig import ImageConfig
from minidock.ids import ChainID, DiffID, ImageID, chain_id_of, sha256_hex
from minidock.store.attributes import check_metadata
from minidock.store.catalogue import LAYERDB
from minidock.store.evidence import Evidence
from minidock.store.verification import Finding, check_content, findings_of
from minidock.store.workers import run_jobs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from minidock.store.layerdb import Layer
    from minidock.store.root import DataRoot
    from minidock.trace import Progress


class VerifiedLayer:
    """One layer. Shape: layer is None when its record cannot be read; findings: empty for a whole one"""

    __slots__ = ("chain_id", "findings", "layer")

    def __init__(self, chain_id: ChainID, layer: Layer | None, findings: list[Finding]) -> None:
        self.chain_id = chain_id
        self.layer = layer
        self.findings = findings


class VerifiedImage:
    """One image. Shape: layers: bottom first; findings: of its config; is_whole: neither it nor a layer has any"""

    __slots__ = ("findings", "image_id", "layers", "names")

    def __init__(self, image_id: ImageID, names: list[str]) -> None:
        self.image_id = image_id
        self.names = names
        self.layers: list[VerifiedLayer] = []
        self.findings: list[Finding] = []

    @property
    def is_whole(self) -> bool:
        """Whether nothing is wrong with the image."""
        return not self.findings and not any(layer.findings for layer in self.layers)


class Verification:
    """What was looked at. Shape: layers: each once, those of no image last"""

    __slots__ = ("images", "layers")

    def __init__(self) -> None:
        self.images: list[VerifiedImage] = []
        self.layers: list[VerifiedLayer] = []

    @property
    def is_whole(self) -> bool:
        """Whether nothing at all is wrong."""
        return all(image.is_whole for image in self.images) and not any(layer.findings for layer in self.layers)


def verify(
    root: DataRoot, images: Sequence[str] = (), *, workers: int = 0, progress: Progress | None = None
) -> Verification:
    """Verify images with all their layers; without names all there are, and layers of no image too.

    Shape:   workers: processes to read with, 0 for one a processor
    Raises:  NoSuchImage, InvalidReference, SyscallError; damage is never raised but found
    """
    found = Verification()
    with Evidence.open(root.path) as evidence:
        return _verify(root, evidence, found, images, workers, progress)


def _verify(
    root: DataRoot,
    evidence: Evidence,
    found: Verification,
    images: Sequence[str],
    workers: int,
    progress: Progress | None,
) -> Verification:
    known: dict[str, VerifiedLayer] = {}
    references = root.references.readable()
    ids = [_resolve(root, text) for text in images] if images else root.images.ids()
    for image_id in dict.fromkeys(ids):
        names = sorted(name for name, value in references.items() if value == image_id)
        image = VerifiedImage(image_id, names)
        _read_image(root, evidence, image, known)
        found.images.append(image)
    if not images:
        for chain_id in root.layers.all():
            _read_layer(root, evidence, chain_id, known)
    found.layers = list(known.values())
    _look_at_directories(root, evidence, found.layers, workers, progress)
    return found


def _resolve(root: DataRoot, text: str) -> ImageID:
    """The ID of an image whose config may be damaged."""
    try:
        return root.images.resolve(text).image_id
    except StoreCorrupt:
        digits = text.removeprefix("sha256:")
        found = root.images.search(digits)
        if len(found) == 1:
            return found[0]
        image_id = root.references.get(text)
        if image_id is None:
            raise
        return image_id


def _read_image(root: DataRoot, evidence: Evidence, image: VerifiedImage, known: dict[str, VerifiedLayer]) -> None:
    try:
        raw = root.images.read(image.image_id)
    except (NoSuchImage, OSError) as error:
        image.findings.append(Finding("config", "", f"cannot be read: {error}"))
        return
    actual = sha256_hex(raw)
    if actual != image.image_id.hex:
        image.findings.append(Finding("config", "", f"the config hashes to sha256:{actual}, not to its name"))
        return
    try:
        diff_ids = ImageConfig.parse(raw).diff_ids
    except FormatError as error:
        image.findings.append(Finding("config", "", error.message))
        return
    above: ChainID | None = None
    for diff_id in diff_ids:
        parent, above = above, chain_id_of(above, diff_id)
        layer = _read_layer(root, evidence, above, known)
        image.layers.append(layer)
        record = layer.layer
        if record is not None and (record.diff_id, record.parent) != (diff_id, parent):
            _tell_record(layer, record, diff_id, parent)


def _tell_record(layer: VerifiedLayer, record: Layer, diff_id: DiffID, parent: ChainID | None) -> None:
    if record.diff_id != diff_id:
        layer.findings.append(Finding("record", "", f"layerdb has the diff_id {record.diff_id}, the image {diff_id}"))
    if record.parent != parent:
        layer.findings.append(
            Finding("record", "", f"layerdb has the parent {record.parent or 'none'}, the image {parent or 'none'}")
        )


def _read_layer(
    root: DataRoot, evidence: Evidence, chain_id: ChainID, known: dict[str, VerifiedLayer]
) -> VerifiedLayer:
    found = known.get(chain_id)
    if found is None:
        findings: list[Finding] = []
        layer: Layer | None = None
        try:
            if not evidence.is_directory(f"{LAYERDB}/{chain_id.hex}"):
                # Missing, or a symlink, which would lead out of the root.
                raise NoSuchLayer(f"no such layer: {chain_id}")
            layer = root.layers.get(chain_id)
            if chain_id_of(layer.parent, layer.diff_id) != chain_id:
                findings.append(Finding("record", "", "its parent and diff_id do not fold to its chain ID"))
        except NoSuchLayer:
            findings.append(Finding("record", "", "layerdb has no record of it"))
        except MinidockError as error:
            findings.append(Finding("record", "", error.message))
        found = known[chain_id] = VerifiedLayer(chain_id, layer, findings)
    return found


def _look_at_directories(
    root: DataRoot, evidence: Evidence, layers: list[VerifiedLayer], workers: int, progress: Progress | None
) -> None:
    """Both passes over each layer that is there, the largest first."""
    work: list[tuple[VerifiedLayer, Layer, Callable[..., list[tuple[str, str, str]]]]] = []
    for found in layers:
        layer = found.layer
        if layer is None:
            continue
        path = root.layers.diff_path(layer.cache_id)
        if not evidence.is_directory(f"{DRIVER}/{layer.cache_id}/diff"):
            found.findings.append(Finding("missing", "", f"its directory {path} is missing"))
            continue
        work += ((found, layer, check_content), (found, layer, check_metadata))
    work.sort(key=lambda item: item[1].size_bytes, reverse=True)

    def tell(number: int, done_bytes: int) -> None:
        if progress is not None:
            layer = work[number][1]
            progress(layer.chain_id, "Verifying", min(done_bytes, layer.size_bytes), layer.size_bytes)

    jobs = [lambda report, act=act, layer=layer: act(root, layer, report) for _, layer, act in work]
    for (found, layer, _), rows in zip(work, run_jobs(jobs, workers=workers, progress=tell), strict=True):
        told = {(finding.kind, finding.path) for finding in found.findings}
        found.findings += [finding for finding in findings_of(rows) if (finding.kind, finding.path) not in told]
        if progress is not None:
            progress(layer.chain_id, "Damaged" if found.findings else "Verified", 0, 0)
