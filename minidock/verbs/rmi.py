"""`rmi`: take a name off an image, and remove the image with its last one.

What may go, in which order, and each word of refusal are the engine's: users' scripts read them.
Source: moby daemon/images/image_delete.go; shared format notes §12
"""

from __future__ import annotations

from minidock.errors import ImageInUse, MinidockError, NoSuchImage
from minidock.formats.reference import parse_reference
from minidock.store.references import canonical_key
from minidock.store.transaction import read_table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from minidock.formats.reference import Reference
    from minidock.ids import ImageID
    from minidock.store.containers import Container
    from minidock.store.imagedb import Image
    from minidock.store.root import DataRoot
    from minidock.store.transaction import Stage

    # ("Untagged" | "Deleted", reference, image ID or chain ID), one for each printed line
    Record = tuple[str, str]


def rmi(
    root: DataRoot,
    names: Sequence[str],
    *,
    force: bool = False,
    no_prune: bool = False,
    records: list[Record] | None = None,
) -> list[Record]:
    """Remove images; those after a failing one are still tried.

    Shape:   records: what is done is added to this list as it happens, so that a failure does not hide it
    Returns: records: ("Untagged", reference) and ("Deleted", ID) in docker's order
    Raises:  the first failure, with further ones as notes
    """
    records = [] if records is None else records
    failures: list[MinidockError] = []
    for name in names:
        try:
            remove_image(root, name, records, force=force, no_prune=no_prune)
        except MinidockError as error:
            failures.append(error)
    if failures:
        for further in failures[1:]:
            failures[0].add_note(str(further))
        raise failures[0]
    return records


def remove_image(root: DataRoot, name: str, records: list[Record], *, force: bool, no_prune: bool) -> None:
    """Remove one image, adding what was done to records; the content goes when the lock is free again."""
    with root.stage() as stage, root.lock():
        _Removal(root, stage, records, force=force, prune=not no_prune).remove(name)


