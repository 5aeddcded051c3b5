"""docker system df: what images, containers and volumes take, and how much of it nothing needs.

Source: moby daemon/disk_usage.go; docker/cli cli/command/formatter/disk_usage.go
"""

from __future__ import annotations

from minidock.errors import MinidockError
from minidock.verbs.images import list_images
from minidock.verbs.prune import layer_sizes
from minidock.verbs.ps import ps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from minidock.store.root import DataRoot
    from minidock.verbs.images import ImageSummary
    from minidock.verbs.ps import ContainerSummary


class Kind:
    """One row of the summary. Units: bytes; reclaimable_bytes: of what is not in use"""

    __slots__ = ("active", "name", "reclaimable_bytes", "size_bytes", "total")

    def __init__(self, name: str, total: int, active: int, size_bytes: int, reclaimable_bytes: int) -> None:
        self.name = name
        self.total = total
        self.active = active
        self.size_bytes = size_bytes
        self.reclaimable_bytes = reclaimable_bytes


class ImageUsage:
    """One image. Units: shared_bytes: of its layers that another image has too; containers: how many it has"""

    __slots__ = ("containers", "image", "shared_bytes")

    def __init__(self, image: ImageSummary, shared_bytes: int, containers: int) -> None:
        self.image = image
        self.shared_bytes = shared_bytes
        self.containers = containers


class VolumeUsage:
    """One volume. Shape: links: how many containers mount it; size_bytes -1 where it cannot be told; path: its _data"""

    __slots__ = ("labels", "links", "name", "path", "size_bytes")

    def __init__(self, root: DataRoot, name: str, links: int) -> None:
        self.name = name
        self.path = f"{root.volumes.path}/{name}/_data"
        try:
            self.labels = root.volumes.get(name).labels or {}
        except MinidockError:
            self.labels = {}
        self.links = links
        self.size_bytes = _size(root, name)


class DiskUsage:
    """All of it. Shape: container_volumes: how many volumes a container mounts, by its ID"""

    __slots__ = ("container_volumes", "containers", "images", "layers_bytes", "volumes")

    def __init__(self, root: DataRoot) -> None:
        sizes = layer_sizes(root)
        self.layers_bytes = sum(sizes.values())
        self.containers: list[ContainerSummary] = ps(root, all=True, size=True)
        self.images = _images(root, sizes, self.containers)
        users = root.volumes.users()
        self.volumes = [VolumeUsage(root, name, len(users.get(name, ()))) for name in root.volumes.names()]
        self.container_volumes: dict[str, int] = {}
        for using in users.values():
            for container_id in using:
                self.container_volumes[container_id] = self.container_volumes.get(container_id, 0) + 1

    def kinds(self) -> list[Kind]:
        """The rows of the summary."""
        images = {usage.image.image_id: usage for usage in self.images}.values()
        needed = sum(usage.image.size_bytes - usage.shared_bytes for usage in images if usage.containers)
        active = sum(1 for usage in images if usage.containers)
        running = [one for one in self.containers if one.state in ("running", "paused", "restarting")]
        written = sum(one.size_bytes or 0 for one in self.containers)
        kept = sum(one.size_bytes or 0 for one in running)
        volumes = sum(max(0, volume.size_bytes) for volume in self.volumes)
        used = [volume for volume in self.volumes if volume.links]
        return [
            Kind("Images", len(images), active, self.layers_bytes, self.layers_bytes - needed),
            Kind("Containers", len(self.containers), len(running), written, written - kept),
            Kind(
                "Local Volumes",
                len(self.volumes),
                len(used),
                volumes,
                volumes - sum(max(0, volume.size_bytes) for volume in used),
            ),
        ]


def _images(root: DataRoot, sizes: dict[str, int], containers: list[ContainerSummary]) -> list[ImageUsage]:
    found = list_images(root)
    chains: dict[str, list[str]] = {}
    uses: dict[str, int] = {}
    for image_id in {image.image_id for image in found}:
        chains[image_id] = [str(chain_id) for chain_id in root.images.get(image_id).config.chain_ids]
        for chain_id in chains[image_id]:
            uses[chain_id] = uses.get(chain_id, 0) + 1
    result = []
    for image in found:
        shared = sum(sizes.get(chain_id, 0) for chain_id in chains[image.image_id] if uses[chain_id] > 1)
        count = sum(1 for container in containers if container.image_id == image.image_id)
        result.append(ImageUsage(image, shared, count))
    return result


def _size(root: DataRoot, name: str) -> int:
    from minidock.store.volumes import data_size

    try:
        return data_size(f"{root.volumes.path}/{name}")
    except (MinidockError, OSError):
        return -1
