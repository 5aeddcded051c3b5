"""docker rename: another name for a container, running or not."""

from __future__ import annotations

from minidock.errors import NameInUse, UsageError
from minidock.verbs.options import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from minidock.store.root import DataRoot


def rename(root: DataRoot, container: str, new_name: str) -> None:
    """Give a container another name.

    Raises: NoSuchContainer, NameInUse, UsageError
    Source: moby daemon/rename.go
    """
    if not container or not new_name:
        raise UsageError("Neither old nor new names may be empty")
    with root.lock():
        found = root.containers.get(container)
        if found.name == new_name.removeprefix("/"):
            raise UsageError("Renaming a container with the same name as its current name")
        try:
            name = check_name(new_name)
        except UsageError as error:
            raise UsageError(f"Error when allocating new name: {error.message}") from None
        old_name = found.name
        owner = root.containers.names().get(name)
        if owner is not None:
            raise NameInUse.of(name, owner, before="Error when allocating new name: ")

        def set_name(document: dict[str, Any]) -> None:
            document["Name"] = "/" + name

        found.change_document(set_name)
    # After the data root's lock, which nobody holds who waits for that of networks.
    if root.endpoints.ids():
        from minidock.network.joining import rename_places

        rename_places(root, found.id, old_name, name)