class _Removal:
    """One rmi, under the lock. What is asked for is read from disk at every question."""

    def __init__(self, root: DataRoot, stage: Stage, records: list[Record], *, force: bool, prune: bool) -> None:
        self.root = root
        self.stage = stage
        self.records = records
        self.force = force
        self.prune = prune
        self._containers: list[Container] | None = None

    def remove(self, name: str) -> None:
        """The engine's ImageDelete."""
        try:
            image = self.root.images.resolve(name)
        except NoSuchImage as error:
            raise NoSuchImage(f"No such image: {name}", hint=error.hint) from None
        if image.chain_id is not None:
            self.root.layers.refuse_mounted(image.chain_id)
            self._refuse_viewed(image, name)
        self._mark(image)
        if _is_id_prefix(image.image_id, name):
            references = self.root.references.of_image(image.image_id)
            if _is_single_reference(references):
                self._refuse_conflicts(image.image_id, active_reference=False)
                self._untag(references)
            self._delete(image, quiet=False, force=self.force)
            return
        if self._untag_by_name(image, name):
            self._delete(image, quiet=True, force=self.force)

    def _mark(self, image: Image) -> None:
        """Name what may go, before anything goes: a kill in between is then finished by the next command."""
        image_id: ImageID | None = image.image_id
        parents = self.root.images.parents() if self.prune else {}
        for _ in range(len(parents) + 1):
            if image_id is None:
                return
            self.stage.mark("image", image_id.hex)
            image_id = parents.get(image_id)

    def _refuse_viewed(self, image: Image, name: str) -> None:
        """Raise for a view that `mount` made of this image, or of a layer that would go with it."""
        if b" minidock:" not in read_table("/proc/self/mountinfo"):
            return
        if not _is_id_prefix(image.image_id, name):
            references = self.root.references.of_image(image.image_id)
            if _left_without(references, parse_reference(name)):
                return
        from minidock.store.views import views

        chain_ids: set[str] = set(image.config.chain_ids)
        for other in self.root.images.all():
            if other.image_id != image.image_id:
                chain_ids.difference_update(other.config.chain_ids)
        for view in views():
            # A container's views go when it is removed, and it keeps its layers until then.
            if view.root_path == self.root.path and view.identity in (image.image_id, *chain_ids):
                raise ImageMounted(image.image_id, view.target)

    def _untag_by_name(self, image: Image, name: str) -> bool:
        """Take the name off; True when the image is left without any."""
        references = self.root.references.of_image(image.image_id)
        if not self.force and _is_single_reference(references):
            for container in self._using(image.image_id):
                raise ImageInUse(
                    f'conflict: unable to remove repository reference "{name}" (must force) - container '
                    f"{container.id[:12]} is using its referenced image {image.image_id.hex[:12]}"
                )
        parsed = parse_reference(name)
        left = _left_without(references, parsed)
        self._untag([parsed.store_key])
        self._untag([reference for reference in references if reference not in (parsed.store_key, *left)])
        return not left

    def _untag(self, references: list[str]) -> None:
        if references:
            self.root.references.remove_names(references)
            self.records += [("Untagged", reference) for reference in references]

    def _delete(self, image: Image, *, quiet: bool, force: bool) -> None:
        """The engine's imageDeleteHelper; goes on to the parent, quietly, when nothing else needs that."""
        root = self.root
        image_id = image.image_id
        try:
            self._refuse_conflicts(image_id, active_reference=True, force=force)
        except _Conflict as conflict:
            dangling = not root.references.of_image(image_id) and not root.images.children(image_id)
            if quiet and (not dangling or conflict.used):
                return
            raise
        parent_id = image.parent
        self._untag(root.references.of_image(image_id))
        chains = root.images.remove(image_id)
        self.records.append(("Deleted", image_id))
        self.records += [("Deleted", chain_id) for chain_id in chains]
        if self.prune and parent_id is not None:
            try:
                parent = root.images.get(parent_id)
            except MinidockError:
                return
            self._delete(parent, quiet=True, force=False)

    def _refuse_conflicts(self, image_id: ImageID, *, active_reference: bool, force: bool | None = None) -> None:
        """Raise for what hinders a removal: hard reasons always, soft ones unless forced."""
        force = self.force if force is None else force
        if self.root.images.children(image_id):
            raise _Conflict(image_id, "image has dependent child images", hard=True)
        using = self._using(image_id)
        for container in using:
            if container.is_running() or container.state.is_restarting():
                reason = f"image is being used by running container {container.id[:12]}"
                raise _Conflict(image_id, reason, hard=True, used=True)
        if force:
            return
        if active_reference and self.root.references.of_image(image_id):
            raise _Conflict(image_id, "image is referenced in multiple repositories")
        for container in using:
            reason = f"image is being used by stopped container {container.id[:12]}"
            raise _Conflict(image_id, reason, used=True)

    def _using(self, image_id: ImageID) -> list[Container]:
        if self._containers is None:
            self._containers = self.root.containers.all() if self.root.has_containers() else []
        return [container for container in self._containers if container.image_id == image_id]


class _Conflict(ImageInUse):
    """A refusal in the engine's words. Shape: used: a container is the reason"""

    def __init__(self, image_id: ImageID, reason: str, *, hard: bool = False, used: bool = False) -> None:
        forced = "cannot be forced" if hard else "must be forced"
        super().__init__(f"conflict: unable to delete {image_id.hex[:12]} ({forced}) - {reason}")
        self.used = used


class ImageMounted(_Conflict):
    """A view of the image is mounted, which no engine knows of."""

    def __init__(self, image_id: ImageID, target: str) -> None:
        super().__init__(image_id, f"image is mounted at {target}", hard=True)
        self.hint = f"minidock umount {target}"


def _is_id_prefix(image_id: ImageID, name: str) -> bool:
    return image_id.startswith(name) or image_id.hex.startswith(name)


def _repository(reference: str) -> str:
    return reference.partition("@")[0] if "@" in reference else reference.rpartition(":")[0]


def _left_without(references: list[str], parsed: Reference) -> list[str]:
    """What an image's names are once one is taken off."""
    left = [reference for reference in references if reference != parsed.store_key]
    own = [reference for reference in left if _repository(reference) == parsed.familiar_name]
    if parsed.digest is None and all("@" in reference for reference in own):
        # Digests of a repository whose last tag went mean nothing any more.
        left = [reference for reference in left if reference not in own]
    return left


def _is_single_reference(references: list[str]) -> bool:
    """Whether all references are of one repository, with at most one tag among them; not when there are none."""
    if len(references) <= 1:
        return len(references) == 1
    by_digest = {_repository(reference) for reference in references if "@" in reference}
    tags = [reference for reference in references if "@" not in reference]
    if len(tags) > 1:
        return False
    first = tags[0] if tags else sorted(references, key=canonical_key)[0]
    return by_digest == {_repository(first)}
